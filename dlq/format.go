package dlq

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/holdfast-io/holdfast"
)

const maxPartition = math.MaxInt32

var errNotANumber = errors.New("not a number")

// Format is the way in which another framework writes what it knows of a dead letter. Decode reads all of them.
type Format string

// The formats. Connect and Spring can be written, too (TopicConfig.Formats).
const (
	Connect   Format = "connect"   // Kafka Connect's sink connectors, with errors.deadletterqueue.context.headers.enable.
	Spring    Format = "spring"    // Spring for Apache Kafka: DeadLetterPublishingRecoverer, and @RetryableTopic.
	Streams   Format = "streams"   // Kafka Streams since 4.2 (KIP-1034).
	SmallRye  Format = "smallrye"  // SmallRye Reactive Messaging, which is Quarkus.
	Cronsumer Format = "cronsumer" // Trendyol's kafka-cronsumer and kafka-konsumer. It does not say where a message came from.
)

// formats lists them in the order in which Decode looks for where a message came from.
func formats() []Format { return []Format{Connect, Streams, Spring, SmallRye, Cronsumer} }

// headers gives what a format has to say of a letter.
func (f Format) headers(l *Letter) []holdfast.Header {
	var headers []holdfast.Header
	binary := func(key string, value []byte) { headers = append(headers, holdfast.Header{Key: key, Value: value}) }
	text := func(key, value string, limit int) {
		if value != "" {
			binary(key, []byte(cut(value, limit)))
		}
	}
	m := &l.Message
	switch f {
	case Connect:
		binary("__connect.errors.topic", []byte(m.Topic))
		text("__connect.errors.partition", strconv.Itoa(m.Partition), maxWord)
		text("__connect.errors.offset", strconv.FormatInt(m.Offset, 10), maxWord)
		text("__connect.errors.connector.name", l.Group, maxWord)
		text("__connect.errors.stage", l.Stage, maxWord)
		text("__connect.errors.exception.class.name", l.ErrorClass, maxWord)
		text("__connect.errors.exception.message", l.Error, maxText)
		text("__connect.errors.exception.stacktrace", l.Stack, maxStack)
	case Spring:
		binary("kafka_dlt-original-topic", []byte(m.Topic))
		binary("kafka_dlt-original-partition", bigEndian(int64(m.Partition), 4))
		binary("kafka_dlt-original-offset", bigEndian(m.Offset, 8))
		if !m.Time.IsZero() {
			binary("kafka_dlt-original-timestamp", bigEndian(m.Time.UnixMilli(), 8))
		}
		text("kafka_dlt-original-timestamp-type", l.TimestampType, maxWord)
		text("kafka_dlt-original-consumer-group", l.Group, maxWord)
		text("kafka_dlt-exception-fqcn", l.ErrorClass, maxWord)
		text("kafka_dlt-exception-message", l.Error, maxText)
		text("kafka_dlt-exception-stacktrace", l.Stack, maxStack)
	case Streams, SmallRye, Cronsumer: // Only read.
	}
	return headers
}

// foreign is what the headers of one format tell.
type foreign struct {
	Letter
	origin origin
}

// readForeign reads a letter in another format: the first one that says where the message came from.
func readForeign(m *holdfast.Message) (l Letter, from origin, f Format) {
	told := make(map[Format]*foreign)
	for _, h := range m.Headers {
		f, known := formatOf(h.Key)
		if !known {
			continue
		}
		if told[f] == nil {
			told[f] = new(foreign)
		}
		told[f].read(h.Key, h.Value)
	}
	for _, f := range formats() {
		t := told[f]
		if t == nil {
			continue
		}
		if f == Cronsumer && !t.DeadAt.IsZero() {
			t.origin.topic = m.Topic
			t.origin.setPartition(int64(m.Partition), nil)
			t.origin.setOffset(m.Offset, nil)
		}
		if t.origin.whole() {
			return t.Letter, t.origin, f
		}
	}
	return l, from, ""
}

