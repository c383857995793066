package retry

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

const (
	defaultAttempts   = 3
	defaultDelay      = 100 * time.Millisecond
	defaultMaxDelay   = 10 * time.Second
	defaultMultiplier = 2
)

// Policy says how often to try and how long to wait in between. The zero Policy is DefaultPolicy. It may be shared and
// used by many goroutines at once.
type Policy struct {
	// Attempts is how often to try, the first time included. 0 means 3, -1 means once.
	Attempts int

	// Delay is the wait before the second attempt, before jitter. 0 means 100 ms, -1 means that there is never a wait
	// but one that an error asks for.
	Delay time.Duration

	// MaxDelay bounds the wait as it grows. It does not bound what holdfast.RetryAfter asks for: only the context's
	// deadline and MaxElapsed do. 0 means 10 s, or Delay if that is longer.
	MaxDelay time.Duration

	// Multiplier is by how much the wait grows with each attempt. 0 means 2, 1 means that it stays the same.
	Multiplier float64

	// Jitter shortens each wait by a random share of up to this, in [0, 1]. 0 means 1, which is full jitter: from no
	// wait at all to the whole of it, as in "Exponential Backoff And Jitter" on the AWS Architecture Blog. -1 means none.
	Jitter float64

	// MaxElapsed is for how long after the first attempt began another one may begin. 0 means as long as there are
	// attempts. A running attempt is not ended: that is the context's to do.
	MaxElapsed time.Duration

	// Retryable is asked whether an error is worth another attempt, after the stops that Do lists. Nil means that every
	// other error is.
	Retryable func(error) bool

	// OnAttempt, when set, is told of each attempt, by the goroutine that makes them, before the wait. Do with one
	// Policy from several goroutines calls it from several goroutines. See Counter.
	OnAttempt func(Attempt)
}

// DefaultPolicy is 3 attempts, 100 ms apart and growing, with full jitter: the zero Policy spelled out.
func DefaultPolicy() Policy {
	return Policy{Attempts: defaultAttempts, Delay: defaultDelay}
}

// Validate reports every fault at once. Zero values are no faults.
func (p Policy) Validate() error {
	var errs []error
	if p.Attempts < -1 {
		errs = append(errs, fmt.Errorf("retry: Policy.Attempts must be at least 1, 0 for 3, or -1 for once, got %d", p.Attempts))
	}
	if p.Delay < -1 {
		errs = append(errs, fmt.Errorf("retry: Policy.Delay must be at least 0, or -1 for none, got %v", p.Delay))
	}
	if least := max(cmp.Or(p.Delay, defaultDelay), 0); p.MaxDelay != 0 && p.MaxDelay < least {
		errs = append(errs, fmt.Errorf("retry: Policy.MaxDelay must be at least Delay (%v), got %v", least, p.MaxDelay))
	}
	if p.Multiplier != 0 && !(p.Multiplier >= 1) { // Not <, so that NaN is a fault too.
		errs = append(errs, fmt.Errorf("retry: Policy.Multiplier must be at least 1, or 0 for 2, got %v", p.Multiplier))
	}
	if p.Jitter != -1 && !(p.Jitter >= 0 && p.Jitter <= 1) {
		errs = append(errs, fmt.Errorf("retry: Policy.Jitter must be in [0, 1], or -1 for none, got %v", p.Jitter))
	}
	if p.MaxElapsed < 0 {
		errs = append(errs, fmt.Errorf("retry: Policy.MaxElapsed must be at least 0, got %v", p.MaxElapsed))
	}
	return errors.Join(errs...)
}

// Backoff is the wait after the n-th failed attempt, jittered, so it differs from call to call. An n below 1 counts as
// 1. It does not look at Attempts: a program that holds something until it works may ask for any n.
func (p Policy) Backoff(n int) time.Duration {
	delay := cmp.Or(p.Delay, defaultDelay)
	if delay < 0 {
		return 0
	}
	limit := cmp.Or(p.MaxDelay, max(defaultMaxDelay, delay))
	multiplier := cmp.Or(p.Multiplier, defaultMultiplier)
	// A float, because the product may be too large for a Duration.
	grown := float64(delay) * math.Pow(multiplier, float64(max(n, 1)-1))
	if grown >= float64(limit) {
		delay = limit
	} else {
		delay = time.Duration(grown)
	}
	jitter := max(cmp.Or(p.Jitter, 1), 0)
	return max(delay-time.Duration(rand.Float64()*jitter*float64(delay)), 0)
}

func (p Policy) attempts() int { return max(cmp.Or(p.Attempts, defaultAttempts), 1) }
