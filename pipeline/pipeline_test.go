package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/retry"
)

var errAway = errors.New("away")

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestEveryMessageIsSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 3), &letterBox{}, newStore(t)
		for i := range 300 {
			b.produce(i%3, fmt.Sprint(i))
		}
		b.produce(0, "poison")
		b.partitions[1].log = append(b.partitions[1].log, holdfast.Message{Topic: "orders", Partition: 1, Offset: 100})
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(5 * time.Second)
		r.mustStop(t)
		if got := sorted(s.stored()); !slices.Equal(got, numbers(300)) {
			t.Errorf("stored %v", got)
		}
		if got := box.of(dlq.Undecodable); !slices.Equal(got, []int64{100}) {
			t.Errorf("letters about offsets %v, want the poison's, 100", got)
		}
		for p, want := range []int64{101, 101, 100} {
			if got := b.committed(p); got != want {
				t.Errorf("partition %d committed %d, want %d", p, got, want)
			}
		}
		if s := r.Stats(); s.Stored != 300 || s.Skipped != 1 || s.Letters[dlq.Undecodable] != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

// Rule 2: the commit is the end of the contiguous settled prefix.
func TestCommitStopsBeforeWhatIsNotSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{away: errAway}, newStore(t)
		b.produce(0, "0")
		b.produce(0, "poison")
		b.produce(0, "2")
		slow := boxFunc(func(ctx context.Context, letters ...dlq.Letter) error {
			time.Sleep(time.Second) // Meanwhile 2 goes on: once a letter could not be written, nothing is taken on.
			return box.Write(ctx, letters...)
		})
		r := start(t, b, s, pipeline.Config{DeadLetters: slow, Logger: quiet()})
		time.Sleep(time.Minute)
		if got := s.stored(); !slices.Equal(got, []int{0, 2}) {
			t.Errorf("stored %v", got)
		}
		if got := b.committed(0); got != 1 {
			t.Errorf("committed %d, want 1: offset 1 has no letter yet", got)
		}
		box.setAway(nil)
		time.Sleep(time.Minute)
		if got := b.committed(0); got != 3 {
			t.Errorf("committed %d, want 3", got)
		}
		r.mustStop(t)
	})
}

// Rule 4: a failed write of a letter settles nothing, health says so, and it is tried again.
func TestLetterThatCannotBeWrittenHoldsItsPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 2), &letterBox{away: errAway}, newStore(t)
		b.produce(0, "poison")
		b.produce(1, "1")
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Minute)
		if b.committed(0) != 0 || b.committed(1) != 1 {
			t.Errorf("committed %d and %d, want 0 and 1", b.committed(0), b.committed(1))
		}
		if got := places(r.Health()); !slices.Equal(got, []string{"orders/0 dead letters"}) {
			t.Errorf("troubles at %v", got)
		}
		if h := r.Health(); !h.Live || !h.Ready {
			t.Errorf("health %+v, want live and ready", h)
		}
		if box.attempts() < 3 || box.attempts() > 100 {
			t.Errorf("%d tries in a minute: not tried again, or without backoff", box.attempts())
		}
		box.setAway(nil)
		time.Sleep(time.Minute)
		if b.committed(0) != 1 || r.Health().Degraded() {
			t.Errorf("committed %d, health %+v", b.committed(0), r.Health())
		}
		r.mustStop(t)
	})
}

func TestWithoutDeadLettersPoisonHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroker(t, "orders", 1), newStore(t)
		b.produce(0, "poison")
		r := start(t, b, s, pipeline.Config{Logger: quiet()})
		time.Sleep(time.Hour)
		if b.committed(0) != 0 || !r.Health().Degraded() {
			t.Errorf("committed %d, health %+v", b.committed(0), r.Health())
		}
		r.mustStop(t)
	})
}

func TestOpenCircuitDeadLettersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		s.breaker.ForceOpen()
		for i := range 50 {
			b.produce(0, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(10 * time.Second)
		if got := box.of(dlq.CircuitOpen); len(got) != 50 || !slices.IsSorted(got) {
			t.Errorf("letters %v, want 50 in order", got)
		}
		if l := box.letters[0]; l.Circuit != "store" || l.Stage != "sink" || l.Attempts != 0 || l.Group != "pipeline" {
			t.Errorf("letter %+v", l)
		}
		if b.committed(0) != 50 || s.count() != 0 {
			t.Errorf("committed %d after %d calls, want 50 after 0", b.committed(0), s.count())
		}
		r.mustStop(t)
	})
}

func TestOpenCircuitPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		s.breaker.ForceOpen()
		for i := range 500 {
			b.produce(0, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Batch: pipeline.BatchConfig{Count: 20}, Logger: quiet()})
		time.Sleep(time.Hour)
		if box.len() != 0 || b.committed(0) != 0 {
			t.Errorf("%d letters, committed %d, want none and 0", box.len(), b.committed(0))
		}
		if b.fetched() > 60 {
			t.Errorf("%d messages fetched while paused, want two batches of 20 and a fetch of 10 at the most", b.fetched())
		}
		s.breaker.Reset()
		time.Sleep(time.Minute)
		if got := s.stored(); !slices.Equal(got, numbers(500)) {
			t.Errorf("stored %v, want 500 in order", got)
		}
		r.mustStop(t)
	})
}

func TestOpenCircuitDeadLettersAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		s.breaker.ForceOpen()
		b.produce(0, "0")
		r := start(t, b, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: time.Minute, Logger: quiet()})
		time.Sleep(58 * time.Second)
		if box.len() != 0 {
			t.Errorf("dead-lettered before its time")
		}
		time.Sleep(5 * time.Second)
		if box.len() != 1 {
			t.Errorf("%d letters after a minute, want 1", box.len())
		}
		r.mustStop(t)
	})
}

// Rule 6: what may be stored is never dead-lettered, whatever the policy for open circuits says, and is written again
// as it was before anything behind it.
func TestAmbiguousBatchIsHeldWhileTheCircuitIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		var first, second holdfast.Batch[int]
		s.do(func(n int, batch holdfast.Batch[int]) error {
			switch n {
			case 1:
				first = batch
				first.Items, first.Spans = slices.Clone(batch.Items), slices.Clone(batch.Spans)
				s.keep(batch, nil)
				return holdfast.Ambiguous(errAway)
			case 2:
				second = batch
				second.Items, second.Spans = slices.Clone(batch.Items), slices.Clone(batch.Spans)
			}
			return nil
		})
		for i := range 10 {
			b.produce(0, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(2 * time.Second)
		for i := range 10 {
			b.produce(0, fmt.Sprint(10+i))
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if !s.breaker.IsOpen() || s.count() != 1 {
			t.Fatalf("after %d calls the circuit is %v; the test wants it open after 1", s.count(), s.breaker.State())
		}
		if got := box.of(dlq.CircuitOpen); !slices.Equal(got, []int64{10, 11, 12, 13, 14, 15, 16, 17, 18, 19}) {
			t.Errorf("letters about %v, want 10 to 19: 0 to 9 may be stored", got)
		}
		if l := box.letters[0]; l.Circuit != "store" {
			t.Errorf("a letter behind the held batch names circuit %q", l.Circuit)
		}
		if b.committed(0) != 0 {
			t.Errorf("committed %d, want 0: 0 to 9 are not settled", b.committed(0))
		}
		time.Sleep(2 * time.Minute) // The circuit lets a probe through.
		synctest.Wait()
		if asJSON(first.Spans) != asJSON(second.Spans) || len(first.Items) != 10 || !slices.EqualFunc(first.Items, second.Items, func(x, y holdfast.Item[int]) bool { return x.Value == y.Value }) {
			t.Errorf("written first\n%v %v\nand again\n%v %v", first.Spans, first.Items, second.Spans, second.Items)
		}
		if b.committed(0) != 20 {
			t.Errorf("committed %d, want 20", b.committed(0))
		}
		r.mustStop(t)
	})
}

