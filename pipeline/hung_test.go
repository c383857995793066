package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/pipeline"
)

// hanging is a sink whose writes of a negative number do not return: until their context ends, or until free is closed.
type hanging struct {
	*store
	free  chan struct{}
	cause error // Why the context of one that hung ended.
}

func (h *hanging) Write(ctx context.Context, b holdfast.Batch[int]) error {
	if slices.ContainsFunc(b.Items, func(item holdfast.Item[int]) bool { return item.Value < 0 }) {
		done := ctx.Done()
		if h.free != nil {
			done = h.free
		}
		<-done
		h.cause = context.Cause(ctx)
		return ctx.Err()
	}
	return h.store.Write(ctx, b)
}

// lose revokes a claim and ends its context, as a source does when the drain took too long.
func lose(c *claim) {
	c.revoke()
	synctest.Wait()
	c.lose(errAway)
	synctest.Wait()
}

// Nobody could settle anything by the outcome of a write whose claims are all gone: it is cut short, and its writer is free.
func TestWriteEndsWithTheLastOfItsClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box := newBroker(t, "orders", 3), &letterBox{}
		sink := &hanging{store: newStore(t)}
		b.produce(0, "-1")
		b.produce(1, "1")
		listen := func(e pipeline.Event) {
			if e.Kind == pipeline.Waiting {
				t.Errorf("told of %+v: nothing waits for the sink's answer any more", e)
			}
		}
		r := start(t, once{b}, sink, pipeline.Config{DeadLetters: box, Batch: pipeline.BatchConfig{Writers: 1}, OnEvent: listen, Logger: quiet()})
		time.Sleep(time.Minute) // Both are in the batch that hangs.
		b.produce(2, "2")
		time.Sleep(time.Minute)
		p := r.Stats().Partitions[0]
		if p.OldestStage != "sink" || p.OldestAge < 2*time.Minute || p.OldestOffset != 0 || !strings.Contains(asJSON(r.Health()), "orders/0") {
			t.Errorf("stats %+v, health %+v of a partition that hangs in the sink", p, r.Health())
		}
		lose(b.owner(0))
		time.Sleep(time.Minute)
		if sink.cause != nil {
			t.Errorf("the write ended with %v while one of its claims was there", sink.cause)
		}
		lose(b.owner(1))
		time.Sleep(2 * time.Second)
		if sink.cause == nil || !strings.Contains(sink.cause.Error(), "given up") {
			t.Errorf("the write's context ended with %v", sink.cause)
		}
		if !slices.Equal(sink.stored(), []int{2}) || b.committed(2) != 1 || b.committed(0) != 0 || b.committed(1) != 0 {
			t.Errorf("stored %v, committed %d, %d and %d", sink.stored(), b.committed(0), b.committed(1), b.committed(2))
		}
		if h := r.Health(); h.Degraded() || box.len() != 0 {
			t.Errorf("health %+v, letters %+v", h, box.letters)
		}
		_ = r.stop() // The lost claims' *LeftErrors.
	})
}

// A sink that ignores its context keeps one writer, the others go on, and health tells of it until it returns.
func TestSinkThatDoesNotReturnIsVisible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box := newBroker(t, "orders", 2), &letterBox{}
		sink := &hanging{store: newStore(t), free: make(chan struct{})}
		b.produce(0, "-1")
		r := start(t, once{b}, sink, pipeline.Config{DeadLetters: box, Batch: pipeline.BatchConfig{Writers: 2}, Logger: quiet()})
		time.Sleep(time.Minute)
		lose(b.owner(0))
		for range 100 {
			b.produce(1, "1")
			time.Sleep(2 * time.Second)
		}
		if len(sink.stored()) != 100 || b.committed(1) != 100 {
			t.Errorf("%d stored, committed %d beside the writer that hangs", len(sink.stored()), b.committed(1))
		}
		if h := r.Health(); !slices.Equal(places(h), []string{"sink"}) || !strings.HasPrefix(h.Troubles[0].Why, "does not return: ") {
			t.Errorf("health %+v", h)
		}
		close(sink.free)
		time.Sleep(time.Second)
		if h := r.Health(); h.Degraded() {
			t.Errorf("health %+v after it has returned", h)
		}
		_ = r.stop() // The lost claim's *LeftError.
	})
}

