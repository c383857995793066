// Package dlq keeps dead letters: messages that could not be processed, bit-exact, with why and where and how often.
//
// A [Topic] writes letters to a Kafka topic, and while Kafka is away a [Spool] may keep them on this machine's disk. A
// [Source] reads them back as the messages they were, so that a pipeline can take them home. A letter is an ordinary Kafka
// record: key, value and headers are the original's, what is known about the failure stands in headers that begin with
// "dlq-" and are replaced, never added to, each time a message is dead-lettered again.
//
// What it promises: a letter that [Topic.Write] reported as written is acknowledged by every in-sync replica, or with a
// Spool is on the disk. Letters are written at least once: after a lost acknowledgement the same letter may stand in the
// topic twice, under the same id.
//
// The package knows no driver: what it needs of Kafka it asks for in small interfaces that kafkax satisfies.
package dlq
