package wire

import "github.com/holdfast-io/holdfast"

const (
	headerSlab   = 1024 // headers made room for at once, at most
	headerKeys   = 256  // keys remembered, at most
	headerKeyLen = 64   // of a key that is remembered, at most
)

// headers decodes records' headers with few allocations: their slices are cut from slabs, and keys, of which a topic
// has few, are remembered as strings.
type headers struct {
	slab []holdfast.Header
	keys map[string]string
}

// reset lets go of the last answer.
func (h *headers) reset() { h.slab = nil }

// decode reads a record's headers from b, which ends with them. The next records, of which there are left with this one,
// are taken to have as many.
func (h *headers) decode(b []byte, left int) ([]holdfast.Header, bool) {
	count, i := varint(b, 0)
	if i < 0 || count < 0 || count > int64(len(b)-i)/minHeaderSize {
		return nil, false
	}
	n := int(count)
	if n == 0 {
		return nil, i == len(b)
	}
	if n > len(h.slab) {
		h.slab = make([]holdfast.Header, max(n, min(n*left, headerSlab)))
	}
	out := h.slab[:n:n]
	h.slab = h.slab[n:]
	for j := range out {
		var key []byte
		key, i = varbytes(b, i)
		if i < 0 || key == nil {
			return nil, false // a key is never null
		}
		out[j].Key = h.key(key)
		out[j].Value, i = varbytes(b, i)
	}
	return out, i == len(b)
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
