package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/retry"
)

// errStopped says that a claim is being drained or is lost: the message at hand goes back, unsettled.
var errStopped = errors.New("pipeline: stopped")

// halfOpenWait is how long a message waits for a half-open circuit's probe before it asks again.
const halfOpenWait = 50 * time.Millisecond

// step is one stage of one pipeline: its name, how it meets failures, and how its circuit is.
type step struct {
	name    string
	breaker *breaker.Breaker
	retry   retry.Policy
	timeout time.Duration
	outage  outage
}

// outage is how long a circuit has rejected messages without one getting through. Safe for concurrent use.
type outage struct{ began atomic.Pointer[time.Time] }

// length begins an outage if there is none, and says how long it has lasted.
func (o *outage) length() time.Duration {
	now := time.Now()
	if o.began.CompareAndSwap(nil, &now) {
		return 0
	}
	began := o.began.Load()
	if began == nil { // It has just ended.
		return 0
	}
	return now.Sub(*began)
}

func (o *outage) end() {
	if o.began.Load() != nil {
		o.began.Store(nil)
	}
}

// trial is what is known of one message's attempts at one step.
type trial struct {
	attempts int // Rejections do not count.
	waits    int
	first    time.Time
}

// failure is a message's end at a step: it is to be dead-lettered.
type failure struct {
	reason   dlq.Reason
	stage    string
	circuit  string
	attempts int
	first    time.Time
	err      error
}

func (f *failure) Error() string {
	return fmt.Sprintf("pipeline: stage %s: %s: %v", f.stage, f.reason, f.err)
}
func (f *failure) Unwrap() error { return f.err }

// PanicError is a panic in user code, caught. It is the message's own fault.
type PanicError struct {
	Value any
	Stack []byte
}

func newPanicError(value any) *PanicError { return &PanicError{Value: value, Stack: debug.Stack()} }

// Error gives the panic's value, without the stack.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// next decides what it means that err ended the attempts. It returns nil, after having waited, when the message is to be
// tried again, and otherwise the error that ends the matter: holdfast.ErrSkip, a *failure or errStopped.
func (s *step) next(ctx context.Context, c *claim, t *trial, err error) error {
	if errors.Is(err, holdfast.ErrSkip) {
		return holdfast.ErrSkip
	}
	if ctx.Err() != nil {
		return errStopped
	}
	if t.first.IsZero() {
		t.first = time.Now()
	}
	cause := err
	var panicked *PanicError
	if tried := (*retry.Error)(nil); errors.As(err, &tried) {
		t.attempts += tried.Attempts
		cause = tried.Err
	} else if errors.As(err, &panicked) {
		t.attempts++
	}
	switch {
	case errors.Is(err, breaker.ErrCircuitOpen):
		return s.rejected(ctx, c, t, err)
	case errors.Is(err, breaker.ErrTooManyCalls):
		return s.hold(c, t, "too many calls", err)
	case holdfast.IsHold(err), holdfast.IsAmbiguous(err):
		return s.hold(c, t, "held", err)
	case panicked != nil:
		return s.fail(t, dlq.Panicked, cause)
	case holdfast.IsPermanent(err):
		return s.fail(t, permanentReason(err), cause)
	case errors.Is(err, context.DeadlineExceeded):
		return s.fail(t, dlq.TimedOut, cause)
	}
	return s.fail(t, dlq.RetriesExhausted, cause)
}

// hold waits before the next try, no shorter than err asks for.
func (s *step) hold(c *claim, t *trial, why string, err error) error {
	c.engine.troubles.set(s.place(c), why, err)
	t.waits++
	return c.pause(backoff(t.waits, err))
}

// rejected waits for the circuit that rejected the message, or ends the waiting.
func (s *step) rejected(ctx context.Context, c *claim, t *trial, err error) error {
	var open *breaker.OpenError
	isOpen := !errors.As(err, &open) || open.State == breaker.Open
	left := c.patience - s.outage.length()
	if isOpen && c.patience >= 0 && left <= 0 {
		f := s.fail(t, dlq.CircuitOpen, err)
		if open != nil {
			f.circuit = open.Name
		}
		return f
	}
	const why = "circuit open"
	switch {
	case !isOpen:
		c.engine.troubles.set(s.place(c), why, err)
		t.waits++
		return c.pause(halfOpenWait)
	case open == nil || open.Name != s.breaker.Name():
		return s.hold(c, t, why, err)
	case c.patience < 0:
		left = 0
	}
	c.engine.troubles.set(s.place(c), why, err)
	t.waits++
	return c.waitFor(ctx, s.breaker, left)
}

func (s *step) fail(t *trial, reason dlq.Reason, err error) *failure {
	return &failure{reason: reason, stage: s.name, attempts: t.attempts, first: t.first, err: err}
}

// place names the step at one claim, for health.
func (s *step) place(c *claim) string { return c.String() + " stage " + s.name }

func permanentReason(err error) dlq.Reason {
	if _, ok := errors.AsType[*DecodeError](err); ok {
		return dlq.Undecodable
	}
	return dlq.Permanent
}
