// Package wire speaks Kafka's Fetch, Produce and InitProducerID straight on a net.Conn that kafka-go's Dialer has dialled
// and authenticated.
//
// # Fetch
//
// kafka.Conn.ReadBatch reads a batch's checksum without comparing it and hands control records out as
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
// # Produce
//
// An Encoder makes a record batch of messages as they come; kafka.Client has no producer ids and writes one partition at a
// time. A ProduceConn sends batches for several partitions in one request.
//
// The protocol is that of https://kafka.apache.org/protocol, Fetch versions 4 to 11, Produce 3 to 8, and the record batch
// (magic 2) of
// https://kafka.apache.org/documentation/#recordbatch.
package wire
