package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"
	"slices"

	"github.com/segmentio/kafka-go/compress"

	"github.com/holdfast-io/holdfast"
)

// keepBuffer is how much memory of a batch that is done the next one may have.
const keepBuffer = 2 << 20

// Encoder makes one record batch. Messages are encoded as they are appended, so their bytes are free again at once. The
// zero value is an empty batch. It belongs to one goroutine at a time.
type Encoder struct {
	raw       []byte       // header and records
	packed    bytes.Buffer // header and compressed records, once sealed with a codec
	sealed    []byte       // one of them
	count     int
	firstTime int64 // milliseconds since 1970
	maxTime   int64
}

// Append adds a message. One without a time gets now, in milliseconds since 1970.
func (e *Encoder) Append(m *holdfast.Message, now int64) {
	if e.count == 0 {
		e.raw = append(e.raw[:0], make([]byte, batchHeader)...)
	}
	at := now
	if !m.Time.IsZero() {
		at = m.Time.UnixMilli()
	}
	if e.count == 0 {
		e.firstTime, e.maxTime = at, at
	}
	e.maxTime = max(e.maxTime, at)
	sinceFirst, delta := at-e.firstTime, int64(e.count)

	body := 1 + varintSize(sinceFirst) + varintSize(delta) + varbytesSize(m.Key) + varbytesSize(m.Value) + varintSize(int64(len(m.Headers)))
	for _, h := range m.Headers {
		body += varintSize(int64(len(h.Key))) + len(h.Key) + varbytesSize(h.Value)
	}
	b := slices.Grow(e.raw, body+binary.MaxVarintLen32)
	b = binary.AppendVarint(b, int64(body))
	b = append(b, 0) // attributes, unused
	b = binary.AppendVarint(b, sinceFirst)
	b = binary.AppendVarint(b, delta)
	b = appendNullable(b, m.Key)
	b = appendNullable(b, m.Value)
	b = binary.AppendVarint(b, int64(len(m.Headers)))
	for _, h := range m.Headers {
		b = binary.AppendVarint(b, int64(len(h.Key)))
		b = append(b, h.Key...)
		b = appendNullable(b, h.Value)
	}
	e.raw = b
	e.count++
}

// Len is how many messages are in the batch.
func (e *Encoder) Len() int { return e.count }

// Size is how many bytes the batch has, not compressed.
func (e *Encoder) Size() int { return len(e.raw) }

// Seal compresses the batch and completes its header, but for who sends it, which Stamp does. Nothing can be appended
// any more.
func (e *Encoder) Seal(codec compress.Compression) error {
	e.sealed = e.raw
	if codec != compress.None {
		e.packed.Reset()
		e.packed.Write(e.raw[:batchHeader])
		w := codec.Codec().NewWriter(&e.packed)
		if _, err := w.Write(e.raw[batchHeader:]); err != nil {
			return fmt.Errorf("wire: compress with %s: %w", codec.Codec().Name(), err)
		}
		if err := w.Close(); err != nil {
			return fmt.Errorf("wire: compress with %s: %w", codec.Codec().Name(), err)
		}
		e.sealed = e.packed.Bytes()
	}
	// The base offset, its first 8 bytes, is the broker's to set.
	h := e.sealed
	binary.BigEndian.PutUint32(h[8:], uint32(len(h)-batchPrefix))
	binary.BigEndian.PutUint32(h[12:], math.MaxUint32) // leader epoch: -1
	h[batchMagic] = supportedMagic
	binary.BigEndian.PutUint16(h[21:], uint16(codec))
	binary.BigEndian.PutUint32(h[23:], uint32(e.count-1))
	binary.BigEndian.PutUint64(h[27:], uint64(e.firstTime))
	binary.BigEndian.PutUint64(h[35:], uint64(e.maxTime))
	binary.BigEndian.PutUint32(h[57:], uint32(e.count))
	return nil
}

// Stamp says who sends the batch, and where it stands in the sender's sequence: -1 each for a sender that is not
// idempotent. A sealed batch may be stamped again.
func (e *Encoder) Stamp(producer int64, epoch int16, sequence int32) {
	h := e.sealed
	binary.BigEndian.PutUint64(h[43:], uint64(producer))
	binary.BigEndian.PutUint16(h[51:], uint16(epoch))
	binary.BigEndian.PutUint32(h[53:], uint32(sequence))
	binary.BigEndian.PutUint32(h[17:], crc32.Checksum(h[batchBody:], crc32.MakeTable(crc32.Castagnoli)))
}

// Bytes is the sealed and stamped batch, until Reset.
func (e *Encoder) Bytes() []byte { return e.sealed }

// Messages decodes what has been appended. The messages have no topic, and bytes of their own.
func (e *Encoder) Messages() []holdfast.Message {
	if e.count == 0 {
		return nil
	}
	r := Reader{
		limit: math.MaxInt, room: math.MaxInt,
		batch:   batch{last: int64(e.count - 1), firstTime: e.firstTime, maxTime: e.maxTime, count: e.count},
		records: e.raw[batchHeader:], left: e.count, delta: -1,
	}
	messages, err := r.decodeRecords(make([]holdfast.Message, 0, e.count))
	if err != nil {
		panic(err) // It does not read what it has written.
	}
	return messages
}

// Reset makes the batch empty again. It keeps its memory, unless that is a lot.
func (e *Encoder) Reset() {
	if cap(e.raw) > keepBuffer {
		e.raw = nil
	}
	if e.packed.Cap() > keepBuffer {
		e.packed = bytes.Buffer{}
	}
	e.raw, e.sealed, e.count = e.raw[:0], nil, 0
}

func varintSize(v int64) int {
	u := uint64(v<<1) ^ uint64(v>>63)
	return (bits.Len64(u|1) + 6) / 7
}

func varbytesSize(b []byte) int {
	if b == nil {
		return 1
	}
	return varintSize(int64(len(b))) + len(b)
}

// appendNullable appends b behind its length, -1 for nil.
func appendNullable(b, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(b, -1)
	}
	return append(binary.AppendVarint(b, int64(len(v))), v...)
}
