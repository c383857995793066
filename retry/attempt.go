package retry

import (
	"fmt"
	"time"
)

// Result is how an attempt ended, and what follows.
type Result int

// The results.
const (
	Succeeded Result = iota // The last one.
	Retrying                // It failed; the next one follows after Attempt.Delay.
	GaveUp                  // It failed, and there will be no other; also when the context ended while it was made.
	Rejected                // It was not made: the breaker did not admit it.
	Canceled                // It was not made: the context ended before, during the wait for it or ahead of the first one.
)

// String is the result in one lower-case word, fit for a label.
func (r Result) String() string {
	switch r {
	case Succeeded:
		return "succeeded"
	case Retrying:
		return "retrying"
	case GaveUp:
		return "gave_up"
	case Rejected:
		return "rejected"
	case Canceled:
		return "canceled"
	default:
		return fmt.Sprintf("Result(%d)", int(r))
	}
}

// Attempt is what Policy.OnAttempt is told: every attempt that was made, and the one that was not when Rejected or
// Canceled ends the retries.
type Attempt struct {
	Number  int // From 1.
	Result  Result
	Err     error         // Nil when it succeeded.
	Delay   time.Duration // Until the next attempt, when Retrying.
	Elapsed time.Duration // Since the first attempt began.
}
