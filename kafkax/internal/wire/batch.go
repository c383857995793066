package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// Why a batch could not be decoded, for errors.Is. ErrCorrupt may be the network's fault, then the same fetch succeeds
// the next time; the others last.
var (
	ErrCorrupt   = errors.New("corrupt record batch")
	ErrOldFormat = errors.New("message format older than the record batch (magic 2, Kafka 0.11) is not supported")
	ErrTooLarge  = errors.New("record batch needs more memory than one answer may take")
)

// errPartial says that the answer ends within the batch: brokers cut the last one where MaxBytes ends.
var errPartial = fmt.Errorf("%w: the answer ends within it", ErrCorrupt)

// BatchError says which batch of a partition could not be decoded.
type BatchError struct {
	Topic     string
	Partition int
	Offset    int64 // The batch's first, or the one asked for if the batch's header could not be read.
	Err       error
}

// Error names the batch and what is wrong with it.
func (e *BatchError) Error() string {
	return fmt.Sprintf("kafkax: %s/%d: batch at offset %d: %v", e.Topic, e.Partition, e.Offset, e.Err)
}

// Unwrap gives what is wrong: one of ErrCorrupt, ErrOldFormat and ErrTooLarge is in its chain.
func (e *BatchError) Unwrap() error { return e.Err }

// The layout of a record batch, in bytes.
const (
	batchPrefix = 12 // base offset and length; the length counts what follows
	batchMagic  = 16 // where the format's number is, in older formats too
	batchBody   = 21 // the checksum covers from here to the end
	batchHeader = 61

	supportedMagic = 2
	maxLastOffset  = math.MaxInt64 - 1 // so that the next offset is one too
	noProducer     = -1
	noTimestamp    = -1
)

// Bits of a batch's attributes.
const (
	codecMask        = 0x07
	logAppendTimeBit = 0x08
	transactionalBit = 0x10
	controlBit       = 0x20
)

// batch is one record batch, its records still as they came.
type batch struct {
	base       int64
	last       int64 // offset of the last record it ever had; compaction may have removed it
	attributes int16
	firstTime  int64 // milliseconds since 1970, what the records' times count from
	maxTime    int64
	producer   int64
	count      int
	crc        uint32
	body       []byte // what crc covers
	records    []byte
}

// nextBatch takes the first batch off b. With an error, base is set as far as b goes.
func nextBatch(b []byte) (h batch, rest []byte, err error) {
	if len(b) <= batchMagic {
		return h, nil, errPartial
	}
	h.base = int64(binary.BigEndian.Uint64(b))
	size := int(int32(binary.BigEndian.Uint32(b[8:])))
	if magic := b[batchMagic]; magic < supportedMagic {
		return h, nil, fmt.Errorf("magic %d: %w", magic, ErrOldFormat)
	} else if magic > supportedMagic {
		return h, nil, fmt.Errorf("%w: magic %d", ErrCorrupt, magic)
	}
	if size < batchHeader-batchPrefix {
		return h, nil, fmt.Errorf("%w: length %d", ErrCorrupt, size)
	}
	if size > len(b)-batchPrefix {
		return h, nil, errPartial
	}
	b, rest = b[:batchPrefix+size], b[batchPrefix+size:]
	h.crc = binary.BigEndian.Uint32(b[17:])
	h.attributes = int16(binary.BigEndian.Uint16(b[21:]))
	lastDelta := int64(int32(binary.BigEndian.Uint32(b[23:])))
	h.firstTime = int64(binary.BigEndian.Uint64(b[27:]))
	h.maxTime = int64(binary.BigEndian.Uint64(b[35:]))
	h.producer = int64(binary.BigEndian.Uint64(b[43:])) // its epoch and base sequence follow, 6 bytes
	h.count = int(int32(binary.BigEndian.Uint32(b[57:])))
	h.body, h.records = b[batchBody:], b[batchHeader:]
	if h.base < 0 || lastDelta < 0 || h.base > maxLastOffset-lastDelta {
		return h, nil, fmt.Errorf("%w: base offset %d, last offset delta %d", ErrCorrupt, h.base, lastDelta)
	}
	h.last = h.base + lastDelta
	if h.count < 0 {
		return h, nil, fmt.Errorf("%w: %d records", ErrCorrupt, h.count)
	}
	return h, rest, nil
}

func (h *batch) verify() error {
	if got := crc32.Checksum(h.body, crc32.MakeTable(crc32.Castagnoli)); got != h.crc {
		return fmt.Errorf("%w: CRC-32C is %08x, its header says %08x", ErrCorrupt, got, h.crc)
	}
	return nil
}

func (h *batch) codec() int8         { return int8(h.attributes & codecMask) }
func (h *batch) logAppendTime() bool { return h.attributes&logAppendTimeBit != 0 }
func (h *batch) transactional() bool { return h.attributes&transactionalBit != 0 }
func (h *batch) control() bool       { return h.attributes&controlBit != 0 }
