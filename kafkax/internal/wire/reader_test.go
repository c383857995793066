package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"

	"github.com/holdfast-io/holdfast"
)

// plainBatch holds a record at each of the offsets, valued with its offset.
func plainBatch(base, last int64, offsets ...int64) rawBatch {
	h := rawBatch{base: base, last: last}
	for _, o := range offsets {
		h.records = append(h.records, rawRecord{offset: o, value: fmt.Appendf(nil, "%d", o)})
	}
	return h
}

// marker is the control batch that ends producer's transaction.
func marker(offset, producer int64, commit bool) rawBatch {
	key := []byte{0, 0, 0, abortMarker}
	if commit {
		key[3] = 1
	}
	return rawBatch{
		base: offset, attributes: transactionalBit | controlBit, producer: producer,
		records: []rawRecord{{offset: offset, key: key, value: make([]byte, 6)}},
	}
}

func transactionalBatch(offset, producer int64) rawBatch {
	h := plainBatch(offset, 0, offset)
	h.attributes, h.producer = transactionalBit, producer
	return h
}

// decoder decodes whole answers, as a Conn and a Reader do together.
type decoder struct{ *Reader }

func newDecoder(limit int) decoder {
	return decoder{NewReader(Config{MaxBytes: limit}, 3)} // Few at a time, so that they end in the middle of batches.
}

// response is an answer with all of its messages.
type response struct {
	Answer
	Messages []holdfast.Message
}

func (d decoder) decode(req Request, version int16, body []byte) (response, error) {
	a, err := parseAnswer(req, version, body)
	if err != nil {
		return response{Answer: a}, err
	}
	return d.read(a, body)
}

// read decodes a, whose buffer is body, and checks what its user relies on.
func (d decoder) read(a Answer, body []byte) (response, error) {
	resp := response{Answer: a}
	if len(a.batches) == 0 {
		return resp, nil
	}
	a.buffer = body
	next := a.request.Offset
	d.Begin(a)
	for d.More() {
		messages, end, err := d.Next()
		if err != nil {
			if again, _, same := d.Next(); len(messages) > 0 || len(again) > 0 || !errors.Is(same, err) {
				return resp, fmt.Errorf("%d messages beside the error, then %d and %w", len(messages), len(again), same)
			}
			return resp, err
		}
		for _, m := range messages {
			if m.Offset < next {
				return resp, fmt.Errorf("message %d comes after %d", m.Offset, next)
			}
			next = m.Offset + 1
		}
		if end < next || len(messages) > d.most || len(messages) == 0 && d.More() {
			return resp, fmt.Errorf("%d messages up to %d, then %d, more: %v", len(messages), next, end, d.More())
		}
		next = end
		resp.Messages = append(resp.Messages, messages...)
	}
	if next != a.NextOffset {
		return resp, fmt.Errorf("the messages end at %d, the answer at %d", next, a.NextOffset)
	}
	return resp, nil
}

func testDecode(tb testing.TB, req Request, a rawAnswer) (response, error) {
	tb.Helper()
	d := newDecoder(defaultMaxBytes)
	req.Topic, req.Partition = "t", 3
	return d.decode(req, maxFetchVersion, a.encode(maxFetchVersion))
}

func offsets(messages []holdfast.Message) (all []int64) {
	for _, m := range messages {
		all = append(all, m.Offset)
	}
	return all
}

