package wire

import (
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
)

// errMalformed says that an answer is not what the protocol says it must be. Nothing that follows on the connection can
// be trusted then.
var errMalformed = errors.New("malformed answer")

// Response is the answer to one Request.
type Response struct {
	// Messages are in offset order, none below Request.Offset, and none may have come although NextOffset has moved.
	Messages []holdfast.Message

	// NextOffset is where to fetch next. It is at least Request.Offset, and beyond the last message where control
	// records, aborted transactions or gaps follow it.
	NextOffset int64

	HighWatermark int64 // The end of the partition: what is fully replicated. -1 when unknown.
	LastStable    int64 // The first offset of an open transaction, else HighWatermark. -1 when unknown.

	// Size is the memory that Messages hold on to, at most, in bytes: their buffers included.
	Size int

	// Throttle is for how long the broker will not serve this connection. The next Receive allows for it.
	Throttle time.Duration
}

// decode makes a Response of an answer's body, which becomes the arena of its messages.
func (d *decoder) decode(req Request, version int16, answer []byte) (Response, error) {
	resp := Response{NextOffset: req.Offset, HighWatermark: -1, LastStable: -1}
	in := cursor{b: answer}
	resp.Throttle = time.Duration(max(in.int32(), 0)) * time.Millisecond
	if version >= 7 {
		if code := in.int16(); code != 0 {
			return resp, fetchError(req, code)
		}
		in.int32() // session id
	}
	if n := in.int32(); n != 1 {
		return resp, fmt.Errorf("%w: %d topics for one asked", errMalformed, n)
	}
	if topic := in.bytes(int(in.int16())); string(topic) != req.Topic {
		return resp, fmt.Errorf("%w: another topic than the one asked for", errMalformed)
	}
	if n := in.int32(); n != 1 {
		return resp, fmt.Errorf("%w: %d partitions for one asked", errMalformed, n)
	}
	if p := in.int32(); int(p) != req.Partition {
		return resp, fmt.Errorf("%w: partition %d, asked for %d", errMalformed, p, req.Partition)
	}
	code := in.int16()
	resp.HighWatermark = in.int64()
	resp.LastStable = in.int64()
	if version >= 5 {
		in.int64() // log start
	}
	aborted := in.bytes(abortedSize * max(int(in.int32()), 0)) // -1 is null
	if version >= 11 {
		in.int32() // preferred read replica: none without a rack
	}
	records := in.bytes(max(int(in.int32()), 0)) // -1 is null
	if in.short {
		return resp, fmt.Errorf("%w: it ends early", errMalformed)
	}
	if code != 0 {
		return resp, fetchError(req, code)
	}
	if err := d.decodeBatches(&resp, req, aborted, records); err != nil {
		return resp, err
	}
	if len(resp.Messages) > 0 {
		resp.Size = d.spent + cap(answer)
	}
	return resp, nil
}

func fetchError(req Request, code int16) error {
	return fmt.Errorf("wire: fetch of %s/%d at %d: %w", req.Topic, req.Partition, req.Offset, kafka.Error(code))
}