// An ambiguous batch keeps its rows even when one of its claims is lost: with fewer it would be another batch, and
// whatever recognises a repetition would not.
func TestAmbiguousBatchStaysWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box := newBroker(t, "orders", 2), &letterBox{}
		var sizes []int
		sink := sinkFunc(func(_ context.Context, batch holdfast.Batch[int]) error {
			sizes = append(sizes, len(batch.Items))
			if len(sizes) < 20 {
				return holdfast.Ambiguous(errAway)
			}
			return nil
		})
		b.produce(0, "0")
		b.produce(1, "1")
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(10 * time.Second)
		lost := b.owner(1)
		lost.revoke()
		lost.lose(errAway)
		time.Sleep(10 * time.Minute)
		_ = r.stop() // The lost claim's *LeftError.
		if want := slices.Repeat([]int{2}, 20); !slices.Equal(sizes, want) {
			t.Errorf("batches of %v items, want 20 of 2", sizes)
		}
	})
}

// stubborn is a sink whose circuit seems to admit calls, and yet rejects the first batch again and again.
type stubborn struct {
	refusals int
	written  []int
}

func (*stubborn) IsOpen() bool { return false }

func (*stubborn) WaitUntilReady(ctx context.Context) error {
	select {
	case <-time.After(time.Minute):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *stubborn) Write(_ context.Context, b holdfast.Batch[int]) error {
	if b.Items[0].Value == 0 && s.refusals > 0 {
		s.refusals--
		return holdfast.Ambiguous(breaker.ErrCircuitOpen)
	}
	for _, item := range b.Items {
		s.written = append(s.written, item.Value)
	}
	return nil
}

func TestNothingIsWrittenBeforeAHeldBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, &stubborn{refusals: 10}
		for i := range 20 {
			b.produce(0, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Batch: pipeline.BatchConfig{Count: 10}, Logger: quiet()})
		time.Sleep(time.Hour)
		r.mustStop(t)
		if !slices.Equal(s.written, numbers(20)) || box.len() != 0 {
			t.Errorf("written %v, %d letters", s.written, box.len())
		}
	})
}

// Rule 7: a configuration fault holds the pipeline and empties nothing into the dead-letter queue.
func TestConfigurationFaultHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		fault := holdfast.Hold(errors.New("no such table"))
		s.do(func(int, holdfast.Batch[int]) error { return fault })
		for i := range 10 {
			b.produce(0, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Hour)
		h := r.Health()
		if box.len() != 0 || s.breaker.State() != breaker.Closed || !h.Degraded() || !strings.Contains(h.Troubles[0].Why, "no such table") {
			t.Errorf("%d letters, circuit %v, health %+v", box.len(), s.breaker.State(), h)
		}
		s.do(nil)
		time.Sleep(time.Minute)
		if got := s.stored(); !slices.Equal(got, numbers(10)) || r.Health().Degraded() {
			t.Errorf("stored %v, health %+v", got, r.Health())
		}
		r.mustStop(t)
	})
}

func TestRefusedItemsAreDeadLetteredAndTheOthersStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		s.do(func(_ int, batch holdfast.Batch[int]) error {
			refused := make(map[int]error)
			for i, item := range batch.Items {
				if item.Value%4 == 1 {
					refused[i] = holdfast.Permanent(errors.New("out of range"))
				}
			}
			return &holdfast.BatchError{Items: refused}
		})
		for i := range 10 {
			b.produce(0, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(10 * time.Second)
		r.mustStop(t)
		if got := box.of(dlq.Permanent); !slices.Equal(got, []int64{1, 5, 9}) {
			t.Errorf("letters %v", got)
		}
		if got := s.stored(); !slices.Equal(got, []int{0, 2, 3, 4, 6, 7, 8}) || b.committed(0) != 10 {
			t.Errorf("stored %v, committed %d", got, b.committed(0))
		}
	})
}

