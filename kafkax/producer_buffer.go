package kafkax

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
)

// buffer bounds the memory of the messages that a Producer has taken and not yet settled. Those who wait for room get it
// in the order in which they came. As long as nobody waits, nobody takes the lock.
type buffer struct {
	limit   int64
	used    atomic.Int64
	crowded atomic.Bool // Somebody waits.

	mu      sync.Mutex
	closed  bool
	waiting list.List // Of *roomRequest.
}

type roomRequest struct {
	size    int
	decided chan struct{} // Closed when there is room, or an error.
	err     error
}

// take takes room, for which it waits until ctx ends, if it is to wait.
func (b *buffer) take(ctx context.Context, size int, wait bool) error {
	if !b.crowded.Load() && b.reserve(size) {
		return nil
	}
	b.mu.Lock()
	if !wait && !b.closed {
		defer b.mu.Unlock()
		if b.waiting.Len() == 0 && b.reserve(size) {
			return nil
		}
		b.grant() // Somebody may have seen the room that we tried to take.
		return ErrBufferFull
	}
	request := &roomRequest{size: size, decided: make(chan struct{})}
	turn := b.waiting.PushBack(request)
	b.crowded.Store(true)
	b.grant()
	b.mu.Unlock()
	select {
	case <-request.decided:
		return request.err
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-request.decided:
		return request.err // The end of ctx is found out soon enough.
	default:
		b.waiting.Remove(turn)
		b.grant() // A smaller one behind it may fit.
		return context.Cause(ctx)
	}
}

func (b *buffer) reserve(size int) bool {
	if b.used.Add(int64(size)) <= b.limit {
		return true
	}
	b.used.Add(-int64(size))
	return false
}

// give gives room back.
func (b *buffer) give(size int) {
	b.used.Add(-int64(size))
	if b.crowded.Load() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.grant()
	}
}

// grant lets in whoever fits now. It needs the lock.
func (b *buffer) grant() {
	for e := b.waiting.Front(); e != nil; e = b.waiting.Front() {
		request := e.Value.(*roomRequest)
		if b.closed {
			request.err = ErrProducerClosed
		} else if !b.reserve(request.size) {
			return
		}
		b.waiting.Remove(e)
		close(request.decided)
	}
	b.crowded.Store(b.closed) // Whoever comes when it is closed is told so.
}

// close fails those who wait for room, and all later ones.
func (b *buffer) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.grant()
}
