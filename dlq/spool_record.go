package dlq

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/holdfast-io/holdfast"
)

// numberBytes is how long a message's number is.
const numberBytes = 8

// placeBytes is about what the file spends on a record besides the record.
const placeBytes = 48

var errDamaged = errors.New("record is damaged")

// cost is what a record counts for in SpoolConfig.MaxBytes.
func cost(record []byte) int64 { return int64(len(record)) + placeBytes }

// A record is the Castagnoli CRC of all that follows, the time when it was kept in nanoseconds since 1970, and the
// message: partition, time, topic, key, value, number of headers, and of each header key and value. Numbers are
// variable in length but for the first two; bytes have their length and one before them, 0 being nil.
func encodeRecord(m *holdfast.Message, now time.Time) []byte {
	size := 64 + len(m.Topic) + len(m.Key) + len(m.Value)
	for _, h := range m.Headers {
		size += 20 + len(h.Key) + len(h.Value)
	}
	r := make([]byte, 4, size)
	r = binary.BigEndian.AppendUint64(r, uint64(now.UnixNano()))
	r = binary.AppendVarint(r, int64(max(m.Partition, -1)))
	r = binary.AppendVarint(r, m.Time.Unix())
	r = binary.AppendUvarint(r, uint64(m.Time.Nanosecond()))
	r = appendBytes(r, []byte(m.Topic))
	r = appendBytes(r, m.Key)
	r = appendBytes(r, m.Value)
	r = binary.AppendUvarint(r, uint64(len(m.Headers)))
	for _, h := range m.Headers {
		r = appendBytes(r, []byte(h.Key))
		r = appendBytes(r, h.Value)
	}
	binary.BigEndian.PutUint32(r, crc32.Checksum(r[4:], crc32.MakeTable(crc32.Castagnoli)))
	return r
}

func appendBytes(r, b []byte) []byte {
	if b == nil {
		return append(r, 0)
	}
	return append(binary.AppendUvarint(r, uint64(len(b))+1), b...)
}

// decodeRecord is the reverse. The message's bytes are the record's.
func decodeRecord(record []byte) (kept time.Time, m holdfast.Message, err error) {
	if len(record) < 12 || binary.BigEndian.Uint32(record) != crc32.Checksum(record[4:], crc32.MakeTable(crc32.Castagnoli)) {
		return kept, m, errDamaged
	}
	r := reader{rest: record[12:]}
	kept = time.Unix(0, int64(binary.BigEndian.Uint64(record[4:]))).UTC()
	m.Partition = int(r.number())
	seconds, nanoseconds := r.number(), r.count()
	m.Time = time.Unix(seconds, int64(nanoseconds)).UTC()
	m.Topic, m.Key, m.Value = string(r.bytes()), r.bytes(), r.bytes()
	if n := r.count(); n > 0 && n <= uint64(len(r.rest)) {
		m.Headers = make([]holdfast.Header, n)
		for i := range m.Headers {
			m.Headers[i] = holdfast.Header{Key: string(r.bytes()), Value: r.bytes()}
		}
	}
	if r.short || len(r.rest) > 0 {
		return kept, m, errDamaged
	}
	return kept, m, nil
}

// reader takes a record apart. Once something is missing everything is.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) number() int64 {
	v, n := binary.Varint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) count() uint64 {
	v, n := binary.Uvarint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) skip(n int) {
	if n <= 0 {
		r.rest, r.short = nil, true
		return
	}
	r.rest = r.rest[n:]
}

func (r *reader) bytes() []byte {
	n := r.count()
	switch {
	case n == 0:
		return nil
	case n > math.MaxInt || n-1 > uint64(len(r.rest)):
		r.rest, r.short = nil, true
		return nil
	}
	b := r.rest[: n-1 : n-1]
	r.rest = r.rest[n-1:]
	return b
}

// put adds records behind the others.
func put(b *bolt.Bucket, records [][]byte) error {
	b.FillPercent = 0.95 // Numbers only grow, so no page is ever added to again.
	for _, record := range records {
		n, err := b.NextSequence()
		if err != nil {
			return err
		}
		if err := b.Put(binary.BigEndian.AppendUint64(nil, n), record); err != nil {
			return err
		}
	}
	return nil
}
