package breaker

import (
	"container/list"
	"context"
	"time"
)

// turnLength is how long waiters who were told to go on keep the others waiting without calling.
const turnLength = time.Second

// waiters are served in the order they came. Only the first one has a timer and is woken by changes; it wakes the next
// one when it leaves. The breaker's lock guards them.
type waiters struct {
	queue    list.List // Of chan struct{}, with room for one.
	turnEnds time.Time // From when on the turns that were given and not taken are lost.
}

// WaitUntilReady returns nil when a call made now would be admitted, and ctx's error when that ends first. It does not
// reserve anything: another call may come first. Those who wait go on one by one as there is room: half-open as many
// as there are free probes, the others when these have reported. A circuit that was forced open is waited for until
// Reset. A nil or disabled breaker is always ready.
//
// Call soon after it returned nil. Half-open, and with MaxConcurrentCalls, each nil is a turn that the others leave room
// for; when no call comes of it, they wait up to a second before it is lost. A look at State costs nobody a turn.
func (b *Breaker) WaitUntilReady(ctx context.Context) error {
	if ctx == nil {
		return errNoCall
	}
	if err := ctx.Err(); err != nil || b == nil || b.disabled {
		return err
	}
	if b.limit == 0 && b.phase.Load().is(Closed) {
		return nil
	}
	self, wake := b.queueUp()
	defer b.leaveQueue(self) // By defer, because a listener may end the goroutine.
	for {
		ready, pause := b.readyFor(self)
		if ready {
			return nil
		}
		b.listeners.deliver(&b.mu)
		if err := sleep(ctx, pause, wake); err != nil {
			return err
		}
	}
}

func (b *Breaker) queueUp() (self *list.Element, wake <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiters == nil {
		b.waiters = &waiters{}
	}
	b.waiting.Add(1)
	c := make(chan struct{}, 1)
	return b.waiters.queue.PushBack(c), c
}

func (b *Breaker) leaveQueue(self *list.Element) {
	b.mu.Lock()
	b.waiters.queue.Remove(self)
	b.waiting.Add(-1)
	b.wakeFirst()
	b.mu.Unlock()
	b.listeners.deliver(&b.mu)
}

// readyFor is ready for the first in the queue. The others wait until they are that.
func (b *Breaker) readyFor(self *list.Element) (ok bool, again time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiters.queue.Front() != self {
		return false, forever
	}
	return b.ready()
}

// ready gives a turn if there is room for a call, or says when to look again if nobody wakes the waiter before.
func (b *Breaker) ready() (ok bool, again time.Duration) {
	ph := b.phase.Load()
	if ph.is(Open) {
		if d := ph.gate.blockedFor(ph.now()); d > 0 {
			return false, d
		}
		ph = b.newPhase(HalfOpen)
		b.moveTo(ph, CauseTimeout, 0)
	}
	if ph.is(Closed) && b.limit == 0 {
		return true, 0
	}
	room := b.maxProbes
	if ph.is(HalfOpen) {
		now := ph.now()
		room -= int32(ph.gate.out(now))
		if room <= 0 {
			return false, ph.gate.blockedFor(now)
		}
	} else {
		room = b.limit
	}
	if b.limit > 0 {
		room = min(room, b.limit-b.running.Load())
		if room <= 0 {
			return false, forever // The call that ends wakes us.
		}
	}
	now := time.Now()
	if !now.Before(b.waiters.turnEnds) {
		b.turns.Store(0)
	}
	if room <= b.turns.Load() {
		return false, b.waiters.turnEnds.Sub(now)
	}
	if b.turns.Add(1) == 1 { // A later turn does not put off the end of an earlier one, which may be lost.
		b.waiters.turnEnds = now.Add(turnLength)
	}
	return true, 0
}

// takeTurn is called with every call that is admitted.
func (b *Breaker) takeTurn() {
	for n := b.turns.Load(); n > 0; n = b.turns.Load() {
		if b.turns.CompareAndSwap(n, n-1) {
			return
		}
	}
}

// wakeFirst needs the lock.
func (b *Breaker) wakeFirst() {
	if b.waiters == nil {
		return
	}
	if first := b.waiters.queue.Front(); first != nil {
		select {
		case first.Value.(chan struct{}) <- struct{}{}:
		default: // It has been woken and has not looked yet.
		}
	}
}

// sleep returns nil after d or when woken, and ctx's error when that ends first.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) error {
	var timer <-chan time.Time
	if d < forever {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-wake:
		return nil
	case <-timer:
		return nil
	}
}
