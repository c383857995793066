package dlq_test

import (
	"bytes"
	"errors"
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
		Reason: dlq.CircuitOpen, Group: "g", Stage: "sink", Circuit: "clickhouse", Error: "no", Attempts: 2, Redrives: 1,
		FirstFailedAt: at.Add(time.Second), DeadAt: at.Add(time.Minute),
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

func TestLongErrorIsCutAndMarked(t *testing.T) {
	l := letter()
	l.Error = strings.Repeat("ü", 4000) + "\xff"
	got, err := dlq.Decode(dlq.Encode(l))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Error) > 1024 || !strings.HasSuffix(got.Error, "...[cut]") || !utf8.ValidString(got.Error) {
		t.Errorf("error of %d bytes ends in %q", len(got.Error), got.Error[max(0, len(got.Error)-12):])
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

func FuzzDecode(f *testing.F) {
	for _, h := range dlq.Encode(letter()).Headers {
		f.Add(h.Key, h.Value, []byte("v"))
	}
	f.Fuzz(func(t *testing.T, key string, value, body []byte) {
		l := letter()
		l.Message.Value = body
		m := dlq.Encode(l)
		m.Headers = append(m.Headers, holdfast.Header{Key: key, Value: value})
		got, err := dlq.Decode(m)
		if err != nil {
			return
		}
		if !bytes.Equal(got.Message.Value, body) || !bytes.Equal(got.Message.Key, l.Message.Key) {
			t.Fatal("key or value changed")
		}
		again, err := dlq.Decode(dlq.Encode(got))
		if err != nil {
			t.Fatalf("what was read could not be written and read again: %v", err)
		}
		if !reflect.DeepEqual(again.Message.Headers, got.Message.Headers) || again.Message.Offset != got.Message.Offset {
			t.Fatalf("second reading differs:\n%+v\n%+v", again, got)
		}
	})
}
