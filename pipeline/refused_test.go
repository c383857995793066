package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/pipeline"
)

// Rule 6: items that a later attempt rejects or holds one by one are as uncertain as their batch was.
func TestItemsOfAnAmbiguousBatchStayUncertain(t *testing.T) {
	for name, c := range map[string]struct{ second, third error }{
		"rejected":             {breaker.ErrCircuitOpen, nil},
		"held, then rejected":  {holdfast.Hold(errAway), breaker.ErrCircuitOpen},
		"held, then permanent": {holdfast.Hold(errAway), holdfast.Permanent(errAway)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				s.breaker = nil
				s.do(func(n int, batch holdfast.Batch[int]) error {
					switch n {
					case 1:
						s.keep(batch, nil)
						return holdfast.Ambiguous(errAway)
					case 2:
						return &holdfast.BatchError{Items: map[int]error{0: c.second}}
					case 3:
						return c.third
					}
					return nil
				})
				b.produce(0, "0")
				r := start(t, b, sinkFunc(s.Write), pipeline.Config{DeadLetters: box, Logger: quiet()})
				time.Sleep(time.Hour)
				r.mustStop(t)
				if box.len() != 0 {
					t.Errorf("a letter about what is stored: %s", box.letters[0].Reason)
				}
			})
		})
	}
}

// An answer about items that the batch does not have says nothing of those that it has.
func TestAnswerAboutOtherItemsSettlesNothing(t *testing.T) {
	for name, route := range map[string]func(pipeline.Sink[int]) pipeline.Sink[int]{
		"alone": func(s pipeline.Sink[int]) pipeline.Sink[int] { return s },
		"a route": func(s pipeline.Sink[int]) pipeline.Sink[int] {
			return pipeline.Route(func(int) string { return "" }, map[string]pipeline.Sink[int]{"": s})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box := newBroker(t, "orders", 1), &letterBox{}
				sink := sinkFunc(func(_ context.Context, batch holdfast.Batch[int]) error {
					return &holdfast.BatchError{Items: map[int]error{len(batch.Items): holdfast.Permanent(errAway)}}
				})
				b.produce(0, "0")
				r := start(t, b, route(sink), pipeline.Config{DeadLetters: box, Logger: quiet()})
				time.Sleep(time.Minute)
				if b.committed(0) != 0 || box.len() != 0 {
					t.Errorf("committed %d, %d letters", b.committed(0), box.len())
				}
				_ = r.stop()
			})
		})
	}
}

// An error that wraps a *holdfast.BatchError alone is one. Beside another error it says too little: what may be stored is
// written again, and no letter is written about it.
func TestAnswerBesideAnotherErrorIsUncertain(t *testing.T) {
	for name, c := range map[string]struct {
		wrap    func(error) error
		letters int
		calls   int
	}{
		"joined with nil":     {func(err error) error { return errors.Join(err, nil) }, 1, 1},
		"wrapped":             {func(err error) error { return fmt.Errorf("store: %w", errors.Join(nil, err)) }, 1, 1},
		"joined with another": {func(err error) error { return errors.Join(err, errAway) }, 0, 2},
		"wrapped with two":    {func(err error) error { return fmt.Errorf("%w: %w", errAway, err) }, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, calls := newBroker(t, "orders", 1), &letterBox{}, 0
				sink := sinkFunc(func(context.Context, holdfast.Batch[int]) error {
					if calls++; calls > 1 {
						return nil
					}
					return c.wrap(&holdfast.BatchError{Items: map[int]error{3: holdfast.Permanent(errAway)}})
				})
				for i := range 10 {
					b.produce(0, fmt.Sprint(i))
				}
				r := start(t, b, sink, pipeline.Config{DeadLetters: box, Logger: quiet()})
				time.Sleep(time.Minute)
				r.mustStop(t)
				if box.len() != c.letters || calls != c.calls || b.committed(0) != 10 {
					t.Errorf("%d letters after %d calls, committed %d, want %d, %d and 10", box.len(), calls, b.committed(0), c.letters, c.calls)
				}
			})
		})
	}
}