// Rule 9: order is kept through retries.
func TestFailedBatchIsWrittenBeforeTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box := newBroker(t, "orders", 1), &letterBox{}
		s := newStore(t)
		s.breaker = nil // No circuit: every failure is tried again.
		s.do(func(n int, _ holdfast.Batch[int]) error {
			if n%3 != 0 {
				return errAway
			}
			return nil
		})
		for i := range 95 {
			b.produce(0, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Batch: pipeline.BatchConfig{Count: 10}, Logger: quiet()})
		time.Sleep(time.Minute)
		r.mustStop(t)
		if got := s.stored(); !slices.Equal(got, numbers(95)) {
			t.Errorf("stored %v, want 0 to 94 in order", got)
		}
	})
}

// Rule 11: a panic is the message's failure.
func TestPanicIsTheMessagesFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		stage := pipeline.Then(number(), pipeline.Map("halve", func(_ context.Context, n int) (int, error) {
			if n == 1 {
				panic("one")
			}
			return n, nil
		}, pipeline.StageConfig{}))
		for i := range 3 {
			b.produce(0, fmt.Sprint(i))
		}
		r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Stacks: true, Logger: quiet()})
		time.Sleep(10 * time.Second)
		r.mustStop(t)
		if got := box.of(dlq.Panicked); !slices.Equal(got, []int64{1}) || b.committed(0) != 3 {
			t.Errorf("letters %v, committed %d", got, b.committed(0))
		}
		if stack := box.letters[0].Stack; !strings.Contains(stack, "TestPanicIsTheMessagesFailure") {
			t.Errorf("the letter's stack is %q", stack)
		}
	})
}

func TestStageVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		fail     func(n int) error // What the n-th call returns.
		reason   dlq.Reason
		attempts int
		calls    int
	}{
		"exhausted": {func(int) error { return errAway }, dlq.RetriesExhausted, 3, 3},
		"permanent": {func(int) error { return holdfast.Permanent(errAway) }, dlq.Permanent, 1, 1},
		"timeout":   {func(int) error { return context.DeadlineExceeded }, dlq.TimedOut, 3, 3},
		"recovers": {func(n int) error {
			if n < 3 {
				return errAway
			}
			return nil
		}, "", 0, 3},
		"hold, then permanent": {func(n int) error {
			if n < 20 {
				return holdfast.Hold(errAway)
			}
			return holdfast.Permanent(errAway)
		}, dlq.Permanent, 20, 20},
		"ambiguous until known": {func(n int) error {
			if n < 20 {
				return holdfast.Ambiguous(errAway)
			}
			return nil
		}, "", 0, 20},
		"skip": {func(int) error { return holdfast.ErrSkip }, "", 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				b.produce(0, "0")
				calls := 0
				stage := pipeline.Then(number(), pipeline.Map("work", func(_ context.Context, n int) (int, error) {
					calls++
					return n, c.fail(calls)
				}, pipeline.StageConfig{}))
				r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
				time.Sleep(time.Hour)
				for _, place := range places(r.Health()) {
					t.Errorf("%s is still in trouble", place)
				}
				r.mustStop(t)
				if calls != c.calls || b.committed(0) != 1 {
					t.Errorf("%d calls, committed %d, want %d and 1", calls, b.committed(0), c.calls)
				}
				if c.reason == "" {
					if box.len() != 0 {
						t.Errorf("letters %+v", box.letters)
					}
					return
				}
				if box.len() != 1 || box.letters[0].Reason != c.reason || box.letters[0].Attempts != c.attempts || box.letters[0].Stage != "work" {
					t.Errorf("letters %+v", box.letters)
				}
			})
		})
	}
}

