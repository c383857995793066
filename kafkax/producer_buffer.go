package kafkax

import (
	"container/list"
	"context"
	"sync"
)

// buffer bounds the memory of the messages that a Producer has taken and not yet settled. Those who wait for room get it
// in the order in which they came.
type buffer struct {
	limit int

	mu      sync.Mutex
	used    int
	closed  bool
	waiting list.List // Of *roomRequest.
}

type roomRequest struct {
	size    int
	granted chan struct{}
}

// take takes room, for which it waits until ctx ends.
func (b *buffer) take(ctx context.Context, size int, wait bool) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrProducerClosed
	}
	if b.waiting.Len() == 0 && b.used+size <= b.limit {
		b.used += size
		b.mu.Unlock()
		return nil
	}
	if !wait {
		b.mu.Unlock()
		return ErrBufferFull
	}
	request := &roomRequest{size, make(chan struct{})}
	place := b.waiting.PushBack(request)
	b.mu.Unlock()
	select {
	case <-request.granted:
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-request.granted:
		if b.closed {
			b.used -= size
			return ErrProducerClosed
		}
		return nil // Even when ctx has ended meanwhile: that is found out soon enough.
	default:
		b.waiting.Remove(place)
		b.grant() // A smaller one behind it may fit.
		return context.Cause(ctx)
	}
}

// give gives room back.
func (b *buffer) give(size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= size
	b.grant()
}

// grant lets in whoever fits now. It needs the lock.
func (b *buffer) grant() {
	for e := b.waiting.Front(); e != nil; e = b.waiting.Front() {
		request := e.Value.(*roomRequest)
		if !b.closed && b.used+request.size > b.limit {
			return
		}
		b.used += request.size
		b.waiting.Remove(e)
		close(request.granted)
	}
}

// close fails those who wait for room, and all later ones.
func (b *buffer) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.grant()
}

func (b *buffer) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
