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

// checkSnappy refuses blocks that say that they decompress to more than limit bytes: the codec allocates what they say.
func checkSnappy(b []byte, limit int) error {
	if len(b) < xerialHeader || !bytes.HasPrefix(b, []byte(xerialMagic)) {
		return checkSnappyBlock(b, limit)
	}
	in := cursor{b: b[xerialHeader:]}
	for len(in.b) > 0 {
		block := in.bytes(int(in.int32()))
		if in.short {
			return fmt.Errorf("%w: snappy: a block ends early", ErrCorrupt)
		}
		if err := checkSnappyBlock(block, limit); err != nil {
			return err
		}
	}
	return nil
}

func checkSnappyBlock(block []byte, limit int) error {
	n, length := binary.Uvarint(block)
	if length <= 0 {
		return fmt.Errorf("%w: snappy: a block without its size", ErrCorrupt)
	}
	if n > uint64(limit) {
		return ErrTooLarge
	}
	return nil
}
