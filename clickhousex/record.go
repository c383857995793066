package clickhousex

import (
	"sync"
	"time"
)

// record is what is known of a batch's rows while they are being stored.
type record struct {
	unfit   map[int]error      // The items that the Inserter's own checks refused. All others are the batch's rows.
	refused map[int]error      // The items that the server refused.
	parts   map[part]partState // What became of the parts of the rows.
	stored  int                // Rows.
	unknown error              // Of an attempt that may have stored its part; no later one has stored it.
}

// part is a range of a batch's rows, [from, to).
type part struct{ from, to int }

type partState int

const (
	partUntried partState = iota
	partSplit             // Refused as a whole: its halves stand for it.
	partSettled           // Stored, or a single row that the server refused.
)

// begun says that a row of the batch is stored or may be: from then on the batch has these rows, this token and these
// parts, until it is stored.
func (r *record) begun() bool { return r.stored > 0 || r.unknown != nil }

func (r *record) note(p part, state partState) {
	if r.parts == nil {
		r.parts = make(map[part]partState)
	}
	r.parts[p] = state
}

func (r *record) refuse(item int, err error) {
	if r.refused == nil {
		r.refused = make(map[int]error)
	}
	r.refused[item] = err
}

// records keeps the records of begun batches from one Write to the next of the same batch. The zero value is ready. Safe
// for concurrent use.
type records struct {
	mu      sync.Mutex
	batches map[string]keptRecord
}

type keptRecord struct {
	record
	since time.Time
}

// maxRecords bounds them, far above what a pipeline holds. Whoever keeps more batches waiting has the oldest written as
// if it were new: rows of it may be stored twice, or be refused although they are stored.
const maxRecords = 1024

func (r *records) empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.batches) == 0
}

// take gives a batch's record, an empty one when there is none.
func (r *records) take(batch string) record {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := r.batches[batch]
	delete(r.batches, batch)
	return kept.record
}

func (r *records) keep(batch string, rec record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.batches == nil {
		r.batches = make(map[string]keptRecord)
	}
	if len(r.batches) >= maxRecords {
		oldest := ""
		for other, kept := range r.batches {
			if oldest == "" || kept.since.Before(r.batches[oldest].since) {
				oldest = other
			}
		}
		delete(r.batches, oldest)
	}
	r.batches[batch] = keptRecord{rec, time.Now()}
}
