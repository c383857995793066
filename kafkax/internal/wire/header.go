package wire

import (
	"fmt"
	"unsafe"

	"github.com/holdfast-io/holdfast"
)

const (
	headerSize    = int(unsafe.Sizeof(holdfast.Header{}))
	minHeaderSize = 2 // key and value length

	headerSlab   = arenaSize / headerSize // headers made room for at once, at most
	headerKeys   = 256                    // keys remembered, at most
	headerKeyLen = 64                     // of a key that is remembered, at most
)

var errHeaders = fmt.Errorf("%w: a record's headers do not parse", ErrCorrupt)

// headers makes records' headers with few allocations: their slices are cut from slabs, and keys, of which a topic
// has few, are remembered as strings. Most records have the keys of the one before, in its order.
type headers struct {
	slab   []holdfast.Header
	keys   map[string]string
	before []string // By position.
}

// reset lets go of the slab, and so of what is in its headers' values.
func (h *headers) reset() { h.slab = nil }

// decodeHeaders reads a record's headers from b, which ends with them. The next records, of which there are left with
// this one, are taken to have as many.
func (r *Reader) decodeHeaders(b []byte, left int) ([]holdfast.Header, error) {
	count, i := varint(b, 0)
	if i < 0 || count < 0 || count > int64(len(b)-i)/minHeaderSize {
		return nil, errHeaders
	}
	n := int(count)
	if n > r.limit/headerSize {
		return nil, ErrTooLarge
	}
	out := r.headers.take(n, left)
	before := r.headers.before
	for j := range out {
		var key []byte
		if key, i = varbytes(b, i); key == nil { // a key is never null
			return nil, errHeaders
		}
		if j < len(before) && before[j] == string(key) {
			out[j].Key = before[j]
		} else {
			out[j].Key = r.headers.keyAt(j, key)
			before = r.headers.before
		}
		out[j].Value, i = varbytes(b, i)
	}
	if i != len(b) {
		return nil, errHeaders
	}
	return out, nil
}

// take cuts n headers from the slab, or from a new one with room for as many for each of left records.
func (h *headers) take(n, left int) []holdfast.Header {
	if n == 0 {
		return nil
	}
	if n > len(h.slab) {
		h.slab = make([]holdfast.Header, max(n, min(n*left, headerSlab)))
	}
	out := h.slab[:n:n]
	h.slab = h.slab[n:]
	return out
}

// keyAt is the key of a record's header number j, counted without gaps from 0, which is not that of the record before.
func (h *headers) keyAt(j int, b []byte) string {
	s := h.key(b)
	switch {
	case len(s) > headerKeyLen:
	case j < len(h.before):
		h.before[j] = s
	case j < headerKeys:
		h.before = append(h.before, s)
	}
	return s
}

func (h *headers) key(b []byte) string {
	if s, ok := h.keys[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(s) > headerKeyLen {
		return s
	}
	if len(h.keys) == headerKeys || h.keys == nil {
		h.keys = make(map[string]string)
	}
	h.keys[s] = s
	return s
}
