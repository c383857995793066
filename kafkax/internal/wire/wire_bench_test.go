package wire

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/segmentio/kafka-go/compress"

	"github.com/holdfast-io/holdfast"
)

// BenchmarkDecode decodes an answer of about 1 MiB: messages of 200 bytes with an 8-byte key in batches of 16 KiB.
func BenchmarkDecode(b *testing.B) {
	const version = maxFetchVersion
	for _, c := range []struct {
		name    string
		codec   compress.Compression
		headers int
	}{
		{"none", compress.None, 0},
		{"none-headers", compress.None, 3},
		{"letters", compress.None, 13},
		{"gzip", compress.Gzip, 0},
		{"snappy", compress.Snappy, 0},
		{"lz4", compress.Lz4, 0},
		{"zstd", compress.Zstd, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			answer, messages := benchAnswer(b, c.codec, c.headers, version)
			r := NewReader(Config{}, 200)
			req := Request{Topic: "t", Partition: 3, MaxBytes: 1 << 20}
			b.ReportAllocs()
			b.SetBytes(int64(len(answer)))
			for b.Loop() {
				if n, err := countDecoded(r, req, version, answer); err != nil || n != messages {
					b.Fatal(n, err)
				}
			}
			perMessage := func(total float64) float64 { return total / float64(b.N) / float64(messages) }
			b.ReportMetric(perMessage(float64(b.Elapsed().Nanoseconds())), "ns/msg")
		})
	}
}

func countDecoded(r *Reader, req Request, version int16, answer []byte) (n int, err error) {
	a, err := parseAnswer(req, version, answer)
	a.buffer = answer
	for r.Begin(a); err == nil && r.More(); {
		var messages []holdfast.Message
		messages, _, err = r.Next()
		n += len(messages)
	}
	return n, err
}

func benchAnswer(tb testing.TB, codec compress.Compression, headers int, version int16) (answer []byte, messages int) {
	tb.Helper()
	const perBatch, batches = 75, 64
	r := rand.New(rand.NewPCG(1, 2))
	a := rawAnswer{end: batches * perBatch, lastStable: batches * perBatch}
	for i := range batches {
		h := rawBatch{base: int64(i * perBatch), attributes: int16(codec), firstTime: 1_700_000_000_000, maxTime: 1_700_000_000_100}
		for j := range perBatch {
			value := fmt.Appendf(nil, `{"id":%d,"name":"customer %x","amount":%d,"pad":"`, i*perBatch+j, r.Uint64(), r.Uint32())
			for len(value) < 198 {
				value = append(value, 'a'+byte(r.Uint32()%16))
			}
			record := rawRecord{offset: h.base + int64(j), time: h.firstTime + int64(j), key: fmt.Appendf(nil, "%08d", r.Uint32()%1000), value: append(value, `"}`...)}
			for k := range headers {
				record.headers = append(record.headers, holdfast.Header{Key: fmt.Sprintf("header-%d", k), Value: []byte("value")})
			}
			h.records = append(h.records, record)
		}
		a.batches = append(a.batches, h.encode(tb))
	}
	return a.encode(version), batches * perBatch
}