func TestNextOffset(t *testing.T) {
	cut := func(b []byte, n int) []byte { return b[:len(b)-n] }
	for _, c := range []struct {
		name    string
		from    int64
		batches [][]byte
		want    string
		next    int64
	}{
		{"nothing", 5, nil, "[]", 5},
		{"two batches", 0, [][]byte{plainBatch(0, 0, 0, 1).encode(t), plainBatch(2, 0, 2, 3).encode(t)}, "[0 1 2 3]", 4},
		{"from within a batch", 2, [][]byte{plainBatch(0, 0, 0, 1, 2, 3).encode(t)}, "[2 3]", 4},
		{"from within a compressed batch", 2, [][]byte{func() []byte {
			h := plainBatch(0, 0, 0, 1, 2, 3)
			h.attributes = int16(compress.Lz4)
			return h.encode(t)
		}()}, "[2 3]", 4},
		{"a batch wholly before", 2, [][]byte{plainBatch(0, 0, 0, 1).encode(t), plainBatch(2, 0, 2).encode(t)}, "[2]", 3},
		{"compacted within, before and after", 0, [][]byte{plainBatch(3, 9, 4, 7).encode(t), plainBatch(20, 22, 21).encode(t)}, "[4 7 21]", 23},
		{"the record asked for is compacted away", 5, [][]byte{plainBatch(0, 9, 1, 8).encode(t)}, "[8]", 10},
		{"all that was asked for is compacted away", 5, [][]byte{plainBatch(0, 9, 1).encode(t)}, "[]", 10},
		{"an empty batch", 0, [][]byte{plainBatch(0, 9).encode(t)}, "[]", 10},
		{"an empty batch that was compressed", 0, [][]byte{rawBatch{last: 9, attributes: int16(compress.Snappy)}.wrap(nil)}, "[]", 10},
		{"an empty batch between", 0, [][]byte{plainBatch(0, 0, 0).encode(t), plainBatch(1, 9).encode(t), plainBatch(10, 0, 10).encode(t)}, "[0 10]", 11},
		{"a control batch", 0, [][]byte{marker(0, 7, true).encode(t)}, "[]", 1},
		{"control batches between", 0, [][]byte{transactionalBatch(0, 7).encode(t), marker(1, 7, true).encode(t), marker(2, 8, false).encode(t), plainBatch(3, 0, 3).encode(t)}, "[0 3]", 4},
		{"a cut batch at the end", 0, [][]byte{plainBatch(0, 0, 0).encode(t), cut(plainBatch(1, 0, 1, 2).encode(t), 1)}, "[0]", 1},
		{"a header cut at the end", 0, [][]byte{plainBatch(0, 0, 0).encode(t), plainBatch(1, 0, 1).encode(t)[:20]}, "[0]", 1},
		{"a few bytes at the end", 0, [][]byte{plainBatch(0, 0, 0).encode(t), {0, 0, 0}}, "[0]", 1},
		{"a corrupt batch later", 0, [][]byte{plainBatch(0, 0, 0).encode(t), corrupt(plainBatch(1, 0, 1).encode(t))}, "[0]", 1},
		{"a corrupt batch behind a control batch", 0, [][]byte{marker(0, 7, true).encode(t), corrupt(plainBatch(1, 0, 1).encode(t))}, "[]", 1},
		{"only a batch wholly before", 5, [][]byte{plainBatch(0, 0, 0, 1).encode(t)}, "[]", 5},
		{"batches that overlap", 0, [][]byte{plainBatch(0, 0, 0, 1, 2).encode(t), plainBatch(1, 0, 1, 2, 3).encode(t)}, "[0 1 2 3]", 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := testDecode(t, Request{Offset: c.from}, rawAnswer{batches: c.batches})
			if got := fmt.Sprint(offsets(resp.Messages)); err != nil || got != c.want || resp.NextOffset != c.next {
				t.Errorf("got %s, next %d, %v, want %s, next %d", got, resp.NextOffset, err, c.want, c.next)
			}
		})
	}
}

// allocated is all the memory that was ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// corrupt flips a bit of the last record.
func corrupt(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)-2] ^= 1
	return b
}

