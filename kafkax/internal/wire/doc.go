// Package wire speaks Kafka's Fetch, and nothing else, straight on a net.Conn that kafka-go's Dialer has dialled and
// authenticated: kafka.Conn.ReadBatch reads a batch's checksum without comparing it and hands control records out as
// messages, kafka.Client.Fetch does neither but takes twice the time.
//
// A Conn sends Fetch requests, one ahead if its user likes, and decodes one answer after the other into
// []holdfast.Message. One buffer per answer is the arena that all keys and values point into; it belongs to the messages
// from then on and is never used again. A compressed batch has an arena of its own.
//
// Every batch's CRC-32C is checked. Control batches, gaps and empty batches left by compaction are stepped over,
// records of aborted transactions are dropped for ReadCommitted, and Response.NextOffset is where to go on.
// Whatever a broker sends, a Conn neither panics nor takes more memory than Config.MaxBytes and Request.MaxBytes allow.
//
// The protocol is that of https://kafka.apache.org/protocol, Fetch versions 4 to 11, and the record batch (magic 2) of
// https://kafka.apache.org/documentation/#recordbatch.
package wire
