package holdfast

import (
	"errors"
	"time"
)

// ErrSkip settles a message without output: a stage returns it for a message that is not wanted further on.
var ErrSkip = errors.New("holdfast: skip")

// Permanent says that err is the message's own fault: no retry helps, it goes to the dead-letter queue, and no circuit
// counts it. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent asks the outermost error in err's chain that has a method Permanent() bool.
func IsPermanent(err error) bool {
	var p interface{ Permanent() bool }
	return errors.As(err, &p) && p.Permanent()
}

// Hold says that nothing is wrong with the message and nothing will get better by trying its neighbours, such as a
// missing table or a denied access: the pipeline keeps the message, reports itself degraded with err as the reason, and
// tries again, 10 s apart at the most, until it is mended. No circuit counts it. Hold(nil) is nil.
func Hold(err error) error {
	if err == nil {
		return nil
	}
	return &holdError{err}
}

// IsHold asks the outermost error in err's chain that has a method Hold() bool.
func IsHold(err error) bool {
	var h interface{ Hold() bool }
	return errors.As(err, &h) && h.Hold()
}

// Ambiguous says that the work may have been done although it failed: the answer was lost. What is ambiguous is tried
// again as it was and never dead-lettered, until its fate is known. Ambiguous(nil) is nil.
func Ambiguous(err error) error {
	if err == nil {
		return nil
	}
	return &ambiguousError{err}
}

// IsAmbiguous asks the outermost error in err's chain that has a method Ambiguous() bool.
func IsAmbiguous(err error) bool {
	var a interface{ Ambiguous() bool }
	return errors.As(err, &a) && a.Ambiguous()
}

// RetryAfter asks for the next try no sooner than d from now, such as a server's Retry-After. A d below zero counts as
// zero. RetryAfter(d, nil) is nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{err, max(d, 0)}
}

// RetryDelay gives the delay that the outermost RetryAfter in err's chain asks for.
func RetryDelay(err error) (time.Duration, bool) {
	var r interface{ RetryDelay() time.Duration }
	if !errors.As(err, &r) {
		return 0, false
	}
	return r.RetryDelay(), true
}

type permanentError struct{ err error }

func (e *permanentError) Error() string   { return e.err.Error() }
func (e *permanentError) Unwrap() error   { return e.err }
func (e *permanentError) Permanent() bool { return true }

type holdError struct{ err error }

func (e *holdError) Error() string { return e.err.Error() }
func (e *holdError) Unwrap() error { return e.err }
func (e *holdError) Hold() bool    { return true }

type ambiguousError struct{ err error }

func (e *ambiguousError) Error() string   { return e.err.Error() }
func (e *ambiguousError) Unwrap() error   { return e.err }
func (e *ambiguousError) Ambiguous() bool { return true }

type retryAfterError struct {
	err   error
	delay time.Duration
}

func (e *retryAfterError) Error() string             { return e.err.Error() }
func (e *retryAfterError) Unwrap() error             { return e.err }
func (e *retryAfterError) RetryDelay() time.Duration { return e.delay }
