package clickhousex

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// record is what is known of a batch's rows while they are being stored. Unfit and inserts are set once; the rest is for
// several inserts at a time.
type record struct {
	unfit   map[int]error // The items that the Inserter's own checks refused. All others are the batch's rows.
	inserts []part        // What the rows are sent in.

	mu      sync.Mutex
	refused map[int]error      // The items that the server refused.
	parts   map[part]partState // What became of the parts of the rows.
	doubts  map[part]doubt     // The parts that may be stored.
	found   map[int]bool       // The rows that the table was found to have, beside those of settled parts, or that repeat others.
	stored  int                // Rows.
	splits  int                // Inserts made of halves by this Write.
}

// part is a range of a batch's rows, [from, to).
type part struct{ from, to int }

func (p part) rows() int { return p.to - p.from }

func (p part) halves() (one, other part) {
	middle := p.from + p.rows()/2
	return part{p.from, middle}, part{middle, p.to}
}

func rowsOf(parts []part) (rows int) {
	for _, p := range parts {
		rows += p.rows()
	}
	return rows
}

type partState int

const (
	partUntried partState = iota
	partSplit             // Refused as a whole: its halves stand for it.
	partSettled           // Stored, or a single row that the server refused.
)

// doubt is the last attempt that may have stored its part. No later one has.
type doubt struct {
	err   error
	query string // Its id for the server, or empty.
}

func newRecord(unfit map[int]error) *record {
	return &record{
		unfit:   unfit,
		refused: make(map[int]error), parts: make(map[part]partState), doubts: make(map[part]doubt), found: make(map[int]bool),
	}
}

// begun says that a row of the batch is stored or may be: from then on the batch has these rows, this token and these
// parts, until it is stored.
func (r *record) begun() bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stored > 0 || len(r.doubts) > 0
}

func (r *record) state(p part) partState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.parts[p]
}

func (r *record) note(p part, state partState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parts[p] = state
}

// split notes that a part's halves stand for it, unless this makes too many inserts.
func (r *record) split(p part, most int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.splits+2 > most {
		return false
	}
	r.splits += 2
	r.parts[p] = partSplit
	return true
}

// settle notes that the part is stored, and says how many rows that makes.
func (r *record) settle(p part) (rows int) {
	rows = rowsOf(r.missing(p))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stored += rows
	r.parts[p] = partSettled
	delete(r.doubts, p)
	return rows
}

// refuse notes that the server refuses the one row of a part, unless that makes too many.
func (r *record) refuse(p part, item int, err error, most int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.refused) >= most {
		return false
	}
	r.refused[item] = err
	r.parts[p] = partSettled
	return true
}

func (r *record) mayBeStored(p part, d doubt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doubts[p] = d
}

func (r *record) doubtOf(p part) (doubt, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, doubted := r.doubts[p]
	return d, doubted
}

// anyDoubt gives the error of the first part that may be stored, nil without one.
func (r *record) anyDoubt() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.doubts) == 0 {
		return nil
	}
	first := slices.MinFunc(slices.Collect(maps.Keys(r.doubts)), func(x, y part) int { return x.from - y.from })
	return r.doubts[first].err
}

// find notes rows that the table has, and that nothing else of the part is stored.
func (r *record) find(p part, rows []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, row := range rows {
		r.found[row] = true
	}
	r.stored += len(rows)
	delete(r.doubts, p)
}

// skip notes rows that are not to be sent, since others of the batch stand for them.
func (r *record) skip(rows []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, row := range rows {
		r.found[row] = true
	}
}

// missing gives the runs of the part's rows that the table was not found to have.
func (r *record) missing(p part) []part {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.found) == 0 {
		return []part{p}
	}
	var runs []part
	for row := p.from; row < p.to; row++ {
		switch last := len(runs) - 1; {
		case r.found[row]:
		case last >= 0 && runs[last].to == row:
			runs[last].to++
		default:
			runs = append(runs, part{row, row + 1})
		}
	}
	return runs
}

// records keeps the records of begun batches from one Write to the next of the same batch. The zero value is ready. Safe
// for concurrent use.
type records struct {
	mu      sync.Mutex
	batches map[string]keptRecord
}

type keptRecord struct {
	*record
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

// take gives a batch's record, nil when there is none.
func (r *records) take(batch string) *record {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := r.batches[batch]
	delete(r.batches, batch)
	return kept.record
}

func (r *records) keep(batch string, rec *record) {
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
