package wire

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-io/holdfast"
)

// decodeSealed decodes a sealed batch as a consumer does.
func decodeSealed(tb testing.TB, b []byte) []holdfast.Message {
	tb.Helper()
	a := Answer{}
	if err := a.check(b); err != nil {
		tb.Fatal(err)
	}
	resp, err := newDecoder(math.MaxInt32).read(a, b)
	if err != nil || len(a.batches) != len(b) {
		tb.Fatalf("%v, decoded %d of %d bytes", err, len(a.batches), len(b))
	}
	return resp.Messages
}

func variety() []holdfast.Message {
	at := time.UnixMilli(1_700_000_000_000)
	messages := []holdfast.Message{
		{Key: []byte("k"), Value: []byte("v"), Time: at},
		{Key: []byte{}, Value: nil, Time: at.Add(-time.Hour)},
		{Key: nil, Value: []byte{}, Time: at.Add(time.Hour)},
		{Value: bytes.Repeat([]byte("long"), 10_000), Time: at, Headers: []holdfast.Header{{Key: "h", Value: []byte("1")}, {Key: "h"}, {Value: []byte{}}}},
	}
	for i := range 300 {
		messages = append(messages, holdfast.Message{Key: fmt.Append(nil, i), Value: []byte("v"), Time: at.Add(time.Duration(i) * time.Second)})
	}
	for i := range messages {
		messages[i].Offset = int64(i)
	}
	return messages
}

func TestEncode(t *testing.T) {
	for codec := compress.None; codec <= compress.Zstd; codec++ {
		t.Run(codec.String(), func(t *testing.T) {
			var e Encoder
			want := variety()
			for range 2 { // The second time with the first one's memory.
				e.Reset()
				for i := range want {
					e.Append(&want[i], 0)
				}
				if err := e.Seal(codec); err != nil {
					t.Fatal(err)
				}
				e.Stamp(7, 1, 42)
				e.Stamp(9, 2, math.MaxInt32-1)
				if got := decodeSealed(t, e.Bytes()); !reflect.DeepEqual(got, want) {
					t.Errorf("got %d messages that differ from the %d encoded", len(got), len(want))
				}
				var b kmsg.RecordBatch
				if err := b.ReadFrom(e.Bytes()); err != nil {
					t.Fatal(err)
				}
				if b.ProducerID != 9 || b.ProducerEpoch != 2 || b.FirstSequence != math.MaxInt32-1 || b.PartitionLeaderEpoch != -1 ||
					b.Attributes != int16(codec) || b.NumRecords != int32(len(want)) || b.LastOffsetDelta != int32(len(want)-1) ||
					b.FirstTimestamp != want[0].Time.UnixMilli() || b.MaxTimestamp != want[2].Time.UnixMilli() {
					t.Errorf("header: %+v", b)
				}
			}
		})
	}
}

func TestEncodeGivesBack(t *testing.T) {
	var e Encoder
	if got := e.Messages(); len(got) != 0 {
		t.Errorf("an empty batch has %d messages", len(got))
	}
	want := variety()
	for i := range want {
		e.Append(&want[i], 0)
	}
	if got := e.Messages(); !reflect.DeepEqual(got, want) {
		t.Error("the messages differ from those encoded")
	}
	if e.Len() != len(want) {
		t.Errorf("%d messages, want %d", e.Len(), len(want))
	}
}

func TestEncodeDefaultTime(t *testing.T) {
	var e Encoder
	e.Append(&holdfast.Message{}, 1234)
	if got := e.Messages()[0].Time; got.UnixMilli() != 1234 {
		t.Errorf("got %v", got)
	}
}

func FuzzEncode(f *testing.F) {
	f.Add([]byte("key"), []byte("value"), "header", []byte(nil), int64(1_700_000_000_000), uint8(3))
	f.Add([]byte(nil), []byte{}, "", []byte{0}, int64(0), uint8(200))
	f.Fuzz(func(t *testing.T, key, value []byte, name string, header []byte, at int64, n uint8) {
		at &= math.MaxInt32 // Not -1, which means no time.
		var e Encoder
		var want []holdfast.Message
		for i := range int(n) + 1 {
			m := holdfast.Message{Offset: int64(i), Key: key, Value: value, Time: time.UnixMilli(at * int64(i+1) % (1 << 40))}
			for range i % 3 {
				m.Headers = append(m.Headers, holdfast.Header{Key: name, Value: header})
			}
			want = append(want, m)
			e.Append(&m, 0)
		}
		if err := e.Seal(compress.Compression(n % 5)); err != nil {
			t.Fatal(err)
		}
		e.Stamp(1, 0, 0)
		if got := decodeSealed(t, e.Bytes()); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}
