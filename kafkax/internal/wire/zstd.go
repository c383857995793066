package wire

import (
	"encoding/binary"
	"fmt"
)

// The frame layout of RFC 8878, section 3.1.1.
const (
	zstdMagic         = 0xFD2FB528
	zstdSkippable     = 0x184D2A50 // and 15 more
	zstdSingleSegment = 1 << 5     // the window is the content's size
	zstdChecksum      = 1 << 2
	zstdLastBlock     = 1
	zstdRLEBlock      = 1
	zstdWindow        = 8 << 20 // what any decoder should grant
)

// checkZstd refuses frames that ask for a window of more than limit bytes: the codec allocates it before it has seen a
// byte of the content.
func checkZstd(b []byte, limit int) error {
	in := cursor{b: b}
	for len(in.b) > 0 {
		magic := zstdUint(in.bytes(4))
		if magic&^15 == zstdSkippable {
			in.bytes(int(zstdUint(in.bytes(4))))
			continue
		}
		if magic != zstdMagic {
			return fmt.Errorf("%w: zstd: no frame where one should begin", ErrCorrupt)
		}
		descriptor := zstdUint(in.bytes(1))
		if zstdFrameWindow(&in, descriptor) > uint64(max(limit, zstdWindow)) {
			return ErrTooLarge
		}
		skipZstdBlocks(&in)
		if descriptor&zstdChecksum != 0 {
			in.bytes(4)
		}
		if in.short {
			return fmt.Errorf("%w: zstd: a frame ends early", ErrCorrupt)
		}
	}
	return nil
}

// zstdFrameWindow reads a frame's header from behind its descriptor.
func zstdFrameWindow(in *cursor, descriptor uint64) (window uint64) {
	single := descriptor&zstdSingleSegment != 0
	if !single {
		w := zstdUint(in.bytes(1))
		base := uint64(1) << (10 + w>>3)
		window = base + base/8*(w&7)
	}
	in.bytes([...]int{0, 1, 2, 4}[descriptor&3]) // dictionary id
	size := 1 << (descriptor >> 6)
	if size == 1 && !single {
		size = 0
	}
	content := zstdUint(in.bytes(size))
	if size == 2 {
		content += 256
	}
	if single {
		window = content
	}
	return window
}

func skipZstdBlocks(in *cursor) {
	for !in.short {
		header := zstdUint(in.bytes(3))
		size := int(header >> 3)
		if header>>1&3 == zstdRLEBlock {
			size = 1
		}
		in.bytes(size)
		if header&zstdLastBlock != 0 {
			return
		}
	}
}

// zstdUint reads a little-endian number of up to 8 bytes, 0 from none.
func zstdUint(b []byte) uint64 {
	var full [8]byte
	copy(full[:], b)
	return binary.LittleEndian.Uint64(full[:])
}
