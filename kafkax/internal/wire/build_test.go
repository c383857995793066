package wire

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/segmentio/kafka-go/compress"

	"github.com/holdfast-io/holdfast"
)

// rawBatch builds a record batch byte by byte, wrong ones too.
type rawBatch struct {
	base       int64
	last       int64 // 0: the last record's
	attributes int16 // codec included
	firstTime  int64
	maxTime    int64
	producer   int64 // 0: none
	records    []rawRecord
	count      int32 // 0: len(records)
}

type rawRecord struct {
	offset  int64
	time    int64
	key     []byte
	value   []byte
	headers []holdfast.Header
}

func (r rawRecord) append(b []byte, h rawBatch) []byte {
	body := []byte{0}
	body = binary.AppendVarint(body, r.time-h.firstTime)
	body = binary.AppendVarint(body, r.offset-h.base)
	body = appendVarbytes(body, r.key)
	body = appendVarbytes(body, r.value)
	body = binary.AppendVarint(body, int64(len(r.headers)))
	for _, header := range r.headers {
		body = appendVarbytes(body, []byte(header.Key))
		body = appendVarbytes(body, header.Value)
	}
	b = binary.AppendVarint(b, int64(len(body)))
	return append(b, body...)
}

func appendVarbytes(b, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(b, -1)
	}
	b = binary.AppendVarint(b, int64(len(v)))
	return append(b, v...)
}

func (h rawBatch) encode(tb testing.TB) []byte {
	tb.Helper()
	var records []byte
	for _, r := range h.records {
		records = r.append(records, h)
	}
	return h.wrap(compressed(tb, h.attributes&codecMask, records))
}

// wrap puts the header before records that are encoded already.
func (h rawBatch) wrap(records []byte) []byte {
	if h.last == 0 && len(h.records) > 0 {
		h.last = h.records[len(h.records)-1].offset
	}
	if h.count == 0 {
		h.count = int32(len(h.records))
	}
	if h.producer == 0 {
		h.producer = noProducer
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(h.base))
	b = appendInt32(b, int32(batchHeader-batchPrefix+len(records)))
	b = appendInt32(b, -1) // leader epoch
	b = append(b, supportedMagic)
	b = appendInt32(b, 0) // crc
	b = binary.BigEndian.AppendUint16(b, uint16(h.attributes))
	b = appendInt32(b, int32(h.last-h.base))
	b = binary.BigEndian.AppendUint64(b, uint64(h.firstTime))
	b = binary.BigEndian.AppendUint64(b, uint64(h.maxTime))
	b = binary.BigEndian.AppendUint64(b, uint64(h.producer))
	b = append(b, 0, 0, 0, 0, 0, 0) // producer epoch, sequence
	b = appendInt32(b, h.count)
	return seal(append(b, records...))
}

// seal corrects the checksum of a batch.
func seal(b []byte) []byte {
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[batchBody:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func compressed(tb testing.TB, code int16, b []byte) []byte {
	tb.Helper()
	codec := compress.Compression(code).Codec()
	if codec == nil {
		return b
	}
	var out bytes.Buffer
	w := codec.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// rawAnswer builds the body of an answer to a fetch of topic t, partition 3.
type rawAnswer struct {
	throttle   int32
	error      int16 // of the partition
	end        int64
	lastStable int64
	aborted    []abortedTransaction
	batches    [][]byte
}

func (a rawAnswer) encode(version int16) []byte {
	b := appendInt32(nil, a.throttle)
	if version >= 7 {
		b = append(b, 0, 0, 0, 0, 0, 0) // error, session
	}
	b = appendInt32(b, 1)
	b = appendString(b, "t")
	b = appendInt32(b, 1)
	b = appendInt32(b, 3)
	b = binary.BigEndian.AppendUint16(b, uint16(a.error))
	b = binary.BigEndian.AppendUint64(b, uint64(a.end))
	b = binary.BigEndian.AppendUint64(b, uint64(a.lastStable))
	if version >= 5 {
		b = binary.BigEndian.AppendUint64(b, 0)
	}
	b = appendInt32(b, int32(len(a.aborted)))
	for _, t := range a.aborted {
		b = binary.BigEndian.AppendUint64(b, uint64(t.producer))
		b = binary.BigEndian.AppendUint64(b, uint64(t.first))
	}
	if version >= 11 {
		b = appendInt32(b, -1)
	}
	records := bytes.Join(a.batches, nil)
	b = appendInt32(b, int32(len(records)))
	return append(b, records...)
}
