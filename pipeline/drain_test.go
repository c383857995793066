package pipeline_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/pipeline"
)

func TestRevokedClaimLeavesBehindAHeldBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 2), &letterBox{}, newStore(t)
		s.do(func(n int, _ holdfast.Batch[int]) error {
			if n == 1 {
				return holdfast.Ambiguous(errAway)
			}
			return holdfast.Hold(errAway)
		})
		b.produce(0, "0")
		r := start(t, b, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Logger: quiet()})
		time.Sleep(5 * time.Second)
		b.produce(1, "1")
		time.Sleep(5 * time.Second)
		b.mustGiveUp(1) // While the circuit is open.
		s.breaker.Reset()
		for range 3 {
			time.Sleep(time.Minute)
			b.mustGiveUp(1) // While the held batch is tried again.
		}
		s.do(nil)
		time.Sleep(time.Minute)
		r.mustStop(t)
		if got := sorted(s.stored()); !slices.Equal(got, []int{0, 1}) {
			t.Errorf("stored %v", got)
		}
	})
}

// The drain begins during a write after which the circuit is open.
func TestRevokedClaimLeavesWhenTheWriteBeforeItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 2), &letterBox{}, newStore(t)
		release := make(chan struct{})
		sink := &scripted{store: s, write: func(ctx context.Context, batch holdfast.Batch[int]) error {
			<-release
			return s.Write(ctx, batch)
		}}
		b.produce(0, "0")
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Logger: quiet()})
		time.Sleep(5 * time.Second) // 0 is being written.
		b.produce(1, "1")
		time.Sleep(5 * time.Second) // 1 is gathered behind it.
		before := b.owner(1)
		before.revoke()
		synctest.Wait()
		s.breaker.ForceOpen()
		close(release)
		synctest.Wait()
		if b.owner(1) == before {
			t.Error("not given up")
		}
		s.breaker.Reset()
		time.Sleep(time.Minute)
		r.mustStop(t)
		if got := s.stored(); !slices.Equal(got, []int{0, 1}) {
			t.Errorf("stored %v", got)
		}
	})
}

// A message's own deadline, from Config.Context, is a failure of it and not the end of its claim.
func TestDeadlineOfAMessageEndsNoClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		stage := work(func(ctx context.Context, n int) (int, error) {
			if n == 0 {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			return n, nil
		}, pipeline.StageConfig{})
		b.produce(0, "0")
		b.produce(0, "1")
		r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Logger: quiet(), Context: func(ctx context.Context, _ holdfast.Message) context.Context {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			context.AfterFunc(ctx, cancel)
			return ctx
		}})
		synctest.Wait()
		first := b.owner(0)
		time.Sleep(time.Minute)
		if b.owner(0) != first || !slices.Equal(s.stored(), []int{1}) || !slices.Equal(box.of(dlq.TimedOut), []int64{0}) {
			t.Errorf("same claim: %v, stored %v, letters %+v", b.owner(0) == first, s.stored(), box.letters)
		}
		r.mustStop(t)
	})
}

// The drain stops after the message at hand: nothing before it is processed again, a letter's message included.
func TestDrainFinishesTheMessageAtHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		release := make(chan struct{})
		stage := work(func(_ context.Context, n int) (int, error) {
			if n == 3 {
				<-release
			}
			return n, nil
		}, pipeline.StageConfig{})
		for _, v := range []string{"poison", "1", "2", "3", "4"} {
			b.produce(0, v)
		}
		r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Batch: pipeline.BatchConfig{Delay: time.Hour}, Logger: quiet()})
		time.Sleep(5 * time.Second)
		b.owner(0).revoke()
		synctest.Wait()
		close(release)
		synctest.Wait()
		if got := b.committed(0); got != 4 {
			t.Errorf("committed %d, want 4", got)
		}
		r.mustStop(t)
		if got := s.stored(); !slices.Equal(got, []int{1, 2, 3, 4}) || box.len() != 1 {
			t.Errorf("stored %v, %d letters", got, box.len())
		}
	})
}

