package dlq

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/holdfast-io/holdfast"
)

// ErrNotALetter says that a record does not tell where it came from, in any format that Decode knows.
var ErrNotALetter = errors.New("dlq: not a letter")

// Decode reads the letter that a record carries: one of Encode's, or one that Kafka Connect, Kafka Streams, Spring,
// SmallRye or kafka-cronsumer wrote. A record that does not say where it came from is ErrNotALetter; anything else that
// is missing or damaged leaves its field zero, so that no letter stops its reader.
func Decode(m holdfast.Message) (Letter, error) {
	var d decoder
	err := d.decode(&m)
	return d.letter, err
}

// decoder reads letters, one after the other. What stands at the same place in one as in the one before, as most does in a
// topic, it looks at once.
type decoder struct {
	needed []string // The headers of Encode's that are of use. Nil: all are.
	letter Letter   // The last one that was read.

	before [32]known // By the header's place,
	beyond known     // and of those further behind the last one.
}

// known is what is known of a header.
type known struct {
	key    string
	kind   kind
	needed bool
	text   string // Its last value, if a text was made of it.
}

// header is the header number i, which has this key.
func (d *decoder) header(i int, key string) *known {
	k := &d.beyond
	if i < len(d.before) {
		k = &d.before[i]
	}
	if k.key != key {
		*k = known{key: key, kind: kindOf(key)}
		k.needed = k.kind == ours && (d.needed == nil || slices.Contains(d.needed, key))
	}
	return k
}

// string is value as a string.
func (k *known) string(value []byte) string {
	if k.text != string(value) {
		k.text = string(value)
	}
	return k.text
}

// decode reads the letter that a record carries. The message's headers share the record's memory where they are the first.
func (d *decoder) decode(m *holdfast.Message) error {
	d.letter = Letter{}
	var from origin
	var own []holdfast.Header
	inLetter := false
	for i := range m.Headers {
		k := d.header(i, m.Headers[i].Key)
		inLetter = inLetter || k.key == HeaderSchema
		switch {
		case k.needed:
			d.letter.read(&from, k, m.Headers[i].Value)
		case !k.kind.own(inLetter):
		case len(own) == i:
			own = m.Headers[: i+1 : i+1]
		default:
			own = append(own, m.Headers[i])
		}
	}
	if !from.whole() {
		redrives := d.letter.Redrives
		var written Format
		d.letter, from, written = readForeign(m)
		d.letter.Redrives = redrives
		own = slices.DeleteFunc(slices.Clone(own), func(h holdfast.Header) bool {
			f, known := formatOf(h.Key)
			return known && f == written
		})
	}
	if !from.whole() {
		d.letter = Letter{}
		return fmt.Errorf("%w: %s/%d offset %d does not say where it came from",
			ErrNotALetter, m.Topic, m.Partition, m.Offset)
	}
	if len(own) == 0 {
		own = nil
	}
	d.letter.Message = holdfast.Message{
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
func (l *Letter) read(from *origin, k *known, value []byte) {
	switch k.key {
	case HeaderOrigTopic:
		from.topic = k.string(value)
	case HeaderOrigPartition:
		from.setPartition(strconv.ParseInt(string(value), 10, 64))
	case HeaderOrigOffset:
		from.setOffset(strconv.ParseInt(string(value), 10, 64))
	case HeaderOrigTimestamp:
		from.time = parseMillis(strconv.ParseInt(string(value), 10, 64))
	case HeaderOrigTimestampType:
		l.TimestampType = k.string(value)
	case HeaderGroup:
		l.Group = k.string(value)
	case HeaderHandler:
		l.Handler = k.string(value)
	case HeaderStage:
		l.Stage = k.string(value)
	case HeaderCircuit:
		l.Circuit = k.string(value)
	case HeaderCircuitState:
		l.CircuitState = k.string(value)
	case HeaderReason:
		l.Reason = Reason(k.string(value))
	case HeaderErrorMessage:
		l.Error = k.string(value)
	case HeaderErrorClass:
		l.ErrorClass = k.string(value)
	case HeaderErrorCode:
		l.ErrorCode = k.string(value)
	case HeaderErrorChain:
		l.ErrorChain = k.string(value)
	case HeaderErrorStack:
		l.Stack = k.string(value)
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
		l.Host = k.string(value)
	case HeaderApp:
		l.App = k.string(value)
	case HeaderAppVersion:
		l.AppVersion = k.string(value)
	case HeaderClientID:
		l.ClientID = k.string(value)
	}
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
