package pipeline

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/dlq"
)

// Kind is what an Event tells of.
type Kind int

// The kinds of events.
const (
	Claimed      Kind = iota + 1 // A partition is the pipeline's; Offset is where it begins.
	Released                     // It is no more; Offset is where the next owner goes on, and Err says what was left in flight.
	Waiting                      // Messages wait for something: Place, Why and Err.
	Moving                       // They do no longer.
	DeadLettered                 // A letter is acknowledged: Topic, Partition, Offset, Stage and Reason of its message.
)

// String is the kind in a word, fit for a log.
func (k Kind) String() string {
	switch k {
	case Claimed:
		return "claimed"
	case Released:
		return "released"
	case Waiting:
		return "waiting"
	case Moving:
		return "moving"
	case DeadLettered:
		return "dead-lettered"
	default:
		return fmt.Sprintf("Kind(%d)", int(k))
	}
}

// Event tells of one change. Fields that do not belong to its kind are zero.
type Event struct {
	At   time.Time
	Kind Kind

	Topic     string
	Partition int
	Offset    int64

	Place string // Where messages wait, as in Trouble.
	Why   string // What for, in a word or two.

	Stage  string // The stage, or "sink", that failed.
	Reason dlq.Reason

	Err error
}

// teller hands events to a listener: in order, one at a time, and never under a lock.
type teller struct {
	listen func(Event) // Nil: nobody listens.
	log    *slog.Logger

	mu    sync.Mutex
	queue []Event
	busy  bool // Somebody delivers.
}

// tell queues an event and delivers what is queued, unless somebody else is at it.
func (t *teller) tell(e Event) {
	if t.listen == nil {
		return
	}
	e.At = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = append(t.queue, e)
	if t.busy {
		return
	}
	t.busy = true
	defer func() { t.busy = false }() // Also when a listener ends the goroutine.
	for len(t.queue) > 0 {
		next := t.queue[0]
		t.queue = t.queue[1:]
		t.hand(next)
	}
	t.queue = nil
}

// hand gives up the lock for the time of the call.
func (t *teller) hand(e Event) {
	t.mu.Unlock()
	defer t.mu.Lock()
	defer func() {
		if r := recover(); r != nil {
			t.log.Error("pipeline listener panicked", slog.String("event", e.Kind.String()), slog.Any("panic", r))
		}
	}()
	t.listen(e)
}
