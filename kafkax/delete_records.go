package kafkax

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// deleteRecordsVersion is the last version that is not encoded in the flexible way.
const deleteRecordsVersion = 1

const maxDeleteRecordsAnswer = 16 << 20

// deleteRecords is a DeleteRecords request for partitions of one leader. kafka-go does not know the request.
type deleteRecords struct {
	topic    string
	before   map[int]int64
	leader   int32
	timeout  time.Duration // For which the leader waits for its followers.
	clientID string
}

func (r *deleteRecords) ApiKey() protocol.ApiKey { return protocol.DeleteRecords }

// Broker has the transport send it to the leader.
func (r *deleteRecords) Broker(protocol.Cluster) (protocol.Broker, error) {
	return protocol.Broker{ID: r.leader}, nil
}

// Required and RawExchange have the transport leave the exchange to us.
func (r *deleteRecords) Required(map[protocol.ApiKey]int16) bool { return true }

func (r *deleteRecords) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if _, err := rw.Write(r.frame()); err != nil {
		return nil, err
	}
	var size int32
	if err := binary.Read(rw, binary.BigEndian, &size); err != nil {
		return nil, err
	}
	if size < 0 || size > maxDeleteRecordsAnswer {
		return nil, fmt.Errorf("kafkax: delete records of %s: an answer of %d bytes", r.topic, size)
	}
	var answer bytes.Buffer // It grows as the bytes arrive.
	if _, err := io.CopyN(&answer, rw, int64(size)); err != nil {
		return nil, err
	}
	return deleteRecordsAnswer{r.check(&answer)}, nil
}

// frame is the whole request, https://kafka.apache.org/protocol#The_Messages_DeleteRecords.
func (r *deleteRecords) frame() []byte {
	text := func(b []byte, s string) []byte {
		return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	b := binary.BigEndian.AppendUint32(nil, 0) // For the size.
	b = binary.BigEndian.AppendUint16(b, uint16(protocol.DeleteRecords))
	b = binary.BigEndian.AppendUint16(b, deleteRecordsVersion)
	b = binary.BigEndian.AppendUint32(b, 0) // Correlation id.
	b = text(b, r.clientID)
	b = binary.BigEndian.AppendUint32(b, 1) // Topics.
	b = text(b, r.topic)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.before)))
	for p, offset := range r.before {
		b = binary.BigEndian.AppendUint32(b, uint32(p))
		b = binary.BigEndian.AppendUint64(b, uint64(offset))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(min(r.timeout.Milliseconds(), math.MaxInt32)))
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// check reads the answer, and returns what is wrong with any of the partitions.
func (r *deleteRecords) check(answer *bytes.Buffer) error {
	short := false
	next := func(n int) []byte {
		b := answer.Next(n)
		short = short || len(b) < n
		return append(b, make([]byte, n-len(b))...)
	}
	count := func() int { return int(int32(binary.BigEndian.Uint32(next(4)))) }
	var errs []error
	var done []int
	next(8) // Correlation id and throttle time.
	for t := count(); t > 0 && !short; t-- {
		next(int(binary.BigEndian.Uint16(next(2)))) // The topic, the only one asked for.
		for n := count(); n > 0 && !short; n-- {
			p := count()
			next(8) // The log's new beginning.
			done = append(done, p)
			if code := kafka.Error(int16(binary.BigEndian.Uint16(next(2)))); code != 0 {
				errs = append(errs, fmt.Errorf("partition %d: %w", p, code))
			}
		}
	}
	for p := range r.before {
		if !slices.Contains(done, p) || short {
			errs = append(errs, fmt.Errorf("partition %d: %w", p, errNoAnswer))
		}
	}
	return errors.Join(errs...)
}

// deleteRecordsAnswer says what became of the request.
type deleteRecordsAnswer struct{ err error }

func (deleteRecordsAnswer) ApiKey() protocol.ApiKey { return protocol.DeleteRecords }

// deleteRecords sends r to its leader.
func (n *network) deleteRecords(ctx context.Context, r *deleteRecords) error {
	ctx, cancel := context.WithTimeout(ctx, n.client.Timeout)
	defer cancel()
	answer, err := n.pool.RoundTrip(ctx, n.client.Addr, r)
	if err != nil {
		return err
	}
	return answer.(deleteRecordsAnswer).err
}
