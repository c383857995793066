package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

// Stage turns an A into Bs. It is made by Map, FlatMap and Then; the zero value does nothing and New refuses it. A Stage
// is immutable and may be used by several pipelines.
type Stage[A, B any] struct {
	faults []error
	bind   func(e *engine) call[A, B]
}

// call runs a stage for the message at hand of a lane until there are values, or an error that settles the matter: holdfast.ErrSkip,
// a *failure, or errStopped.
type call[A, B any] func(ctx context.Context, w *walk, in A) (values[B], error)

// values is what a stage made: one value, as nearly always, or several.
type values[T any] struct {
	one     T
	many    []T
	several bool
}

// StageConfig is how a stage meets failures. The zero value has no circuit, three attempts and no time limit.
type StageConfig struct {
	// Breaker protects the function; nil means none. Each attempt asks it. Stages may share one.
	Breaker *breaker.Breaker

	// Retry is how often, and how long apart, the function is tried; the zero value is retry.DefaultPolicy.
	Retry retry.Policy

	// Timeout bounds one attempt; zero means no bound. The function must heed its context.
	Timeout time.Duration
}

// Validate names every field that cannot be.
func (c StageConfig) Validate() error {
	return errors.Join(c.faults("pipeline: ")...)
}

// faults are told of as whose they are.
func (c StageConfig) faults(whose string) (errs []error) {
	if err := c.Retry.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("%sStageConfig.Retry: %w", whose, err))
	}
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("%sStageConfig.Timeout must be positive, or 0 for no bound, got %v", whose, c.Timeout))
	}
	return errs
}

// Map makes a stage of fn. The name appears in letters, metrics and health. Faults of the arguments are reported by New.
//
// What fn returns decides about the message: nil passes the value on; holdfast.ErrSkip settles the message without
// output; holdfast.Permanent dead-letters it at once; holdfast.Hold keeps it and tries again until that is mended;
// holdfast.RetryAfter tries again no sooner than that; holdfast.Ambiguous tries again until the outcome is known; a
// rejection by an open circuit is treated as Config.DeadLetterAfter says; any other error is tried again as cfg.Retry
// says, and then the message is dead-lettered. A panic dead-letters the message at once.
//
// fn may be called for several messages at once, of different partitions.
func Map[A, B any](name string, fn func(context.Context, A) (B, error), cfg StageConfig) Stage[A, B] {
	if fn == nil {
		return newStage[A, B](name, nil, cfg)
	}
	return newStage(name, func(ctx context.Context, in A) (values[B], error) {
		v, err := fn(ctx, in)
		return values[B]{one: v}, err
	}, cfg)
}

// FlatMap is Map for a function that makes several values of one, or none, which settles the message. The message is
// settled when all of them are. When one of them is dead-lettered, the letter is about the message: redriven, it makes
// all of its values again.
func FlatMap[A, B any](name string, fn func(context.Context, A) ([]B, error), cfg StageConfig) Stage[A, B] {
	if fn == nil {
		return newStage[A, B](name, nil, cfg)
	}
	return newStage(name, func(ctx context.Context, in A) (values[B], error) {
		v, err := fn(ctx, in)
		return values[B]{many: v, several: true}, err
	}, cfg)
}

func newStage[A, B any](name string, fn func(context.Context, A) (values[B], error), cfg StageConfig) Stage[A, B] {
	var s Stage[A, B]
	if name == "" {
		s.faults = append(s.faults, errors.New("pipeline: a stage needs a name, got \"\""))
	}
	if fn == nil {
		s.faults = append(s.faults, fmt.Errorf("pipeline: stage %q needs a function, got nil", name))
	}
	s.faults = append(s.faults, cfg.faults(fmt.Sprintf("pipeline: stage %q: ", name))...)
	s.bind = func(e *engine) call[A, B] {
		step := newStep(name, cfg)
		return func(ctx context.Context, w *walk, in A) (values[B], error) {
			w.stage.Store(step)
			for t := (trial{}); ; {
				out, err := try(ctx, step, fn, w, &t, in)
				if err = step.next(ctx, w, &t, err); err == errAgain { //nolint:errorlint // It is never wrapped.
					continue
				}
				if t.waits > 0 {
					e.troubles.clear(step.place(w), w)
				}
				return out, err
			}
		}
	}
	return s
}

