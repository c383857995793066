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

// judgeIn looks at the context first: drivers turn its end into a string, with a cause it is not even context.Canceled,
// and some say context.Canceled for a deadline.
func (b *Breaker) judgeIn(ctx context.Context, err error) (Outcome, flags) {
	if err == nil {
		return Success, flags{}
	}
	end := ctx.Err()
	switch {
	case errors.Is(end, context.Canceled):
		return Ignore, flags{}
	case end != nil && errors.Is(err, context.Canceled):
		return Failure, flags{timeout: true}
	}
	o, f := b.judge(err)
	f.timeout = f.timeout || end != nil
	return o, f
}

func (b *Breaker) judge(err error) (Outcome, flags) {
	if err == nil {
		return Success, flags{}
	}
	classify := b.classifier
	if classify == nil {
		classify = DefaultClassify
	}
	o := classify(err)
	return o, o.flags(err)
}

// flags takes context.DeadlineExceeded, os.ErrDeadlineExceeded and net.Error alike for a timeout.
func (o Outcome) flags(err error) flags {
	var t interface{ Timeout() bool }
	return flags{timeout: o != Success && o != Ignore && errors.As(err, &t) && t.Timeout()}
}
