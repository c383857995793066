package wire

import (
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"
)

// errMalformed says that an answer is not what the protocol says it must be. Nothing that follows on the connection can
// be trusted then.
var errMalformed = errors.New("malformed answer")

// Answer is the answer to one Request. Its batches are whole and their checksums right; a Reader decodes them.
type Answer struct {
	// NextOffset is where to fetch next. It is at least Request.Offset, and beyond the last message where control
	// records, aborted transactions or gaps follow it.
	NextOffset int64

	HighWatermark int64 // The end of the partition: what is fully replicated. -1 when unknown.
	LastStable    int64 // The first offset of an open transaction, else HighWatermark. -1 when unknown.

	// Throttle is for how long the broker will not serve this connection. The next Receive allows for it.
	Throttle time.Duration

	request Request
	buffer  []byte // All of it. The Reader gives it back.
	aborted []byte
	batches []byte
	records int // That the batches say they have.
}

// Size is the memory that the answer takes until it is read.
func (a *Answer) Size() int { return cap(a.buffer) }

// parseAnswer reads an answer's body.
func parseAnswer(req Request, version int16, body []byte) (Answer, error) {
	a := Answer{NextOffset: req.Offset, HighWatermark: -1, LastStable: -1, request: req}
	in := cursor{b: body}
	a.Throttle = time.Duration(max(in.int32(), 0)) * time.Millisecond
	if version >= 7 {
		if code := in.int16(); code != 0 {
			return a, fetchError(req, code)
		}
		in.int32() // session id
	}
	if n := in.int32(); n != 1 {
		return a, fmt.Errorf("%w: %d topics for one asked", errMalformed, n)
	}
	if topic := in.bytes(int(in.int16())); string(topic) != req.Topic {
		return a, fmt.Errorf("%w: another topic than the one asked for", errMalformed)
	}
	if n := in.int32(); n != 1 {
		return a, fmt.Errorf("%w: %d partitions for one asked", errMalformed, n)
	}
	if p := in.int32(); int(p) != req.Partition {
		return a, fmt.Errorf("%w: partition %d, asked for %d", errMalformed, p, req.Partition)
	}
	code := in.int16()
	a.HighWatermark = in.int64()
	a.LastStable = in.int64()
	if version >= 5 {
		in.int64() // log start
	}
	a.aborted = in.bytes(abortedSize * max(int(in.int32()), 0)) // -1 is null
	if version >= 11 {
		in.int32() // preferred read replica: none without a rack
	}
	batches := in.bytes(max(int(in.int32()), 0)) // -1 is null
	if in.short {
		return a, fmt.Errorf("%w: it ends early", errMalformed)
	}
	if code != 0 {
		return a, fetchError(req, code)
	}
	return a, a.check(batches)
}

// check takes the batches up to the first one that is cut, damaged, or not stable yet. A batch that cannot be taken is an
// error only if nothing came before it: else the next fetch begins with it, so that one bad batch holds no good message
// back.
func (a *Answer) check(batches []byte) error {
	b := batches
	for len(b) > 0 {
		h, rest, err := nextBatch(b)
		if err == nil {
			if a.request.ReadCommitted && a.LastStable >= 0 && h.base >= a.LastStable {
				break
			}
			err = h.verify()
		}
		if err != nil {
			if a.NextOffset > a.request.Offset {
				break
			}
			offset := h.base
			if len(b) <= batchMagic {
				offset = a.request.Offset
			}
			return a.batchError(offset, err)
		}
		a.NextOffset = max(a.NextOffset, h.last+1)
		a.records += h.count
		b = rest
	}
	a.batches = batches[:len(batches)-len(b)]
	return nil
}

func (a *Answer) batchError(offset int64, err error) error {
	return &BatchError{Topic: a.request.Topic, Partition: a.request.Partition, Offset: offset, Err: err}
}

func fetchError(req Request, code int16) error {
	return fmt.Errorf("wire: fetch of %s/%d at %d: %w", req.Topic, req.Partition, req.Offset, kafka.Error(code))
}
