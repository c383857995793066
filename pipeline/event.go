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
	Waiting                      // Messages wait for something, or would: Place, Why and Err.
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

// teller hands events to a listener: in order, one at a time, and never under a lock. Who tells waits until the listener has
// returned, so that a slow one keeps no more events waiting than there are goroutines.
type teller struct {
	listen func(Event) // Nil: nobody listens.
	log    *slog.Logger

	mu    sync.Mutex
	next  *sync.Cond // Somebody else's turn has come.
	taken uint64     // Turns that were taken.
	turn  uint64     // Whose turn it is.
}

func newTeller(listen func(Event), log *slog.Logger) *teller {
	t := &teller{listen: listen, log: log}
	t.next = sync.NewCond(&t.mu)
	return t
}

// line takes a place in the order of events. It may be called under a lock; what it returns has to be called, without one.
func (t *teller) line() (tell func(Event)) {
	if t.listen == nil {
		return func(Event) {}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	mine, at := t.taken, time.Now()
	t.taken++
	return func(e Event) {
		e.At = at
		t.await(mine)
		t.hand(e)
		t.pass()
	}
}

func (t *teller) await(turn uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.turn != turn {
		t.next.Wait()
	}
}

func (t *teller) pass() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn++
	t.next.Broadcast()
}

func (t *teller) hand(e Event) {
	err := guarded(func() error {
		t.listen(e)
		return nil
	})
	if err != nil {
		t.log.Error("pipeline listener panicked", slog.String("event", e.Kind.String()), slog.Any("err", err))
	}
}