// read takes in one header. Of an origin that was written several times the first one counts, of all else the last.
func (l *foreign) read(key string, value []byte) {
	text, from := string(value), &l.origin
	switch key {
	case "__connect.errors.topic", "__streams.errors.topic", "dead-letter-topic",
		"kafka_dlt-original-topic", "kafka_original-topic":
		if from.topic == "" {
			from.topic = text
		}
	case "__connect.errors.partition", "__streams.errors.partition", "dead-letter-partition":
		if !from.known.partition {
			from.setPartition(strconv.ParseInt(text, 10, 64))
		}
	case "kafka_dlt-original-partition", "kafka_original-partition":
		if !from.known.partition {
			from.setPartition(parseBigEndian(value, 4))
		}
	case "__connect.errors.offset", "__streams.errors.offset", "dead-letter-offset":
		if !from.known.offset {
			from.setOffset(strconv.ParseInt(text, 10, 64))
		}
	case "kafka_dlt-original-offset", "kafka_original-offset":
		if !from.known.offset {
			from.setOffset(parseBigEndian(value, 8))
		}
	case "kafka_dlt-original-timestamp", "kafka_original-timestamp", "retry_topic-original-timestamp":
		if from.time.IsZero() {
			from.time = parseMillis(parseBigEndian(value, len(value)))
		}
	case "kafka_dlt-original-timestamp-type", "kafka_original-timestamp-type":
		l.TimestampType = text
	case "kafka_dlt-original-consumer-group", "__connect.errors.connector.name":
		l.Group = text
	case "__connect.errors.stage":
		l.Stage = text
	case "__connect.errors.exception.class.name", "__streams.errors.exception", "dead-letter-exception-class-name",
		"kafka_dlt-exception-fqcn", "kafka_exception-fqcn":
		l.ErrorClass = text
	case "kafka_dlt-exception-cause-fqcn", "kafka_exception-cause-fqcn", "dead-letter-cause-class-name":
		l.ErrorChain = text
	case "__connect.errors.exception.message", "__streams.errors.message", "dead-letter-reason",
		"kafka_dlt-exception-message", "kafka_exception-message", "x-error-message":
		l.Error = text
	case "__connect.errors.exception.stacktrace", "__streams.errors.stacktrace",
		"kafka_dlt-exception-stacktrace", "kafka_exception-stacktrace":
		l.Stack = text
	case "kafka_deliveryAttempt", "retry_topic-attempts":
		if n, err := parseBigEndian(value, len(value)); err == nil && n >= 0 && n <= math.MaxInt32 {
			l.Attempts = int(n)
		}
	case "x-retry-count":
		l.Attempts = parseCount(text)
	case "x-produce-time":
		if ns, err := strconv.ParseInt(text, 10, 64); err == nil {
			l.DeadAt = time.Unix(0, ns).UTC()
		}
	}
}

// formatOf tells whose header it is.
func formatOf(key string) (f Format, known bool) {
	switch key {
	case "__connect.errors.topic", "__connect.errors.partition", "__connect.errors.offset",
		"__connect.errors.connector.name", "__connect.errors.task.id", "__connect.errors.stage",
		"__connect.errors.class.name", "__connect.errors.exception.class.name", "__connect.errors.exception.message",
		"__connect.errors.exception.stacktrace":
		return Connect, true
	case "__streams.errors.topic", "__streams.errors.partition", "__streams.errors.offset", "__streams.errors.exception",
		"__streams.errors.message", "__streams.errors.stacktrace":
		return Streams, true
	case "kafka_dlt-original-topic", "kafka_dlt-original-partition", "kafka_dlt-original-offset",
		"kafka_dlt-original-timestamp", "kafka_dlt-original-timestamp-type", "kafka_dlt-original-consumer-group",
		"kafka_dlt-exception-fqcn", "kafka_dlt-exception-cause-fqcn", "kafka_dlt-exception-message",
		"kafka_dlt-exception-stacktrace", "kafka_dlt-key-exception-fqcn", "kafka_dlt-key-exception-message",
		"kafka_dlt-key-exception-stacktrace",
		"kafka_original-topic", "kafka_original-partition", "kafka_original-offset", "kafka_original-timestamp",
		"kafka_original-timestamp-type", "kafka_exception-fqcn", "kafka_exception-cause-fqcn", "kafka_exception-message",
		"kafka_exception-stacktrace", "kafka_key-exception-fqcn", "kafka_key-exception-message",
		"kafka_key-exception-stacktrace", "retry_topic-attempts", "retry_topic-backoff-timestamp",
		"retry_topic-original-timestamp", "kafka_deliveryAttempt":
		return Spring, true
	case "dead-letter-topic", "dead-letter-partition", "dead-letter-offset", "dead-letter-exception-class-name",
		"dead-letter-cause-class-name", "dead-letter-reason", "dead-letter-cause":
		return SmallRye, true
	case "x-retry-count", "x-retry-attempt-count", "x-produce-time", "x-error-message":
		return Cronsumer, true
	}
	return "", false
}

// bigEndian writes the last bytes of n, as Java's ByteBuffer does.
func bigEndian(n int64, bytes int) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(n))[8-bytes:]
}

// parseBigEndian reads a signed number of so many bytes.
func parseBigEndian(b []byte, bytes int) (int64, error) {
	if len(b) != bytes || len(b) == 0 || len(b) > 8 {
		return 0, errNotANumber
	}
	n := int64(int8(b[0]))
	for _, next := range b[1:] {
		n = n<<8 | int64(next)
	}
	return n, nil
}
