package wire

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast"
)

// minRecordSize is a record of a byte each for its length, attributes, two deltas, key and value length, header count.
const minRecordSize = 7

// record is one record of a batch. Its bytes are the batch's.
type record struct {
	timeDelta   int64
	offsetDelta int64
	key         []byte // nil and empty differ
	value       []byte
	headers     []byte // count and headers, still encoded
}

// appendRecords adds the batch's records from offset first on to messages. With an error messages are as they were.
func (d *decoder) appendRecords(messages []holdfast.Message, h *batch, req Request, first int64) ([]holdfast.Message, error) {
	var (
		out       = slices.Grow(messages, h.count)
		b         = h.records
		lastDelta = h.last - h.base
		previous  = int64(-1)
		r         record
		ok        bool
	)
	for left := h.count; left > 0; left-- {
		if b, ok = r.decode(b); !ok {
			return messages, fmt.Errorf("%w: record %d of %d does not parse", ErrCorrupt, h.count-left, h.count)
		}
		if r.offsetDelta <= previous || r.offsetDelta > lastDelta {
			return messages, fmt.Errorf("%w: offset delta %d after %d, the last is %d", ErrCorrupt, r.offsetDelta, previous, lastDelta)
		}
		previous = r.offsetDelta
		if h.base+r.offsetDelta < first {
			continue
		}
		out = out[:len(out)+1]
		m := &out[len(out)-1]
		m.Topic = req.Topic
		m.Partition = req.Partition
		m.Offset = h.base + r.offsetDelta
		m.Key = r.key
		m.Value = r.value
		m.Time = h.time(r.timeDelta)
		if len(r.headers) == 1 && r.headers[0] == 0 {
			continue
		}
		var err error
		if m.Headers, err = d.decodeHeaders(r.headers, left); err != nil {
			return messages, err
		}
	}
	if len(b) > 0 {
		return messages, fmt.Errorf("%w: %d bytes behind its %d records", ErrCorrupt, len(b), h.count)
	}
	return out, nil
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

// decode reads the first record of b and returns what follows it.
func (r *record) decode(b []byte) (rest []byte, ok bool) {
	size, i := varint(b, 0)
	if i < 0 || size < minRecordSize-1 || size > int64(len(b)-i) {
		return nil, false
	}
	b, rest = b[i:i+int(size)], b[i+int(size):]
	i = 1 // attributes, unused
	r.timeDelta, i = varint(b, i)
	r.offsetDelta, i = varint(b, i)
	r.key, i = varbytes(b, i)
	r.value, i = varbytes(b, i)
	if i < 0 || i >= len(b) {
		return nil, false
	}
	r.headers = b[i:]
	return rest, true
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
	n, i := varint(b, i)
	if i < 0 || n < -1 || n > int64(len(b)-i) {
		return nil, -1
	}
	if n == -1 {
		return nil, i
	}
	end = i + int(n)
	return b[i:end:end], end
}
