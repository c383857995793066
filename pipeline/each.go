package pipeline

import (
	"context"
	"errors"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/retry"
)

// Each is a sink for programs that act on one item at a time, such as a call of an API. fn is called for a batch's items
// in order, one at a time, and tried again as retry.DefaultPolicy says. Several batches are written at a time, as Sink
// says, so fn must be safe for concurrent use. What it returns decides about the item as it does in Map; an item that has
// to wait keeps those behind it waiting, so order is kept. One that is to wait longer than a second, by
// holdfast.RetryAfter, waits for as long as fn asks for it, and is no attempt the less. A Config.Batch of few items and
// little delay suits it best.
func Each[T any](fn func(context.Context, holdfast.Item[T]) error) Sink[T] { return each[T](fn) }

type each[T any] func(context.Context, holdfast.Item[T]) error

func (fn each[T]) validate() error {
	if fn == nil {
		return errors.New("pipeline: Each needs a function, got nil")
	}
	return nil
}

// Write calls the function for each item.
func (fn each[T]) Write(ctx context.Context, b holdfast.Batch[T]) error {
	refused := make(map[int]error)
	for i, item := range b.Items {
		err := fn.one(ctx, item)
		if err == nil || errors.Is(err, holdfast.ErrSkip) {
			continue
		}
		if asksToWait(err) {
			err = holdfast.Hold(err) // The pipeline waits, as it knows who is drained meanwhile.
		}
		if refused[i] = err; !waits(ctx, err) {
			continue
		}
		for rest := i + 1; rest < len(b.Items); rest++ {
			refused[rest] = err
		}
		break
	}
	if len(refused) == 0 {
		return nil
	}
	return &holdfast.BatchError{Items: refused}
}

// asksToWait tells whether err asks for a wait that is too long to be spent within a Write.
func asksToWait(err error) bool {
	d, ok := holdfast.RetryDelay(err)
	return ok && d > maxProbeWait && !holdfast.IsPermanent(err)
}

// one acts on an item. When any of the attempts may have done it, the error is ambiguous.
func (fn each[T]) one(ctx context.Context, item holdfast.Item[T]) error {
	ambiguous := false
	policy := retry.Policy{Retryable: func(err error) bool { return !asksToWait(err) }}
	err := guarded(func() error {
		return retry.Do(ctx, policy, func(ctx context.Context) error {
			err := fn(ctx, item)
			ambiguous = staysUnsure(ambiguous, err)
			return err
		})
	})
	if ambiguous {
		return holdfast.Ambiguous(err)
	}
	return err
}
