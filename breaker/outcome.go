package breaker

import (
	"context"
	"errors"
)

// Outcome is what a call says about the dependency. The zero value is Success.
type Outcome int

// The outcomes.
const (
	Success Outcome = iota // It answered.
	Failure                // It did not.
	Ignore                 // The call says nothing about it. An ignored probe frees its slot.
	Trip                   // It said that it wants no calls now: a failure that opens the circuit at once.
)

// DefaultClassify is the Config.Classify of a breaker that has none, exported for those who add to it. Success is nil.
// These are ignored:
//   - context.Canceled: the caller went away.
//   - An error in whose chain the outermost error with a method Permanent() bool, or with a method Hold() bool, returns
//     true: the message's or the configuration's fault.
//   - ErrCircuitOpen and ErrTooManyCalls, from a breaker further in: that breaker counts for itself.
//
// All else, context.DeadlineExceeded included, is a failure.
func DefaultClassify(err error) Outcome {
	if err == nil {
		return Success
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrCircuitOpen) || errors.Is(err, ErrTooManyCalls) {
		return Ignore
	}
	// Structural probes, because this package imports nothing of the module.
	var permanent interface{ Permanent() bool }
	if errors.As(err, &permanent) && permanent.Permanent() {
		return Ignore
	}
	var hold interface{ Hold() bool }
	if errors.As(err, &hold) && hold.Hold() {
		return Ignore
	}
	return Failure
}

// classify looks at the context first: drivers turn a cancellation into a string, and with a cause it is not even
// context.Canceled.
func (b *Breaker) classify(ctx context.Context, err error) Outcome {
	switch {
	case err == nil:
		return Success
	case errors.Is(ctx.Err(), context.Canceled):
		return Ignore
	}
	return b.judge(err)
}

func (b *Breaker) judge(err error) Outcome {
	if err == nil {
		return Success
	}
	if b.classifier != nil {
		return b.classifier(err)
	}
	return DefaultClassify(err)
}

// isTimeout takes context.DeadlineExceeded, os.ErrDeadlineExceeded and net.Error alike.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