func TestCorruptBatch(t *testing.T) {
	good := plainBatch(40, 0, 40, 41).encode(t)
	records := good[batchHeader:]
	with := func(at int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], v)
		return seal(b)
	}
	wrapped := func(records []byte, count int32) []byte {
		return rawBatch{base: 40, last: 41, count: count}.wrap(records)
	}
	codec := func(code int16, records []byte) []byte {
		return rawBatch{base: 40, last: 41, count: 2, attributes: code}.wrap(records)
	}
	for _, c := range []struct {
		name  string
		batch []byte
		want  error
		text  string
	}{
		{"checksum of the records", corrupt(good), ErrCorrupt, "CRC"},
		{"checksum of the header", func() []byte { b := bytes.Clone(good); b[30] ^= 1; return b }(), ErrCorrupt, "CRC"},
		{"checksum of a control batch", corrupt(marker(40, 7, true).encode(t)), ErrCorrupt, "CRC"},
		{"first batch cut", good[:len(good)-1], ErrCorrupt, "ends within"},
		{"magic 0", with(batchMagic, 0), ErrOldFormat, "magic 0"},
		{"magic 1", with(batchMagic, 1), ErrOldFormat, "magic 1"},
		{"magic 3", with(batchMagic, 3), ErrCorrupt, "magic 3"},
		{"length below the header", with(8, 0, 0, 0, 48), ErrCorrupt, "length 48"},
		{"negative length", with(8, 0xff, 0xff, 0xff, 0xff), ErrCorrupt, "length -1"},
		{"negative base offset", with(0, 0x80), ErrCorrupt, "base offset"},
		{"offsets overflow", with(0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), ErrCorrupt, "base offset"},
		{"negative last delta", with(23, 0xff, 0xff, 0xff, 0xff), ErrCorrupt, "last offset delta"},
		{"negative count", with(57, 0xff), ErrCorrupt, "records"},
		{"huge count", with(57, 0x7f, 0xff, 0xff, 0xff), ErrCorrupt, "2147483647 records"},
		{"one record too few", with(57, 0, 0, 0, 1), ErrCorrupt, "behind its 1 records"},
		{"one record too many", with(57, 0, 0, 0, 3), ErrCorrupt, "records"},
		{"delta beyond the last", with(23, 0, 0, 0, 0), ErrCorrupt, "offset delta 1"},
		{"offsets that fall", wrapped(append(bytes.Clone(records[len(records)/2:]), records[:len(records)/2]...), 2), ErrCorrupt, "offset delta 0 after 1"},
		{"record length too large", wrapped([]byte{126, 0, 0, 0, 1, 1, 0, 0}, 1), ErrCorrupt, "does not parse"},
		{"record length negative", wrapped([]byte{1, 0, 0, 0, 1, 1, 0, 0}, 1), ErrCorrupt, "does not parse"},
		{"key length negative", wrapped([]byte{12, 0, 0, 0, 3, 1, 0}, 1), ErrCorrupt, "does not parse"},
		{"key longer than the record", wrapped([]byte{12, 0, 0, 0, 8, 1, 0}, 1), ErrCorrupt, "does not parse"},
		{"value longer than the record", wrapped([]byte{12, 0, 0, 0, 1, 8, 0}, 1), ErrCorrupt, "does not parse"},
		{"no header count", wrapped([]byte{12, 0, 0, 0, 1, 2, 0}, 1), ErrCorrupt, "does not parse"},
		{"a byte behind the headers", wrapped([]byte{14, 0, 0, 0, 1, 1, 0, 0}, 1), ErrCorrupt, "headers"},
		{"negative header count", wrapped([]byte{12, 0, 0, 0, 1, 1, 1}, 1), ErrCorrupt, "headers"},
		{"huge header count", wrapped([]byte{20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f}, 1), ErrCorrupt, "headers"},
		{"a byte behind a header", wrapped([]byte{18, 0, 0, 0, 1, 1, 2, 0, 1, 0}, 1), ErrCorrupt, "headers"},
		{"null header key", wrapped([]byte{16, 0, 0, 0, 1, 1, 2, 1, 1}, 1), ErrCorrupt, "headers"},
		{"endless varint", wrapped(bytes.Repeat([]byte{0xff}, 20), 1), ErrCorrupt, "does not parse"},
		{"codec 5", codec(5, records), ErrCorrupt, "codec 5"},
		{"gzip", codec(1, records), ErrCorrupt, "gzip"},
		{"gzip cut", codec(1, compressed(t, 1, records)[:12]), ErrCorrupt, "gzip"},
		{"snappy", codec(2, []byte{0xff, 0xff}), ErrCorrupt, "snappy"},
		{"snappy claims 4 GiB", codec(2, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0}), ErrTooLarge, ""},
		{"xerial claims 4 GiB", codec(2, append([]byte(xerialMagic+"\x00\x00\x00\x01\x00\x00\x00\x01"), 0xff, 0xff, 0xff, 0xff)), ErrCorrupt, "snappy"},
		{"xerial block claims 4 GiB", codec(2, append([]byte(xerialMagic+"\x00\x00\x00\x01\x00\x00\x00\x01"), 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xff, 0x0f, 0)), ErrTooLarge, ""},
		{"lz4", codec(3, records), ErrCorrupt, "lz4"},
		{"zstd", codec(4, records), ErrCorrupt, "zstd"},
		{"zstd cut", codec(4, compressed(t, 4, records)[:10]), ErrCorrupt, "zstd"},
		{"zstd window of 512 MiB", codec(4, []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 19 << 3, 1, 0, 0}), ErrTooLarge, ""},
		{"zstd window in a second frame", codec(4, append(compressed(t, 4, records), 0x28, 0xb5, 0x2f, 0xfd, 0, 19<<3, 1, 0, 0)), ErrTooLarge, ""},
		{"zstd window behind a skipped frame", codec(4, append([]byte{0x53, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9}, 0x28, 0xb5, 0x2f, 0xfd, 0, 19<<3, 1, 0, 0)), ErrTooLarge, ""},
		{"zstd content of 2^63", codec(4, []byte{0x28, 0xb5, 0x2f, 0xfd, 3<<6 | zstdSingleSegment, 0, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0}), ErrTooLarge, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := allocated()
			resp, err := testDecode(t, Request{Offset: 40}, rawAnswer{batches: [][]byte{c.batch}})
			if took := allocated() - before; took > 8<<20 {
				t.Errorf("took %d bytes of memory", took)
			}
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.text) {
				t.Fatalf("got %v, want %v with %q", err, c.want, c.text)
			}
			var where *BatchError
			if !errors.As(err, &where) || where.Topic != "t" || where.Partition != 3 || where.Offset != int64(binary.BigEndian.Uint64(c.batch)) {
				t.Errorf("got %#v, want the batch's place", where)
			}
			if len(resp.Messages) > 1 {
				t.Errorf("messages %v beside the error, want none but what came before it", offsets(resp.Messages))
			}
		})
	}
}

