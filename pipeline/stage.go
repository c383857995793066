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

// Stage turns an A into a B. It is made by Map and Then; the zero value does nothing and New refuses it. A Stage is
// immutable and may be used by several pipelines.
type Stage[A, B any] struct {
	faults []error
	bind   func(e *engine) call[A, B]
}

// call runs a stage for one message of c until there is a B, or an error that settles the matter: holdfast.ErrSkip, a
// *failure, or errStopped.
type call[A, B any] func(ctx context.Context, c *claim, in A) (B, error)

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
	var errs []error
	if err := c.Retry.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("pipeline: StageConfig.Retry: %w", err))
	}
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("pipeline: StageConfig.Timeout must not be negative, got %v", c.Timeout))
	}
	return errors.Join(errs...)
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
	var s Stage[A, B]
	if name == "" {
		s.faults = append(s.faults, errors.New("pipeline: Map needs a stage name, got \"\""))
	}
	if fn == nil {
		s.faults = append(s.faults, fmt.Errorf("pipeline: stage %q needs a function, got nil", name))
	}
	if err := cfg.Validate(); err != nil {
		s.faults = append(s.faults, fmt.Errorf("pipeline: stage %q: %w", name, err))
	}
	s.bind = func(e *engine) call[A, B] {
		step := &step{name: name, breaker: cfg.Breaker, retry: cfg.Retry, timeout: cfg.Timeout}
		return func(ctx context.Context, c *claim, in A) (B, error) {
			for t := (trial{}); ; {
				out, err := try(ctx, step, fn, in)
				if err == nil {
					step.outage.end()
				} else if err = step.next(ctx, c, &t, err); err == nil {
					continue
				}
				if t.waits > 0 {
					e.troubles.clear(step.place(c))
				}
				return out, err
			}
		}
	}
	return s
}

// Then runs b on what a makes.
func Then[A, B, C any](a Stage[A, B], b Stage[B, C]) Stage[A, C] {
	s := Stage[A, C]{faults: slices.Concat(a.faults, b.faults)}
	if a.bind == nil || b.bind == nil {
		return Stage[A, C]{faults: append(s.faults, errors.New("pipeline: Then needs two stages made by Map or Then, got a zero Stage"))}
	}
	s.bind = func(e *engine) call[A, C] {
		first, second := a.bind(e), b.bind(e)
		return func(ctx context.Context, c *claim, in A) (out C, err error) {
			mid, err := first(ctx, c, in)
			if err != nil {
				return out, err
			}
			return second(ctx, c, mid)
		}
	}
	return s
}

// try calls fn through the step's circuit, as often as its policy says. A panic is returned as a *PanicError, after the
// circuit has counted it. A skipped message is a success to the circuit.
func try[A, B any](ctx context.Context, s *step, fn func(context.Context, A) (B, error), in A) (out B, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = newPanicError(r)
		}
	}()
	skip := false
	out, err = retry.DoValueThrough(ctx, s.breaker, s.retry, func(ctx context.Context) (B, error) {
		if s.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, s.timeout)
			defer cancel()
		}
		v, err := fn(ctx, in)
		if errors.Is(err, holdfast.ErrSkip) {
			skip = true
			return v, nil
		}
		return v, err
	})
	if skip {
		return out, holdfast.ErrSkip
	}
	return out, err
}