// Rule 5: a rejection is not one of the message's attempts.
func TestRejectionIsNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		guard, err := breaker.New(breaker.Config{Name: "guard", MaxFailures: 1, SuccessThreshold: 1})
		if err != nil {
			t.Fatal(err)
		}
		guard.ForceOpen()
		b.produce(0, "0")
		calls := 0
		stage := pipeline.Then(number(), pipeline.Map("work", func(_ context.Context, n int) (int, error) {
			calls++
			return n, nil
		}, pipeline.StageConfig{Breaker: guard, Retry: retry.Policy{Attempts: -1}}))
		r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Logger: quiet()})
		time.Sleep(time.Hour)
		if calls != 0 || box.len() != 0 {
			t.Errorf("%d calls, %d letters while the circuit was open", calls, box.len())
		}
		if got := places(r.Health()); !slices.Contains(got, "orders/0 stage work") {
			t.Errorf("troubles at %v", got)
		}
		guard.Reset()
		time.Sleep(time.Minute)
		r.mustStop(t)
		if calls != 1 || b.committed(0) != 1 {
			t.Errorf("%d calls, committed %d", calls, b.committed(0))
		}
	})
}

// Rule 8: letters per second are bounded.
func TestLettersPerSecondAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		for range 1000 {
			b.produce(0, "poison")
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, MaxLettersPerSecond: 20, Logger: quiet()})
		time.Sleep(10 * time.Second)
		if n := box.len(); n < 180 || n > 240 {
			t.Errorf("%d letters in 10 s, want 200 and a burst of 20", n)
		}
		r.mustStop(t)
	})
}

func TestRevokedClaimIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		for i := range 50 {
			b.produce(0, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Batch: pipeline.BatchConfig{Delay: time.Hour}, Logger: quiet()})
		synctest.Wait()
		b.owner(0).revoke()
		synctest.Wait() // Nothing had to wait for the batch's delay.
		if got := s.stored(); !slices.Equal(got, numbers(50)) || b.committed(0) != 50 {
			t.Errorf("stored %v, committed %d", got, b.committed(0))
		}
		r.mustStop(t)
	})
}

// A claim whose messages wait for a circuit is given up at once when it is revoked: nothing of it is settled.
func TestRevokedClaimHandsBackWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		s.breaker.ForceOpen()
		for i := range 50 {
			b.produce(0, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Logger: quiet()})
		time.Sleep(time.Minute)
		before := b.owner(0)
		before.revoke()
		synctest.Wait()
		if b.owner(0) == before {
			t.Fatal("the claim was not given up")
		}
		if b.committed(0) != 0 {
			t.Errorf("committed %d", b.committed(0))
		}
		s.breaker.Reset()
		time.Sleep(time.Minute)
		if got := s.stored(); !slices.Equal(got, numbers(50)) || b.committed(0) != 50 {
			t.Errorf("stored %v, committed %d", got, b.committed(0))
		}
		r.mustStop(t)
	})
}

// Rule 3: what is completed after its claim was lost is dropped.
func TestLateCompletionIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		hang := make(chan struct{})
		s.breaker = nil
		first := true
		b.produce(0, "0")
		sink := sinkFunc(func(ctx context.Context, batch holdfast.Batch[int]) error {
			if first {
				first = false
				<-hang
			}
			return s.Write(ctx, batch)
		})
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Minute)
		before := b.owner(0)
		before.revoke()
		before.lose(errors.New("drain budget spent"))
		synctest.Wait()
		close(hang)
		synctest.Wait() // The broker reports a commit by the lost claim.
		if late := r.Stats().Late; late != 1 {
			t.Errorf("%d late completions, want 1", late)
		}
		_ = r.stop() // The lost claim's *LeftError.
	})
}

type sinkFunc func(context.Context, holdfast.Batch[int]) error

