package testkit_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/testkit"
)

// broker is a cluster under test and a kafka-go client for it.
type broker struct {
	*testkit.KafkaServer
	client *kafka.Client
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
}

// everywhere runs test on real sockets, and inside a bubble on a testkit.Network.
func everywhere(t *testing.T, cfg testkit.KafkaConfig, test func(t *testing.T, b *broker)) {
	t.Helper()
	t.Run("sockets", func(t *testing.T) {
		t.Parallel()
		test(t, start(t, cfg, new(net.Dialer).DialContext))
	})
	t.Run("bubble", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			cfg := cfg
			cfg.Network = new(testkit.Network)
			test(t, start(t, cfg, cfg.Network.Dial))
		})
	})
}

func start(t *testing.T, cfg testkit.KafkaConfig, dial func(context.Context, string, string) (net.Conn, error)) *broker {
	t.Helper()
	k := testkit.Kafka(t, cfg)
	transport := &kafka.Transport{Dial: dial, MetadataTTL: time.Second} // Also how long it waits for the first answer.
	t.Cleanup(transport.CloseIdleConnections)
	return &broker{
		KafkaServer: k,
		client:      &kafka.Client{Addr: kafka.TCP(k.Addrs()...), Transport: transport, Timeout: 20 * time.Second},
		dial:        dial,
	}
}

