package dlq_test

import (
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

func text(keysAndValues ...string) (headers []holdfast.Header) {
	for pair := range slices.Chunk(keysAndValues, 2) {
		headers = append(headers, holdfast.Header{Key: pair[0], Value: []byte(pair[1])})
	}
	return headers
}

func number(key string, bytes int, n uint64) holdfast.Header {
	return holdfast.Header{Key: key, Value: binary.BigEndian.AppendUint64(nil, n)[8-bytes:]}
}

// foreignRecords are dead letters of orders/3 offset 1234 as others write them, around a message with one header of its own.
func foreignRecords() map[string]holdfast.Message {
	at := uint64(time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.UTC).UnixMilli())
	records := make(map[string]holdfast.Message)
	for name, headers := range map[string][]holdfast.Header{
		"connect": text("__connect.errors.topic", "orders", "__connect.errors.partition", "3", "__connect.errors.offset", "1234",
			"__connect.errors.connector.name", "store", "__connect.errors.task.id", "0", "__connect.errors.stage", "VALUE_CONVERTER",
			"__connect.errors.class.name", "org.apache.kafka.connect.json.JsonConverter",
			"__connect.errors.exception.class.name", "DataException", "__connect.errors.exception.message", "bad",
			"__connect.errors.exception.stacktrace", "at X"),
		"streams": text("__streams.errors.topic", "orders", "__streams.errors.partition", "3", "__streams.errors.offset", "1234",
			"__streams.errors.exception", "DataException", "__streams.errors.message", "bad", "__streams.errors.stacktrace", "at X"),
		"smallrye": text("dead-letter-exception-class-name", "DataException", "dead-letter-reason", "bad", "dead-letter-cause", "why",
			"dead-letter-cause-class-name", "IOException", "dead-letter-topic", "orders", "dead-letter-partition", "3", "dead-letter-offset", "1234"),
		"spring": append(text("kafka_dlt-original-topic", "orders", "kafka_dlt-original-timestamp-type", "CreateTime",
			"kafka_dlt-original-consumer-group", "store", "kafka_dlt-exception-fqcn", "DataException",
			"kafka_dlt-exception-cause-fqcn", "IOException", "kafka_dlt-exception-message", "bad", "kafka_dlt-exception-stacktrace", "at X"),
			number("kafka_dlt-original-partition", 4, 3), number("kafka_dlt-original-offset", 8, 1234),
			number("kafka_dlt-original-timestamp", 8, at), number("kafka_deliveryAttempt", 4, 10)),
		"spring retry topic": append(text("kafka_original-topic", "orders", "kafka_original-timestamp-type", "CreateTime",
			"kafka_exception-fqcn", "DataException", "kafka_exception-message", "bad", "kafka_exception-stacktrace", "at X"),
			number("kafka_original-partition", 4, 3), number("kafka_original-offset", 8, 1234), number("kafka_original-timestamp", 8, at),
			number("retry_topic-attempts", 4, 10), number("retry_topic-original-timestamp", 6, at), number("retry_topic-backoff-timestamp", 6, at)),
		"cronsumer": text("x-retry-count", "10", "x-retry-attempt-count", "2", "x-produce-time", "1772600767008000000",
			"x-error-message", "worse", "x-error-message", "bad"),
	} {
		m := holdfast.Message{Topic: "orders-dlq", Partition: 1, Offset: 77, Key: []byte("k"), Value: []byte{0, 255}}
		m.Headers = append(text("own", "header"), headers...)
		records[name] = m
	}
	return records
}

func TestLettersOfOthersAreRead(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.UTC)
	for name, change := range map[string]func(*dlq.Letter){
		"connect":  func(l *dlq.Letter) { l.Group, l.Stage, l.Stack = "store", "VALUE_CONVERTER", "at X" },
		"streams":  func(l *dlq.Letter) { l.Stack = "at X" },
		"smallrye": func(l *dlq.Letter) { l.ErrorChain = "IOException" },
		"spring": func(l *dlq.Letter) {
			l.Message.Time, l.TimestampType = at, "CreateTime"
			l.Group, l.Stack, l.Attempts, l.ErrorChain = "store", "at X", 10, "IOException"
		},
		"spring retry topic": func(l *dlq.Letter) {
			l.Message.Time, l.TimestampType = at, "CreateTime"
			l.Stack, l.Attempts = "at X", 10
		},
		"cronsumer": func(l *dlq.Letter) { // It does not know where it came from, so that is where it lies.
			l.Message.Topic, l.Message.Partition, l.Message.Offset = "orders-dlq", 1, 77
			l.ErrorClass, l.Attempts, l.DeadAt = "", 10, at
		},
	} {
		want := dlq.Letter{
			Message: holdfast.Message{
				Topic: "orders", Partition: 3, Offset: 1234, Key: []byte("k"), Value: []byte{0, 255}, Headers: text("own", "header"),
			},
			Error: "bad", ErrorClass: "DataException",
		}
		change(&want)
		got, err := dlq.Decode(foreignRecords()[name])
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is read as\n%+v, %v\nwant\n%+v", name, got, err, want)
		}
	}
}

