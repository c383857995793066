// Package wire speaks Kafka's Fetch, Produce and InitProducerID straight on a net.Conn that kafka-go's Dialer has dialled
// and authenticated.
//
// # Fetch
//
// kafka.Conn.ReadBatch reads a batch's checksum without comparing it and hands control records out as
// messages, kafka.Client.Fetch does neither but takes twice the time.
//
// A Conn sends Fetch requests, one ahead if its user likes, and checks the CRC-32C of every batch in an answer. A Reader
// decodes the answer into []holdfast.Message, a few at a time and not before they are wanted: until then they take what
// they take on the wire. The answer passes through memory that is used again (Buffers); keys and values are copied out of
// it into arenas of 32 KiB, which belong to the messages from then on. So whoever keeps a message keeps no more than that,
// or than its fetch if it has headers.
//
// Control batches, gaps and empty batches left by compaction are stepped over, records of aborted transactions are dropped
// for ReadCommitted, and Answer.NextOffset is where to go on. Whatever a broker sends, neither panics nor takes more memory
// than Config.MaxBytes and Request.MaxBytes allow.
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