// conn is one connection to the first broker, without any retries.
func (b *broker) conn(t *testing.T) *kafka.Conn {
	t.Helper()
	c, err := (&kafka.Dialer{DialFunc: b.dial}).DialContext(t.Context(), "tcp", b.Addrs()[0])
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// produce sends one message with the client under test.
func (b *broker) produce(t *testing.T, topic string, partition int, value string) error {
	t.Helper()
	response, err := b.client.Produce(t.Context(), &kafka.ProduceRequest{
		Topic: topic, Partition: partition, RequiredAcks: kafka.RequireAll,
		Records: kafka.NewRecordReader(kafka.Record{Value: kafka.NewBytes([]byte(value))}),
	})
	if err != nil {
		return err
	}
	return response.Error
}

// commit commits from outside a group's membership.
func (b *broker) commit(t *testing.T, group, topic string, partition int, offset int64, metadata string) error {
	t.Helper()
	response, err := b.client.OffsetCommit(t.Context(), &kafka.OffsetCommitRequest{
		GroupID: group, GenerationID: -1,
		Topics: map[string][]kafka.OffsetCommit{topic: {{Partition: partition, Offset: offset, Metadata: metadata}}},
	})
	if err != nil {
		return err
	}
	return response.Topics[topic][0].Error
}

// values reads a topic's log.
func (b *broker) values(t *testing.T, topic string) []string {
	t.Helper()
	messages, err := b.Messages(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, m := range messages {
		values = append(values, fmt.Sprintf("%d/%d=%s", m.Partition, m.Offset, m.Value))
	}
	return values
}

func wantValues(t *testing.T, b *broker, topic string, want ...string) {
	t.Helper()
	if got := b.values(t, topic); !slices.Equal(got, want) {
		t.Errorf("log of %q = %q, want %q", topic, got, want)
	}
}

// until waits for a condition. It sleeps between looks, in the bubble's time or in real time.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 2000 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited in vain until %s", what)
}

func TestKafkaServesARealClient(t *testing.T) {
	cfg := testkit.KafkaConfig{Brokers: 3, Topics: map[string]int{"orders": 2}}
	everywhere(t, cfg, func(t *testing.T, b *broker) {
		if got := len(b.Addrs()); got != 3 {
			t.Fatalf("%d addresses, want 3", got)
		}
		for i, value := range []string{"a", "b", "c"} {
			if err := b.produce(t, "orders", i%2, value); err != nil {
				t.Fatal(err)
			}
		}
		wantValues(t, b, "orders", "0/0=a", "0/1=c", "1/0=b")
		if got, want := b.Ends("orders"), map[int]int64{0: 2, 1: 1}; !maps.Equal(got, want) {
			t.Errorf("ends %v, want %v", got, want)
		}
		fetched, err := b.client.Fetch(t.Context(), &kafka.FetchRequest{Topic: "orders", Offset: 1, MaxWait: time.Second, MinBytes: 1, MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		record, err := fetched.Records.ReadRecord()
		if err != nil {
			t.Fatal(err)
		}
		if value, _ := kafka.ReadAll(record.Value); record.Offset != 1 || string(value) != "c" {
			t.Errorf("fetched %d=%s, want 1=c", record.Offset, value)
		}
	})
}

func TestKafkaProduceKeepsMessagesAsTheyAre(t *testing.T) {
	everywhere(t, testkit.KafkaConfig{Topics: map[string]int{"t": 2}}, func(t *testing.T, b *broker) {
		at := time.UnixMilli(1_700_000_000_123)
		messages := []holdfast.Message{
			{Topic: "t", Partition: 1, Key: []byte("k"), Value: []byte("v"), Time: at, Headers: []holdfast.Header{
				{Key: "h", Value: []byte("1")}, {Key: "h", Value: []byte("2")}, {Key: "empty", Value: []byte{}}, {Key: "nil"},
			}},
			{Topic: "t", Partition: 0, Value: nil, Key: []byte{}, Time: at.Add(time.Hour)},
			{Topic: "t", Partition: 0, Value: []byte{}, Time: at.Add(-time.Hour)},
			{Topic: "t", Partition: 0, Value: []byte(strings.Repeat("x", 900_000))},
		}
		if err := b.Produce(t.Context(), messages...); err != nil {
			t.Fatal(err)
		}
		got, err := b.Messages(t.Context(), "t")
		if err != nil {
			t.Fatal(err)
		}
		want := []holdfast.Message{messages[1], messages[2], messages[3], messages[0]}
		if len(got) != len(want) {
			t.Fatalf("%d messages, want %d", len(got), len(want))
		}
		for i, offset := range []int64{0, 1, 2, 0} {
			if !sameMessage(got[i], want[i]) || got[i].Offset != offset || got[i].Partition != want[i].Partition {
				t.Errorf("message %d is %d/%d, %.60q = %.60q %v, not as it was produced",
					i, got[i].Partition, got[i].Offset, got[i].Key, got[i].Value, got[i].Headers)
			}
		}
		if err := b.Produce(t.Context(), holdfast.Message{Topic: "t", Partition: 7}); err == nil {
			t.Error("a message for a partition that does not exist was taken")
		}
		if _, err := b.Messages(t.Context(), "nowhere"); err == nil {
			t.Error("no error for the messages of a topic that does not exist")
		}
		if ends := b.Ends("nowhere"); ends != nil {
			t.Errorf("ends of a topic that does not exist: %v", ends)
		}
	})
}

func sameMessage(a, b holdfast.Message) bool {
	sameBytes := func(a, b []byte) bool { return string(a) == string(b) && (a == nil) == (b == nil) }
	return sameBytes(a.Key, b.Key) && sameBytes(a.Value, b.Value) && (b.Time.IsZero() || a.Time.Equal(b.Time)) &&
		slices.EqualFunc(a.Headers, b.Headers, func(a, b holdfast.Header) bool { return a.Key == b.Key && sameBytes(a.Value, b.Value) })
}

func TestKafkaTopics(t *testing.T) {
	everywhere(t, testkit.KafkaConfig{Brokers: 2}, func(t *testing.T, b *broker) {
		if err := b.CreateTopic("t", 1); err != nil {
			t.Fatal(err)
		}
		if err := b.CreateTopic("t", 1); err == nil {
			t.Error("a topic was created twice")
		}
		if err := b.CreateTopic("none", 0); err == nil {
			t.Error("a topic without partitions was created")
		}
		if err := b.AddPartitions("t", 2); err != nil {
			t.Fatal(err)
		}
		if got := len(b.Ends("t")); got != 3 {
			t.Errorf("%d partitions, want 3", got)
		}
		if err := b.AddPartitions("t", 0); err == nil {
			t.Error("no partitions were added without an error")
		}
		for partition := range 3 {
			if err := b.produce(t, "t", partition, "x"); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.DeleteRecords("t", 1, 1); err != nil {
			t.Fatal(err)
		}
		wantValues(t, b, "t", "0/0=x", "2/0=x")
		if err := b.DeleteTopic("t"); err != nil {
			t.Fatal(err)
		}
		if err := b.DeleteTopic("t"); err == nil {
			t.Error("a topic was deleted twice")
		}
	})
}

func TestKafkaTopicSettings(t *testing.T) {
	everywhere(t, testkit.KafkaConfig{}, func(t *testing.T, b *broker) {
		if err := b.CreateTopicWith("small", 1, map[string]string{"max.message.bytes": "200"}); err != nil {
			t.Fatal(err)
		}
		if err := b.produce(t, "small", 0, strings.Repeat("x", 300)); !errors.Is(err, kafka.MessageSizeTooLarge) {
			t.Errorf("error %v, want MessageSizeTooLarge", err)
		}
	})
}

func TestKafkaMoveLeader(t *testing.T) {
	everywhere(t, testkit.KafkaConfig{Brokers: 3, Topics: map[string]int{"t": 1}}, func(t *testing.T, b *broker) {
		for _, to := range []int{2, 0, 1} {
			if err := b.MoveLeader("t", 0, to); err != nil {
				t.Fatal(err)
			}
			if got := b.Leader("t", 0); got != to {
				t.Errorf("leader %d, want %d", got, to)
			}
			until(t, "the client has found the leader", func() bool { return b.produce(t, "t", 0, "x") == nil })
		}
		if err := b.MoveLeader("t", 0, 3); err == nil {
			t.Error("a broker that does not exist leads")
		}
		if got := b.Leader("t", 9); got != -1 {
			t.Errorf("leader of a partition that does not exist: %d", got)
		}
	})
}

func TestKafkaStopAndStart(t *testing.T) {
	everywhere(t, testkit.KafkaConfig{Topics: map[string]int{"t": 1}}, func(t *testing.T, b *broker) {
		if err := b.produce(t, "t", 0, "before"); err != nil {
			t.Fatal(err)
		}
		if err := b.commit(t, "g", "t", 0, 1, "m"); err != nil {
			t.Fatal(err)
		}
		addrs, conn := b.Addrs(), b.conn(t)
		b.Stop()
		b.Stop()
		if _, err := conn.ReadPartitions("t"); err == nil {
			t.Error("a connection survived Stop")
		}
		if _, err := b.dial(t.Context(), "tcp", addrs[0]); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial while stopped: %v, want connection refused", err)
		}
		if err := b.produce(t, "t", 0, "lost"); err == nil {
			t.Error("a stopped cluster took a message")
		}
		if err := b.Produce(t.Context(), holdfast.Message{Topic: "t", Value: []byte("meanwhile")}); err != nil {
			t.Error(err)
		}
		if err := errors.Join(b.Start(), b.Start()); err != nil {
			t.Fatal(err)
		}
		if got := b.Addrs(); !slices.Equal(got, addrs) {
			t.Errorf("addresses %v, before %v", got, addrs)
		}
		until(t, "the client is back", func() bool { return b.produce(t, "t", 0, "after") == nil })
		wantValues(t, b, "t", "0/0=before", "0/1=meanwhile", "0/2=after")
		var offsets *kafka.OffsetFetchResponse
		until(t, "the coordinator is back", func() (ok bool) {
			var err error
			offsets, err = b.client.OffsetFetch(t.Context(), &kafka.OffsetFetchRequest{GroupID: "g", Topics: map[string][]int{"t": {0}}})
			return err == nil
		})
		if got := offsets.Topics["t"][0]; got.CommittedOffset != 1 || got.Metadata != "m" {
			t.Errorf("committed %d %q, want 1 \"m\"", got.CommittedOffset, got.Metadata)
		}
	})
}

// A request that the broker has begun to serve is served when Stop returns: what a test reads then, stays. On sockets only,
// as a bubble's clock would wait for ever while the producer never rests.
func TestKafkaStopLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	b := start(t, testkit.KafkaConfig{Topics: map[string]int{"t": 1}}, new(net.Dialer).DialContext)
	for range 20 {
		var stopped atomic.Bool
		var producing sync.WaitGroup
		sent := b.Requests(testkit.APIProduce)
		producing.Go(func() {
			for !stopped.Load() {
				_ = b.produce(t, "t", 0, "x") // Fails on connections of the time before Stop, and after it.
			}
		})
		until(t, "the producer runs", func() bool { return b.Requests(testkit.APIProduce) > sent+3 })
		b.Stop()
		end := b.Ends("t")[0]
		stopped.Store(true)
		producing.Wait()
		if got := b.Ends("t")[0]; got != end {
			t.Fatalf("the log grew from %d to %d after Stop", end, got)
		}
		if err := b.Start(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKafkaClose(t *testing.T) {
	everywhere(t, testkit.KafkaConfig{Topics: map[string]int{"t": 1}}, func(t *testing.T, b *broker) {
		conn := b.conn(t)
		b.Inject(testkit.Fault{API: testkit.APIMetadata, Hang: true, Times: -1})
		hanging := make(chan error, 1)
		go func() {
			_, err := conn.ReadPartitions("t")
			hanging <- err
		}()
		until(t, "a request hangs", func() bool { return b.Requests(testkit.APIMetadata) > 0 })
		b.Close()
		b.Close()
		if err := <-hanging; err == nil {
			t.Error("a request that hung at Close was answered")
		}
		if _, err := b.dial(t.Context(), "tcp", b.Addrs()[0]); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial after Close: %v, want connection refused", err)
		}
		for name, err := range map[string]error{
			"Start":       b.Start(),
			"CreateTopic": b.CreateTopic("x", 1),
			"Produce":     b.Produce(t.Context(), holdfast.Message{Topic: "t"}),
			"Rebalance":   b.Rebalance("g"),
			"MoveLeader":  b.MoveLeader("t", 0, 0),
		} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s after Close: %v, want net.ErrClosed", name, err)
			}
		}
		if _, err := b.Messages(t.Context(), "t"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Messages after Close: %v, want net.ErrClosed", err)
		}
		if got := b.Committed("g", "t"); len(got) != 0 {
			t.Errorf("Committed after Close: %v", got)
		}
	})
}

// When Close returns, every connection is closed, not only about to be.
func TestKafkaCloseWaitsForItsConnections(t *testing.T) {
	n := new(testkit.Network)
	k := testkit.Kafka(t, testkit.KafkaConfig{Network: n})
	var conns []net.Conn
	for range 100 {
		conn, err := n.Dial(t.Context(), "tcp", k.Addrs()[0])
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	k.Close()
	for i, conn := range conns {
		if _, err := conn.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("connection %d after Close: %v, want a broken pipe", i, err)
		}
	}
}

func TestKafkaRefusesNonsense(t *testing.T) {
	everywhere(t, testkit.KafkaConfig{}, func(t *testing.T, b *broker) {
		for name, frame := range map[string][]byte{
			"unknown request": {0, 0, 0, 8, 0x7f, 0xff, 0, 0, 0, 0, 0, 1},
			"too short":       {0, 0, 0, 1, 0},
			"too long":        {0x7f, 0xff, 0xff, 0xff},
			"cut off":         {0, 0, 0, 12, 0, 18, 0, 3, 0, 0, 0, 1, 0, 99, 0, 0},
		} {
			conn, err := b.dial(t.Context(), "tcp", b.Addrs()[0])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(frame); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("%s: answered", name)
			}
			_ = conn.Close()
		}
		if _, err := b.conn(t).ReadPartitions(); err != nil {
			t.Errorf("the broker does not serve others any more: %v", err)
		}
	})
}
