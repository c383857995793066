package holdfast

import "time"

// Header is one header of a Kafka record. Keys may repeat; order is kept.
type Header struct {
	Key   string
	Value []byte
}

// Message is one record, fetched or to be produced. The zero value is a message without key, value or topic.
//
// A nil Value is a tombstone and differs from an empty one; both travel unchanged. A fetched Message shares
// memory with others of its fetch: whoever keeps a Key, Value or header for long may keep them all, so copy what you keep.
// Nobody writes to these bytes.
type Message struct {
	Topic     string
	Partition int // Ignored when producing.
	Offset    int64
	Key       []byte
	Value     []byte
	Headers   []Header
	Time      time.Time // Zero when producing means: now.

	// Letter is nil for a message read from its own topic. For a message that has come back from a dead-letter queue it
	// tells where it lay there; Topic, Partition, Offset and Time above are then those of its first life.
	Letter *Letter
}

// Letter is what a message that has come back from a dead-letter queue knows of its stay there.
type Letter struct {
	ID            string    // The same for every letter of one message and one group.
	Reason        string    // In a word, as dlq.Reason has them.
	Redrives      int       // How often the message had come home before and was dead-lettered again.
	FirstFailedAt time.Time // Before the first of its letters.

	Topic     string // The dead-letter topic.
	Partition int
	Offset    int64
}

// ClaimOffset is the message's place in the claim it was fetched from: its offset, or for a message that has come back
// from a dead-letter queue its offset there. Commits are counted in it.
func (m *Message) ClaimOffset() int64 {
	if m.Letter != nil {
		return m.Letter.Offset
	}
	return m.Offset
}