func TestCutHeader(t *testing.T) {
	b := plainBatch(40, 0, 40).encode(t)
	for _, n := range []int{1, 8, batchMagic, batchMagic + 1, batchHeader} {
		_, err := testDecode(t, Request{Offset: 40}, rawAnswer{batches: [][]byte{b[:n]}})
		var where *BatchError
		if !errors.Is(err, ErrCorrupt) || !errors.As(err, &where) || where.Offset != 40 {
			t.Errorf("%d bytes: got %v, want ErrCorrupt at 40", n, err)
		}
	}
}

func TestReadCommitted(t *testing.T) {
	batches := [][]byte{
		transactionalBatch(0, 7).encode(t), // aborted
		transactionalBatch(1, 8).encode(t),
		func() []byte { // not transactional, so not part of what is aborted
			h := plainBatch(2, 0, 2)
			h.producer = 7
			return h.encode(t)
		}(),
		marker(3, 7, false).encode(t),
		transactionalBatch(4, 7).encode(t), // the same producer's next one
		marker(5, 8, true).encode(t),
		transactionalBatch(6, 8).encode(t), // aborted
		marker(7, 7, true).encode(t),
		marker(8, 8, false).encode(t),
		plainBatch(9, 0, 9).encode(t),
	}
	aborted := []abortedTransaction{{8, 6}, {7, 0}} // their order is not promised
	for _, c := range []struct {
		name       string
		req        Request
		lastStable int64
		batches    [][]byte
		want       string
		next       int64
	}{
		{"uncommitted", Request{}, 10, batches, "[0 1 2 4 6 9]", 10},
		{"committed", Request{ReadCommitted: true}, 10, batches, "[1 2 4 9]", 10},
		{"from within an aborted transaction", Request{ReadCommitted: true, Offset: 1}, 10, batches[1:], "[1 2 4 9]", 10},
		{"up to the last stable offset", Request{ReadCommitted: true}, 4, batches, "[1 2]", 4},
		{"last stable offset unknown", Request{ReadCommitted: true}, -1, batches, "[1 2 4 9]", 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := testDecode(t, c.req, rawAnswer{lastStable: c.lastStable, aborted: aborted, batches: c.batches})
			if got := fmt.Sprint(offsets(resp.Messages)); err != nil || got != c.want || resp.NextOffset != c.next {
				t.Errorf("got %s, next %d, %v, want %s, next %d", got, resp.NextOffset, err, c.want, c.next)
			}
		})
	}
	t.Run("answers know nothing of each other", func(t *testing.T) {
		d := newDecoder(defaultMaxBytes)
		req := Request{Topic: "t", Partition: 3, ReadCommitted: true}
		first := rawAnswer{lastStable: 9, aborted: []abortedTransaction{{7, 0}}, batches: batches[:1]}
		second := rawAnswer{lastStable: 9, batches: batches[4:5]}
		if resp, err := d.decode(req, maxFetchVersion, first.encode(maxFetchVersion)); err != nil || len(resp.Messages) != 0 {
			t.Errorf("first: %v, %v", offsets(resp.Messages), err)
		}
		req.Offset = 4
		if resp, err := d.decode(req, maxFetchVersion, second.encode(maxFetchVersion)); err != nil || len(resp.Messages) != 1 {
			t.Errorf("second: %v, %v", offsets(resp.Messages), err)
		}
	})
	t.Run("marker that cannot be read", func(t *testing.T) {
		h := marker(0, 7, false)
		h.records[0].key = []byte{0}
		_, err := testDecode(t, Request{ReadCommitted: true}, rawAnswer{lastStable: 1, batches: [][]byte{h.encode(t)}})
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v, want ErrCorrupt: to take it for a commit would deliver aborted messages", err)
		}
	})
	t.Run("marker that compaction removed", func(t *testing.T) {
		h := marker(0, 7, false)
		h.records, h.last = nil, 2
		resp, err := testDecode(t, Request{ReadCommitted: true}, rawAnswer{lastStable: 3, batches: [][]byte{h.encode(t)}})
		if err != nil || resp.NextOffset != 3 {
			t.Errorf("next %d, %v, want 3", resp.NextOffset, err)
		}
	})
}

