package breaker

import (
	"math"
	"sync/atomic"
	"time"
)

const windowSlices = 10

// rates are the rules that need a window.
type rates struct {
	window       time.Duration
	failureRate  float64
	minCalls     uint64
	slowDuration time.Duration
	slowRate     float64
	slowMinCalls uint64
}

// window counts the calls of the last stretch of time, in slices: the running one and the nine before it. It belongs to
// one phase, so that what was seen before a trip is not held against the time after it.
type window struct {
	slice    time.Duration
	badUntil atomic.Int64 // The tick from which on there is neither a failure nor a slow call in the window.
	slices   [windowSlices]slice
}

// slice is three counters, each in one word with the tick (the running number of the slice of time) that it belongs to.
// So to start a new tick and to count the first call in it is one step, and nothing is lost between the two.
type slice struct{ calls, failures, slow atomic.Uint64 }

func newWindow(length time.Duration) *window {
	return &window{slice: length / windowSlices}
}

func (w *window) tick(now time.Duration) uint64 { return uint64(now / w.slice) }

// record counts one call that ended at now.
func (w *window) record(now time.Duration, failed, slow bool) {
	tick := w.tick(now)
	s := &w.slices[tick%windowSlices]
	add(&s.calls, uint32(tick))
	if failed {
		add(&s.failures, uint32(tick))
	}
	if slow {
		add(&s.slow, uint32(tick))
	}
	if failed || slow {
		w.badUntil.Store(int64(tick) + windowSlices)
	}
}

// add counts one in the word's low half if its high half is this tick, and starts a new count if it is another. An add
// that is overtaken by a whole window lands in the newer slice. A full counter stays full.
func add(word *atomic.Uint64, tick uint32) {
	for {
		old := word.Load()
		switch {
		case uint32(old>>32) != tick:
			if word.CompareAndSwap(old, uint64(tick)<<32|1) {
				return
			}
		case uint32(old) == math.MaxUint32:
			return
		default:
			word.Add(1)
			return
		}
	}
}

// sum counts what lies in the window at now.
func (w *window) sum(now time.Duration) (calls, failures, slow uint64) {
	tick := w.tick(now)
	for i := range uint64(windowSlices) {
		t := tick - i // Before the tenth tick this goes below zero and round, to ticks that no slice has.
		s := &w.slices[t%windowSlices]
		calls += count(&s.calls, uint32(t))
		failures += count(&s.failures, uint32(t))
		slow += count(&s.slow, uint32(t))
	}
	return calls, failures, slow
}

func count(word *atomic.Uint64, tick uint32) uint64 {
	v := word.Load()
	if uint32(v>>32) != tick {
		return 0
	}
	return uint64(uint32(v))
}

// exceeded says which rate has been reached, if any.
func (r *rates) exceeded(w *window, now time.Duration) (Cause, bool) {
	if int64(w.tick(now)) >= w.badUntil.Load() {
		return 0, false // The common case, without a walk over the slices.
	}
	calls, failures, slow := w.sum(now)
	switch {
	case r.failureRate > 0 && failures > 0 && calls >= r.minCalls && float64(failures) >= r.failureRate*float64(calls):
		return CauseFailureRate, true
	case r.slowDuration > 0 && slow > 0 && calls >= r.slowMinCalls && float64(slow) >= r.slowRate*float64(calls):
		return CauseSlowCallRate, true
	}
	return 0, false
}
