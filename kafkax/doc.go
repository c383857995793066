// Package kafkax reads from and writes to Kafka, over github.com/segmentio/kafka-go, without losing a message.
//
// # Consumer
//
// A Consumer is a member of a group. It hands out claims, one for each partition and generation, and runs a handler for
// each of them. It is built on kafka.ConsumerGroup and fetches by itself, because kafka.Reader hands out messages of
// partitions that have been taken away, and commits for them. What it keeps to:
//
//   - A commit carries the generation and the member that own the partition, so that the group's coordinator refuses it
//     once they do not. It is never repeated under a later generation.
//   - One commit is on its way per member, for all its partitions, and none takes a partition's offset back. After a
//     commit whose answer was lost, the offset is read back before anything else is committed for its partition, and
//     once more before the partition is given up: a request that was held up in the network may be served after a later
//     one, and then the offset is too low until the next commit.
//   - When the group is rebalanced, claims are revoked and handlers drain: they finish and commit what they have begun.
//     The consumer keeps the membership alive with heartbeats of its own meanwhile, up to ConsumerConfig.DrainTimeout.
//   - A handler's context ends only with a cause: ErrDrainTimeout, or ErrFenced when the group went on without us.
//     Completions that come later are dropped and counted.
//   - A lost heartbeat, or two, do not end a generation: only the group's coordinator does.
//   - Not fetching is pausing: heartbeats go on. What is fetched ahead stays within ConsumerConfig.PrefetchBytes for all
//     partitions together, of which each has its own share, so that none waits for another's handler.
//   - Checksums are checked, and control records are never handed out.
//   - An offset that the log does not hold ends Consume, unless ConsumerConfig.OutOfRange says where to go on, and
//     nothing is skipped silently. Two things cannot be told from a log that went on: a topic that is deleted and created again between two looks at it, a second or two apart, and
//     a log that was cut by an unclean election and has grown past the group's offset since.
//   - Outages of any length are waited out, once a broker has been reached.
//
// So every message is handed out at least once: again, after a crash, from the last commit on.
//
// # Producer
//
// A Producer writes through a circuit breaker with retries, and returns when all in-sync replicas have the messages. It
// never reports a message as written that is not; a *ProduceError says of each failed one whether it may have been
// written, whether it will ever be accepted, and whether the configuration is at fault. What it keeps to:
//
//   - It is idempotent: a batch that is tried again is the same bytes with the same sequence numbers, also to another
//     leader, so a lost answer does not make a duplicate. A batch whose fate stays unknown takes the producer id with it:
//     none of its sequence numbers is ever used for other data, which the broker would drop as a duplicate.
//   - Deduplication ends with the process, and when the broker has forgotten an idle producer id. What a program produces
//     again after an Ambiguous failure may be there twice.
//   - Messages of one partition are written in the order in which they came. One batch per partition is on its way; a lone
//     message leaves at once, and what comes meanwhile makes the next batch.
//   - The memory of messages is bounded by ProducerConfig.MaxBufferedBytes, and that of topics by how many are in use.
//   - The producer id comes from any broker, over a connection of its own and without a transactional id. It wants the
//     right to write to some topic; brokers before 2.8 want IDEMPOTENT_WRITE on the cluster.
//
// # When not to use it
//
// Static membership, incremental (cooperative) rebalancing and transactions are not in it. For moving messages into a
// database, package pipeline drives a Consumer and keeps count of what is settled.
package kafkax
