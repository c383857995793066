package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

// Route is a sink that divides a batch among several: pick names each item's. They are written at the same time, and an
// item is settled when its sink has it, whatever the others do. An item whose sink does not exist is dead-lettered.
func Route[T any](pick func(T) string, sinks map[string]Sink[T]) Sink[T] {
	return &router[T]{pick: pick, sinks: maps.Clone(sinks)}
}

type router[T any] struct {
	pick  func(T) string
	sinks map[string]Sink[T]
}

func (r *router[T]) validate() error {
	var errs []error
	if r.pick == nil {
		errs = append(errs, errors.New("pipeline: Route needs a function that picks, got nil"))
	}
	if len(r.sinks) == 0 {
		errs = append(errs, errors.New("pipeline: Route needs at least one sink, got none"))
	}
	for _, name := range slices.Sorted(maps.Keys(r.sinks)) {
		if r.sinks[name] == nil {
			errs = append(errs, fmt.Errorf("pipeline: Route needs a sink for %q, got nil", name))
			continue
		}
		errs = append(errs, validateSink(r.sinks[name]))
	}
	return errors.Join(errs...)
}

var errNoSuchSink = errors.New("pipeline: Route has no sink of the picked name")

// share is one sink's part of a batch.
type share[T any] struct {
	batch   holdfast.Batch[T]
	indexes []int // Of its items in the whole batch.
	err     error
}

// Write writes every sink's share.
func (r *router[T]) Write(ctx context.Context, b holdfast.Batch[T]) error {
	refused := make(map[int]error)
	shares := r.divide(b, refused)
	var writes sync.WaitGroup
	for name, s := range shares {
		writes.Go(func() { s.err = writeTo(ctx, r.sinks[name], s.batch) })
	}
	writes.Wait()
	for _, s := range shares {
		for i, index := range s.indexes {
			if err := s.of(i); err != nil {
				refused[index] = err
			}
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return &holdfast.BatchError{Items: refused}
}

func (r *router[T]) divide(b holdfast.Batch[T], refused map[int]error) map[string]*share[T] {
	shares := make(map[string]*share[T])
	for i := 0; i < len(b.Items); i++ {
		err := guarded(func() error {
			for ; i < len(b.Items); i++ {
				name := r.pick(b.Items[i].Value)
				if r.sinks[name] == nil {
					return holdfast.Permanent(errNoSuchSink)
				}
				s := shares[name]
				if s == nil {
					s = &share[T]{batch: holdfast.Batch[T]{Spans: slices.Clone(b.Spans)}}
					shares[name] = s
				}
				s.batch.Items = append(s.batch.Items, b.Items[i])
				s.indexes = append(s.indexes, i)
			}
			return nil
		})
		if err != nil { // Of the item that it had come to.
			refused[i] = err
		}
	}
	return shares
}

// of is the error of the share's i-th item. A failure of the whole sink is no item's own.
func (s *share[T]) of(i int) error {
	refused, ambiguous := verdict(s.err, len(s.indexes))
	switch {
	case refused != nil:
		return refusal(refused, i)
	case ambiguous:
		return holdfast.Ambiguous(s.err)
	case s.err == nil || holdfast.IsPermanent(s.err) || errors.Is(s.err, breaker.ErrCircuitOpen):
		return s.err
	}
	return holdfast.Hold(s.err)
}

// OneSpan tells whether any of the sinks wants batches of one partition's messages.
func (r *router[T]) OneSpan() bool {
	for _, s := range r.sinks {
		if wantsOneSpan(s) {
			return true
		}
	}
	return false
}

// IsOpen tells whether the circuit of any of the sinks is open.
func (r *router[T]) IsOpen() bool {
	for _, s := range r.sinks {
		if c, ok := s.(circuit); ok && c.IsOpen() {
			return true
		}
	}
	return false
}

// WaitUntilReady waits until no sink's circuit rejects calls.
func (r *router[T]) WaitUntilReady(ctx context.Context) error {
	for _, s := range r.sinks {
		if c, ok := s.(circuit); ok {
			if err := c.WaitUntilReady(ctx); err != nil {
				return fmt.Errorf("pipeline: waiting for a sink's circuit: %w", err)
			}
		}
	}
	return nil
}
