package dlq

import (
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
)

// Summary is what became of the records that were read.
type Summary struct {
	Read     int           // Records.
	Redriven int           // Letters that were taken home.
	Parked   int           // Letters that had come back too often.
	Failed   int           // Letters that the target refuses for good. They are parked, too.
	Returned int           // Letters that were written meanwhile about messages that had come home before.
	Skipped  map[State]int // Records that stay where they are, by why.

	// Next is where the next run goes on, by partition of the dead-letter topic, as far as this one had them.
	Next map[int]int64
}

// RedriveStats is what became of letters in all runs of a Redrive. The numbers only grow.
type RedriveStats struct {
	Running                                     bool   // A Run is on.
	Redriven, Parked, Failed, Returned, Skipped uint64 // As in Summary.
}

// Stats tells what became of letters in all runs so far, the current one included.
func (r *Redrive) Stats() RedriveStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.past
	if running := r.current.Load(); running != nil {
		s.Running = true
		s.add(running.tally)
	}
	return s
}

// end has a run counted among those that are over.
func (r *Redrive) end(over *run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past.add(over.tally)
	r.current.Store(nil)
}

func (s *RedriveStats) add(t *tally) {
	s.Redriven += uint64(t.redriven.Load())
	s.Parked += uint64(t.parked.Load())
	s.Failed += uint64(t.failed.Load())
	s.Returned += uint64(t.returned.Load())
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.skipped {
		s.Skipped += uint64(n)
	}
}

// tally counts.
type tally struct {
	log                                *slog.Logger
	redriven, parked, failed, returned atomic.Int64
	troubled                           atomic.Bool

	mu      sync.Mutex
	records int
	skipped map[State]int
	next    map[int]int64
}

func newTally(log *slog.Logger) *tally {
	return &tally{log: log, skipped: make(map[State]int), next: make(map[int]int64)}
}

// read counts records.
func (t *tally) read(states map[State]int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s, n := range states {
		t.records += n
		if s != Open && s != Exhausted {
			t.skipped[s] += n
		}
	}
}

// reached notes up to where a partition's letters are settled.
func (t *tally) reached(partition int, next int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next[partition] = max(t.next[partition], next)
}

// trouble logs that something has failed which is tried again, once until it is over.
func (t *tally) trouble(err error) {
	if t.troubled.CompareAndSwap(false, true) {
		t.log.Warn("dlq: held up, will try again", slog.Any("err", err))
	}
}

// fine logs that the trouble is over.
func (t *tally) fine() {
	if t.troubled.CompareAndSwap(true, false) {
		t.log.Info("dlq: goes on")
	}
}

func (t *tally) summary() Summary {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Summary{
		Read:     t.records,
		Redriven: int(t.redriven.Load()),
		Parked:   int(t.parked.Load()),
		Failed:   int(t.failed.Load()),
		Returned: int(t.returned.Load()),
		Skipped:  maps.Clone(t.skipped),
		Next:     maps.Clone(t.next),
	}
}
