package pipeline_test

import (
	"context"
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
