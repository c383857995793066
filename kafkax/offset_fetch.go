package kafkax

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	offsetfetchapi "github.com/segmentio/kafka-go/protocol/offsetfetch"
)

const (
	// stableVersion is the first version of an OffsetFetch request that can refuse to be answered with an offset while
	// another one is on its way (Kafka 2.5, KIP-447). kafka-go knows up to plainVersion.
	stableVersion = 7
	plainVersion  = 5

	maxOffsetFetchAnswer = 64 << 20
)

// offsetFetch is an OffsetFetch request that wants stable offsets, where the broker knows how to tell: a commit that it
// has received and not yet made durable is an error then, kafka.UnstableOffsetCommit, and not passed over.
type offsetFetch struct {
	offsetfetchapi.Request
	clientID string
}

// Required and RawExchange have the transport leave the exchange to us, and so the version.
func (r *offsetFetch) Required(map[protocol.ApiKey]int16) bool { return true }

func (r *offsetFetch) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	answer, err := protocol.RoundTrip(rw, 0, 0, r.clientID, new(apiversions.Request)) // kafka-go has forgotten.
	if err != nil {
		return nil, err
	}
	known, _ := find(answer.(*apiversions.Response).ApiKeys, func(k apiversions.ApiKeyResponse) bool {
		return k.ApiKey == int16(protocol.OffsetFetch)
	})
	if known.MaxVersion < stableVersion {
		return protocol.RoundTrip(rw, min(known.MaxVersion, plainVersion), 0, r.clientID, &r.Request)
	}
	if _, err := rw.Write(r.frame()); err != nil {
		return nil, err
	}
	var size int32
	if err := binary.Read(rw, binary.BigEndian, &size); err != nil {
		return nil, err
	}
	if size < 0 || size > maxOffsetFetchAnswer {
		return nil, fmt.Errorf("kafkax: an answer of %d bytes", size)
	}
	var body bytes.Buffer // It grows as the bytes arrive.
	if _, err := io.CopyN(&body, rw, int64(size)); err != nil {
		return nil, err
	}
	return readOffsets(&body)
}

// frame is the whole request, https://kafka.apache.org/protocol#The_Messages_OffsetFetch. Lengths are one more than they
// are, and a 0 ends each part that might have tagged fields.
func (r *offsetFetch) frame() []byte {
	length := func(b []byte, n int) []byte { return binary.AppendUvarint(b, uint64(n)+1) }
	b := binary.BigEndian.AppendUint32(nil, 0) // For the size.
	b = binary.BigEndian.AppendUint16(b, uint16(protocol.OffsetFetch))
	b = binary.BigEndian.AppendUint16(b, stableVersion)
	b = binary.BigEndian.AppendUint32(b, 0) // Correlation id.
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.clientID)))
	b = append(append(b, r.clientID...), 0)
	b = append(length(b, len(r.GroupID)), r.GroupID...)
	b = length(b, len(r.Topics))
	for _, t := range r.Topics {
		b = append(length(b, len(t.Name)), t.Name...)
		b = length(b, len(t.PartitionIndexes))
		for _, p := range t.PartitionIndexes {
			b = binary.BigEndian.AppendUint32(b, uint32(p))
		}
		b = append(b, 0)
	}
	b = append(b, 1, 0) // Stable ones, please.
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// readOffsets reads the answer's body.
func readOffsets(body *bytes.Buffer) (*offsetfetchapi.Response, error) {
	short := false
	next := func(n int) []byte {
		b := body.Next(n)
		short = short || len(b) < n
		if short {
			return make([]byte, 8)
		}
		return b
	}
	number := func() int {
		n, err := binary.ReadUvarint(body)
		if err != nil || n > uint64(body.Len())+1 { // Of whatever it is the number, each takes a byte at least.
			short, n = true, 0
		}
		return int(n)
	}
	length := func() int { return max(number()-1, 0) } // 0 is null.
	tags := func() {
		for n := number(); n > 0 && !short; n-- {
			number()
			next(number())
		}
	}
	word := func() int16 { return int16(binary.BigEndian.Uint16(next(2))) }
	text := func() string {
		if b := next(length()); !short {
			return string(b)
		}
		return ""
	}
	next(4) // Correlation id.
	tags()
	next(4) // Throttle time.
	out := new(offsetfetchapi.Response)
	for n := length(); n > 0 && !short; n-- {
		t := offsetfetchapi.ResponseTopic{Name: text()}
		for n := length(); n > 0 && !short; n-- {
			p := offsetfetchapi.ResponsePartition{PartitionIndex: int32(binary.BigEndian.Uint32(next(4)))}
			p.CommittedOffset = int64(binary.BigEndian.Uint64(next(8)))
			next(4) // Leader epoch.
			p.Metadata = text()
			p.ErrorCode = word()
			tags()
			t.Partitions = append(t.Partitions, p)
		}
		tags()
		out.Topics = append(out.Topics, t)
	}
	out.ErrorCode = word()
	if short {
		return nil, fmt.Errorf("kafkax: fetch offsets: the answer ends early: %w", kafka.NetworkException)
	}
	return out, nil
}
