package dlq_test

import (
	"bytes"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

func letter() dlq.Letter {
	at := time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.UTC)
	return dlq.Letter{
		Message: holdfast.Message{
			Topic: "orders", Partition: 3, Offset: 1234, Time: at,
			Key: []byte("k"), Value: []byte{0, 255, 1},
			Headers: []holdfast.Header{{Key: "a", Value: []byte{0xff}}, {Key: "a", Value: nil}, {Key: "", Value: []byte{}}},
		},
		TimestampType: "CreateTime",
		Reason:        dlq.CircuitOpen, Group: "g", Handler: "billing", Stage: "sink", Circuit: "clickhouse", CircuitState: "open",
		Error: "no", ErrorClass: "*net.OpError", ErrorCode: "252", ErrorChain: "*fmt.wrapError > *net.OpError", Stack: "main.main()",
		Attempts: 2, Redrives: 1,
		FirstFailedAt: at.Add(time.Second), LastFailedAt: at.Add(2 * time.Second), DeadAt: at.Add(time.Minute),
		Host: "h", App: "app", AppVersion: "v1", ClientID: "c",
	}
}

func TestLetterComesBackAsItWas(t *testing.T) {
	for name, change := range map[string]func(*dlq.Letter){
		"everything":  func(*dlq.Letter) {},
		"tombstone":   func(l *dlq.Letter) { l.Message.Value = nil },
		"empty value": func(l *dlq.Letter) { l.Message.Value = []byte{} },
		"no key":      func(l *dlq.Letter) { l.Message.Key = nil },
		"empty key":   func(l *dlq.Letter) { l.Message.Key = []byte{} },
		"no headers":  func(l *dlq.Letter) { l.Message.Headers = nil },
		"no times":    func(l *dlq.Letter) { l.Message.Time, l.FirstFailedAt, l.DeadAt = time.Time{}, time.Time{}, time.Time{} },
		"far time":    func(l *dlq.Letter) { l.Message.Time = time.UnixMilli(1_700_000_000_000_000).UTC() }, // Microseconds, taken for milliseconds.
		"bare":        func(l *dlq.Letter) { *l = dlq.Letter{Message: holdfast.Message{Topic: "t"}} },
	} {
		t.Run(name, func(t *testing.T) {
			want := letter()
			change(&want)
			got, err := dlq.Decode(dlq.Encode(want))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("came back as\n%+v\nwant\n%+v", got, want)
			}
		})
	}
}

func TestHeadersOfAnEarlierStayAreReplaced(t *testing.T) {
	first := dlq.Encode(letter())
	back, err := dlq.Decode(first)
	if err != nil {
		t.Fatal(err)
	}
	back.Message.Headers = first.Headers // As a program would have it that copies a letter by hand.
	second := dlq.Encode(back)
	if len(second.Headers) != len(first.Headers) {
		t.Errorf("%d headers after the second pass, want %d", len(second.Headers), len(first.Headers))
	}
}

// Who reads headers without this package learns from them whether a redrive alone may do.
func TestLetterSaysWhetherItIsRetryable(t *testing.T) {
	for reason, want := range map[dlq.Reason]string{
		dlq.CircuitOpen: "true", dlq.RetriesExhausted: "true", dlq.TimedOut: "true",
		dlq.Permanent: "false", dlq.Undecodable: "false", dlq.Panicked: "false", "moon_phase": "", "": "",
	} {
		got := ""
		for _, h := range dlq.Encode(dlq.Letter{Reason: reason}).Headers {
			if h.Key == dlq.HeaderRetryable {
				got = string(h.Value)
			}
		}
		if got != want {
			t.Errorf("%q: %q, want %q", reason, got, want)
		}
	}
}

