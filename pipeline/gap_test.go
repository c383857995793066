package pipeline_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
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
	"github.com/holdfast-io/holdfast/retry"
)

// A letter about what a stage's circuit rejected does not wait for a message behind it that is held.
func TestLetterOfARejectionDoesNotWaitForTheNextMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		guard := newBreaker(t, "guard")
		guard.ForceOpen()
		steps := pipeline.Then(work(func(_ context.Context, n int) (int, error) {
			if n == 1 {
				return 0, holdfast.Hold(errAway)
			}
			return n, nil
		}, pipeline.StageConfig{}), pipeline.Map("guarded", pass, pipeline.StageConfig{Breaker: guard}))
		b.produce(0, "0")
		b.produce(0, "1")
		r := startWith(t, b, steps, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Minute)
		if box.len() != 1 || b.committed(0) != 1 {
			t.Errorf("%d letters, committed %d, with the next message held", box.len(), b.committed(0))
		}
		r.mustStop(t)
	})
}

// A drain does not wait for a long time that Each's function asks for, and that ends nobody's attempts.
func TestDrainDoesNotWaitForEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box := newBroker(t, "orders", 1), &letterBox{}
		calls := 0
		sink := pipeline.Each(func(context.Context, holdfast.Item[int]) error {
			calls++
			return holdfast.RetryAfter(10*time.Minute, errAway)
		})
		b.produce(0, "0")
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Hour)
		began := time.Now()
		r.mustStop(t)
		if took := time.Since(began); took > 0 || calls < 5 || calls > 7 || b.committed(0) != 0 || box.len() != 0 {
			t.Errorf("the drain took %v; %d calls in an hour, committed %d, letters %+v", took, calls, b.committed(0), box.letters)
		}
	})
}

// A circuit inside a sink that shows another one, which is closed.
func TestRejectionByAnInnerCircuitIsDeadLettered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		mended := time.Now().Add(70*time.Second + time.Millisecond)
		sink := &scripted{store: s, write: func(ctx context.Context, batch holdfast.Batch[int]) error {
			if time.Now().Before(mended) {
				return &breaker.OpenError{Name: "inner", State: breaker.Open}
			}
			return s.Write(ctx, batch)
		}}
		b.produce(0, "0")
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, DeadLetterAfter: time.Minute, Logger: quiet()})
		time.Sleep(50 * time.Second)
		if box.len() != 0 {
			t.Errorf("letters %+v before their time", box.letters)
		}
		time.Sleep(21 * time.Second)
		b.produce(0, "1")
		time.Sleep(20 * time.Second)
		r.mustStop(t)
		if got := box.of(dlq.CircuitOpen); !slices.Equal(got, []int64{0}) || box.letters[0].Circuit != "inner" || !slices.Equal(s.stored(), []int{1}) {
			t.Errorf("letters %+v, stored %v", box.letters, s.stored())
		}
	})
}

// What stages refuse and what the sink refuses have one undertaker, who writes what waits in order.
func TestLettersOfEveryCauseAreInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{away: errAway}, newStore(t)
		s.refuse(holdfast.Permanent(errAway), 0, 2)
		for _, v := range []string{"0", "poison", "2"} {
			b.produce(0, v)
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Batch: pipeline.BatchConfig{Delay: 50 * time.Millisecond}, Logger: quiet()})
		time.Sleep(20 * time.Second)
		box.setAway(nil)
		time.Sleep(2 * time.Minute)
		b.produce(0, "3")
		time.Sleep(time.Minute)
		r.mustStop(t)
		offsets := make([]int64, 0, 3)
		for _, l := range box.letters {
			offsets = append(offsets, l.Message.Offset)
		}
		if len(offsets) != 3 || !slices.IsSorted(offsets) || b.committed(0) != 4 {
			t.Errorf("letters about %v, committed %d", offsets, b.committed(0))
		}
	})
}

// panicking is a sink whose circuit panics when it is asked.
type panicking struct {
	*store
	isOpen, wait bool
}

func (p *panicking) IsOpen() bool {
	if p.isOpen {
		panic("IsOpen")
	}
	return p.store.IsOpen()
}

func (p *panicking) WaitUntilReady(ctx context.Context) error {
	if p.wait {
		panic("WaitUntilReady")
	}
	return p.store.WaitUntilReady(ctx)
}

// Rule 11 for what a sink shows of its circuit.
func TestCircuitThatPanicsEndsNothing(t *testing.T) {
	for name, sink := range map[string]*panicking{"IsOpen": {isOpen: true}, "WaitUntilReady": {wait: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box := newBroker(t, "orders", 1), &letterBox{}
				sink.store = newStore(t)
				sink.breaker.ForceOpen()
				b.produce(0, "0")
				r := start(t, b, sink, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Logger: quiet()})
				time.Sleep(time.Minute)
				sink.breaker.Reset()
				time.Sleep(time.Minute)
				r.mustStop(t)
				if !slices.Equal(sink.stored(), []int{0}) || b.committed(0) != 1 {
					t.Errorf("stored %v, committed %d", sink.stored(), b.committed(0))
				}
			})
		})
	}
}

