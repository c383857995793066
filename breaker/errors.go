package breaker

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrCircuitOpen is what every OpenError is: the call was not made, because the circuit is open or because its
	// probes are out.
	ErrCircuitOpen = errors.New("breaker: circuit open")

	// ErrTooManyCalls says that Config.MaxConcurrentCalls calls are running. The call was not made.
	ErrTooManyCalls = errors.New("breaker: too many concurrent calls")

	errNoCall = errors.New("breaker: a call needs a context and a function")
)

// OpenError is the rejection of a call that was not made. It may be shared by many callers: do not change it.
type OpenError struct {
	Name  string
	State State // Open, or HalfOpen while all probes are out.

	// RetryAfter is how long the circuit stays open, rounded up to the millisecond. It is zero when that is not known:
	// half-open, where a probe decides, and forced open.
	RetryAfter time.Duration
}

// Error names the breaker and says when to come again.
func (e *OpenError) Error() string {
	switch {
	case e.State == HalfOpen:
		return fmt.Sprintf("breaker: circuit %q half-open, its probes are out", e.Name)
	case e.RetryAfter > 0:
		return fmt.Sprintf("breaker: circuit %q open, retry after %v", e.Name, e.RetryAfter)
	default:
		return fmt.Sprintf("breaker: circuit %q open", e.Name)
	}
}

// Unwrap gives ErrCircuitOpen.
func (e *OpenError) Unwrap() error { return ErrCircuitOpen }
