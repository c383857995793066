package retry

import (
	"errors"
	"fmt"
	"time"
)

// ErrNoTime is in an Error's chain when the next wait would have passed the context's deadline or Policy.MaxElapsed.
var ErrNoTime = errors.New("retry: no time for another attempt")

var errNoCall = errors.New("retry: a call needs a context and a function")

// Error says that an attempt was made and none succeeded. Its chain holds the last attempt's error and what stopped the
// next attempt.
type Error struct {
	Attempts int           // How many were made.
	Elapsed  time.Duration // Since the first one began.
	Err      error         // The last attempt's.

	// Stop is what kept the next attempt from being made: a rejection by the breaker, the context's error, or ErrNoTime.
	// Nil when there was none left to make, or Err itself is not for retrying.
	Stop error
}

// Error gives the number of attempts and the last error.
func (e *Error) Error() string {
	s := "s"
	if e.Attempts == 1 {
		s = ""
	}
	if e.Stop != nil {
		return fmt.Sprintf("retry: stopped after %d attempt%s (%v): %v", e.Attempts, s, e.Stop, e.Err)
	}
	return fmt.Sprintf("retry: gave up after %d attempt%s: %v", e.Attempts, s, e.Err)
}

// Unwrap gives Err, and Stop if there is one.
func (e *Error) Unwrap() []error {
	if e.Stop == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Stop}
}
