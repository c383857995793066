// Package testkit is Kafka and ClickHouse for tests: inside the process, over their real wire protocols, without
// containers, and with the faults that production has. A client library cannot tell it from the real thing, so a test
// exercises the driver, the retries and the timeouts that will run in production, not a mock of them.
//
//	broker := testkit.Kafka(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 3}})
//	defer broker.Inject(testkit.Fault{API: testkit.APIProduce, LoseAck: true})()
//	writer := &kafka.Writer{Addr: kafka.TCP(broker.Addrs()...), Topic: "orders", RequiredAcks: kafka.RequireAll}
//
// Servers listen on loopback sockets, or on a [Network] inside the process: then a whole test, servers included, runs in
// a testing/synctest bubble, where an hour of outage takes a millisecond.
//
// # Faults
//
// A fault is tied to a logical event, the n-th request of a kind, never to a moment: a test with faults is as repeatable
// as one without. [KafkaServer.Inject] answers with an error code, loses the answer of a request that was served, cuts the
// connection, or lets it hang; [KafkaServer.Stop] takes the whole cluster away and [KafkaServer.Start] brings it back with
// its data.
//
// # What it is not
//
// The brokers are an emulation without replication, disks or quotas. What depends on those (unclean elections, a full
// disk, throttling) needs a real cluster.
package testkit
