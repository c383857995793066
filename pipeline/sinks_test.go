package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/pipeline"
)

func TestFlatMapSettlesAMessageWithItsLastValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		times := pipeline.FlatMap("times", func(_ context.Context, n int) ([]int, error) { return slices.Repeat([]int{n}, n), nil }, pipeline.StageConfig{})
		odd := pipeline.Map("odd", func(_ context.Context, n int) (int, error) {
			if n == 2 {
				return 0, holdfast.ErrSkip
			}
			return n, nil
		}, pipeline.StageConfig{})
		s.do(func(n int, batch holdfast.Batch[int]) error {
			refused := make(map[int]error)
			for i, item := range batch.Items {
				if item.Value == 3 {
					refused[i] = holdfast.Permanent(errAway)
				}
			}
			if len(refused) > 0 {
				return &holdfast.BatchError{Items: refused}
			}
			return nil
		})
		for n := range 6 {
			b.produce(0, fmt.Sprint(n))
		}
		r := startWith(t, b, pipeline.Then(pipeline.Then(number(), times), odd), s, pipeline.Config{DeadLetters: box, Batch: pipeline.BatchConfig{Count: 8}, Logger: quiet()})
		time.Sleep(10 * time.Second)
		r.mustStop(t)
		if got := s.stored(); !slices.Equal(got, []int{1, 4, 4, 4, 4, 5, 5, 5, 5, 5}) {
			t.Errorf("stored %v", got)
		}
		if got := box.of(dlq.Permanent); !slices.Equal(got, []int64{3}) {
			t.Errorf("letters about %v, want one about 3, whatever it had become", got)
		}
		if b.committed(0) != 6 || r.Stats().Skipped != 2 {
			t.Errorf("committed %d, skipped %d", b.committed(0), r.Stats().Skipped)
		}
	})
}

// A message of several values, some in a batch that is written and some in the next, is not settled by the first.
func TestFlatMapWaitsForEveryValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box := newBroker(t, "orders", 1), &letterBox{}
		away := true
		var mu sync.Mutex
		var calls int
		sink := sinkFunc(func(context.Context, holdfast.Batch[int]) error {
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls > 1 && away {
				return holdfast.Hold(errAway)
			}
			return nil
		})
		five := pipeline.FlatMap("five", func(_ context.Context, n int) ([]int, error) { return slices.Repeat([]int{n}, 5), nil }, pipeline.StageConfig{})
		b.produce(0, "0")
		r := startWith(t, b, pipeline.Then(number(), five), sink, pipeline.Config{DeadLetters: box, Batch: pipeline.BatchConfig{Count: 3}, Logger: quiet()})
		time.Sleep(time.Minute)
		if b.committed(0) != 0 {
			t.Error("settled with two of its values not stored")
		}
		mu.Lock()
		away = false
		mu.Unlock()
		time.Sleep(time.Minute)
		if b.committed(0) != 1 {
			t.Error("not settled with all of its values stored")
		}
		r.mustStop(t)
	})
}

func TestEachActsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box := newBroker(t, "orders", 1), &letterBox{}
		guard, err := breaker.New(breaker.Config{Name: "api", MaxFailures: 1, SuccessThreshold: 1, Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		var done []int
		tries := make(map[int]int)
		sink := pipeline.Each(func(ctx context.Context, item holdfast.Item[int]) error {
			n := item.Value
			tries[n]++
			switch {
			case n == 2:
				return errAway // Retries over.
			case n == 4:
				panic("four")
			case n == 5:
				return holdfast.Permanent(errAway)
			case n == 6 && tries[n] < 20:
				return holdfast.Hold(errAway)
			case n == 7:
				return holdfast.ErrSkip
			case n == 8 && tries[n] == 1:
				guard.ForceOpen()
			case n == 8 && tries[n] == 3:
				guard.Reset()
			}
			return guard.Execute(ctx, func(context.Context) error {
				done = append(done, n)
				return nil
			})
		})
		for n := range 10 {
			b.produce(0, fmt.Sprint(n))
		}
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Logger: quiet()})
		time.Sleep(time.Hour)
		r.mustStop(t)
		if !slices.Equal(done, []int{0, 1, 3, 6, 8, 9}) {
			t.Errorf("done %v", done)
		}
		if box.len() != 3 || b.committed(0) != 10 {
			t.Fatalf("letters %+v, committed %d", box.letters, b.committed(0))
		}
		for i, want := range []dlq.Letter{{Reason: dlq.RetriesExhausted, Attempts: 3}, {Reason: dlq.Panicked, Attempts: 1}, {Reason: dlq.Permanent, Attempts: 1}} {
			if got := box.letters[i]; got.Reason != want.Reason || got.Attempts != want.Attempts {
				t.Errorf("letter %d has reason %s after %d attempts, want %s after %d", i, got.Reason, got.Attempts, want.Reason, want.Attempts)
			}
		}
	})
}

func TestRouteSettlesWhatItsSinkHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, even, odd := newBroker(t, "orders", 1), &letterBox{}, newStore(t), newStore(t)
		odd.breaker.ForceOpen()
		sink := pipeline.Route(func(n int) string { return []string{"even", "odd", "nowhere"}[min(n%2+n/20*2, 2)] },
			map[string]pipeline.Sink[int]{"even": even, "odd": odd})
		for n := range 21 { // 20 has no sink.
			b.produce(0, fmt.Sprint(n))
		}
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Logger: quiet()})
		time.Sleep(time.Minute)
		if got := even.stored(); !slices.Equal(got, []int{0, 2, 4, 6, 8, 10, 12, 14, 16, 18}) || len(odd.stored()) != 0 {
			t.Errorf("stored %v and %v", got, odd.stored())
		}
		if b.committed(0) != 1 || !slices.Equal(box.of(dlq.Permanent), []int64{20}) {
			t.Errorf("committed %d, letters %v", b.committed(0), box.of(dlq.Permanent))
		}
		odd.breaker.Reset()
		time.Sleep(time.Minute)
		r.mustStop(t)
		if got := odd.stored(); !slices.Equal(got, []int{1, 3, 5, 7, 9, 11, 13, 15, 17, 19}) || len(even.stored()) != 10 {
			t.Errorf("stored %v and %v", even.stored(), got)
		}
		if b.committed(0) != 21 {
			t.Errorf("committed %d", b.committed(0))
		}
	})
}

// One sink of a route fails without a circuit: its items wait, they are not to blame.
func TestRouteWaitsForAFailingSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, even := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		failing := sinkFunc(func(context.Context, holdfast.Batch[int]) error { return errAway })
		sink := pipeline.Route(func(n int) string { return []string{"even", "odd"}[n%2] }, map[string]pipeline.Sink[int]{"even": even, "odd": failing})
		for n := range 4 {
			b.produce(0, fmt.Sprint(n))
		}
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Hour)
		if box.len() != 0 || b.committed(0) != 1 || len(even.stored()) != 2 {
			t.Errorf("letters %+v, committed %d, stored %v", box.letters, b.committed(0), even.stored())
		}
		r.mustStop(t)
	})
}

// Rule 6 for a sink that shows no circuit: ambiguous and rejected, it waits.
func TestAmbiguousRejectionWithoutACircuitWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box := newBroker(t, "orders", 1), &letterBox{}
		sink := sinkFunc(func(context.Context, holdfast.Batch[int]) error {
			return holdfast.Ambiguous(&breaker.OpenError{Name: "inside", State: breaker.Open})
		})
		b.produce(0, "0")
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Hour)
		if box.len() != 0 {
			t.Errorf("letters %+v", box.letters)
		}
		r.cancel()
		var left *pipeline.LeftError
		if err := <-r.done; !errors.As(err, &left) {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestSinksRefuseNonsense(t *testing.T) {
	b := newBroker(t, "orders", 1)
	for _, sink := range []pipeline.Sink[int]{
		pipeline.Each[int](nil),
		pipeline.Route[int](nil, nil),
		pipeline.Route(func(int) string { return "" }, map[string]pipeline.Sink[int]{"a": nil, "b": pipeline.Each[int](nil)}),
	} {
		_, err := pipeline.New(b, number(), sink, pipeline.Config{})
		if err == nil || !strings.Contains(err.Error(), "needs") {
			t.Errorf("%T: %v", sink, err)
		}
	}
}

func TestRouteAsksForOneSpanAsItsSinksDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, "orders", 4)
		for p := range 4 {
			b.produce(p, "1")
		}
		sink := oneSpan{sinkFunc(func(_ context.Context, batch holdfast.Batch[int]) error {
			if len(batch.Spans) != 1 {
				t.Errorf("spans %v", batch.Spans)
			}
			return nil
		})}
		route := pipeline.Route(func(int) string { return "" }, map[string]pipeline.Sink[int]{"": sink})
		r := start(t, b, route, pipeline.Config{Logger: quiet()})
		time.Sleep(time.Minute)
		r.mustStop(t)
	})
}

// Each sink of a route has its own batch, to do with as it likes while the others write theirs.
func TestRoutesSinksMayReorderTheirBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, "orders", 4)
		for n := range 16 {
			b.produce(n%4, fmt.Sprint(n))
		}
		sink := sinkFunc(func(_ context.Context, batch holdfast.Batch[int]) error {
			slices.SortFunc(batch.Spans, func(x, y holdfast.Span) int { return y.Partition - x.Partition })
			batch.Spans[0] = holdfast.Span{}
			return nil
		})
		route := pipeline.Route(func(n int) string { return []string{"a", "b"}[n/4%2] }, map[string]pipeline.Sink[int]{"a": sink, "b": sink})
		r := start(t, b, route, pipeline.Config{Logger: quiet()})
		time.Sleep(time.Minute)
		r.mustStop(t)
		for p := range 4 {
			if b.committed(p) != 4 {
				t.Errorf("partition %d: committed %d", p, b.committed(p))
			}
		}
	})
}