func (f sinkFunc) Write(ctx context.Context, b holdfast.Batch[int]) error { return f(ctx, b) }

func TestDrainThatTakesTooLongSaysWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box := newBroker(t, "orders", 1), &letterBox{}
		for i := range 7 {
			b.produce(0, fmt.Sprint(i))
		}
		sink := sinkFunc(func(ctx context.Context, _ holdfast.Batch[int]) error {
			<-ctx.Done()
			return ctx.Err()
		})
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, DrainTimeout: 5 * time.Second, Logger: quiet()})
		time.Sleep(time.Minute)
		began := time.Now()
		err := r.stop()
		var left *pipeline.LeftError
		if !errors.As(err, &left) || left.Messages != 7 || left.Offset != 0 || left.Topic != "orders" {
			t.Errorf("Run returned %v", err)
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("the drain took %v, want 5s", took)
		}
		if b.committed(0) != 0 || box.len() != 0 {
			t.Errorf("committed %d, %d letters", b.committed(0), box.len())
		}
	})
}

// Letters of an open circuit come home by themselves; on the way they wait for the circuit and are not written again.
func TestLettersComeHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		letters := newBroker(t, "orders.dlq", 1)
		b, box, s := newBroker(t, "orders", 2), &letterBox{into: letters}, newStore(t)
		s.breaker.ForceOpen()
		for i := range 100 {
			b.produce(i%2, fmt.Sprint(i))
		}
		b.produce(0, "poison")
		r := start(t, cluster{b, letters}, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Hour)
		if box.len() != 101 || b.committed(0) != 51 || b.committed(1) != 50 {
			t.Fatalf("%d letters, committed %d and %d", box.len(), b.committed(0), b.committed(1))
		}
		if letters.committed(0) != 0 || letters.fetched() != 0 {
			t.Errorf("%d letters fetched and %d settled while the circuit was open", letters.fetched(), letters.committed(0))
		}
		s.breaker.Reset()
		time.Sleep(time.Minute)
		if got := sorted(s.stored()); !slices.Equal(got, numbers(100)) {
			t.Errorf("stored %v", got)
		}
		if box.len() != 101 || letters.committed(0) != 101 {
			t.Errorf("%d letters, %d settled, want 101 and 101", box.len(), letters.committed(0))
		}
		if got := r.Stats(); got.Redriven != 100 {
			t.Errorf("redriven %d, want 100", got.Redriven)
		}
		r.mustStop(t)
	})
}

func TestRefusesNonsense(t *testing.T) {
	b, s := newBroker(t, "orders", 1), newStore(t)
	for name, c := range map[string]struct {
		make func() error
		want []string
	}{
		"config": {func() error {
			_, err := pipeline.New(b, number(), s, pipeline.Config{DeadLetterAfter: -2, MaxLettersPerSecond: -5, StallAfter: -time.Second, Batch: pipeline.BatchConfig{Count: -1}})
			return err
		}, []string{"Config.DeadLetterAfter", "-2ns", "Config.MaxLettersPerSecond", "-5", "Config.StallAfter", "-1s", "Config.Batch.Count"}},
		"stage": {func() error {
			_, err := pipeline.New(b, pipeline.Then(number(), pipeline.Map[int, int]("", nil, pipeline.StageConfig{Timeout: -1})), s, pipeline.Config{})
			return err
		}, []string{"stage needs a name", "needs a function", `pipeline: stage "": StageConfig.Timeout`}},
		"more lanes than memory": {func() error {
			_, err := pipeline.New(b, number(), s, pipeline.Config{Order: pipeline.ByKey, Lanes: 1 << 30})
			return err
		}, []string{"Config.Lanes must be from 1 to 10000", "1073741824"}},
		"zero stage": {func() error {
			_, err := pipeline.New(b, pipeline.Stage[holdfast.Message, int]{}, s, pipeline.Config{})
			return err
		}, []string{"zero Stage"}},
		"nothing": {func() error {
			_, err := pipeline.New[int](nil, number(), nil, pipeline.Config{})
			return err
		}, []string{"needs a Source", "needs a Sink"}},
	} {
		err := c.make()
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not name %q", name, err, want)
			}
		}
	}
}

