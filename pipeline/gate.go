package pipeline

import (
	"context"
	"math"
	"sync"
	"time"
)

// forever is a wait that something else ends.
const forever = time.Duration(math.MaxInt64 / 2)

// gate is a lane's view of the circuit in its sink. However many wait there, the circuit sees one waiter.
type gate struct {
	circuit circuit // Nil when the sink shows none.
	asked   chan struct{}

	mu     sync.Mutex
	opened chan struct{} // Closed when a call would be admitted; nil when nobody has asked.
}

func newGate(c circuit) *gate { return &gate{circuit: c, asked: make(chan struct{}, 1)} }

// shown tells whether the sink shows a circuit.
func (g *gate) shown() bool { return g.circuit != nil }

func (g *gate) isOpen() bool { return g.circuit != nil && g.circuit.IsOpen() }

// ready returns a channel that is closed once a call would be admitted; nil, which never is, when there is no circuit.
func (g *gate) ready() <-chan struct{} {
	if g.circuit == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened == nil {
		g.opened = make(chan struct{})
		g.asked <- struct{}{} // Never blocks: watch has taken the last one before it set opened to nil.
	}
	return g.opened
}

// watch waits for the circuit whenever somebody has asked, until ctx ends. It calls then each time before it tells them.
func (g *gate) watch(ctx context.Context, then func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.asked:
		}
		for tries := 1; g.circuit.WaitUntilReady(ctx) != nil && ctx.Err() == nil; tries++ {
			sleep(ctx, backoff(tries, nil), nil, nil)
		}
		then()
		g.mu.Lock()
		close(g.opened)
		g.opened = nil
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