func TestLongTextsAreCutAndMarked(t *testing.T) {
	long := strings.Repeat("ü", 40_000) + "\xff"
	l := letter()
	l.Error, l.ErrorClass, l.ErrorCode, l.ErrorChain, l.Stack = long, long, long, long, long
	l.Stage, l.Circuit, l.CircuitState, l.TimestampType, l.Reason, l.Handler = long, long, long, long, dlq.Reason(long), long
	l.Host, l.App, l.AppVersion, l.ClientID = long, long, long, long
	record := dlq.Encode(l, dlq.Connect, dlq.Spring)
	size := 0
	for _, h := range record.Headers {
		size += len(h.Key) + len(h.Value)
		limit := 256
		switch {
		case strings.Contains(h.Key, "stack"):
			limit = 4096
		case strings.HasSuffix(h.Key, "message"), strings.HasSuffix(h.Key, "chain"):
			limit = 1024
		}
		if len(h.Value) > limit || len(h.Value) > 100 && (!strings.HasSuffix(string(h.Value), "...[cut]") || !utf8.Valid(h.Value)) {
			t.Errorf("%s of %d bytes, limit %d", h.Key, len(h.Value), limit)
		}
	}
	if size > 24<<10 {
		t.Errorf("%d bytes of headers", size)
	}
	got, err := dlq.Decode(record)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := dlq.Decode(dlq.Encode(got)); err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("cut twice, it is\n%+v\n%+v, %v", got, again, err)
	}
}

// A message that a redrive brought home says how often, and its next letter counts on.
func TestJourneysAreCountedThroughTheTopic(t *testing.T) {
	l := letter()
	l.Redrives = 0
	l.Message.Headers = append(l.Message.Headers,
		holdfast.Header{Key: dlq.HeaderID, Value: []byte("g/orders/3/1000")}, holdfast.Header{Key: dlq.HeaderRedriveCount, Value: []byte("3")})
	got, err := dlq.Decode(dlq.Encode(l))
	if err != nil || got.Redrives != 3 || !reflect.DeepEqual(got.Message.Headers, letter().Message.Headers) {
		t.Errorf("%d journeys, headers %v, %v", got.Redrives, got.Message.Headers, err)
	}
}

