package breaker

import (
	"cmp"
	"time"
)

// conclude settles a call by what judge says, which runs code of the program's: the call itself, Config.Classify, an
// error's methods. When that panics or ends the goroutine, the call has failed; without a recover, so that a panic keeps
// its stack.
func (b *Breaker) conclude(c call, judge func() (Outcome, flags)) {
	o, f := Failure, flags{panicked: true}
	defer func() { b.settle(c, o, f) }()
	o, f = judge()
}

// settle counts an admitted call's outcome, and opens or closes the circuit by it.
func (b *Breaker) settle(c call, o Outcome, f flags) {
	ph := c.phase
	if o != Success || !b.simpleOut || !ph.is(Closed) || b.phase.Load() != ph {
		b.settleByRules(c, o, f)
		return
	}
	if ph.streak.Load() != 0 { // Only then a write, so that calls on several cores do not fight for the line.
		ph.streak.Store(0)
	}
	b.successes.Add(1)
}

func (b *Breaker) settleByRules(c call, o Outcome, f flags) {
	ph := c.phase
	var now time.Duration
	if b.rates != nil || ph.is(HalfOpen) {
		now = ph.now()
	}
	if b.limit > 0 {
		b.leave() // Before all else, because a listener may end the goroutine.
	}
	f.slow = b.rates != nil && b.rates.slowDuration > 0 && o != Ignore && cmp.Or(c.answered, now)-c.started >= b.rates.slowDuration
	switch {
	case ph.is(HalfOpen):
		b.settleProbe(c, o, f, now)
	case b.phase.Load() != ph:
		b.mu.Lock()
		b.tallyLate(o, f)
		b.mu.Unlock()
	default:
		b.turnWindow(ph, now)
		b.tally(o, f)
	}
	if ph.is(Closed) && o != Ignore && b.phase.Load() == ph {
		if cause, ok := b.mustTrip(ph, o); ok {
			b.trip(ph, cause)
		}
	}
}

// turnWindow takes the lock for the first outcome in a slice.
func (b *Breaker) turnWindow(ph *phase, now time.Duration) {
	if ph.window == nil || now < ph.window.view.Load().until {
		return
	}
	b.mu.Lock()
	if b.phase.Load() == ph {
		ph.window.turn(now, b.ended())
	}
	b.mu.Unlock()
}

// mustTrip notes the outcome of a closed phase and asks every rule.
func (b *Breaker) mustTrip(ph *phase, o Outcome) (Cause, bool) {
	failed := o != Success
	if failed {
		if ph.streak.Add(1) < 0 {
			ph.streak.Store(1<<31 - 1) // Full, and stays full.
		}
	} else if ph.streak.Load() != 0 {
		ph.streak.Store(0)
	}
	if o == Trip {
		return CauseTrip, true
	}
	if failed && b.maxFailures > 0 && ph.streak.Load() >= b.maxFailures {
		return CauseConsecutiveFailures, true
	}
	if ph.window != nil {
		if cause, ok := b.rates.exceeded(b.ended().since(ph.window.view.Load().start)); ok {
			return cause, true
		}
	}
	return CauseShouldTrip, b.shouldTrip != nil && b.shouldTrip(b.counts(ph))
}

// trip opens the circuit if ph is not over.
func (b *Breaker) trip(ph *phase, cause Cause) {
	b.mu.Lock()
	if b.phase.Load() == ph {
		b.open(cause)
	}
	b.mu.Unlock()
	b.listeners.deliver(&b.mu)
}

func (b *Breaker) settleProbe(c call, o Outcome, f flags, now time.Duration) {
	ph := c.phase
	b.mu.Lock()
	good := o == Success && !f.slow
	switch {
	case b.phase.Load() != ph:
		b.tallyLate(o, f)
	case !ph.gate.giveBack(c.probe, now, int(b.maxProbes)) && !good: // A success proves as much when it comes late.
		b.tallyLate(o, f)
	case o == Ignore:
		b.tally(o, f)
	case good:
		b.tally(o, f)
		ph.gate.successes++
		if ph.gate.successes >= b.successThreshold {
			b.moveTo(b.newPhase(Closed), CauseRecovered, 0)
		}
	default:
		b.tally(o, f)
		b.open(CauseProbeFailed)
	}
	b.wakeFirst()
	b.mu.Unlock()
	b.listeners.deliver(&b.mu)
}
