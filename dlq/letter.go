package dlq

import (
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast"
)

// Reason says in one word why a message was dead-lettered. Readers must expect words they do not know.
type Reason string

// The reasons that this version writes.
const (
	CircuitOpen      Reason = "circuit_open"      // A circuit rejected it; nothing is wrong with the message.
	RetriesExhausted Reason = "retries_exhausted" // It failed in every attempt.
	Permanent        Reason = "permanent"         // Its own fault, said the stage or the sink.
	Undecodable      Reason = "decode"            // Its bytes are not what they should be.
	Panicked         Reason = "panic"             // User code panicked on it.
	TimedOut         Reason = "timeout"           // Its last attempt ran out of time.
)

// retryable says whether another attempt may do without anything being mended in the message or the code, "" when a reason
// is not known.
func (r Reason) retryable() string {
	switch r {
	case CircuitOpen, RetriesExhausted, TimedOut:
		return "true"
	case Permanent, Undecodable, Panicked:
		return "false"
	default:
		return ""
	}
}

// Letter is a message that could not be processed, and what is known of it. The zero value is a letter without a cause.
// What is text is made valid UTF-8 when it is written.
type Letter struct {
	// Message is the original: topic, partition, offset, time, key, value and headers of its first life. A format that
	// does not know where a message came from leaves it where the letter lies: its topic is the dead-letter topic.
	Message       holdfast.Message
	TimestampType string // Kafka's name for whose time Message.Time is, CreateTime or LogAppendTime, if it is known.

	Reason       Reason
	Group        string // Whose letter this is: the consumer group that gave up.
	Handler      string // Which part of the program: the pipeline's name.
	Stage        string // The stage or sink that failed.
	Circuit      string // The circuit that rejected it, if one did,
	CircuitState string // and the state it was in.

	Error      string // What the last attempt said. Capped when written, as all below are.
	ErrorClass string // Its Go type, or the class of a foreign exception.
	ErrorCode  string // The number that a server gave it.
	ErrorChain string // The types of all errors in its chain, outermost first, with " > " between them.
	Stack      string // Of a panic.

	Attempts int // How often it was tried; rejections by an open circuit are no attempts.
	Redrives int // How often it had come home before and failed again.

	FirstFailedAt time.Time // Ever: it stays, however often the message comes home.
	LastFailedAt  time.Time // Before this letter.
	DeadAt        time.Time // When the message was given up.

	// Who wrote it, if that is known. A Topic fills in what is empty.
	Host       string
	App        string
	AppVersion string
	ClientID   string
}

// ID names the letter: the same for every letter that one group writes about one message.
func (l Letter) ID() string {
	return l.id()
}

// GroupOf is whose letter a message was that has come back from a dead-letter queue. If it fails again, it is that group's
// again, so that its letter has the same ID. Empty for a message that was never there.
func GroupOf(m *holdfast.Message) string {
	if m.Letter == nil {
		return ""
	}
	return strings.TrimSuffix(m.Letter.ID, Letter{Message: *m}.ID())
}

func (l *Letter) id() string { return string(l.appendID(make([]byte, 0, idSize))) }

// appendID appends the letter's id to b.
func (l *Letter) appendID(b []byte) []byte {
	b = append(append(b, l.Group...), '/')
	b = append(append(b, l.Message.Topic...), '/')
	b = append(strconv.AppendInt(b, int64(l.Message.Partition), 10), '/')
	return strconv.AppendInt(b, l.Message.Offset, 10)
}
