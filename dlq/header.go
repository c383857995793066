package dlq

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-io/holdfast"
)

// The headers of a letter. Their values are UTF-8 text. Times are RFC 3339 with nanoseconds, in UTC, but for the
// original timestamp, which is in milliseconds since 1970 as Kafka has it.
const (
	HeaderSchema            = "dlq-schema" // The first of them: what stands before it is the original's.
	HeaderID                = "dlq-id"
	HeaderOrigTopic         = "dlq-orig-topic"
	HeaderOrigPartition     = "dlq-orig-partition"
	HeaderOrigOffset        = "dlq-orig-offset"
	HeaderOrigTimestamp     = "dlq-orig-timestamp"
	HeaderOrigTimestampType = "dlq-orig-timestamp-type"
	HeaderGroup             = "dlq-group"
	HeaderReason            = "dlq-reason"
	HeaderRedriveCount      = "dlq-redrive-count"
	HeaderFirstFailedAt     = "dlq-first-failed-at"
	HeaderDeadAt            = "dlq-dead-at"

	// These are optional: a letter that is too large for its topic is written without them, and with HeaderStripped.
	HeaderStage        = "dlq-stage"
	HeaderCircuit      = "dlq-circuit"
	HeaderCircuitState = "dlq-circuit-state"
	HeaderErrorMessage = "dlq-error-message"
	HeaderErrorClass   = "dlq-error-class"
	HeaderErrorCode    = "dlq-error-code"
	HeaderErrorChain   = "dlq-error-chain"
	HeaderErrorStack   = "dlq-error-stack"
	HeaderAttempts     = "dlq-attempts"
	HeaderLastFailedAt = "dlq-last-failed-at"
	HeaderHost         = "dlq-host"
	HeaderApp          = "dlq-app"
	HeaderAppVersion   = "dlq-app-version"
	HeaderClientID     = "dlq-client-id"

	HeaderStripped = "dlq-stripped"
)

// What a release writes as its schema, and how long texts may be. Group and topic are as long as Kafka has them.
const (
	schemaVersion = "1"
	headerPrefix  = "dlq-"
	maxText       = 1 << 10
	maxStack      = 4 << 10
	maxWord       = 256
	cutMark       = "...[cut]"
)

// ErrNotALetter says that a record does not tell where it came from, in any format that Decode knows.
var ErrNotALetter = errors.New("dlq: not a letter")

// Encode makes the record that carries l. Topic and partition are the caller's to choose, its time is that of writing.
// The original's own headers come first and unchanged; what an earlier stay in a dead-letter queue left behind is
// replaced. A message that a Redrive had brought home counts its journeys on. After the letter's own headers come those
// of the other formats that are asked for.
func Encode(l Letter, also ...Format) holdfast.Message {
	m := l.Message
	for _, h := range m.Headers {
		if h.Key == HeaderRedriveCount {
			l.Redrives = max(l.Redrives, parseCount(string(h.Value)))
		}
	}
	headers := append(make([]holdfast.Header, 0, len(m.Headers)+24), originals(m.Headers)...)
	add := func(key, value string, limit int) {
		if value != "" {
			headers = append(headers, holdfast.Header{Key: key, Value: []byte(cut(value, limit))})
		}
	}
	word := func(key, value string) { add(key, value, maxWord) }
	name := func(key, value string) { // Kafka's own word, and not to be touched.
		if value != "" {
			headers = append(headers, holdfast.Header{Key: key, Value: []byte(value)})
		}
	}
	word(HeaderSchema, schemaVersion)
	name(HeaderID, l.ID())
	name(HeaderOrigTopic, m.Topic)
	word(HeaderOrigPartition, strconv.Itoa(m.Partition))
	word(HeaderOrigOffset, strconv.FormatInt(m.Offset, 10))
	if !m.Time.IsZero() {
		word(HeaderOrigTimestamp, strconv.FormatInt(m.Time.UnixMilli(), 10))
	}
	word(HeaderOrigTimestampType, l.TimestampType)
	name(HeaderGroup, l.Group)
	word(HeaderReason, string(l.Reason))
	word(HeaderRedriveCount, strconv.Itoa(l.Redrives))
	word(HeaderFirstFailedAt, formatTime(l.FirstFailedAt))
	word(HeaderDeadAt, formatTime(l.DeadAt))
	word(HeaderStage, l.Stage)
	word(HeaderCircuit, l.Circuit)
	word(HeaderCircuitState, l.CircuitState)
	add(HeaderErrorMessage, l.Error, maxText)
	word(HeaderErrorClass, l.ErrorClass)
	word(HeaderErrorCode, l.ErrorCode)
	add(HeaderErrorChain, l.ErrorChain, maxText)
	add(HeaderErrorStack, l.Stack, maxStack)
	word(HeaderAttempts, strconv.Itoa(l.Attempts))
	word(HeaderLastFailedAt, formatTime(l.LastFailedAt))
	word(HeaderHost, l.Host)
	word(HeaderApp, l.App)
	word(HeaderAppVersion, l.AppVersion)
	word(HeaderClientID, l.ClientID)
	for _, f := range also {
		headers = append(headers, f.headers(&l)...)
	}
	return holdfast.Message{Key: m.Key, Value: m.Value, Headers: headers}
}

