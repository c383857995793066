package breaker

import "time"

// Counts are the calls since the last change of state, the outcomes that came too late for it left out. Under load they
// may be off by the calls that begin or end at the very moment.
type Counts struct {
	Calls     uint64 // Admitted.
	Successes uint64
	Failures  uint64 // Panics included.
	Ignored   uint64
	Slow      uint64 // However they ended.

	ConsecutiveFailures uint64 // Since the last success. Zero in the other states than closed.

	// In Config.Window; zero without one, and in the other states than closed.
	WindowCalls    uint64
	WindowFailures uint64
	WindowSlow     uint64
}

// Totals only grow. Calls is at least the sum of Successes, Failures and Ignored; the rest is running, or was admitted by
// Allow and never reported.
type Totals struct {
	Calls           uint64 // Admitted.
	Successes       uint64
	Failures        uint64
	Ignored         uint64
	Timeouts        uint64 // Of the failures: a deadline was exceeded.
	Panics          uint64 // Of the failures: the call panicked or ended its goroutine.
	Slow            uint64 // However they ended.
	RejectedOpen    uint64 // By the open circuit, or because the probes were out.
	RejectedTooMany uint64 // By MaxConcurrentCalls.
	StateChanges    uint64
}

// Stats is a snapshot.
type Stats struct {
	Name   string
	State  State
	Forced bool // By ForceOpen.
	Counts Counts
	Totals Totals

	// Since is when State began. Of a half-open circuit that nobody has called yet it is when the circuit opened.
	Since time.Time

	// RunningCalls are the calls that were admitted and have not reported.
	RunningCalls int

	// TimeUntilHalfOpen is how long the circuit will stay open. Zero when it is not open, and when it was forced.
	TimeUntilHalfOpen time.Duration
}

// Stats gives a snapshot. It changes nothing: of an open circuit whose timeout has passed it says half-open, the state
// that the next call will find. A nil or disabled breaker is closed and counts nothing. Safe for concurrent use.
func (b *Breaker) Stats() Stats {
	if b == nil {
		return Stats{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	ph := b.phase.Load()
	s := Stats{
		Name: b.name, State: ph.visible(), Forced: ph.forced, Since: ph.began,
		Counts: b.countsNow(ph), Totals: b.totals(),
	}
	s.RunningCalls = int(s.Totals.Calls - s.Totals.Successes - s.Totals.Failures - s.Totals.Ignored)
	if s.State == Open && !s.Forced {
		s.TimeUntilHalfOpen = ph.gate.blockedFor(ph.now())
	}
	return s
}

// totals reads the calls last, so that they are never fewer than their outcomes.
func (b *Breaker) totals() Totals {
	t := Totals{
		Successes:       b.successes.Load(),
		Failures:        b.failures.Load(),
		Ignored:         b.ignored.Load(),
		Timeouts:        b.timeouts.Load(),
		Panics:          b.panics.Load(),
		Slow:            b.slow.Load(),
		RejectedOpen:    b.rejectedOpen.Load(),
		RejectedTooMany: b.rejectedTooMany.Load(),
		StateChanges:    b.changes.Load(),
	}
	t.Calls = b.calls.Load()
	return t
}

// base is what had been counted when a phase began.
type base struct {
	calls, ignored uint64
	ended
}

// ended are the outcomes of the phase. The base is read first, so that no total is below it; the slow calls before the
// others, of which they are some.
func (b *Breaker) ended() ended {
	var before ended
	if p := b.base.Load(); p != nil {
		before = p.ended
	}
	slow, failures := b.slow.Load(), b.failures.Load()
	return ended{successes: b.successes.Load(), failures: failures, slow: slow}.since(before)
}

// counts reads the base first, as ended does. The window is as the last turn left it.
func (b *Breaker) counts(ph *phase) Counts {
	var before base
	if p := b.base.Load(); p != nil {
		before = *p
	}
	e := b.ended()
	c := Counts{
		Successes: e.successes,
		Failures:  e.failures,
		Ignored:   b.ignored.Load() - before.ignored,
		Slow:      e.slow,

		ConsecutiveFailures: uint64(ph.streak.Load()),
	}
	c.Calls = b.calls.Load() - before.calls
	if ph.window != nil {
		in := e.since(ph.window.view.Load().start)
		c.WindowCalls, c.WindowFailures, c.WindowSlow = in.calls(), in.failures, in.slow
	}
	return c
}

// countsNow are the counts with the window as it is now. It needs the lock.
func (b *Breaker) countsNow(ph *phase) Counts {
	if ph.window != nil {
		ph.window.turn(ph.now(), b.ended())
	}
	return b.counts(ph)
}

// tally adds one outcome to the totals.
func (b *Breaker) tally(o Outcome, f flags) {
	switch o {
	case Success:
		b.successes.Add(1)
	case Ignore:
		b.ignored.Add(1)
	default:
		b.failures.Add(1)
		if f.timeout {
			b.timeouts.Add(1)
		}
		if f.panicked {
			b.panics.Add(1)
		}
	}
	if f.slow {
		b.slow.Add(1)
	}
}

// tallyLate adds an outcome to the totals and keeps it out of the counts. It needs the lock. The totals come first: see
// counts.
func (b *Breaker) tallyLate(o Outcome, f flags) {
	b.tally(o, f)
	late := *b.base.Load() // Only the first phase has none, and nothing comes late for the first.
	switch o {
	case Success:
		late.successes++
	case Ignore:
		late.ignored++
	default:
		late.failures++
	}
	if f.slow {
		late.slow++
	}
	b.base.Store(&late)
}