// A claim that is drained does not wait for a batch that cannot be written, wherever its messages are.
func TestRevokedClaimLeavesTheQueueBehindAStuckBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 2), &letterBox{}, newStore(t)
		s.breaker.ForceOpen()
		b.produce(0, "0")
		r := start(t, b, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Logger: quiet()})
		time.Sleep(time.Minute) // Partition 0's batch waits for the circuit.
		b.produce(1, "1")
		time.Sleep(time.Minute) // Partition 1's message is in the batch behind it.
		before := b.owner(1)
		before.revoke()
		synctest.Wait()
		if b.owner(1) == before {
			t.Error("the claim was not given up")
		}
		s.breaker.Reset()
		time.Sleep(time.Minute)
		if got := sorted(s.stored()); !slices.Equal(got, []int{0, 1}) {
			t.Errorf("stored %v", got)
		}
		r.mustStop(t)
	})
}

// The same while the dead-letter queue is away and a refused item waits for it.
func TestRevokedClaimLeavesWhileDeadLettersAreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 2), &letterBox{away: errAway}, newStore(t)
		s.breaker.ForceOpen()
		for i := range 10 {
			b.produce(i%2, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Minute)
		b.produce(1, "10")
		time.Sleep(time.Minute)
		began := time.Now()
		r.mustStop(t)
		if took := time.Since(began); took > time.Second {
			t.Errorf("the drain took %v", took)
		}
		if b.committed(0) != 0 || b.committed(1) != 0 {
			t.Errorf("committed %d and %d", b.committed(0), b.committed(1))
		}
	})
}

// The patience with an open circuit is the outage's, not each batch's.
func TestPatienceIsSpentOncePerOutage(t *testing.T) {
	for name, stage := range map[string]bool{"sink": false, "stage": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				steps := number()
				if s.breaker.ForceOpen(); stage {
					work := pipeline.Map("work", func(_ context.Context, n int) (int, error) { return n, nil }, pipeline.StageConfig{Breaker: s.breaker})
					steps = pipeline.Then(number(), work)
				}
				for i := range 100 {
					b.produce(0, fmt.Sprint(i))
				}
				r := startWith(t, b, steps, s, pipeline.Config{
					DeadLetters: box, DeadLetterAfter: time.Minute, Batch: pipeline.BatchConfig{Count: 10}, Logger: quiet(),
				})
				time.Sleep(55 * time.Second)
				if n := box.len(); n != 0 {
					t.Errorf("%d letters before the patience was spent", n)
				}
				time.Sleep(15 * time.Second)
				if n := box.len(); n != 100 {
					t.Errorf("%d letters soon after, want 100", n)
				}
				s.breaker.Reset()
				b.produce(0, "100")
				time.Sleep(10 * time.Second)
				s.breaker.ForceOpen() // A new outage.
				b.produce(0, "101")
				time.Sleep(50 * time.Second)
				if n := box.len(); n != 100 {
					t.Errorf("%d letters: the second outage has not its own patience", n)
				}
				r.mustStop(t)
			})
		})
	}
}

func TestPanicInContextHookIsTheMessagesFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		b.produce(0, "0")
		b.produce(0, "1")
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet(), Context: func(ctx context.Context, m holdfast.Message) context.Context {
			if m.Offset == 0 {
				panic("no trace")
			}
			return ctx
		}})
		time.Sleep(10 * time.Second)
		r.mustStop(t)
		if got := box.of(dlq.Panicked); !slices.Equal(got, []int64{0}) || b.committed(0) != 2 {
			t.Errorf("letters %v, committed %d", got, b.committed(0))
		}
	})
}