// Decode reads the letter that a record carries: one of Encode's, or one that Kafka Connect, Kafka Streams, Spring,
// SmallRye or kafka-cronsumer wrote. A record that does not say where it came from is ErrNotALetter; anything else that
// is missing or damaged leaves its field zero, so that no letter stops its reader.
func Decode(m holdfast.Message) (Letter, error) {
	var l Letter
	err := l.decode(&m)
	return l, err
}

// decode makes l the letter that a record carries. What reads as in the letter that l was before, as most does in a
// topic, shares its text.
func (l *Letter) decode(m *holdfast.Message) error {
	before := *l
	*l = Letter{}
	var from origin
	for _, h := range m.Headers {
		l.read(&from, &before, h.Key, h.Value)
	}
	own := originals(m.Headers)
	if !from.whole() {
		redrives := l.Redrives
		var written Format
		*l, from, written = readForeign(m)
		l.Redrives = redrives
		own = slices.DeleteFunc(slices.Clone(own), func(h holdfast.Header) bool {
			f, known := formatOf(h.Key)
			return known && f == written
		})
	}
	if !from.whole() {
		*l = Letter{}
		return fmt.Errorf("%w: %s/%d offset %d does not say where it came from",
			ErrNotALetter, m.Topic, m.Partition, m.Offset)
	}
	if len(own) == 0 {
		own = nil
	}
	l.Message = holdfast.Message{
		Topic: from.topic, Partition: from.partition, Offset: from.offset, Time: from.time,
		Key: m.Key, Value: m.Value, Headers: own,
	}
	return nil
}

// origin is where a message came from, as far as headers have told.
type origin struct {
	topic     string
	partition int
	offset    int64
	time      time.Time
	known     struct{ partition, offset bool }
}

func (o *origin) whole() bool { return o.topic != "" && o.known.partition && o.known.offset }

func (o *origin) setPartition(n int64, err error) {
	o.partition, o.known.partition = int(n), err == nil && n >= 0 && n <= maxPartition
}

func (o *origin) setOffset(n int64, err error) { o.offset, o.known.offset = n, err == nil && n >= 0 }

