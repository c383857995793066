package pipeline_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/retry"
)

// Rule 6 for a sink that shows no circuit: once ambiguous, a plain rejection makes nothing known.
func TestAmbiguousBatchWaitsForAHiddenCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		s.do(func(n int, batch holdfast.Batch[int]) error {
			if n == 1 {
				s.keep(batch, nil)
				return holdfast.Ambiguous(errAway)
			}
			return nil
		})
		b.produce(0, "0")
		r := start(t, b, sinkFunc(s.Write), pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(10 * time.Second)
		if !s.breaker.IsOpen() || box.len() != 0 || b.committed(0) != 0 {
			t.Errorf("circuit %v, letters %v, committed %d", s.breaker.State(), box.of(dlq.CircuitOpen), b.committed(0))
		}
		time.Sleep(5 * time.Minute)
		if box.len() != 0 || b.committed(0) != 1 {
			t.Errorf("%d letters, committed %d after the circuit has closed", box.len(), b.committed(0))
		}
		r.mustStop(t)
	})
}

// Rule 6 in a stage.
func TestAmbiguousMessageStaysInItsStage(t *testing.T) {
	for name, c := range map[string]struct {
		guarded  bool
		attempts int
		fail     func(n int) error // What the n-th call returns, for an hour.
	}{
		"its circuit opens":                    {true, -1, func(int) error { return holdfast.Ambiguous(errAway) }},
		"its circuit opens between attempts":   {true, 3, func(int) error { return holdfast.Ambiguous(errAway) }},
		"a circuit inside opens":               {false, 1, ambiguousThen(breaker.ErrCircuitOpen)},
		"an attempt fails plainly after it":    {false, 3, ambiguousThen(errAway)},
		"attempts run out long after it":       {false, -1, ambiguousThen(errAway)},
		"an attempt runs out of time after it": {false, 2, ambiguousThen(context.DeadlineExceeded)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				cfg := pipeline.StageConfig{Retry: retry.Policy{Attempts: c.attempts}}
				if c.guarded {
					cfg.Breaker = newBreaker(t, "guard")
				}
				mended := time.Now().Add(time.Hour)
				calls := 0
				stage := work(func(_ context.Context, n int) (int, error) {
					if calls++; time.Now().Before(mended) {
						return n, c.fail(calls)
					}
					return n, nil
				}, cfg)
				b.produce(0, "0")
				r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
				time.Sleep(2 * time.Hour)
				r.mustStop(t)
				if box.len() != 0 || b.committed(0) != 1 || len(s.stored()) != 1 {
					t.Errorf("letters %+v, committed %d, stored %v after %d calls", box.letters, b.committed(0), s.stored(), calls)
				}
			})
		})
	}
}

// ambiguousThen is what a call says of which only the first may have done the work.
func ambiguousThen(err error) func(int) error {
	return func(n int) error {
		if n == 1 {
			return holdfast.Ambiguous(errAway)
		}
		return err
	}
}

// An answer that was lost says nothing of the items, whatever it wraps.
func TestAmbiguousErrorOutweighsTheItemsInIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box := newBroker(t, "orders", 1), &letterBox{}
		var written []int
		calls := 0
		sink := sinkFunc(func(_ context.Context, batch holdfast.Batch[int]) error {
			if calls++; calls < 5 {
				return holdfast.Ambiguous(fmt.Errorf("lost: %w", &holdfast.BatchError{Items: map[int]error{0: holdfast.Permanent(errAway)}}))
			}
			for _, item := range batch.Items {
				written = append(written, item.Value)
			}
			return nil
		})
		b.produce(0, "0")
		b.produce(0, "1")
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Hour)
		r.mustStop(t)
		if box.len() != 0 || !slices.Equal(written, []int{0, 1}) {
			t.Errorf("letters %+v, written %v", box.letters, written)
		}
	})
}

