package breaker_test

import (
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

// reference is the breaker as one would write it with no thought of speed: it keeps every call for ever and works out
// every answer from the whole of them. It is not safe for concurrent use and has no jitter.
type reference struct {
	cfg breaker.Config // With every default filled in.
	now time.Duration  // Since it was made.

	state  breaker.State
	forced bool
	since  time.Duration
	until  time.Duration // Open: when half-open is due.
	opened int           // Since it was last closed.
	epoch  int           // Which stay in which state.
	calls  []*refCall
	ended  []*refCall // In the order in which they ended.
	totals breaker.Totals
	events []breaker.Event

	turnEnds time.Duration // Until then a wait may have to leave room for the one before it.
}

type refCall struct {
	epoch    int // Of its admission.
	began    time.Duration
	ended    time.Duration
	running  bool
	counted  bool // It ended in its own epoch, in time.
	outcome  breaker.Outcome
	slow     bool
	halfOpen bool
}

type verdict int

const (
	admitted verdict = iota
	rejectedOpen
	rejectedTooMany
)

func (r *reference) visible() breaker.State {
	if r.state == breaker.Open && !r.forced && r.now >= r.until {
		return breaker.HalfOpen
	}
	return r.state
}

func (r *reference) allow() (*refCall, verdict) {
	if r.visible() == breaker.Open || r.state == breaker.HalfOpen && r.probesOut() >= r.cfg.MaxProbes {
		r.totals.RejectedOpen++
		return nil, rejectedOpen
	}
	if r.cfg.MaxConcurrentCalls > 0 && r.running() >= r.cfg.MaxConcurrentCalls {
		r.totals.RejectedTooMany++
		return nil, rejectedTooMany
	}
	if r.state == breaker.Open {
		r.halfOpen()
	}
	c := &refCall{epoch: r.epoch, began: r.now, running: true, halfOpen: r.state == breaker.HalfOpen}
	r.calls = append(r.calls, c)
	r.totals.Calls++
	return c, admitted
}

func (r *reference) halfOpen() { r.enter(breaker.HalfOpen, false, breaker.CauseTimeout) }

// ready says whether a call would be admitted at a time at which the states are what they are now.
func (r *reference) ready(at time.Duration) bool {
	then := *r
	then.now = at
	free := then.visible() == breaker.Closed || then.visible() == breaker.HalfOpen && then.probesOut() < then.cfg.MaxProbes
	return free && (then.cfg.MaxConcurrentCalls == 0 || then.running() < then.cfg.MaxConcurrentCalls)
}

func (r *reference) done(c *refCall, o breaker.Outcome, timeout bool) {
	if !c.running {
		return
	}
	c.running, c.ended, c.outcome = false, r.now, o
	r.ended = append(r.ended, c)
	c.slow = r.cfg.SlowCallDuration > 0 && o != breaker.Ignore && c.ended-c.began >= r.cfg.SlowCallDuration
	inTime := !c.halfOpen || r.now < c.began+r.cfg.ProbeTimeout
	c.counted = c.epoch == r.epoch && (inTime || o == breaker.Success && !c.slow)
	switch o {
	case breaker.Success:
		r.totals.Successes++
	case breaker.Ignore:
		r.totals.Ignored++
	default:
		r.totals.Failures++
		if timeout {
			r.totals.Timeouts++
		}
	}
	if c.slow {
		r.totals.Slow++
	}
	if !c.counted || o == breaker.Ignore {
		return
	}
	if c.halfOpen {
		switch {
		case o != breaker.Success || c.slow:
			r.enter(breaker.Open, false, breaker.CauseProbeFailed)
		case r.counts().Successes >= uint64(r.cfg.SuccessThreshold):
			r.enter(breaker.Closed, false, breaker.CauseRecovered)
		}
		return
	}
	if cause := r.cause(o); cause != 0 {
		r.enter(breaker.Open, false, cause)
	}
}

// cause is the first rule that says open.
func (r *reference) cause(o breaker.Outcome) breaker.Cause {
	n := r.counts()
	share := func(part, whole uint64, rate float64, least int) bool {
		return part > 0 && whole >= uint64(least) && float64(part) >= rate*float64(whole)
	}
	switch {
	case o == breaker.Trip:
		return breaker.CauseTrip
	case o == breaker.Failure && r.cfg.MaxFailures > 0 && n.ConsecutiveFailures >= uint64(r.cfg.MaxFailures):
		return breaker.CauseConsecutiveFailures
	case r.cfg.FailureRate > 0 && share(n.WindowFailures, n.WindowCalls, r.cfg.FailureRate, r.cfg.MinCalls):
		return breaker.CauseFailureRate
	case r.cfg.SlowCallDuration > 0 && share(n.WindowSlow, n.WindowCalls, r.cfg.SlowCallRate, r.cfg.SlowMinCalls):
		return breaker.CauseSlowCallRate
	case r.cfg.ShouldTrip != nil && r.cfg.ShouldTrip(n):
		return breaker.CauseShouldTrip
	}
	return 0
}

func (r *reference) forceOpen() { r.enter(breaker.Open, true, breaker.CauseForced) }
func (r *reference) reset()     { r.enter(breaker.Closed, false, breaker.CauseReset) }

func (r *reference) enter(to breaker.State, forced bool, cause breaker.Cause) {
	var openFor time.Duration
	if to == breaker.Open && !forced {
		openFor = r.cfg.Timeout
		for range r.opened {
			openFor = min(openFor*2, r.cfg.MaxTimeout)
		}
		r.opened++
	}
	if to != r.state || forced != r.forced {
		r.events = append(r.events, breaker.Event{
			Name: r.cfg.Name, From: r.state, To: to, Cause: cause, Counts: r.counts(), OpenFor: openFor,
		})
	}
	if to != r.state {
		r.totals.StateChanges++
	}
	if to == breaker.Closed {
		r.opened = 0
	}
	r.state, r.forced, r.since, r.until = to, forced, r.now, r.now+openFor
	r.epoch++
}

func (r *reference) running() (n int) {
	for _, c := range r.calls {
		if c.running {
			n++
		}
	}
	return n
}

func (r *reference) probesOut() (n int) {
	for _, c := range r.calls {
		if c.epoch == r.epoch && c.running && r.now < c.began+r.cfg.ProbeTimeout {
			n++
		}
	}
	return n
}

func (r *reference) counts() breaker.Counts {
	var n breaker.Counts
	for _, c := range r.calls {
		if c.epoch == r.epoch {
			n.Calls++
		}
	}
	for _, c := range r.ended {
		if c.epoch != r.epoch || !c.counted {
			continue
		}
		if c.slow {
			n.Slow++
		}
		failed := c.outcome == breaker.Failure || c.outcome == breaker.Trip
		switch {
		case c.outcome == breaker.Ignore:
			n.Ignored++
			continue
		case failed:
			n.Failures++
			n.ConsecutiveFailures++
		default:
			n.Successes++
			n.ConsecutiveFailures = 0
		}
		if r.cfg.Window > 0 && r.slice(r.now)-r.slice(c.ended) < 10 {
			n.WindowCalls++
			if failed {
				n.WindowFailures++
			}
			if c.slow {
				n.WindowSlow++
			}
		}
	}
	if r.state != breaker.Closed {
		n.ConsecutiveFailures, n.WindowCalls, n.WindowFailures, n.WindowSlow = 0, 0, 0, 0
	}
	return n
}

func (r *reference) slice(at time.Duration) int { return int((at - r.since) / (r.cfg.Window / 10)) }

func (r *reference) stats() breaker.Stats {
	s := breaker.Stats{
		Name: r.cfg.Name, State: r.visible(), Forced: r.forced, Counts: r.counts(), Totals: r.totals,
		RunningCalls: r.running(),
	}
	if s.State == breaker.Open && !r.forced {
		s.TimeUntilHalfOpen = r.until - r.now
	}
	return s
}
