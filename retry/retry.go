package retry

import (
	"context"
	"errors"
	"fmt"
	"time"

	avast "github.com/avast/retry-go/v4"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

// Do calls fn until it succeeds or there is no point in going on. It stops at once at:
//   - holdfast.Permanent, holdfast.Hold and holdfast.ErrSkip, and retry-go's Unrecoverable
//   - a rejection by a breaker: breaker.ErrCircuitOpen, breaker.ErrTooManyCalls
//   - the end of ctx, and also when the next wait would pass ctx's deadline: it never sleeps in vain
//   - an error that Policy.Retryable refuses
//
// It waits at least as long as holdfast.RetryAfter asks for, however long that is: give ctx a deadline or the policy a
// MaxElapsed. After an attempt the error is an *Error, which holds the last attempt's. Before any, it is ctx's error, or
// Validate's of a policy that is not valid. Ctx's error comes with context.Cause in its chain. A panic in fn passes on.
func Do(ctx context.Context, p Policy, fn func(context.Context) error) error {
	return DoThrough(ctx, nil, p, fn)
}

// DoValue is Do for a function with a result. A failure gives the zero T.
func DoValue[T any](ctx context.Context, p Policy, fn func(context.Context) (T, error)) (T, error) {
	return DoValueThrough(ctx, nil, p, fn)
}

// DoThrough is Do where b, which may be nil, is asked before each attempt and told how it ended. A rejection ends the
// retries, and so does an attempt that leaves the circuit open. A rejection is no attempt: when it meets the first one,
// it is returned as it is.
//
// So an error that is breaker.ErrCircuitOpen may come of attempts that were made, the last of which opened the circuit.
// Then it is an *Error, whose Attempts says how many; a call that was not made once gives none.
func DoThrough(ctx context.Context, b *breaker.Breaker, p Policy, fn func(context.Context) error) error {
	if fn == nil {
		return errNoCall
	}
	_, err := DoValueThrough(ctx, b, p, func(ctx context.Context) (struct{}, error) { return struct{}{}, fn(ctx) })
	return err
}

// DoValueThrough is DoThrough for a function with a result. A failure gives the zero T.
func DoValueThrough[T any](
	ctx context.Context, b *breaker.Breaker, p Policy, fn func(context.Context) (T, error),
) (T, error) {
	var zero T
	if ctx == nil || fn == nil {
		return zero, errNoCall
	}
	if err := p.Validate(); err != nil {
		return zero, err
	}
	r := run{policy: p, breaker: b, began: time.Now()}
	v, err := attempt(ctx, &r, fn)
	if err == nil {
		return v, nil
	}
	if r.over {
		return zero, r.failure()
	}
	return again(ctx, r, fn)
}

// DoThroughWithFallback is DoThrough, and calls fallback with the error when that fails, rejected or not. It does not
// when ctx was cancelled: nobody waits for the answer any more.
func DoThroughWithFallback(
	ctx context.Context, b *breaker.Breaker, p Policy,
	fn func(context.Context) error, fallback func(ctx context.Context, cause error) error,
) error {
	if fn == nil || fallback == nil {
		return errNoCall
	}
	_, err := DoValueThroughWithFallback(ctx, b, p,
		func(ctx context.Context) (struct{}, error) { return struct{}{}, fn(ctx) },
		func(ctx context.Context, cause error) (struct{}, error) { return struct{}{}, fallback(ctx, cause) })
	return err
}

// DoValueThroughWithFallback is DoThroughWithFallback for functions with a result.
func DoValueThroughWithFallback[T any](
	ctx context.Context, b *breaker.Breaker, p Policy,
	fn func(context.Context) (T, error), fallback func(ctx context.Context, cause error) (T, error),
) (T, error) {
	if ctx == nil || fn == nil || fallback == nil {
		var zero T
		return zero, errNoCall
	}
	v, err := DoValueThrough(ctx, b, p, fn)
	if err == nil || errors.Is(ctx.Err(), context.Canceled) {
		return v, err
	}
	return fallback(ctx, err)
}

// run is one call of Do.
type run struct {
	policy  Policy
	breaker *breaker.Breaker // Or nil.
	began   time.Time
	made    int   // Attempts.
	last    error // Of the last attempt.
	stop    error // What kept the next one from being made, if anything did.
	pause   time.Duration
	over    bool
}

// again makes the second and further attempts with retry-go. The first one is made outside of it, so that a success,
// which is the common case, does not pay for its set-up. Here r may escape.
func again[T any](ctx context.Context, r run, fn func(context.Context) (T, error)) (T, error) {
	first := true
	v, err := avast.DoWithData(
		func() (v T, err error) {
			if first {
				first = false
				return v, r.last
			}
			return attempt(ctx, &r, fn)
		},
		avast.UntilSucceeded(), // Its own limit would collect every attempt's error; attempt says when it is over.
		avast.Context(ctx),
		avast.RetryIf(func(error) bool { return !r.over }),
		avast.DelayType(func(uint, error, *avast.Config) time.Duration { return r.pause }),
	)
	if err == nil {
		return v, nil
	}
	if !r.over { // It was the context that ended the wait.
		r.end(Canceled, ended(ctx))
	}
	var zero T
	return zero, r.failure()
}

// attempt makes one and decides what follows.
func attempt[T any](ctx context.Context, r *run, fn func(context.Context) (T, error)) (T, error) {
	var zero T
	if err := ended(ctx); err != nil {
		r.end(Canceled, err)
		return zero, err
	}
	called := false
	v, err := breaker.ExecuteValue(ctx, r.breaker, func(ctx context.Context) (T, error) {
		called = true
		return fn(ctx)
	})
	switch {
	case err == nil:
		r.made++
		r.tell(Attempt{Number: r.made, Result: Succeeded})
		return v, nil
	case !called && ctx.Err() != nil:
		r.end(Canceled, ended(ctx))
		return zero, err
	case !called:
		r.end(Rejected, err)
		return zero, err
	}
	r.made++
	r.last = err
	r.decide(ctx, err)
	return zero, err
}

// decide sets the wait before the next attempt, or that there is none.
func (r *run) decide(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
		r.over, r.stop = true, ended(ctx)
	case r.made >= r.policy.attempts() || !r.policy.worthwhile(err):
		r.over = true
	case r.breaker.IsOpen():
		r.over, r.stop = true, r.rejection()
	default:
		r.pause = r.policy.Backoff(r.made)
		if asked, ok := holdfast.RetryDelay(err); ok {
			r.pause = max(r.pause, asked)
		}
		if !r.inTime(ctx) {
			r.over, r.stop = true, ErrNoTime
		}
	}
	if r.over {
		r.tell(Attempt{Number: r.made, Result: GaveUp, Err: err})
		return
	}
	r.tell(Attempt{Number: r.made, Result: Retrying, Err: err, Delay: r.pause})
}

