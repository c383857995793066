package breaker

import (
	"sync/atomic"
	"time"
)

// Permit is the right to make one call, from Allow, for those who cannot wrap the call in a function. Report how it
// ended with Done or DoneAs, exactly once and on every path: until then the call counts as running, and a probe keeps
// its slot until Config.ProbeTimeout. The first report counts; further ones do nothing, nor does one that comes after
// the state has changed (it still shows in Stats.Totals). The zero Permit, which a nil or disabled breaker gives, does
// nothing. Do not copy a Permit. Safe for concurrent use.
type Permit struct {
	breaker *Breaker
	call    call
	done    atomic.Bool // Also makes vet find copies.
}

// Allow admits one call, for those who cannot use Execute, or says why not: an OpenError or ErrTooManyCalls. An admitted
// call must be reported with the Permit.
func (b *Breaker) Allow() (Permit, error) {
	if b == nil || b.disabled {
		return Permit{}, nil
	}
	c, err := b.admit()
	if err != nil {
		return Permit{}, err
	}
	return Permit{breaker: b, call: c}, nil
}

// Done reports the call's end. What err means is Config.Classify's to say; nil is a success.
func (p *Permit) Done(err error) {
	if p.first() {
		p.breaker.conclude(p.call, func() (Outcome, flags) { return p.breaker.judge(err) })
	}
}

// Answered stops the clock by which Config.SlowCallDuration is measured: the time from here to Done, in which the caller
// reads an answer that has begun, is the caller's own. The later of two calls counts. Not to be called at the same time
// as Done.
func (p *Permit) Answered() {
	if p != nil && p.breaker != nil && p.breaker.rates != nil {
		p.call.answered = max(p.call.phase.now(), 1) // Not 0, which is no answer.
	}
}

// DoneAs reports the call's end for a caller who knows better than Config.Classify what it means. Err tells a timeout
// from another failure, and may be nil.
func (p *Permit) DoneAs(o Outcome, err error) {
	if p.first() {
		p.breaker.conclude(p.call, func() (Outcome, flags) { return o, o.flags(err) })
	}
}

func (p *Permit) first() bool {
	return p != nil && p.breaker != nil && !p.done.Swap(true)
}

// call is an admitted call.
type call struct {
	phase    *phase
	probe    uint64        // The number of its lease; 0 for a call admitted while closed.
	started  time.Duration // On the phase's clock, when slow calls are looked for.
	answered time.Duration // Likewise, when the answer began; 0 when it is not told apart from the call's end.
}

// flags are what there is to say of a call beside its outcome.
type flags struct{ timeout, panicked, slow bool }
