package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/segmentio/kafka-go/compress"
)

// inflate returns what src decompresses to, in scratch, which it makes larger if need be. More than limit bytes are
// ErrTooLarge, and no more than in proportion to limit is ever allocated.
func inflate(scratch *[]byte, code int8, src []byte, limit int) ([]byte, error) {
	codec := compress.Compression(code).Codec()
	if codec == nil {
		return nil, fmt.Errorf("%w: compression codec %d is unknown", ErrCorrupt, code)
	}
	// Two codecs allocate what a stream's header says before they look further.
	var err error
	switch compress.Compression(code) {
	case compress.Snappy:
		err = checkSnappy(src, limit)
	case compress.Zstd:
		err = checkZstd(src, limit)
	default:
	}
	if err != nil {
		return nil, err
	}
	r := codec.NewReader(bytes.NewReader(src))
	defer r.Close()
	b := (*scratch)[:0]
	for {
		if len(b) == cap(b) {
			b = slices.Grow(b, min(max(len(b), 4*len(src), bytes.MinRead), limit+1-len(b)))
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if len(b) > limit {
			return nil, ErrTooLarge
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, codec.Name(), err)
		}
	}
	*scratch = b
	return b, nil
}
