package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Java producers frame snappy the way snappy-java (xerial) does: a header of 16 bytes, then blocks behind their
// lengths. Others send a bare block.
const (
	xerialMagic  = "\x82SNAPPY\x00"
	xerialHeader = 16 // magic, version, lowest compatible version
)

// checkSnappy refuses what says that it decompresses to more than limit bytes: the codec allocates what a block says.
func checkSnappy(b []byte, limit int) error {
	if len(b) < xerialHeader || !bytes.HasPrefix(b, []byte(xerialMagic)) {
		_, err := snappySize(b, limit)
		return err
	}
	in := cursor{b: b[xerialHeader:]}
	for len(in.b) > 0 {
		block := in.bytes(int(in.int32()))
		if in.short {
			return fmt.Errorf("%w: snappy: a block ends early", ErrCorrupt)
		}
		n, err := snappySize(block, limit)
		if err != nil {
			return err
		}
		limit -= n
	}
	return nil
}

// snappySize is what a block says it decompresses to.
func snappySize(block []byte, limit int) (int, error) {
	n, length := binary.Uvarint(block)
	if length <= 0 {
		return 0, fmt.Errorf("%w: snappy: a block without its size", ErrCorrupt)
	}
	if n > uint64(limit) {
		return 0, ErrTooLarge
	}
	return int(n), nil
}
