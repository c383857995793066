package wire

import (
	"fmt"

	"github.com/holdfast-io/holdfast"
)

// arenaSize is how much memory a message that is kept keeps, at most, unless it is larger itself. The runtime has a free
// list for blocks of this size; larger ones cost page faults.
const arenaSize = 32 << 10

// The key of a control record: its version, then its type, 2 bytes each.
const (
	controlKeySize = 4
	abortMarker    = 0 // and 1 for commit
)

// Reader decodes answers, one after the other, a few messages at a time. It belongs to one goroutine at a time.
type Reader struct {
	limit   int // for what a batch decompresses to, and for a record's headers
	most    int // messages at a time
	buffers *Buffers

	answer  Answer
	batches []byte // of the answer, not begun yet
	batch   batch
	records []byte  // of the batch, not decoded yet
	left    int     // how many they are
	room    int     // for their bytes, in what Next is to return
	delta   int64   // of the last decoded record's offset, -1 for none
	next    int64   // what follows all that was decoded
	scratch *[]byte // where the batch was inflated to, if it was
	failed  error

	arena   []byte
	aborted abortedProducers
	headers headers
}

// NewReader makes a Reader for the answers that Conns with the same configuration receive. It returns at most that many
// messages at a time, and no further one once they were inflated to as many bytes as were asked for.
func NewReader(cfg Config, most int) *Reader {
	cfg = cfg.withDefaults()
	return &Reader{limit: cfg.MaxBytes, most: most, buffers: cfg.Buffers}
}

// Begin begins with a, and forgets what is left of the answer before.
func (r *Reader) Begin(a Answer) {
	r.end()
	r.answer, r.batches, r.next, r.failed = a, a.batches, a.request.Offset, nil
	r.aborted.reset(a.aborted)
}

// More reports whether the answer has more to read.
func (r *Reader) More() bool { return r.answer.buffer != nil }

// Next returns the answer's next messages and the offset that follows them, and what else the log has there. Only the
// last ones may be none. The messages share memory with their neighbours, and with an arena's worth of those before them.
//
// An error is a *BatchError and lasts: the batch's checksum is right, so fetching it again helps nothing.
func (r *Reader) Next() (messages []holdfast.Message, next int64, err error) {
	if r.failed != nil || !r.More() {
		return nil, r.next, r.failed
	}
	r.room = max(r.answer.request.MaxBytes, 1)
	r.headers.reset()
	for r.failed == nil && r.room > 0 && (messages == nil || len(messages) < cap(messages)) {
		if r.left == 0 {
			if len(r.batches) == 0 {
				r.next = r.answer.NextOffset
				r.end()
				break
			}
			r.failed = r.beginBatch()
			continue
		}
		if messages == nil {
			messages = make([]holdfast.Message, 0, min(r.most, max(r.answer.records, 1)))
		}
		messages, r.failed = r.decodeRecords(messages)
	}
	r.answer.records -= len(messages)
	if len(messages) > 0 {
		return messages, r.next, nil
	}
	return nil, r.next, r.failed
}

// end gives the answer's memory back.
func (r *Reader) end() {
	r.endBatch()
	if r.answer.buffer != nil {
		r.buffers.answered(r.answer.buffer)
	}
	r.answer, r.batches, r.arena = Answer{}, nil, nil
	r.headers.reset()
}

// beginBatch begins with the next batch, or steps over it.
func (r *Reader) beginBatch() error {
	h, rest, err := nextBatch(r.batches)
	if err != nil {
		return r.answer.batchError(r.next, err) // Not after Answer.check.
	}
	r.batch, r.batches = h, rest
	wanted, err := r.wanted()
	if err == nil && wanted {
		err = r.inflate()
	}
	if err == nil && wanted && h.count > len(r.records)/minRecordSize {
		err = fmt.Errorf("%w: %d records in %d bytes", ErrCorrupt, h.count, len(r.records))
	}
	if err != nil {
		return r.answer.batchError(h.base, err)
	}
	if !wanted {
		r.answer.records -= h.count
		r.next = max(r.next, h.last+1)
		return nil
	}
	r.left, r.delta = h.count, -1
	return nil
}

// wanted reports whether the batch has messages for us.
func (r *Reader) wanted() (bool, error) {
	h := &r.batch
	if r.answer.request.ReadCommitted && h.producer != noProducer {
		r.aborted.begin(h.last)
		if h.control() {
			aborts, err := r.isAbortMarker()
			if aborts {
				r.aborted.end(h.producer)
			}
			return false, err
		}
		if h.transactional() && r.aborted.contains(h.producer) {
			return false, nil
		}
	}
	return !h.control() && h.count > 0 && h.last >= r.next, nil
}

// isAbortMarker reports whether the control batch ends its producer's transaction by an abort.
func (r *Reader) isAbortMarker() (bool, error) {
	if r.batch.count == 0 {
		return false, nil // an empty batch that compaction left
	}
	if err := r.inflate(); err != nil {
		return false, err
	}
	defer r.endBatch()
	var rec record
	body, _, ok := cutRecord(r.records)
	if !ok || !rec.decode(body) || len(rec.key) < controlKeySize {
		return false, fmt.Errorf("%w: control record without a key", ErrCorrupt)
	}
	return rec.key[2] == 0 && rec.key[3] == abortMarker, nil
}

// inflate decompresses the batch's records, if they are compressed.
func (r *Reader) inflate() error {
	r.records = r.batch.records
	if r.batch.codec() == 0 {
		return nil
	}
	r.scratch = r.buffers.toInflate()
	var err error
	r.records, err = inflate(r.scratch, r.batch.codec(), r.batch.records, r.limit)
	return err
}

func (r *Reader) endBatch() {
	if r.scratch != nil {
		r.buffers.inflatedAll(r.scratch)
	}
	r.records, r.scratch, r.left = nil, nil, 0
}

// newArena makes room for a record and those that follow it in the batch and the answer, more or less.
func (r *Reader) newArena(record, records int) []byte {
	return make([]byte, 0, max(record, min(records+len(r.batches), arenaSize)))
}
