package breaker

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Cause is why a state changed.
type Cause int

// The causes.
const (
	CauseConsecutiveFailures Cause = iota + 1 // Config.MaxFailures was reached.
	CauseFailureRate                          // Config.FailureRate was reached.
	CauseSlowCallRate                         // Config.SlowCallRate was reached.
	CauseShouldTrip                           // Config.ShouldTrip said so.
	CauseTrip                                 // A call's outcome was Trip.
	CauseTimeout                              // The open time is over and somebody called, or waits to: half-open.
	CauseProbeFailed                          // A probe failed, or was slow: open again.
	CauseRecovered                            // Config.SuccessThreshold probes succeeded: closed.
	CauseForced                               // ForceOpen was called.
	CauseReset                                // Reset was called.
)

// String is the cause in words, fit for a log.
func (c Cause) String() string {
	switch c {
	case CauseConsecutiveFailures:
		return "consecutive failures"
	case CauseFailureRate:
		return "failure rate"
	case CauseSlowCallRate:
		return "slow-call rate"
	case CauseShouldTrip:
		return "should trip"
	case CauseTrip:
		return "tripped"
	case CauseTimeout:
		return "timeout over"
	case CauseProbeFailed:
		return "probe failed"
	case CauseRecovered:
		return "recovered"
	case CauseForced:
		return "forced"
	case CauseReset:
		return "reset"
	default:
		return fmt.Sprintf("Cause(%d)", int(c))
	}
}

// Event tells of one change. From and To are the same when only ForceOpen's hold on an open circuit is new.
type Event struct {
	Name   string
	At     time.Time
	From   State
	To     State
	Cause  Cause
	Counts Counts // As they stood in the state From when it ended.

	// OpenFor is for how long the circuit will stay open: zero when To is not Open, and when it was forced.
	OpenFor time.Duration
}

// listeners deliver events. The breaker's lock guards queue and busy.
type listeners struct {
	onStateChange func(name string, from, to State)
	onEvent       func(Event)
	logger        *slog.Logger
	queue         []Event
	busy          bool // Somebody delivers. One at a time, so that the order holds.
}

// deliver empties the queue, unless somebody else is at it. Called without the lock, after every change.
func (l *listeners) deliver(mu *sync.Mutex) {
	if l == nil {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	if l.busy {
		return
	}
	l.busy = true
	defer func() { l.busy = false }() // A runtime.Goexit in a listener must not silence the next one.
	for len(l.queue) > 0 {
		e := l.queue[0]
		l.queue = l.queue[1:]
		l.tell(mu, e)
	}
	l.queue = nil
}

// tell gives up the lock for the time of the callbacks.
func (l *listeners) tell(mu *sync.Mutex, e Event) {
	mu.Unlock()
	defer mu.Lock()
	if l.onStateChange != nil && e.From != e.To {
		l.guard(e, func() { l.onStateChange(e.Name, e.From, e.To) })
	}
	if l.onEvent != nil {
		l.guard(e, func() { l.onEvent(e) })
	}
}

func (l *listeners) guard(e Event, call func()) {
	defer func() {
		if p := recover(); p != nil {
			logger := l.logger
			if logger == nil {
				logger = slog.Default()
			}
			logger.Error("circuit breaker listener panicked",
				slog.String("breaker", e.Name), slog.String("to", e.To.String()), slog.Any("panic", p))
		}
	}()
	call()
}
