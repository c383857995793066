package wire

import (
	"fmt"
	"unsafe"

	"github.com/holdfast-io/holdfast"
)

const messageSize = int(unsafe.Sizeof(holdfast.Message{}))

// The key of a control record: its version, then its type, 2 bytes each.
const (
	controlKeySize = 4
	abortMarker    = 0 // and 1 for commit
)

// decoder turns the batches of an answer into messages. Between answers it keeps only what the next can use.
type decoder struct {
	limit int // for the memory of one answer's messages, their headers and what its batches decompress to
	spent int // of it, by this answer

	aborted  abortedProducers
	headers  headers
	inflater inflater
}

// decodeBatches adds the messages of all batches in b to resp. A batch that cannot be decoded is an error only if
// nothing came before it: else resp ends there and the next fetch begins with it, so that one bad batch holds no good
// message back.
func (d *decoder) decodeBatches(resp *Response, req Request, aborted, b []byte) error {
	d.spent = 0
	d.headers.reset()
	d.aborted.reset(aborted)
	if n := d.countMessages(b); n > 0 {
		resp.Messages = make([]holdfast.Message, 0, n)
	}
	for len(b) > 0 {
		h, rest, err := nextBatch(b)
		if err == nil {
			if req.ReadCommitted && resp.LastStable >= 0 && h.base >= resp.LastStable {
				break
			}
			err = d.decodeBatch(resp, req, &h)
		}
		if err != nil {
			if resp.NextOffset > req.Offset {
				break
			}
			offset := h.base
			if len(b) <= batchMagic {
				offset = req.Offset
			}
			return &BatchError{Topic: req.Topic, Partition: req.Partition, Offset: offset, Err: err}
		}
		resp.NextOffset = max(resp.NextOffset, h.last+1)
		b = rest
	}
	return nil
}

// countMessages is how many messages to make room for at once. It is right for batches that are not compressed; what
// others claim is believed up to the bytes they have.
func (d *decoder) countMessages(b []byte) int {
	total := 0
	for len(b) > 0 {
		h, rest, err := nextBatch(b)
		if err != nil {
			break
		}
		switch {
		case h.control():
		case h.codec() == 0:
			total += min(h.count, len(h.records)/minRecordSize)
		default:
			total += min(h.count, len(h.records))
		}
		b = rest
	}
	return min(total, d.limit/messageSize)
}

func (d *decoder) decodeBatch(resp *Response, req Request, h *batch) error {
	if err := h.verify(); err != nil {
		return err
	}
	if req.ReadCommitted && h.producer != noProducer {
		d.aborted.begin(h.last)
		if h.control() {
			aborts, err := d.isAbortMarker(h)
			if aborts {
				d.aborted.end(h.producer)
			}
			return err
		}
		if h.transactional() && d.aborted.contains(h.producer) {
			return nil
		}
	}
	if h.control() || h.count == 0 || h.last < resp.NextOffset {
		return nil
	}
	if err := d.inflate(h); err != nil {
		return err
	}
	if h.count > len(h.records)/minRecordSize {
		return fmt.Errorf("%w: %d records in %d bytes", ErrCorrupt, h.count, len(h.records))
	}
	if err := d.spend(h.count * messageSize); err != nil {
		return err
	}
	messages, err := d.appendRecords(resp.Messages, h, req, resp.NextOffset)
	if err != nil {
		return err
	}
	resp.Messages = messages
	return nil
}

// inflate decompresses the batch's records into an arena of their own, if they are compressed.
func (d *decoder) inflate(h *batch) error {
	if h.codec() == 0 {
		return nil
	}
	records, err := d.inflater.inflate(h.codec(), h.records, d.limit-d.spent)
	if err != nil {
		return err
	}
	h.records = records
	return d.spend(len(records))
}

func (d *decoder) spend(n int) error {
	if n > d.limit-d.spent {
		return ErrTooLarge
	}
	d.spent += n
	return nil
}

// isAbortMarker reports whether the control batch h ends its producer's transaction by an abort.
func (d *decoder) isAbortMarker(h *batch) (bool, error) {
	if h.count == 0 {
		return false, nil // an empty batch that compaction left
	}
	if err := d.inflate(h); err != nil {
		return false, err
	}
	var r record
	if _, ok := r.decode(h.records); !ok || len(r.key) < controlKeySize {
		return false, fmt.Errorf("%w: control record without a key", ErrCorrupt)
	}
	return r.key[2] == 0 && r.key[3] == abortMarker, nil
}