// What Connect and Spring would read is what they would have written.
func TestLettersAreWrittenForOthers(t *testing.T) {
	l := letter()
	l.Error, l.ErrorClass, l.Group, l.Stack, l.Stage = "bad", "DataException", "store", "at X", "VALUE_CONVERTER"
	for format, name := range map[dlq.Format]string{dlq.Connect: "connect", dlq.Spring: "spring"} {
		written := dlq.Encode(l, format).Headers
		for _, h := range written {
			if strings.HasPrefix(h.Key, "dlq-") || slices.ContainsFunc(l.Message.Headers, func(o holdfast.Header) bool { return o.Key == h.Key }) {
				continue
			}
			if !slices.ContainsFunc(foreignRecords()[name].Headers, func(w holdfast.Header) bool { return reflect.DeepEqual(w, h) }) {
				t.Errorf("%s: %s = %q is not what it writes", name, h.Key, h.Value)
			}
		}
		only := holdfast.Message{Headers: slices.DeleteFunc(written, func(h holdfast.Header) bool { return strings.HasPrefix(h.Key, "dlq-") })}
		got, err := dlq.Decode(only)
		if err != nil || got.Message.Topic != "orders" || got.Message.Partition != 3 || got.Message.Offset != 1234 ||
			got.Error != "bad" || got.ErrorClass != "DataException" || got.Group != "store" || got.Stack != "at X" {
			t.Errorf("%s: read back as %+v, %v", name, got, err)
		}
	}
}

// A message that was once in somebody's dead-letter queue, or only looks like it, keeps its headers on the way through ours.
func TestForeignHeadersOfTheOriginalStay(t *testing.T) {
	for name, record := range foreignRecords() {
		l := letter()
		l.Message.Headers = record.Headers
		got, err := dlq.Decode(dlq.Encode(l, dlq.Connect, dlq.Spring))
		if err != nil || !reflect.DeepEqual(got, l) {
			t.Errorf("%s came back as\n%+v, %v", name, got, err)
		}
	}
	// Nor does one format take another's.
	m := foreignRecords()["connect"]
	m.Headers = append(text("x-retry-count", "1"), m.Headers...)
	if got, err := dlq.Decode(m); err != nil || !reflect.DeepEqual(got.Message.Headers, text("x-retry-count", "1", "own", "header")) {
		t.Errorf("headers %v, %v", got.Message.Headers, err)
	}
}

func TestDamagedForeignLettersAreNone(t *testing.T) {
	for name, whole := range foreignRecords() {
		for i, h := range whole.Headers {
			place := strings.HasSuffix(h.Key, "topic") || strings.HasSuffix(h.Key, "partition") || strings.HasSuffix(h.Key, "offset") || h.Key == "x-produce-time"
			m := whole
			m.Headers = slices.Clone(whole.Headers)
			m.Headers[i].Value = nil
			if _, err := dlq.Decode(m); place != errors.Is(err, dlq.ErrNotALetter) {
				t.Errorf("%s without %s: %v", name, h.Key, err)
			}
		}
	}
	for name, h := range map[string]holdfast.Header{
		"short": number("kafka_dlt-original-partition", 2, 3), "long": number("kafka_dlt-original-partition", 8, 3),
		"negative": number("kafka_dlt-original-partition", 4, 1<<32-1), "text": text("kafka_dlt-original-partition", "3")[0],
	} {
		m := foreignRecords()["spring"]
		m.Headers = append([]holdfast.Header{h}, slices.DeleteFunc(m.Headers, func(o holdfast.Header) bool { return o.Key == h.Key })...)
		if _, err := dlq.Decode(m); !errors.Is(err, dlq.ErrNotALetter) {
			t.Errorf("%s partition: %v", name, err)
		}
	}
}