// read takes in one header of Encode's.
func (l *Letter) read(from *origin, before *Letter, key string, value []byte) {
	switch key {
	case HeaderOrigTopic:
		from.topic = text(value, before.Message.Topic)
	case HeaderOrigPartition:
		from.setPartition(strconv.ParseInt(string(value), 10, 64))
	case HeaderOrigOffset:
		from.setOffset(strconv.ParseInt(string(value), 10, 64))
	case HeaderOrigTimestamp:
		from.time = parseMillis(strconv.ParseInt(string(value), 10, 64))
	case HeaderOrigTimestampType:
		l.TimestampType = text(value, before.TimestampType)
	case HeaderGroup:
		l.Group = text(value, before.Group)
	case HeaderStage:
		l.Stage = text(value, before.Stage)
	case HeaderCircuit:
		l.Circuit = text(value, before.Circuit)
	case HeaderCircuitState:
		l.CircuitState = text(value, before.CircuitState)
	case HeaderReason:
		l.Reason = Reason(text(value, string(before.Reason)))
	case HeaderErrorMessage:
		l.Error = text(value, before.Error)
	case HeaderErrorClass:
		l.ErrorClass = text(value, before.ErrorClass)
	case HeaderErrorCode:
		l.ErrorCode = text(value, before.ErrorCode)
	case HeaderErrorChain:
		l.ErrorChain = text(value, before.ErrorChain)
	case HeaderErrorStack:
		l.Stack = text(value, before.Stack)
	case HeaderAttempts:
		l.Attempts = parseCount(string(value))
	case HeaderRedriveCount:
		l.Redrives = parseCount(string(value))
	case HeaderFirstFailedAt:
		l.FirstFailedAt = parseTime(string(value))
	case HeaderLastFailedAt:
		l.LastFailedAt = parseTime(string(value))
	case HeaderDeadAt:
		l.DeadAt = parseTime(string(value))
	case HeaderHost:
		l.Host = text(value, before.Host)
	case HeaderApp:
		l.App = text(value, before.App)
	case HeaderAppVersion:
		l.AppVersion = text(value, before.AppVersion)
	case HeaderClientID:
		l.ClientID = text(value, before.ClientID)
	}
}

// text is value as a string: the one known, if it is the same.
func text(value []byte, known string) string {
	if string(value) == known {
		return known
	}
	return string(value)
}

// originals gives the headers that are the message's own. A letter's are known by their names, and where it begins also
// those that a newer release may have written, and those that were written for others. It shares headers' memory where
// the message's own are the first.
func originals(headers []holdfast.Header) []holdfast.Header {
	var own []holdfast.Header
	inLetter := false
	for i, h := range headers {
		inLetter = inLetter || h.Key == HeaderSchema
		switch {
		case inLetter && strings.HasPrefix(h.Key, headerPrefix):
		case isLetterHeader(h.Key), inLetter && isForeign(h.Key):
		case len(own) == i:
			own = headers[: i+1 : i+1]
		default:
			own = append(own, h)
		}
	}
	return own
}

// strip gives a letter's record without what is optional, and says so in it.
func strip(record holdfast.Message) holdfast.Message {
	var kept []holdfast.Header
	inLetter := false
	for _, h := range record.Headers {
		inLetter = inLetter || h.Key == HeaderSchema
		if !inLetter || !isOptional(h.Key) {
			kept = append(kept, h)
		}
	}
	record.Headers = append(kept, holdfast.Header{Key: HeaderStripped, Value: []byte("true")})
	return record
}

func isLetterHeader(key string) bool {
	switch key {
	case HeaderSchema, HeaderID, HeaderOrigTopic, HeaderOrigPartition, HeaderOrigOffset, HeaderOrigTimestamp,
		HeaderOrigTimestampType, HeaderGroup, HeaderReason, HeaderRedriveCount, HeaderFirstFailedAt, HeaderDeadAt,
		HeaderStripped:
		return true
	}
	return strings.HasPrefix(key, headerPrefix) && isOptional(key)
}

// isOptional says whether a letter can be read and taken home without a header that follows HeaderSchema.
func isOptional(key string) bool {
	switch key {
	case HeaderStage, HeaderCircuit, HeaderCircuitState, HeaderErrorMessage, HeaderErrorClass, HeaderErrorCode,
		HeaderErrorChain, HeaderErrorStack, HeaderAttempts, HeaderLastFailedAt, HeaderHost, HeaderApp, HeaderAppVersion,
		HeaderClientID:
		return true
	}
	return isForeign(key)
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
	return t.UTC()
}

func parseMillis(ms int64, err error) time.Time {
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func parseCount(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return min(n, math.MaxInt32-1) // One more can be counted.
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
