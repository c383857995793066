package kafkax

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

// identity is who an idempotent producer is to brokers: they tell a repeated batch from a new one by its id and sequence.
type identity struct {
	id     int64
	epoch  int16
	number uint64 // Counts the identities of a Producer, from 1. 0 is none.
	spent  bool   // It must not be used any more.
}

// identities gives a Producer's partitions one identity, and a new one to those that have spent it.
type identities struct {
	producer *Producer
	turn     chan struct{} // A token for who asks a broker.

	mu      sync.Mutex
	current identity
	spent   uint64 // The number of the last identity that new writers must not have.
}

// after gives an identity that came after the one with a number, from the broker at addr if there is none yet.
func (s *identities) after(ctx context.Context, addr string, number uint64) (identity, error) {
	if id := s.get(); id.number > number {
		return id, nil
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return identity{}, &unsentError{ctx.Err()}
	}
	last := s.get()
	if last.number > number {
		return last, nil
	}
	p := s.producer
	id, epoch, err := wire.InitProducerID(ctx, p.net.dialer(), "tcp", addr, p.cfg.Timeout)
	switch {
	case errors.Is(err, kafka.ClusterAuthorizationFailed):
		return identity{}, holdfast.Hold(&unsentError{fmt.Errorf("kafkax: idempotent writes are denied: %w", err)})
	case err != nil:
		return identity{}, &unsentError{fmt.Errorf("kafkax: ask for a producer id: %w", err)}
	}
	p.counts.identities.Add(1)
	fresh := identity{id: id, epoch: epoch, number: last.number + 1}
	s.mu.Lock()
	s.current = fresh
	s.mu.Unlock()
	return fresh, nil
}

func (s *identities) get() identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// spend keeps the current identity from writers that are made from now on: one that is forgotten may have used up sequence
// numbers of it in the same partition, and what has them again is dropped as a duplicate.
func (s *identities) spend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spent = s.current.number
}

// last is what a new writer begins with: the next identity is its own.
func (s *identities) last() identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return identity{number: s.spent, spent: true}
}