func TestTime(t *testing.T) {
	h := rawBatch{firstTime: 1000, maxTime: 5000, records: []rawRecord{{time: 1000}, {offset: 1, time: 900}, {offset: 2, time: noTimestamp}}}
	for _, c := range []struct {
		attributes int16
		want       [3]time.Time
	}{
		{0, [3]time.Time{time.UnixMilli(1000), time.UnixMilli(900), {}}},
		{logAppendTimeBit, [3]time.Time{time.UnixMilli(5000), time.UnixMilli(5000), time.UnixMilli(5000)}},
	} {
		h.attributes = c.attributes
		resp, err := testDecode(t, Request{}, rawAnswer{batches: [][]byte{h.encode(t)}})
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range resp.Messages {
			if !m.Time.Equal(c.want[i]) || m.Time.IsZero() != c.want[i].IsZero() {
				t.Errorf("attributes %d, record %d: %v, want %v", c.attributes, i, m.Time, c.want[i])
			}
		}
	}
}

func TestCodecStreams(t *testing.T) {
	h := plainBatch(0, 0, 0, 1, 2)
	h.records[0].value = bytes.Repeat([]byte("long enough for more than one block "), 10_000)
	var records []byte
	for _, r := range h.records {
		records = r.append(records, h)
	}
	half := len(records) / 2
	xerial := compressed(t, int16(compress.Snappy), records)
	if !bytes.HasPrefix(xerial, []byte(xerialMagic)) {
		t.Fatal("kafka-go's snappy writer does not frame: this test proves nothing")
	}
	bare := compressed(t, int16(compress.Zstd), records[:half])
	for name, c := range map[string]struct {
		code   compress.Compression
		stream []byte
	}{
		"snappy, xerial":        {compress.Snappy, xerial},
		"snappy, bare":          {compress.Snappy, snappyBlock(records)},
		"zstd, two frames":      {compress.Zstd, append(bare, compressed(t, int16(compress.Zstd), records[half:])...)},
		"zstd, skippable frame": {compress.Zstd, append([]byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}, compressed(t, int16(compress.Zstd), records)...)},
		"gzip, two members":     {compress.Gzip, append(compressed(t, int16(compress.Gzip), records[:half]), compressed(t, int16(compress.Gzip), records[half:])...)},
		"lz4":                   {compress.Lz4, compressed(t, int16(compress.Lz4), records)},
	} {
		t.Run(name, func(t *testing.T) {
			h := h
			h.attributes = int16(c.code)
			resp, err := testDecode(t, Request{}, rawAnswer{batches: [][]byte{h.wrap(c.stream)}})
			if err != nil || len(resp.Messages) != 3 || !bytes.Equal(resp.Messages[0].Value, h.records[0].value) {
				t.Errorf("%d messages, %v", len(resp.Messages), err)
			}
		})
	}
}

