package kafkax

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

// TopicSink ends a pipeline in Kafka: it is a pipeline.Sink that makes a message of each item and produces it. It is safe
// for concurrent use.
type TopicSink[T any] struct {
	producer *Producer
	marshal  func(T) (holdfast.Message, error)
}

// NewTopicSink returns a sink that writes through p what marshal makes of each value. The message names its Topic; its
// Partition is not looked at. A value that marshal refuses, or panics at, is that item's own fault. The producer stays the
// caller's to close.
func NewTopicSink[T any](p *Producer, marshal func(T) (holdfast.Message, error)) (*TopicSink[T], error) {
	if p == nil || marshal == nil {
		return nil, errors.New("kafkax: NewTopicSink needs a Producer and a function that makes messages, got nil")
	}
	return &TopicSink[T]{producer: p, marshal: marshal}, nil
}

// Write returns nil when every item is acknowledged by all in-sync replicas, or kept in the producer's spool. A
// *holdfast.BatchError names the items that are not: those at fault are holdfast.Permanent, those that may be written are
// holdfast.Ambiguous, and all others wait (holdfast.Hold, or an open circuit). Any other error says the same of the whole
// batch. Items that are written again after an Ambiguous one may be there twice.
func (s *TopicSink[T]) Write(ctx context.Context, b holdfast.Batch[T]) error {
	refused := make(map[int]error)
	messages := make([]holdfast.Message, 0, len(b.Items))
	items := make([]int, 0, len(b.Items)) // By message.
	for i := range b.Items {
		m, err := s.message(b.Items[i].Value)
		if err != nil {
			refused[i] = holdfast.Permanent(err)
			continue
		}
		messages, items = append(messages, m), append(items, i)
	}
	err := s.producer.Produce(ctx, messages...)
	failed, ok := errors.AsType[*ProduceError](err)
	if err != nil && (!ok || len(refused) == 0 && len(failed.Indexes()) == len(messages) && !failed.anyPermanent()) {
		return err // Nothing is known to be written, and no item is at fault.
	}
	if ok {
		for _, f := range failed.Failures {
			for _, i := range f.Indexes {
				if !f.Spooled {
					refused[items[i]] = f.verdict()
				}
			}
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return &holdfast.BatchError{Items: refused}
}

func (s *TopicSink[T]) message(value T) (m holdfast.Message, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("kafkax: making a message panicked: %v", r)
		}
	}()
	return s.marshal(value)
}

// verdict is what a failure means for one item of a batch of which others are written. Without a verdict of its own, it
// is nothing that the item could help: it waits.
func (f ProduceFailure) verdict() error {
	err := f.alone()
	if f.Permanent || f.Ambiguous || f.Hold || errors.Is(f.Err, breaker.ErrCircuitOpen) {
		return err
	}
	return holdfast.Hold(err)
}

// IsOpen says whether the producer's circuit is open and nothing catches what meets it.
func (s *TopicSink[T]) IsOpen() bool { return s.producer.outbox == nil && s.producer.IsOpen() }

// WaitUntilReady waits until the producer takes messages, or ctx ends.
func (s *TopicSink[T]) WaitUntilReady(ctx context.Context) error {
	if s.producer.outbox != nil {
		return ctx.Err()
	}
	return s.producer.WaitUntilReady(ctx)
}
