package breaker

import (
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// phase is one stay in one state. A call keeps the phase that admitted it, so the pointer is the generation: what is
// reported to a phase that is over touches nothing that came after it.
type phase struct {
	state  int8
	forced bool
	streak atomic.Int32 // Closed: failures since the last success.
	began  time.Time    // The phase's clock counts from here.
	window *window      // Closed, and only with a rule that needs it.
	gate   *gate        // Open and half-open.
}

func (ph *phase) is(s State) bool { return ph.state == int8(s) }

func (ph *phase) now() time.Duration { return time.Since(ph.began) }

// visible is the state as everybody sees it: the open time ends by itself.
func (ph *phase) visible() State {
	if ph.is(Open) && ph.gate.blockedFor(ph.now()) == 0 {
		return HalfOpen
	}
	return State(ph.state)
}

const forever = time.Duration(math.MaxInt64)

// gate lets nothing through until its time has come: the end of the open time, or half-open the end of the first lease
// while all probes are out.
type gate struct {
	until     atomic.Int64 // On the phase's clock.
	rejection atomic.Pointer[OpenError]
	probes    // Half-open.
}

func (g *gate) blockedFor(now time.Duration) time.Duration {
	return max(time.Duration(g.until.Load())-now, 0)
}

// probes are the calls that decide a half-open phase. The breaker's lock guards them.
type probes struct {
	leases    []lease
	last      uint64 // The number of the last lease; they begin with 1.
	successes int32
}

// lease is a probe's right to report, for a time.
type lease struct {
	probe uint64
	ends  time.Duration
}

// out counts the leases, after those that ran out are gone.
func (p *probes) out(now time.Duration) int {
	p.leases = slices.DeleteFunc(p.leases, func(l lease) bool { return l.ends <= now })
	return len(p.leases)
}

// grant gives out a lease if there is room.
func (g *gate) grant(now, length time.Duration, limit int) (probe uint64, ok bool) {
	if g.out(now) >= limit {
		return 0, false
	}
	g.last++
	g.leases = append(g.leases, lease{g.last, now + length})
	g.shut(limit)
	return g.last, true
}

// giveBack ends a lease, and says whether it was still good.
func (g *gate) giveBack(probe uint64, now time.Duration, limit int) bool {
	i := slices.IndexFunc(g.leases, func(l lease) bool { return l.probe == probe })
	if i < 0 {
		return false
	}
	inTime := now < g.leases[i].ends
	g.leases = slices.Delete(g.leases, i, i+1)
	g.shut(limit)
	return inTime
}

// shut closes the gate while all leases are out, so that rejections need no lock.
func (g *gate) shut(limit int) {
	until := time.Duration(0)
	if len(g.leases) >= limit {
		until = g.leases[0].ends // They are all of the same length, so the first one ends first.
	}
	g.until.Store(int64(until))
}

// reject gives the error for a call that comes at now. It is kept, and made anew only when the milliseconds have
// changed: rejections allocate at most once a millisecond, however many there are.
func (g *gate) reject(name string, ph *phase, now time.Duration) *OpenError {
	var after time.Duration
	if ph.is(Open) && !ph.forced {
		after = (g.blockedFor(now) + time.Millisecond - 1).Truncate(time.Millisecond)
	}
	if e := g.rejection.Load(); e != nil && e.RetryAfter == after {
		return e
	}
	e := &OpenError{Name: name, State: State(ph.state), RetryAfter: after}
	g.rejection.Store(e)
	return e
}