// Rule 7: whoever says Hold is believed, whatever the error in it says.
func TestHoldOutweighsTheErrorInIt(t *testing.T) {
	for name, inside := range map[string]error{"permanent": holdfast.Permanent(errAway), "open circuit": breaker.ErrCircuitOpen} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				mended := time.Now().Add(time.Hour)
				hold := func() error {
					if time.Now().Before(mended) {
						return holdfast.Hold(inside)
					}
					return nil
				}
				stage := work(func(_ context.Context, n int) (int, error) {
					if n == 0 {
						return n, nil
					}
					return n, hold()
				}, pipeline.StageConfig{})
				s.do(func(int, holdfast.Batch[int]) error { return hold() })
				b.produce(0, "0") // Held in the sink.
				b.produce(0, "1") // Held in the stage.
				r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
				time.Sleep(time.Minute)
				if got := places(r.Health()); !slices.Equal(got, []string{"orders/0 stage work", "sink"}) {
					t.Errorf("troubles at %v", got)
				}
				time.Sleep(2 * time.Hour)
				r.mustStop(t)
				if box.len() != 0 || !slices.Equal(s.stored(), []int{0, 1}) {
					t.Errorf("letters %+v, stored %v", box.letters, s.stored())
				}
			})
		})
	}
}

// A sink gets a copy of the batch: whatever it does to it, an item stays with its message.
func TestSinkMayReorderItsBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box := newBroker(t, "orders", 2), &letterBox{}
		var written []int
		calls := 0
		sink := sinkFunc(func(_ context.Context, batch holdfast.Batch[int]) error {
			slices.SortFunc(batch.Items, func(x, y holdfast.Item[int]) int { return x.Value - y.Value })
			if calls++; calls < 6 {
				return errAway
			}
			for _, item := range batch.Items {
				written = append(written, item.Value)
			}
			return nil
		})
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, Logger: quiet()})
		b.produce(0, "5")
		synctest.Wait()
		b.produce(1, "3")
		time.Sleep(1200 * time.Millisecond)
		b.mustGiveUp(0) // Its message is taken out of the batch.
		time.Sleep(time.Hour)
		r.mustStop(t)
		if !slices.Equal(sorted(written), []int{3, 5}) || b.committed(0) != 1 || b.committed(1) != 1 {
			t.Errorf("written %v, committed %d and %d", written, b.committed(0), b.committed(1))
		}
	})
}

// probing is a sink whose circuit is half-open, with a probe of somebody else's that hangs.
type probing struct{ waiting, most, writes int }

func (*probing) IsOpen() bool { return false }

func (p *probing) WaitUntilReady(ctx context.Context) error {
	p.waiting++
	p.most = max(p.most, p.waiting)
	<-ctx.Done()
	p.waiting--
	return ctx.Err()
}

func (p *probing) Write(context.Context, holdfast.Batch[int]) error {
	if p.writes++; p.writes == 1 {
		return holdfast.Ambiguous(errAway)
	}
	return &breaker.OpenError{Name: "store", State: breaker.HalfOpen}
}

// Rule 8: however long a batch is held, one goroutine waits for the circuit.
func TestHeldBatchHasOneWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, &probing{}
		b.produce(0, "0")
		r := start(t, b, s, pipeline.Config{DeadLetters: box, DrainTimeout: time.Second, Logger: quiet()})
		time.Sleep(5 * time.Second)
		b.produce(0, "1")
		time.Sleep(time.Hour)
		synctest.Wait()
		if s.most > 1 || s.writes > 2*3600 {
			t.Errorf("%d wait for the circuit, %d writes in an hour", s.most, s.writes)
		}
		_ = r.stop() // What is held is left.
	})
}

// What comes after a held batch is not dead-lettered for an open circuit that has closed since.
func TestBehindAHeldBatchAnOutageEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		mended := false
		s.do(func(n int, _ holdfast.Batch[int]) error {
			switch {
			case n == 1:
				return holdfast.Ambiguous(errAway)
			case !mended:
				return holdfast.Hold(errAway)
			}
			return nil
		})
		b.produce(0, "0")
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(10 * time.Minute)
		if s.breaker.IsOpen() {
			t.Fatal("the circuit is open")
		}
		b.produce(0, "1")
		time.Sleep(10 * time.Minute)
		if box.len() != 0 {
			t.Errorf("letters %v with reason circuit open while it is closed", box.of(dlq.CircuitOpen))
		}
		s.mu.Lock()
		mended = true
		s.mu.Unlock()
		time.Sleep(10 * time.Minute)
		r.mustStop(t)
		if b.committed(0) != 2 || len(s.stored()) != 2 {
			t.Errorf("committed %d, stored %v", b.committed(0), s.stored())
		}
	})
}
