package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/holdfast-io/holdfast"
)

// sealAll corrects the checksums of all whole batches in b, so that a fuzzer gets past them.
func sealAll(b []byte) {
	for len(b) >= batchHeader {
		size := int(int32(binary.BigEndian.Uint32(b[8:])))
		if size < batchHeader-batchPrefix || size > len(b)-batchPrefix {
			return
		}
		seal(b[:batchPrefix+size])
		b = b[batchPrefix+size:]
	}
}

// kafkaGoBatch has kafka-go encode a batch of varied records.
func kafkaGoBatch(tb testing.TB, attributes protocol.Attributes) []byte {
	tb.Helper()
	at := time.UnixMilli(1_700_000_000_000)
	set := protocol.RecordSet{Version: 2, Attributes: attributes, Records: protocol.NewRecordReader(
		protocol.Record{Time: at, Key: protocol.NewBytes([]byte("key")), Value: protocol.NewBytes([]byte("value"))},
		protocol.Record{Time: at.Add(-time.Second)},
		protocol.Record{Time: at, Key: protocol.NewBytes([]byte{}), Value: protocol.NewBytes([]byte{}), Headers: []protocol.Header{{Key: "a", Value: []byte("1")}, {Key: ""}}},
		protocol.Record{Time: at, Value: protocol.NewBytes(bytes.Repeat([]byte("long "), 200))},
	)}
	var out bytes.Buffer
	if _, err := set.WriteTo(&out); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()[4:] // behind its size
}

func seeds(tb testing.TB) (all [][]byte) {
	tb.Helper()
	for _, code := range []protocol.Attributes{0, protocol.Gzip, protocol.Snappy, protocol.Lz4, protocol.Zstd} {
		all = append(all, kafkaGoBatch(tb, code), kafkaGoBatch(tb, code|protocol.Transactional))
	}
	h := plainBatch(0, 1, 0, 1)
	h.attributes = int16(compress.Snappy)
	var records []byte
	for _, r := range h.records {
		records = r.append(records, h)
	}
	return append(all,
		h.wrap(snappyBlock(records)),
		bytes.Join([][]byte{transactionalBatch(0, 7).encode(tb), marker(1, 7, false).encode(tb), plainBatch(5, 9, 6, 8).encode(tb)}, nil),
	)
}

// FuzzDecode throws bytes at the decoder: it must not panic, and what it returns must be in order, see decoder.read.
func FuzzDecode(f *testing.F) {
	aborted := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 7), 0)
	for _, b := range seeds(f) {
		f.Add(b, aborted, int64(0), true)
		f.Add(b, []byte(nil), int64(1), false)
	}
	f.Fuzz(func(t *testing.T, batches, aborted []byte, offset int64, committed bool) {
		if offset < 0 {
			return
		}
		batches = bytes.Clone(batches)
		sealAll(batches)
		d := newDecoder(minMaxBytes)
		a := Answer{
			NextOffset: offset, LastStable: -1, aborted: aborted,
			request: Request{Topic: "t", Partition: 3, Offset: offset, ReadCommitted: committed, MaxBytes: 1 << 10},
		}
		err := a.check(batches)
		if err == nil {
			_, err = d.read(a, batches)
		}
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrOldFormat) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("error of no known kind: %v", err)
		}
	})
}

// FuzzAnswer throws bytes at the fields around the batches.
func FuzzAnswer(f *testing.F) {
	for version := int16(minFetchVersion); version <= maxFetchVersion; version++ {
		f.Add(rawAnswer{aborted: []abortedTransaction{{7, 0}}, batches: [][]byte{plainBatch(0, 0, 0).encode(f)}}.encode(version), version)
	}
	f.Fuzz(func(t *testing.T, answer []byte, version int16) {
		resp, err := newDecoder(minMaxBytes).decode(Request{Topic: "t", Partition: 3}, version, answer)
		if err == nil && resp.NextOffset < 0 {
			t.Errorf("got %+v, %v", resp, err)
		}
	})
}

// FuzzAgainstKafkaGo compares with kafka-go's own decoder: what is taken here must be read alike there.
func FuzzAgainstKafkaGo(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		sealAll(b)
		h, rest, err := nextBatch(b)
		if err != nil || h.control() || h.logAppendTime() || h.count == 0 {
			return // kafka-go knows no append times and cannot read an empty batch
		}
		b = b[:len(b)-len(rest)]
		a := Answer{request: Request{MaxBytes: 1 << 20}}
		if err := a.check(b); err != nil {
			return
		}
		resp, err := newDecoder(defaultMaxBytes).read(a, b)
		if err != nil {
			return
		}
		var set protocol.RecordSet
		if _, err := set.ReadFrom(io.MultiReader(bytes.NewReader(appendInt32(nil, int32(len(b)))), bytes.NewReader(b))); err != nil {
			t.Fatalf("kafka-go: %v, here %d messages", err, len(resp.Messages))
		}
		for i, m := range resp.Messages {
			r, err := set.Records.ReadRecord()
			if err != nil {
				t.Fatalf("kafka-go's record %d: %v", i, err)
			}
			want := kafkaGoMessage(t, r)
			if m.Time.IsZero() {
				m.Time = time.UnixMilli(noTimestamp)
			}
			if got, want := fmt.Sprintf("%#v", m), fmt.Sprintf("%#v", want); got != want {
				t.Errorf("record %d:\n%s, kafka-go has\n%s", i, got, want)
			}
		}
		if _, err := set.Records.ReadRecord(); !errors.Is(err, io.EOF) {
			t.Errorf("kafka-go has more than the %d records: %v", len(resp.Messages), err)
		}
	})
}

func kafkaGoMessage(t *testing.T, r *protocol.Record) holdfast.Message {
	t.Helper()
	read := func(b protocol.Bytes) []byte {
		if b == nil {
			return nil
		}
		v, err := protocol.ReadAll(b)
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{}, v...)
	}
	m := holdfast.Message{Offset: r.Offset, Time: r.Time, Key: read(r.Key), Value: read(r.Value)}
	for _, h := range r.Headers {
		m.Headers = append(m.Headers, holdfast.Header(h))
	}
	return m
}
