package breaker

import "fmt"

// State is what a breaker does with calls. The zero value is Closed. The numbers are those of the metrics.
type State int

// The states.
const (
	Closed   State = iota // Calls pass.
	Open                  // Calls are rejected.
	HalfOpen              // A few calls pass and decide what comes next.
)

// String is "closed", "open" or "half-open".
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	case HalfOpen:
		return "half-open"
	default:
		return fmt.Sprintf("State(%d)", int(s))
	}
}