// Rule 10 for such a sink: Run waits for it, and says so.
func TestRunWaitsForASinkThatDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box := newBroker(t, "orders", 1), &letterBox{}
		sink := &hanging{store: newStore(t), free: make(chan struct{})}
		b.produce(0, "-1")
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, DrainTimeout: 5 * time.Second, Logger: quiet()})
		time.Sleep(time.Minute)
		r.cancel()
		time.Sleep(time.Minute)
		if h := r.Health(); !h.Live || !strings.Contains(asJSON(h), "does not return") {
			t.Errorf("health %+v", h)
		}
		select {
		case err := <-r.done:
			t.Fatalf("Run returned %v while the sink runs", err)
		default:
		}
		close(sink.free)
		if err := <-r.done; err == nil {
			t.Error("Run returned nil, with a message left")
		}
	})
}

// A dead-letter queue that hangs holds its partition only, shows, and is given up with the drain.
func TestDeadLetterQueueThatHangsIsVisible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroker(t, "orders", 2), newStore(t)
		box := boxFunc(func(ctx context.Context, _ ...dlq.Letter) error {
			<-ctx.Done()
			return ctx.Err()
		})
		b.produce(0, "poison")
		for i := range 1000 {
			b.produce(0, fmt.Sprint(i))
			b.produce(1, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, MaxInFlight: 100, DrainTimeout: 5 * time.Second, Logger: quiet()})
		time.Sleep(2 * time.Minute)
		if p := r.Stats().Partitions[0]; p.OldestStage != "dead letters" || p.OldestOffset != 0 || b.committed(0) != 0 || b.committed(1) != 1000 {
			t.Errorf("stats %+v, committed %d and %d", p, b.committed(0), b.committed(1))
		}
		if h := r.Health(); !strings.Contains(asJSON(h), "stalled: offset 0 has been in flight for 2m0s, now at dead letters") {
			t.Errorf("health %+v", h)
		}
		if b.fetched() > 1000+100+10 {
			t.Errorf("%d fetched", b.fetched())
		}
		began := time.Now()
		var left *pipeline.LeftError
		if err := r.stop(); !errors.As(err, &left) || left.Messages != 1 || left.Offset != 0 || time.Since(began) != 5*time.Second {
			t.Errorf("Run returned %v after %v", err, time.Since(began))
		}
	})
}

// What waits for its letter is not in the sink.
func TestOldestStageNamesTheLetter(t *testing.T) {
	for name, c := range map[string]struct {
		value   string
		refused bool
		open    bool
	}{
		"undecodable":         {value: "poison"},
		"refused by the sink": {value: "1", refused: true},
		"open circuit":        {value: "1", open: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{away: errAway}, newStore(t)
				if c.refused {
					s.refuse(holdfast.Permanent(errAway), 1)
				}
				if c.open {
					s.breaker.ForceOpen()
				}
				b.produce(0, c.value)
				r := start(t, b, s, pipeline.Config{DeadLetters: boxFunc(box.Write), Logger: quiet()})
				seen := make(map[string]int)
				for range 100 {
					time.Sleep(1234 * time.Millisecond)
					synctest.Wait()
					seen[r.Stats().Partitions[0].OldestStage]++
				}
				if seen["dead letters"] != 100 {
					t.Errorf("seen in %v", seen)
				}
				box.setAway(nil)
				time.Sleep(time.Minute)
				if got := r.Stats().Partitions[0]; got.OldestStage != "" || got.OldestOffset != -1 || got.InFlight != 0 {
					t.Errorf("stats %+v with nothing in flight", got)
				}
				r.mustStop(t)
			})
		})
	}
}

// Nor is what waits until letters may be written again.
func TestOldestStageNamesTheLetterThatWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		for range 30 {
			b.produce(0, "poison")
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, MaxLettersPerSecond: 1, Logger: quiet()})
		for range 40 {
			time.Sleep(510 * time.Millisecond)
			synctest.Wait()
			if p := r.Stats().Partitions[0]; p.OldestStage != "dead letters" {
				t.Errorf("stats %+v after %d letters", p, box.len())
			}
		}
		time.Sleep(time.Minute)
		r.mustStop(t)
	})
}