// snappyBlock is b as one bare block of literals.
func snappyBlock(b []byte) []byte {
	out := binary.AppendUvarint(nil, uint64(len(b)))
	for len(b) > 0 {
		n := min(len(b), 1<<16)
		out = append(out, 61<<2, byte(n-1), byte((n-1)>>8))
		out = append(out, b[:n]...)
		b = b[n:]
	}
	return out
}

func TestMemoryLimit(t *testing.T) {
	big := func(base int64, size int, code compress.Compression) []byte {
		h := rawBatch{base: base, attributes: int16(code)}
		h.records = []rawRecord{{offset: base, value: make([]byte, size)}}
		return h.encode(t)
	}
	for _, code := range []compress.Compression{compress.Gzip, compress.Snappy, compress.Lz4, compress.Zstd} {
		t.Run(code.String(), func(t *testing.T) {
			a := rawAnswer{batches: [][]byte{big(0, 30_000, code), big(1, 60_000, code), big(2, 60_000, code), big(3, 100_000, code)}}
			resp, err := newDecoder(minMaxBytes).decode(Request{Topic: "t", Partition: 3}, maxFetchVersion, a.encode(maxFetchVersion))
			var bad *BatchError
			if len(resp.Messages) != 3 || !errors.Is(err, ErrTooLarge) || !errors.As(err, &bad) || bad.Offset != 3 {
				t.Errorf("messages %v, %v, want those that fit the limit, each for itself, and ErrTooLarge", offsets(resp.Messages), err)
			}
		})
	}
	t.Run("many small headers", func(t *testing.T) {
		h := plainBatch(0, 0, 0)
		h.records[0].headers = make([]holdfast.Header, minMaxBytes/headerSize+1)
		d := newDecoder(minMaxBytes)
		a := rawAnswer{batches: [][]byte{h.encode(t)}}
		if _, err := d.decode(Request{Topic: "t", Partition: 3}, maxFetchVersion, a.encode(maxFetchVersion)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("got %v, want ErrTooLarge: the headers' own memory counts", err)
		}
	})
}

func TestMalformedAnswer(t *testing.T) {
	good := rawAnswer{batches: [][]byte{plainBatch(0, 0, 0).encode(t)}}
	d := newDecoder(defaultMaxBytes)
	req := Request{Topic: "t", Partition: 3}
	for version := int16(minFetchVersion); version <= maxFetchVersion; version++ {
		answer := good.encode(version)
		if resp, err := d.decode(req, version, answer); err != nil || len(resp.Messages) != 1 {
			t.Fatalf("version %d: %v", version, err)
		}
		for n := range answer {
			if _, err := d.decode(req, version, answer[:n]); !errors.Is(err, errMalformed) {
				t.Fatalf("version %d, cut to %d bytes: got %v", version, n, err)
			}
		}
	}
	for name, other := range map[string]Request{"topic": {Topic: "x", Partition: 3}, "partition": {Topic: "t", Partition: 2}} {
		if _, err := d.decode(other, maxFetchVersion, good.encode(maxFetchVersion)); !errors.Is(err, errMalformed) {
			t.Errorf("another %s: got %v", name, err)
		}
	}
	for name, at := range map[string]int{"topics": 13, "partitions": 20} {
		answer := good.encode(maxFetchVersion)
		answer[at] = 2
		if _, err := d.decode(req, maxFetchVersion, answer); !errors.Is(err, errMalformed) {
			t.Errorf("two %s: got %v", name, err)
		}
	}
	failed := good.encode(maxFetchVersion)
	failed[5] = byte(kafka.BrokerNotAvailable)
	if _, err := d.decode(req, maxFetchVersion, failed); !errors.Is(err, kafka.BrokerNotAvailable) {
		t.Errorf("error of the whole answer: got %v", err)
	}
}