// A verdict about the message itself makes known what was ambiguous.
func TestPermanentAfterAmbiguousIsBelieved(t *testing.T) {
	for name, attempts := range map[string]int{"in another attempt": 3, "long after it": -1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				calls := 0
				stage := work(func(_ context.Context, n int) (int, error) {
					if calls++; calls == 1 {
						return 0, holdfast.Ambiguous(errAway)
					}
					return 0, holdfast.Permanent(errAway)
				}, pipeline.StageConfig{Retry: retry.Policy{Attempts: attempts}})
				b.produce(0, "0")
				r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
				time.Sleep(time.Minute)
				r.mustStop(t)
				if got := box.of(dlq.Permanent); !slices.Equal(got, []int64{0}) || calls != 2 || b.committed(0) != 1 {
					t.Errorf("letters %+v after %d calls, committed %d", box.letters, calls, b.committed(0))
				}
			})
		})
	}
}

// settledClaim ends with a marker that is no message.
type settledClaim struct{ holdfast.Claim }

func (c settledClaim) End() int64     { return c.Claim.End() + 1 }
func (c settledClaim) Settled() int64 { return c.End() }

type markers struct{ *broker }

func (m markers) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return m.broker.Consume(ctx, func(ctx context.Context, c holdfast.Claim) error { return handle(ctx, settledClaim{c}) })
}

func TestMarkerIsNoLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		b.produce(0, "0")
		r := start(t, markers{b}, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Minute)
		if p := r.Stats().Partitions[0]; p.Lag != 0 || p.Settled != 2 {
			t.Errorf("lag %d, settled %d", p.Lag, p.Settled)
		}
		r.mustStop(t)
	})
}

// checked is a dead-letter queue that can be asked beforehand.
type checked struct {
	letterBox
	checks int
}

func (c *checked) Check(context.Context, ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.checks++; c.checks == 1 {
		panic("check")
	}
	return c.away
}

func TestDeadLetterQueueIsCheckedBeforeItIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroker(t, "orders", 1), newStore(t)
		box := &checked{letterBox: letterBox{away: errAway}}
		b.produce(0, "0")
		var log bytes.Buffer
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		time.Sleep(time.Minute)
		if got := places(r.Health()); !slices.Equal(got, []string{"check of the dead-letter queue"}) || b.committed(0) != 1 {
			t.Errorf("troubles at %v, committed %d", got, b.committed(0))
		}
		box.setAway(nil)
		time.Sleep(time.Minute)
		if h := r.Health(); h.Degraded() || box.checks > 20 {
			t.Errorf("health %+v after %d checks", h, box.checks)
		}
		r.mustStop(t)
		for _, line := range []string{
			`msg="pipeline is in trouble" pipeline=pipeline place="check of the dead-letter queue" why=failed err="panic: check"`,
			`msg="pipeline's trouble is over" pipeline=pipeline place="check of the dead-letter queue" why=failed lasted=`,
		} {
			if strings.Count(log.String(), line) != 1 {
				t.Errorf("the log does not say once %s:\n%s", line, log.String())
			}
		}
	})
}

func TestEventsTellWhatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		var mu sync.Mutex
		var told []string
		var r *running
		listen := func(e pipeline.Event) {
			_, _ = r.Health(), r.Stats() // No lock is held.
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprintf("%s %s%s%s %d", e.Kind, e.Topic, e.Place, e.Reason, e.Offset))
			panic("listener")
		}
		s.do(func(n int, _ holdfast.Batch[int]) error {
			if n < 3 {
				return holdfast.Hold(errAway)
			}
			return nil
		})
		ready := make(chan struct{})
		p, err := pipeline.New(b, number(), s, pipeline.Config{DeadLetters: box, Logger: quiet(), OnEvent: func(e pipeline.Event) {
			<-ready
			listen(e)
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		r = &running{Pipeline: p, cancel: cancel, done: make(chan error, 1)}
		close(ready)
		go func() { r.done <- p.Run(ctx) }()
		time.Sleep(time.Second)
		b.produce(0, "poison")
		time.Sleep(time.Second)
		b.produce(0, "1")
		time.Sleep(time.Minute)
		r.mustStop(t)
		want := []string{"claimed orders 0", "dead-lettered ordersdecode 0", "waiting sink 0", "moving sink 0", "released orders 2"}
		if !slices.Equal(told, want) {
			t.Errorf("told\n%q, want\n%q", told, want)
		}
	})
}

// Rule 8: a listener that does not return keeps what it is told of from going on, so events do not pile up.
func TestSlowListenerIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 2), &letterBox{}, newStore(t)
		for range 1000 {
			b.produce(0, "poison")
			b.produce(1, "poison")
		}
		free := make(chan struct{})
		told := 0
		r := start(t, b, s, pipeline.Config{DeadLetters: box, MaxLettersPerSecond: -1, Logger: quiet(), OnEvent: func(e pipeline.Event) {
			if e.Kind == pipeline.DeadLettered {
				<-free
				told++
			}
		}})
		time.Sleep(time.Minute)
		if b.committed(0) > 1 || b.committed(1) > 1 {
			t.Errorf("committed %d and %d while nobody listened", b.committed(0), b.committed(1))
		}
		close(free)
		time.Sleep(time.Minute)
		r.mustStop(t)
		if told != 2000 || b.committed(0) != 1000 || b.committed(1) != 1000 {
			t.Errorf("told of %d letters, committed %d and %d", told, b.committed(0), b.committed(1))
		}
	})
}
