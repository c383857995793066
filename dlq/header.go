package dlq

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-io/holdfast"
)

// The headers of a letter. Their values are UTF-8 text. Times are RFC 3339 with nanoseconds, in UTC, but for the
// original timestamp, which is in milliseconds since 1970 as Kafka has it.
const (
	HeaderID            = "dlq-id"
	HeaderSchema        = "dlq-schema"
	HeaderOrigTopic     = "dlq-orig-topic"
	HeaderOrigPartition = "dlq-orig-partition"
	HeaderOrigOffset    = "dlq-orig-offset"
	HeaderOrigTimestamp = "dlq-orig-timestamp"
	HeaderGroup         = "dlq-group"
	HeaderStage         = "dlq-stage"
	HeaderCircuit       = "dlq-circuit"
	HeaderReason        = "dlq-reason"
	HeaderErrorMessage  = "dlq-error-message"
	HeaderAttempts      = "dlq-attempts"
	HeaderRedriveCount  = "dlq-redrive-count"
	HeaderFirstFailedAt = "dlq-first-failed-at"
	HeaderDeadAt        = "dlq-dead-at"
)

const (
	schemaVersion   = "1"
	maxErrorMessage = 1 << 10
	maxWord         = 256
	cutMark         = "...[cut]"
)

// ErrNotALetter says that a record does not carry the headers of a letter that this package wrote.
var ErrNotALetter = errors.New("dlq: not a letter")

// Encode makes the record that carries l. Topic and partition are the caller's to choose. The original's own headers
// come first and unchanged; headers that an earlier stay in a dead-letter queue left behind are replaced.
func Encode(l Letter) holdfast.Message {
	m := l.Message
	headers := make([]holdfast.Header, 0, len(m.Headers)+15)
	redrives := l.Redrives
	for _, h := range m.Headers {
		if !isLetterHeader(h.Key) {
			headers = append(headers, h)
		} else if h.Key == HeaderRedriveCount {
			redrives = max(redrives, parseCount(string(h.Value))) // It came home by a Redrive.
		}
	}
	add := func(key, value string) {
		if value != "" {
			headers = append(headers, holdfast.Header{Key: key, Value: []byte(value)})
		}
	}
	add(HeaderID, l.ID())
	add(HeaderSchema, schemaVersion)
	add(HeaderOrigTopic, m.Topic)
	add(HeaderOrigPartition, strconv.Itoa(m.Partition))
	add(HeaderOrigOffset, strconv.FormatInt(m.Offset, 10))
	if !m.Time.IsZero() {
		add(HeaderOrigTimestamp, strconv.FormatInt(m.Time.UnixMilli(), 10))
	}
	add(HeaderGroup, l.Group)
	add(HeaderStage, cut(l.Stage, maxWord))
	add(HeaderCircuit, cut(l.Circuit, maxWord))
	add(HeaderReason, string(l.Reason))
	add(HeaderErrorMessage, cut(l.Error, maxErrorMessage))
	add(HeaderAttempts, strconv.Itoa(l.Attempts))
	add(HeaderRedriveCount, strconv.Itoa(redrives))
	add(HeaderFirstFailedAt, formatTime(l.FirstFailedAt))
	add(HeaderDeadAt, formatTime(l.DeadAt))
	return holdfast.Message{Key: m.Key, Value: m.Value, Headers: headers}
}

// Decode reads the letter that a record carries. A record without an original topic, partition and offset is
// ErrNotALetter; any other header that is missing or damaged leaves its field zero, so that no letter stops its reader.
func Decode(m holdfast.Message) (Letter, error) {
	var l Letter
	var place struct{ topic, partition, offset bool }
	original := holdfast.Message{Key: m.Key, Value: m.Value}
	for _, h := range m.Headers {
		value := string(h.Value)
		var err error
		switch h.Key {
		case HeaderOrigTopic:
			original.Topic, place.topic = value, value != ""
		case HeaderOrigPartition:
			original.Partition, err = strconv.Atoi(value)
			place.partition = err == nil && original.Partition >= 0
		case HeaderOrigOffset:
			original.Offset, err = strconv.ParseInt(value, 10, 64)
			place.offset = err == nil && original.Offset >= 0
		case HeaderOrigTimestamp:
			if ms, err := strconv.ParseInt(value, 10, 64); err == nil {
				original.Time = time.UnixMilli(ms).UTC()
			}
		case HeaderGroup:
			l.Group = value
		case HeaderStage:
			l.Stage = value
		case HeaderCircuit:
			l.Circuit = value
		case HeaderReason:
			l.Reason = Reason(value)
		case HeaderErrorMessage:
			l.Error = value
		case HeaderAttempts:
			l.Attempts = parseCount(value)
		case HeaderRedriveCount:
			l.Redrives = parseCount(value)
		case HeaderFirstFailedAt:
			l.FirstFailedAt = parseTime(value)
		case HeaderDeadAt:
			l.DeadAt = parseTime(value)
		case HeaderID, HeaderSchema:
		default:
			original.Headers = append(original.Headers, h)
		}
	}
	if !place.topic || !place.partition || !place.offset {
		return Letter{}, fmt.Errorf("%w: %s/%d offset %d does not say where it came from",
			ErrNotALetter, m.Topic, m.Partition, m.Offset)
	}
	l.Message = original
	return l, nil
}

func isLetterHeader(key string) bool {
	switch key {
	case HeaderID, HeaderSchema, HeaderOrigTopic, HeaderOrigPartition, HeaderOrigOffset, HeaderOrigTimestamp,
		HeaderGroup, HeaderStage, HeaderCircuit, HeaderReason, HeaderErrorMessage, HeaderAttempts, HeaderRedriveCount,
		HeaderFirstFailedAt, HeaderDeadAt:
		return true
	}
	return false
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

func parseCount(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// cut shortens s to at most limit bytes of valid UTF-8 and marks that it did.
func cut(s string, limit int) string {
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
	if len(s) <= limit {
		return s
	}
	end := limit - len(cutMark)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + cutMark
}