// worthwhile says whether another attempt could end otherwise.
func (p Policy) worthwhile(err error) bool {
	switch {
	case errors.Is(err, breaker.ErrCircuitOpen), errors.Is(err, breaker.ErrTooManyCalls):
		return false // From a breaker further in.
	case holdfast.IsPermanent(err), holdfast.IsHold(err), errors.Is(err, holdfast.ErrSkip), !avast.IsRecoverable(err):
		return false
	default:
		return p.Retryable == nil || p.Retryable(err)
	}
}

// inTime says whether the next attempt, after the pause, would still be allowed to begin.
func (r *run) inTime(ctx context.Context) bool {
	if deadline, ok := ctx.Deadline(); ok && r.pause >= time.Until(deadline) {
		return false
	}
	return r.policy.MaxElapsed == 0 || r.pause <= r.policy.MaxElapsed-time.Since(r.began)
}

// rejection is what the breaker would say to the next attempt, had it been asked.
func (r *run) rejection() error {
	s := r.breaker.Stats()
	return &breaker.OpenError{Name: s.Name, State: breaker.Open, RetryAfter: s.TimeUntilHalfOpen}
}

// end notes that the next attempt was not made.
func (r *run) end(result Result, err error) {
	r.over, r.stop = true, err
	r.tell(Attempt{Number: r.made + 1, Result: result, Err: err})
}

func (r *run) tell(a Attempt) {
	if r.policy.OnAttempt != nil {
		a.Elapsed = time.Since(r.began)
		r.policy.OnAttempt(a)
	}
}

// ended is ctx's error with its cause, or nil while ctx goes on.
func ended(ctx context.Context) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); err != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

func (r *run) failure() error {
	if r.made == 0 {
		return r.stop
	}
	return &Error{Attempts: r.made, Elapsed: time.Since(r.began), Err: r.last, Stop: r.stop}
}
