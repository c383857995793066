package pipeline

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// forever is a wait that something else ends.
const forever = time.Duration(math.MaxInt64 / 2)

// circuit is what the pipeline sees of a circuit breaker, its own or one inside a sink.
type circuit interface {
	IsOpen() bool
	WaitUntilReady(ctx context.Context) error
}

// gate is the pipeline's view of the circuit in its sink. However many batches wait there, the circuit sees one waiter,
// and when it would admit a call, one batch gets the turn: that with the oldest message. The others go on when a sink has
// answered, and the next one when the batch leaves without an answer.
type gate struct {
	circuit circuit // Nil when the sink shows none.
	asked   chan struct{}

	mu       sync.Mutex
	watching bool
	turns    []*turn
	idle     chan struct{} // For those who wait without a batch; nil when there is none.
}

// turn is a batch's place at the gate.
type turn struct {
	since int64
	come  chan struct{} // Closed when it has the turn.
}

func newGate(c circuit) *gate { return &gate{circuit: c, asked: make(chan struct{}, 1)} }

// shown tells whether the sink shows a circuit.
func (g *gate) shown() bool { return g.circuit != nil }

// isOpen asks the circuit. One that panics is not open: a call tells.
func (g *gate) isOpen() bool {
	if g.circuit == nil {
		return false
	}
	open := false
	err := guarded(func() error {
		open = g.circuit.IsOpen()
		return nil
	})
	return err == nil && open
}

// contested tells whether batches wait for their turn.
func (g *gate) contested() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.turns) > 0
}

// join gives a batch its place. It has to leave.
func (g *gate) join(since int64) *turn {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := &turn{since: since, come: make(chan struct{})}
	g.turns = append(g.turns, t)
	g.watch()
	return t
}

// leave gives the place up, and with it the turn. A nil turn has none.
func (g *gate) leave(t *turn) {
	if t == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.turns = slices.DeleteFunc(g.turns, func(u *turn) bool { return u == t })
	g.watch()
}

// ready returns a channel that is closed once a call would be admitted and no batch waits to make it; nil, which never
// is, when there is no circuit.
func (g *gate) ready() <-chan struct{} {
	if g.circuit == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.idle == nil {
		g.idle = make(chan struct{})
	}
	idle := g.idle
	g.watch()
	return idle
}

// answered lets everybody go on.
func (g *gate) answered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.turns {
		t.give()
	}
	g.rest()
}

func (t *turn) give() {
	if !isClosed(t.come) {
		close(t.come)
	}
}

func (g *gate) rest() {
	if g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// watch has run wait for the circuit, if anybody waits and nobody has the turn. It needs the lock.
func (g *gate) watch() {
	if g.watching || g.taken() || (len(g.turns) == 0 && g.idle == nil) {
		return
	}
	g.watching = true
	g.asked <- struct{}{} // Never blocks: run has taken the last one before watching turned false.
}

// taken tells whether a batch has the turn.
func (g *gate) taken() bool {
	return slices.ContainsFunc(g.turns, func(t *turn) bool { return isClosed(t.come) })
}

// run waits for the circuit whenever somebody waits, until ctx ends, and gives the turn. It calls then each time before.
func (g *gate) run(ctx context.Context, then func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.asked:
		}
		if guarded(func() error { return g.circuit.WaitUntilReady(ctx) }) != nil {
			sleep(ctx, maxProbeWait, nil, nil) // It cannot tell, so a call has to.
		}
		g.mu.Lock()
		g.watching = false // From here on, who asks is heard again.
		g.mu.Unlock()
		then()
		g.mu.Lock()
		if len(g.turns) == 0 {
			g.rest()
		} else if !g.taken() {
			slices.MinFunc(g.turns, func(t, u *turn) int { return cmp.Compare(t.since, u.since) }).give()
		}
		g.mu.Unlock()
	}
}

// sleep waits until d has passed, ctx ends, kick has a token, which it takes, or ready is closed.
func sleep(ctx context.Context, d time.Duration, kick, ready <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-kick:
	case <-ready:
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