func TestDrainDoesNotWaitForARetry(t *testing.T) {
	for name, err := range map[string]error{
		"retry after": holdfast.RetryAfter(10*time.Minute, errAway),
		"hold":        holdfast.RetryAfter(10*time.Minute, holdfast.Hold(errAway)),
		"ambiguous":   holdfast.RetryAfter(10*time.Minute, holdfast.Ambiguous(errAway)),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				b.produce(0, "0")
				stage := work(func(_ context.Context, n int) (int, error) { return n, err }, pipeline.StageConfig{})
				r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
				time.Sleep(5 * time.Second)
				began := time.Now()
				r.mustStop(t)
				if took := time.Since(began); took > 0 || b.committed(0) != 0 || box.len() != 0 {
					t.Errorf("the drain took %v, committed %d, letters %+v", took, b.committed(0), box.letters)
				}
			})
		})
	}
}

// One claim's drain hurries nobody else: letters and batches that cannot be written keep their backoff.
func TestDrainLeavesTheBackoffOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroker(t, "orders", 2), newStore(t)
		box := &letterBox{away: errAway}
		s.breaker = nil
		s.do(func(n int, batch holdfast.Batch[int]) error {
			if n == 1 {
				return holdfast.Ambiguous(errAway)
			}
			refused := make(map[int]error)
			for i, item := range batch.Items {
				if refused[i] = holdfast.Permanent(errAway); item.Value == 1 {
					refused[i] = holdfast.Hold(errAway)
				}
			}
			return &holdfast.BatchError{Items: refused}
		})
		b.produce(0, "0")
		b.produce(1, "1")
		r := start(t, b, sinkFunc(s.Write), pipeline.Config{DeadLetters: box, DrainTimeout: time.Second, Logger: quiet()})
		time.Sleep(time.Minute)
		triesBefore, writesBefore := box.attempts(), s.count()
		b.owner(1).revoke()
		time.Sleep(time.Minute)
		synctest.Wait()
		if tries, writes := box.attempts()-triesBefore, s.count()-writesBefore; tries > 30 || writes > 30 {
			t.Errorf("%d tries of a letter and %d writes in a minute", tries, writes)
		}
		_ = r.stop() // The ambiguous message is left.
	})
}

// When what fills the batch being gathered is handed back, those who wait for room in it go on.
func TestRoomThatARevokedClaimLeavesIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 3), &letterBox{}, newStore(t)
		s.breaker.ForceOpen()
		r := start(t, once{b}, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Batch: pipeline.BatchConfig{Count: 1}, Logger: quiet()})
		for p, value := range []string{"0", "1", "2"} { // 0 waits for the circuit, 1 is the batch behind it, 2 finds no room there.
			b.produce(p, value)
			time.Sleep(time.Minute)
		}
		b.owner(1).revoke()
		time.Sleep(time.Minute)
		s.breaker.Reset()
		time.Sleep(time.Hour)
		if got := s.stored(); !slices.Equal(got, []int{0, 2}) || b.committed(2) != 1 {
			t.Errorf("stored %v, partition 2 committed %d, health %+v", got, b.committed(2), r.Health())
		}
		r.mustStop(t)
	})
}

// What comes after a message that is handed back is handed back, too: it would overtake it, since the next owner begins with
// the one that was handed back.
func TestNothingOvertakesWhatIsHandedBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroker(t, "orders", 1), newStore(t)
		s.do(func(_ int, batch holdfast.Batch[int]) error {
			if batch.Items[0].Value == 0 {
				return holdfast.Hold(errAway)
			}
			return nil
		})
		r := start(t, once{b}, s, pipeline.Config{DeadLetters: &letterBox{}, Batch: pipeline.BatchConfig{Count: 1}, Logger: quiet()})
		for _, value := range []string{"0", "1", "2"} {
			b.produce(0, value)
		}
		time.Sleep(time.Minute) // 0 is held, 1 is queued, and 2 waits for room.
		b.owner(0).revoke()
		time.Sleep(time.Minute)
		if got := s.stored(); len(got) > 0 {
			t.Errorf("stored %v, and 0 was handed back", got)
		}
		r.mustStop(t)
	})
}
