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
//     commit whose answer was lost, the offsets are read back before anything else is committed.
//   - When the group is rebalanced, claims are revoked and handlers drain: they finish and commit what they have begun.
//     The consumer keeps the membership alive with heartbeats of its own meanwhile, up to ConsumerConfig.DrainTimeout.
//   - A handler's context ends only with a cause: ErrDrainTimeout, or ErrFenced when the group went on without us.
//     Completions that come later are dropped and counted.
//   - Not fetching is pausing. At most two answers per partition wait for a handler, and heartbeats go on.
//   - Checksums are checked, and control records are never handed out.
//   - An offset that the log does not hold ends Consume. Nothing is skipped silently.
//   - Outages of any length are waited out, once a broker has been reached.
//
// So every message is handed out at least once: again, after a crash, from the last commit on.
//
// # Producer
//
// A Producer writes through a circuit breaker with retries, and returns when all in-sync replicas have the messages. It
// never reports a message as written that is not; a *ProduceError says of each failed one whether it may have been
// written, whether it will ever be accepted, and whether the configuration is at fault. It is not idempotent: what is
// repeated after a lost answer may be there twice.
//
// # When not to use it
//
// Static membership, incremental (cooperative) rebalancing and transactions are not in it. For moving messages into a
// database, package pipeline drives a Consumer and keeps count of what is settled.
package kafkax
