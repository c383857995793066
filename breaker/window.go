package breaker

import (
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

// exceeded says which rate has been reached by the calls in a window, if any.
func (r *rates) exceeded(in ended) (Cause, bool) {
	calls := in.calls()
	switch {
	case r.failureRate > 0 && in.failures > 0 && calls >= r.minCalls && float64(in.failures) >= r.failureRate*float64(calls):
		return CauseFailureRate, true
	case r.slowDuration > 0 && in.slow > 0 && calls >= r.slowMinCalls && float64(in.slow) >= r.slowRate*float64(calls):
		return CauseSlowCallRate, true
	}
	return 0, false
}

// ended are the calls that the rates are made of.
type ended struct{ successes, failures, slow uint64 }

func (e ended) calls() uint64 { return e.successes + e.failures }

// since is what came after start. It is nothing, and not less, for a reader who is overtaken by a change of phase.
func (e ended) since(start ended) ended {
	return ended{
		successes: e.successes - min(e.successes, start.successes),
		failures:  e.failures - min(e.failures, start.failures),
		slow:      e.slow - min(e.slow, start.slow),
	}
}

// window looks at the calls of the last stretch of time, in slices: the running one and the nine before it. It counts
// none of them: it keeps how the phase's counts stood as each slice began, and what they have grown by since the oldest
// slice began is what lies in the window. So a call costs it no more than a look at the clock, and no call is lost when
// the slices turn. It belongs to one phase, so that what was seen before a trip is not held against the time after it.
type window struct {
	slice  time.Duration
	view   atomic.Pointer[view]
	starts [windowSlices]ended // Of the slice with the running number i at i%windowSlices. The breaker's lock guards them.
}

// view is a window during one slice.
type view struct {
	tick  int64         // The slice's running number.
	until time.Duration // When it ends, on the phase's clock.
	start ended         // How the counts stood when the oldest slice began.
}

func newWindow(length time.Duration) *window {
	w := &window{slice: length / windowSlices}
	w.view.Store(&view{until: w.slice})
	return w
}

// turn begins the slices up to the one at now, with the counts as they stand. It needs the breaker's lock.
func (w *window) turn(now time.Duration, counts ended) {
	v := w.view.Load()
	if now < v.until {
		return
	}
	tick := int64(now / w.slice)
	oldest := tick - windowSlices + 1
	for t := max(v.tick+1, oldest); t <= tick; t++ {
		w.starts[t%windowSlices] = counts
	}
	next := &view{tick: tick, until: time.Duration(tick+1) * w.slice}
	if oldest > 0 { // Else the phase began within the window.
		next.start = w.starts[oldest%windowSlices]
	}
	w.view.Store(next)
}
