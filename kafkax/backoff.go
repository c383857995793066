package kafkax

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 2 * time.Second
)

// trouble is one run of failures of one thing: it spaces the attempts, and says when to log, which is at the first failure
// and at the end, not for what lies between. The zero value is no trouble.
type trouble struct {
	failures int
}

// failed notes a failure and reports whether it is the first of a run.
func (t *trouble) failed() (first bool) {
	t.failures++
	return t.failures == 1
}

// over ends a run of failures and returns how many there were.
func (t *trouble) over() int {
	n := t.failures
	t.failures = 0
	return n
}

// backoff is how long to wait after the failures so far: doubling, with a jitter of a half.
func (t *trouble) backoff() time.Duration {
	d := min(minBackoff<<min(max(t.failures-1, 0), 10), maxBackoff) // At most 10 doublings, not to overflow.
	return d/2 + rand.N(d/2)
}

// wait waits for the backoff and reports whether ctx still goes on.
func (t *trouble) wait(ctx context.Context) bool {
	return sleep(ctx, t.backoff())
}

const (
	minUnrest = time.Second
	maxUnrest = 30 * time.Second
)

// unrest spaces what happens once in a while, and ever again where brokers disagree: once is at once, and what follows
// before there was rest for twice maxUnrest waits, twice as long each time. The zero value is rest.
type unrest struct {
	pause time.Duration
	last  time.Time
}

// wait waits for the next turn and reports whether ctx still goes on.
func (u *unrest) wait(ctx context.Context) bool {
	if time.Since(u.last) > 2*maxUnrest {
		u.pause = 0
	}
	if u.pause > 0 && !sleep(ctx, time.Until(u.last.Add(u.pause))) {
		return false
	}
	u.pause = min(max(2*u.pause, minUnrest), maxUnrest)
	u.last = time.Now()
	return true
}

// sleep reports whether ctx still goes on after d.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
