package retry

import "sync/atomic"

// Counter counts what happens under the policies that feed it:
//
//	policy.OnAttempt = counter.Observe
//
// The zero Counter is ready. Safe for concurrent use; do not copy it.
type Counter struct {
	attempts, retries, succeeded, gaveUp, rejected, canceled atomic.Uint64
}

// Counts is a Counter's snapshot. All numbers only grow.
type Counts struct {
	Attempts  uint64 // Made, first ones and retries.
	Retries   uint64 // Of the attempts: all but the first of each call.
	Succeeded uint64 // Calls that succeeded, with the first attempt or a later one.
	GaveUp    uint64 // Calls that failed with their last attempt.
	Rejected  uint64 // Calls that the breaker ended.
	Canceled  uint64 // Calls whose context ended ahead of the first attempt or during a wait.
}

// Observe counts one attempt.
func (c *Counter) Observe(a Attempt) {
	switch a.Result {
	case Rejected:
		c.rejected.Add(1)
		return
	case Canceled:
		c.canceled.Add(1)
		return
	case Succeeded:
		c.succeeded.Add(1)
	case GaveUp:
		c.gaveUp.Add(1)
	case Retrying: // Its call goes on.
	}
	c.attempts.Add(1)
	if a.Number > 1 {
		c.retries.Add(1)
	}
}

// Stats gives a snapshot.
func (c *Counter) Stats() Counts {
	return Counts{
		Attempts:  c.attempts.Load(),
		Retries:   c.retries.Load(),
		Succeeded: c.succeeded.Load(),
		GaveUp:    c.gaveUp.Load(),
		Rejected:  c.rejected.Load(),
		Canceled:  c.canceled.Load(),
	}
}