// Then runs b on each value that a makes.
func Then[A, B, C any](a Stage[A, B], b Stage[B, C]) Stage[A, C] {
	s := Stage[A, C]{faults: slices.Concat(a.faults, b.faults)}
	if a.bind == nil || b.bind == nil {
		return Stage[A, C]{faults: append(s.faults, errors.New("pipeline: Then needs two stages made by Map or Then, got a zero Stage"))}
	}
	s.bind = func(e *engine) call[A, C] {
		first, second := a.bind(e), b.bind(e)
		return func(ctx context.Context, w *walk, in A) (values[C], error) {
			mid, err := first(ctx, w, in)
			if err != nil {
				return values[C]{}, err
			}
			if !mid.several {
				return second(ctx, w, mid.one)
			}
			return onEach(ctx, w, mid.many, second)
		}
	}
	return s
}

// onEach runs a stage on several values. A value that is skipped leaves; any other error is the message's.
func onEach[B, C any](ctx context.Context, w *walk, in []B, run call[B, C]) (values[C], error) {
	all := values[C]{several: true}
	for _, v := range in {
		out, err := run(ctx, w, v)
		switch {
		case errors.Is(err, holdfast.ErrSkip):
		case err != nil:
			return values[C]{}, err
		case out.several:
			all.many = append(all.many, out.many...)
		default:
			all.many = append(all.many, out.one)
		}
	}
	return all, nil
}

// try calls fn through the step's circuit, as often as its policy says, until the claim's drain begins. A panic is
// returned as a *PanicError, after the circuit has counted it. A skipped message is a success to the circuit. When any of
// the attempts may have done the work, and none has settled since whether one did, the error is ambiguous.
func try[A, B any](ctx context.Context, s *step, fn func(context.Context, A) (B, error), w *walk, t *trial, in A) (out B, err error) {
	skip, ambiguous, made := false, false, false
	defer func() {
		if r := recover(); r != nil {
			err = newPanicError(r)
		}
		if skip {
			err = holdfast.ErrSkip
		} else if ambiguous {
			err = holdfast.Ambiguous(err)
		}
	}()
	judge := func(err error) error {
		ambiguous = staysUnsure(ambiguous, err)
		skip = errors.Is(err, holdfast.ErrSkip)
		if skip {
			return nil
		}
		return vetted(err)
	}
	if s.plain && !t.called {
		t.called, made = true, true
		if out, err = fn(ctx, in); err == nil {
			return out, nil
		}
		if w.claim.draining() { // As retry says it: there is no time for another.
			return out, &retry.Error{Attempts: 1, Err: judge(err), Stop: context.Canceled}
		}
	}
	// Retries wait no longer than the claim is open; what runs is not cut short by it.
	return retry.DoValueThrough(w.claim.open, s.breaker, s.retry, func(context.Context) (B, error) { //nolint:contextcheck // See above.
		v, err := out, err
		if !made {
			v, err = attempt(ctx, s, fn, t, in)
		}
		made = false
		return v, judge(err)
	})
}

// attempt calls fn once. A message's first call is made by the lane's goroutine, as nearly all are the only ones: should it
// end that, the lane sees to it. What is known of the message by then must not be lost so, and the others are guarded.
func attempt[A, B any](ctx context.Context, s *step, fn func(context.Context, A) (B, error), t *trial, in A) (B, error) {
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	if t.called {
		return guardedValue(ctx, fn, in)
	}
	t.called = true
	return fn(ctx, in)
}
