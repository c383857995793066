package wire

import (
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast"
)

// minRecordSize is a record of a byte each for its length, attributes, two deltas, key and value length, header count.
const minRecordSize = 7

// record is one record of a batch. Its bytes are those that it was decoded from.
type record struct {
	timeDelta   int64
	offsetDelta int64
	key         []byte // nil and empty differ
	value       []byte
	headers     []byte // count and headers, still encoded
}

// decodeRecords adds the batch's records to out until it is full, there is no room for more bytes, or the batch is at
// its end. With an error out ends before the bad record.
func (r *Reader) decodeRecords(out []holdfast.Message) ([]holdfast.Message, error) {
	h := &r.batch
	topic, partition := r.answer.request.Topic, r.answer.request.Partition
	arena, records := r.arena, r.records // Not in r, where the garbage collector would have to be told of every step.
	defer func() { r.arena, r.records = arena, records }()
	var rec record
	for ; r.left > 0 && len(out) < cap(out) && r.room > 0; r.left-- {
		body, rest, ok := cutRecord(records)
		if !ok {
			return out, r.corrupt("record %d of %d does not parse", h.count-r.left, h.count)
		}
		if len(body) > cap(arena)-len(arena) {
			arena = r.newArena(len(body), len(records))
		}
		begin := len(arena)
		arena, records = append(arena, body...), rest
		if !rec.decode(arena[begin:]) {
			return out, r.corrupt("record %d of %d does not parse", h.count-r.left, h.count)
		}
		if rec.offsetDelta <= r.delta || rec.offsetDelta > h.last-h.base {
			return out, r.corrupt("offset delta %d after %d, the last is %d", rec.offsetDelta, r.delta, h.last-h.base)
		}
		r.delta = rec.offsetDelta
		offset := h.base + rec.offsetDelta
		if offset < r.next {
			continue
		}
		var headers []holdfast.Header
		if len(rec.headers) != 1 || rec.headers[0] != 0 {
			var err error
			if headers, err = r.decodeHeaders(rec.headers, min(r.left, cap(out)-len(out))); err != nil {
				return out, r.answer.batchError(h.base, err)
			}
		}
		out = out[:len(out)+1]
		m := &out[len(out)-1] // Field by field: a Message that is copied costs the garbage collector's barriers twice.
		m.Topic = topic
		m.Partition = partition
		m.Offset = offset
		m.Key = rec.key
		m.Value = rec.value
		if headers != nil {
			m.Headers = headers
		}
		m.Time = h.time(rec.timeDelta)
		if r.scratch != nil { // What was not inflated stays within what was asked for anyway.
			r.room -= len(body)
		}
		r.next = offset + 1
	}
	if r.left > 0 {
		return out, nil
	}
	if n := len(records); n > 0 {
		return out, r.corrupt("%d bytes behind its %d records", n, h.count)
	}
	r.next = h.last + 1
	r.endBatch()
	records = nil
	return out, nil
}

func (r *Reader) corrupt(format string, args ...any) error {
	return r.answer.batchError(r.batch.base, fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...)))
}

func (h *batch) time(delta int64) time.Time {
	ms := h.firstTime + delta
	if h.logAppendTime() {
		ms = h.maxTime
	}
	if ms == noTimestamp {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// cutRecord takes the first record off b, without its length.
func cutRecord(b []byte) (body, rest []byte, ok bool) {
	size, i := varint(b, 0)
	if i < 0 || size < minRecordSize-1 || size > int64(len(b)-i) {
		return nil, nil, false
	}
	return b[i : i+int(size)], b[i+int(size):], true
}

// decode reads a record's body and reports whether it could.
func (r *record) decode(b []byte) bool {
	i := 1 // attributes, unused
	r.timeDelta, i = varint(b, i)
	r.offsetDelta, i = varint(b, i)
	r.key, i = varbytes(b, i)
	r.value, i = varbytes(b, i)
	if i < 0 || i >= len(b) {
		return false
	}
	r.headers = b[i:]
	return true
}

// varint reads the zigzag varint at b[i:] and returns where it ends, -1 if it does not or if i is -1 already.
func varint(b []byte, i int) (v int64, end int) {
	if uint(i) < uint(len(b)) && b[i] < 0x80 {
		u := b[i]
		return int64(u>>1) ^ -int64(u&1), i + 1
	}
	return longVarint(b, i)
}

func longVarint(b []byte, i int) (v int64, end int) {
	if i < 0 {
		return 0, -1
	}
	var u uint64
	for shift := uint(0); i < len(b) && shift < 64; shift += 7 {
		c := b[i]
		i++
		u |= uint64(c&0x7f) << shift
		if c < 0x80 {
			if shift == 63 && c > 1 {
				break
			}
			return int64(u>>1) ^ -int64(u&1), i
		}
	}
	return 0, -1
}

// varbytes reads the bytes at b[i:] behind their length, nil for the length -1.
func varbytes(b []byte, i int) (v []byte, end int) {
	var n int64
	if uint(i) < uint(len(b)) && b[i] < 0x80 { // As varint does, which is too large to be inlined.
		n, i = int64(b[i]>>1)^-int64(b[i]&1), i+1
	} else {
		n, i = longVarint(b, i)
	}
	if i < 0 || n < -1 || n > int64(len(b)-i) {
		return nil, -1
	}
	if n == -1 {
		return nil, i
	}
	end = i + int(n)
	return b[i:end:end], end
}