func TestThrottle(t *testing.T) {
	resp, err := testDecode(t, Request{}, rawAnswer{throttle: 1500, error: int16(kafka.NotLeaderForPartition), end: 9})
	if !errors.Is(err, kafka.NotLeaderForPartition) || resp.Throttle != 1500*time.Millisecond {
		t.Errorf("got %v, %v", resp.Throttle, err)
	}
}

// Messages stay as they are while the decoder goes on, and do not reach into each other.
func TestArena(t *testing.T) {
	for _, code := range []compress.Compression{compress.None, compress.Gzip, compress.Snappy, compress.Lz4, compress.Zstd} {
		d := newDecoder(defaultMaxBytes)
		req := Request{Topic: "t", Partition: 3}
		var kept []holdfast.Message
		for base := int64(0); base < 20; base += 2 {
			h := plainBatch(base, 0, base, base+1)
			h.attributes = int16(code)
			for i := range h.records {
				r := &h.records[i]
				r.key = []byte("key")
				r.headers = []holdfast.Header{{Key: fmt.Sprint("h", r.offset), Value: fmt.Appendf(nil, "v%d", r.offset)}}
			}
			req.Offset = base
			resp, err := d.decode(req, maxFetchVersion, rawAnswer{batches: [][]byte{h.encode(t)}}.encode(maxFetchVersion))
			if err != nil {
				t.Fatal(err)
			}
			kept = append(kept, resp.Messages...)
		}
		for _, m := range kept {
			_ = append(m.Key, "overrun"...)
			_ = append(m.Value, "overrun"...)
			_ = append(m.Headers[0].Value, "overrun"...)
			_ = append(m.Headers, holdfast.Header{Key: "overrun"})
		}
		for i, m := range kept {
			want := fmt.Sprintf("%d key %d h%d v%d", i, i, i, i)
			if got := fmt.Sprintf("%d %s %s %s %s", m.Offset, m.Key, m.Value, m.Headers[0].Key, m.Headers[0].Value); got != want {
				t.Errorf("%v: got %q, want %q", code, got, want)
			}
		}
	}
}

// Whoever keeps a message keeps others of its fetch, and none of an earlier one.
func TestFetchesShareNothing(t *testing.T) {
	h := plainBatch(0, 0, 0, 1, 2)
	h.attributes = int16(compress.Gzip)
	for i := range h.records {
		h.records[i].value = make([]byte, 2*arenaSize)
		h.records[i].headers = []holdfast.Header{{Key: "k", Value: []byte("v")}}
	}
	batch := h.encode(t)
	a := Answer{request: Request{MaxBytes: arenaSize}, buffer: batch}
	if err := a.check(batch); err != nil {
		t.Fatal(err)
	}
	r := NewReader(Config{}, 200)
	r.Begin(a)
	first, _, err := r.Next()
	if err != nil || len(first) != 1 {
		t.Fatalf("%d messages, %v", len(first), err)
	}
	gone := weak.Make(&first[0].Value[0])
	second, _, err := r.Next()
	if err != nil || len(second) != 1 {
		t.Fatalf("%d messages, %v", len(second), err)
	}
	runtime.GC()
	if gone.Value() != nil {
		t.Error("the first fetch's message is still in memory")
	}
	runtime.KeepAlive(r)
	runtime.KeepAlive(second)
}

func TestAllocations(t *testing.T) {
	for _, c := range []struct {
		codec   compress.Compression
		headers int
		most    float64 // per message
	}{
		{compress.None, 0, 0.015},
		{compress.None, 3, 0.05},
	} {
		answer, n := benchAnswer(t, c.codec, c.headers, maxFetchVersion)
		r := NewReader(Config{}, 200)
		allocs := testing.AllocsPerRun(5, func() {
			if got, err := countDecoded(r, Request{Topic: "t", Partition: 3, MaxBytes: 1 << 20}, maxFetchVersion, answer); err != nil || got != n {
				t.Fatal(err)
			}
		})
		if got := allocs / float64(n); got > c.most {
			t.Errorf("%v, %d headers: %.4f allocations per message, at most %.4f", c.codec, c.headers, got, c.most)
		}
	}
}
