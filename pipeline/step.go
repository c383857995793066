package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/internal/mutant"
	"github.com/holdfast-io/holdfast/retry"
)

// errStopped says that a claim is being drained or is lost: the message at hand goes back, unsettled.
var errStopped = errors.New("pipeline: stopped")

// errAgain says that a message is to be tried again.
var errAgain = errors.New("pipeline: again")

// step is one stage of one pipeline: its name, how it meets failures, and how its circuit is.
type step struct {
	name    string
	breaker *breaker.Breaker
	retry   retry.Policy
	timeout time.Duration
	plain   bool // Nobody asks about a call that succeeds: no circuit, no limit, no listener.
	outage  outage
}

func newStep(name string, cfg StageConfig) *step {
	return &step{
		name: name, breaker: cfg.Breaker, retry: cfg.Retry, timeout: cfg.Timeout,
		plain: cfg.Breaker == nil && cfg.Timeout == 0 && cfg.Retry.MaxElapsed == 0 && cfg.Retry.OnAttempt == nil,
	}
}

// trial is what is known of one message's attempts at one step.
type trial struct {
	called    bool
	attempts  int // Rejections do not count.
	waits     int
	first     time.Time
	rejected  time.Time // The first time.
	ambiguous bool      // An attempt may have done the work.
}

// failure is a message's end at a step: it is to be dead-lettered.
type failure struct {
	reason   dlq.Reason
	stage    string
	circuit  string
	open     func() bool // Whether that is open still; nil: nobody can see.
	attempts int
	first    time.Time
	err      error
}

func (f *failure) Error() string {
	return fmt.Sprintf("pipeline: stage %s: %s: %v", f.stage, f.reason, f.err)
}
func (f *failure) Unwrap() error { return f.err }

// next decides what it means that the attempts ended with err. It returns nil when they succeeded; errAgain, after having
// waited, when the message is to be tried again; and otherwise the error that ends the matter: holdfast.ErrSkip, a
// *failure or errStopped.
func (s *step) next(ctx context.Context, w *walk, t *trial, err error) error {
	rejected := errors.Is(err, breaker.ErrCircuitOpen) && !mutant.Is("5 a rejection is a failure of the message")
	if !rejected && !s.breaker.IsOpen() { // Else it was a probe that failed, or began before the circuit opened.
		s.outage.end()
	}
	if err == nil || errors.Is(err, holdfast.ErrSkip) {
		return err
	}
	if t.first.IsZero() {
		t.first = time.Now()
	}
	t.ambiguous = staysUnsure(t.ambiguous, err) && !mutant.Is("6 an ambiguous message is dead-lettered")
	cause := err
	panicked, isPanic := errors.AsType[*PanicError](err)
	if tried, ok := errors.AsType[*retry.Error](err); ok {
		t.attempts += tried.Attempts
		cause = tried.Err
	} else if isPanic {
		t.attempts++
		cause = panicked
	}
	switch {
	case isClosed(w.claim.ended) || (w.claim.draining() && !final(err)):
		return errStopped
	case holdfast.IsHold(err) && !mutant.Is("7 what is to be held is dead-lettered"), t.ambiguous && !rejected:
		return s.hold(w, t, "held", err)
	case rejected:
		return s.rejected(ctx, w, t, err)
	case errors.Is(err, breaker.ErrTooManyCalls):
		return s.hold(w, t, "too many calls", err)
	case isPanic && mutant.Is("11 a panic settles its message"):
		return holdfast.ErrSkip
	case isPanic:
		return s.fail(t, dlq.Panicked, cause)
	case holdfast.IsPermanent(err):
		return s.fail(t, permanentReason(err), cause)
	case errors.Is(err, context.DeadlineExceeded):
		return s.fail(t, dlq.TimedOut, cause)
	}
	return s.fail(t, dlq.RetriesExhausted, cause)
}

// final tells whether err decides about its message, drain or not.
func final(err error) bool {
	_, panicked := errors.AsType[*PanicError](err)
	return panicked || holdfast.IsPermanent(err)
}

// hold waits before the next try, no shorter than err asks for.
func (s *step) hold(w *walk, t *trial, why string, err error) error {
	w.claim.engine.troubles.set(s.place(w), w, why, err)
	t.waits++
	return again(w.claim.pause(backoff(t.waits, err)))
}

// again is errAgain unless the waiting for it was stopped.
func again(stopped error) error {
	if stopped != nil {
		return stopped
	}
	return errAgain
}

// rejected waits for the circuit that rejected the message, or ends the waiting.
func (s *step) rejected(ctx context.Context, w *walk, t *trial, err error) error {
	open, _ := errors.AsType[*breaker.OpenError](err)
	isOpen := open == nil || open.State == breaker.Open
	if t.rejected.IsZero() {
		t.rejected = time.Now()
	}
	waited := s.outage.length(w.claim.patience)
	if !s.breaker.IsOpen() { // It is a circuit inside the function, such as one of many: other messages say nothing of it.
		waited = time.Since(t.rejected)
	}
	left := w.claim.patience - waited
	if isOpen && w.claim.patience >= 0 && left <= 0 && !t.ambiguous {
		f := s.fail(t, dlq.CircuitOpen, err)
		if open != nil {
			f.circuit = open.Name
		}
		if s.breaker.IsOpen() {
			f.open = s.breaker.IsOpen
		}
		return f
	}
	w.claim.engine.troubles.set(s.place(w), w, "circuit open", err)
	t.waits++
	if !s.breaker.IsOpen() { // Busy probing, or a circuit inside the function.
		return again(w.claim.pause(min(backoff(t.waits, err), maxProbeWait)))
	}
	if w.claim.patience < 0 || t.ambiguous {
		left = forever
	}
	return again(s.wait(ctx, w, left))
}

// wait waits until the step's circuit would admit a call, but no longer than limit.
func (s *step) wait(ctx context.Context, w *walk, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer context.AfterFunc(w.claim.open, cancel)() //nolint:contextcheck // Whichever of the two ends first.
	_ = s.breaker.WaitUntilReady(ctx)               // Whether it is ready or the limit passed, the next attempt tells.
	if w.claim.draining() {
		return errStopped
	}
	return nil
}

func (s *step) fail(t *trial, reason dlq.Reason, err error) *failure {
	return &failure{reason: reason, stage: s.name, attempts: t.attempts, first: t.first, err: err}
}

// place names the step at one claim, for health.
func (s *step) place(w *walk) string { return w.claim.String() + " stage " + s.name }

func permanentReason(err error) dlq.Reason {
	if _, ok := errors.AsType[*DecodeError](err); ok {
		return dlq.Undecodable
	}
	return dlq.Permanent
}