// A release that knows more headers than this one may have written the letter.
func TestHeadersOfANewerReleaseAreNotTheOriginals(t *testing.T) {
	record := dlq.Encode(letter())
	record.Headers = append(record.Headers, holdfast.Header{Key: "dlq-moon-phase", Value: []byte("full")})
	got, err := dlq.Decode(record)
	if err != nil || !reflect.DeepEqual(got, letter()) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestForeignOrDamagedHeadersStopNobody(t *testing.T) {
	whole := dlq.Encode(letter())
	without := func(keys ...string) holdfast.Message {
		m := whole
		m.Headers = slices.DeleteFunc(slices.Clone(m.Headers), func(h holdfast.Header) bool { return slices.Contains(keys, h.Key) })
		return m
	}
	with := func(key, value string) holdfast.Message {
		m := without(key)
		m.Headers = append(m.Headers, holdfast.Header{Key: key, Value: []byte(value)})
		return m
	}
	for name, m := range map[string]holdfast.Message{
		"no headers":         {Topic: "t"},
		"no topic":           without(dlq.HeaderOrigTopic),
		"no partition":       without(dlq.HeaderOrigPartition),
		"no offset":          without(dlq.HeaderOrigOffset),
		"binary partition":   with(dlq.HeaderOrigPartition, "\x00\x00\x00\x03"),
		"negative offset":    with(dlq.HeaderOrigOffset, "-1"),
		"negative partition": with(dlq.HeaderOrigPartition, "-1"),
		"huge offset":        with(dlq.HeaderOrigOffset, "99999999999999999999"),
	} {
		if _, err := dlq.Decode(m); !errors.Is(err, dlq.ErrNotALetter) {
			t.Errorf("%s: %v, want ErrNotALetter", name, err)
		}
	}
	for _, key := range []string{dlq.HeaderOrigTimestamp, dlq.HeaderAttempts, dlq.HeaderRedriveCount, dlq.HeaderFirstFailedAt, dlq.HeaderDeadAt} {
		if _, err := dlq.Decode(with(key, "\xff nonsense")); err != nil {
			t.Errorf("damaged %s: %v", key, err)
		}
	}
}

// Whatever headers a message brings, with or without other formats: it comes back bit by bit, and is written the same
// way again. Only what is a letter's by its name is not the message's.
func FuzzLetter(f *testing.F) {
	for i, h := range dlq.Encode(letter(), dlq.Connect, dlq.Spring).Headers {
		f.Add(h.Key, h.Value, "kafka_dlt-original-topic", []byte("v"), []byte("k"), "text", i, int64(i))
	}
	f.Fuzz(func(t *testing.T, key1 string, value []byte, key2 string, body, id []byte, text string, number int, offset int64) {
		if key1 == dlq.HeaderSchema || key2 == dlq.HeaderSchema {
			return // Here an earlier letter begins, and all that belongs to it goes.
		}
		l := letter()
		l.Message.Key, l.Message.Value = id, body
		l.Message.Headers = []holdfast.Header{{Key: key1, Value: value}, {Key: key2}, {Key: key1, Value: body}}
		l.Message.Partition, l.Message.Offset = max(0, number)&(1<<31-1), max(0, offset)
		l.Stage, l.Error, l.ErrorClass, l.Group, l.Handler = text, text, text, text, text
		record := dlq.Encode(l, dlq.Connect, dlq.Spring)
		got, err := dlq.Decode(record)
		if err != nil {
			t.Fatal(err)
		}
		want := slices.DeleteFunc(slices.Clone(l.Message.Headers), func(h holdfast.Header) bool { return strings.HasPrefix(h.Key, "dlq-") })
		own := slices.DeleteFunc(slices.Clone(got.Message.Headers), func(h holdfast.Header) bool { return strings.HasPrefix(h.Key, "dlq-") })
		if len(want)+len(own) > 0 && !reflect.DeepEqual(own, want) {
			t.Fatalf("headers\n%q\ncame back as\n%q", want, own)
		}
		if !reflect.DeepEqual(got.Message.Key, id) || !reflect.DeepEqual(got.Message.Value, body) ||
			got.Message.Partition != l.Message.Partition || got.Message.Offset != l.Message.Offset {
			t.Fatalf("the message came back as %+v", got.Message)
		}
		if again := dlq.Encode(got, dlq.Connect, dlq.Spring); !reflect.DeepEqual(again, record) {
			t.Fatalf("written again, it is\n%q\nand was\n%q", again.Headers, record.Headers)
		}
	})
}

// Whatever headers a record has, Decode ends, and what it reads can be written and read again.
func FuzzDecode(f *testing.F) {
	for _, h := range dlq.Encode(letter(), dlq.Connect, dlq.Spring).Headers {
		f.Add(h.Key, h.Value, h.Key, []byte("9"), 3)
	}
	for _, record := range foreignRecords() {
		for i, h := range record.Headers {
			f.Add(h.Key, h.Value, "dlq-orig-topic", []byte(nil), i)
		}
	}
	f.Fuzz(func(t *testing.T, key1 string, value1 []byte, key2 string, value2 []byte, which int) {
		records := foreignRecords()
		m := append(slices.Collect(maps.Values(records)), dlq.Encode(letter(), dlq.Spring))[uint(which)%uint(len(records)+1)]
		damaged := slices.DeleteFunc(slices.Clone(m.Headers), func(h holdfast.Header) bool { return h.Key == key1 })
		m.Headers = append(append([]holdfast.Header{{Key: key1, Value: value1}}, damaged...), holdfast.Header{Key: key2, Value: value2})
		got, err := dlq.Decode(m)
		if err != nil {
			if !errors.Is(err, dlq.ErrNotALetter) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(got.Message.Value, m.Value) || !bytes.Equal(got.Message.Key, m.Key) {
			t.Fatal("key or value changed")
		}
		again, err := dlq.Decode(dlq.Encode(got))
		if err != nil {
			t.Fatalf("what was read could not be written and read again: %v", err)
		}
		if again.Message.Topic != got.Message.Topic || again.Message.Offset != got.Message.Offset ||
			again.Message.Partition != got.Message.Partition || again.ID() != got.ID() {
			t.Fatalf("second reading differs:\n%+v\n%+v", again, got)
		}
	})
}
