package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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

// Rule 11 for runtime.Goexit, which testing.T.FailNow calls: it is that message's failure, and those around it go on in
// their order.
func TestGoexitInAStageIsTheMessagesFailure(t *testing.T) {
	for name, order := range map[string]pipeline.Order{"by partition": pipeline.ByPartition, "by key": pipeline.ByKey, "unordered": pipeline.Unordered} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				guard := newBreaker(t, "guard")
				fail := true
				first := work(func(_ context.Context, n int) (int, error) {
					if n%10 == 3 {
						runtime.Goexit()
					}
					return n, nil
				}, pipeline.StageConfig{})
				second := pipeline.Map("second", func(_ context.Context, n int) (int, error) {
					if n == 17 && fail {
						fail = false
						return 0, errAway // Opens the circuit, which rejects those behind it.
					}
					return n, nil
				}, pipeline.StageConfig{Breaker: guard, Retry: retry.Policy{Attempts: -1}})
				for i := range 100 {
					b.produceKeyed(0, "key", fmt.Sprint(i))
				}
				r := startWith(t, b, pipeline.Then(first, second), s, pipeline.Config{
					DeadLetters: box, DeadLetterAfter: time.Hour, Stacks: true, Order: order, Logger: quiet(),
				})
				time.Sleep(30 * time.Minute)
				if h := r.Health(); h.Degraded() {
					t.Errorf("health %+v", h)
				}
				r.mustStop(t)
				got := s.stored()
				if order != pipeline.Unordered && !slices.IsSorted(got) {
					t.Errorf("stored %v", got)
				}
				if want := []int64{3, 13, 23, 33, 43, 53, 63, 73, 83, 93}; !slices.Equal(slices.Sorted(slices.Values(box.of(dlq.Panicked))), want) {
					t.Errorf("letters about %v, want %v", box.of(dlq.Panicked), want)
				}
				if len(got) != 89 || b.committed(0) != 100 {
					t.Errorf("%d stored, committed %d", len(got), b.committed(0))
				}
				for _, l := range box.letters {
					if l.Reason == dlq.Panicked && (l.Stage != "work" || l.Attempts != 1 || !strings.Contains(l.Error, "Goexit") || !strings.Contains(l.Stack, "TestGoexitInAStage")) {
						t.Errorf("letter %+v", l)
					}
				}
			})
		})
	}
}

// Rules 6 and 11: what may be done is not dead-lettered, though a later attempt ends the goroutine.
func TestGoexitAfterAnAmbiguousAttemptIsNoLetter(t *testing.T) {
	for name, attempts := range map[string]int{"the next attempt": 3, "long after it": -1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				calls := 0
				stage := work(func(_ context.Context, n int) (int, error) {
					switch calls++; {
					case calls == 1:
						return 0, holdfast.Ambiguous(errAway)
					case calls < 10:
						runtime.Goexit()
					}
					return n, nil
				}, pipeline.StageConfig{Retry: retry.Policy{Attempts: attempts}})
				b.produce(0, "0")
				r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
				time.Sleep(time.Hour)
				r.mustStop(t)
				if box.len() != 0 || calls != 10 || !slices.Equal(s.stored(), []int{0}) || b.committed(0) != 1 {
					t.Errorf("letters %+v after %d calls, stored %v, committed %d", box.letters, calls, s.stored(), b.committed(0))
				}
			})
		})
	}
}

// exiting ends the goroutine of whoever asks it, some times.
type exiting struct {
	*store
	times int
}

func (e *exiting) exit() {
	if e.times--; e.times >= 0 {
		runtime.Goexit()
	}
}

func (e *exiting) IsOpen() bool {
	e.exit()
	return e.store.IsOpen()
}

func (e *exiting) WaitUntilReady(ctx context.Context) error {
	e.exit()
	return e.store.WaitUntilReady(ctx)
}

func (e *exiting) Write(ctx context.Context, b holdfast.Batch[int]) error {
	e.exit()
	return e.store.Write(ctx, b)
}

// Whatever else of the program's ends its goroutine holds nothing up, the drain included.
func TestGoexitEndsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		sink    func(*store) pipeline.Sink[int]
		box     func(*letterBox) pipeline.DeadLetters
		hook    func(context.Context, holdfast.Message) context.Context
		listen  func(pipeline.Event)
		letters []int64 // With reason panic.
	}{
		"sink": {sink: func(s *store) pipeline.Sink[int] {
			left := &exiting{times: 3}
			return sinkFunc(func(ctx context.Context, b holdfast.Batch[int]) error {
				left.exit()
				return s.Write(ctx, b)
			})
		}},
		"circuit": {sink: func(s *store) pipeline.Sink[int] { return &exiting{store: s, times: 3} }},
		"each": {
			sink: func(s *store) pipeline.Sink[int] {
				return pipeline.Each(func(ctx context.Context, item holdfast.Item[int]) error {
					if item.Value == 1 {
						runtime.Goexit()
					}
					return s.Write(ctx, holdfast.Batch[int]{Items: []holdfast.Item[int]{item}})
				})
			}, letters: []int64{1},
		},
		"route": {
			sink: func(s *store) pipeline.Sink[int] {
				return pipeline.Route(func(n int) string {
					if n == 1 {
						runtime.Goexit()
					}
					return ""
				}, map[string]pipeline.Sink[int]{"": s})
			}, letters: []int64{1},
		},
		"dead letters": {box: func(box *letterBox) pipeline.DeadLetters {
			left := &exiting{times: 3}
			return boxFunc(func(ctx context.Context, letters ...dlq.Letter) error {
				left.exit()
				return box.Write(ctx, letters...)
			})
		}},
		"context": {hook: func(ctx context.Context, m holdfast.Message) context.Context {
			if m.Offset == 1 {
				runtime.Goexit()
			}
			return ctx
		}, letters: []int64{1}},
		"listener": {listen: func(pipeline.Event) { runtime.Goexit() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, inner, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				var sink pipeline.Sink[int] = s
				if c.sink != nil {
					sink = c.sink(s)
				}
				var box pipeline.DeadLetters = inner
				if c.box != nil {
					box = c.box(inner)
				}
				for _, v := range []string{"0", "1", "2", "poison", "4"} {
					b.produce(0, v)
				}
				r := start(t, b, sink, pipeline.Config{DeadLetters: box, Context: c.hook, OnEvent: c.listen, Logger: quiet()})
				time.Sleep(10 * time.Minute)
				if h := r.Health(); h.Degraded() {
					t.Errorf("health %+v", h)
				}
				r.mustStop(t)
				want := slices.DeleteFunc([]int{0, 1, 2, 4}, func(n int) bool { return slices.Contains(c.letters, int64(n)) })
				if !slices.Equal(s.stored(), want) || b.committed(0) != 5 || inner.len() != 1+len(c.letters) {
					t.Errorf("stored %v, want %v; committed %d, %d letters", s.stored(), want, b.committed(0), inner.len())
				}
				if c.letters != nil && !slices.Equal(inner.of(dlq.Panicked), c.letters) {
					t.Errorf("letters %+v", inner.letters)
				}
			})
		})
	}
}

// spiteful is an error that panics, or ends the goroutine, when it is asked what it is.
type spiteful struct{ is, as, unwrap, text, exits bool }

func (s spiteful) spite(on bool) {
	if on && s.exits {
		runtime.Goexit()
	}
	if on {
		panic("spite")
	}
}

func (s spiteful) Is(error) bool {
	s.spite(s.is)
	return false
}

func (s spiteful) As(any) bool {
	s.spite(s.as)
	return false
}

func (s spiteful) Unwrap() error {
	s.spite(s.unwrap)
	return nil
}

func (s spiteful) Error() string {
	s.spite(s.text)
	return "spiteful"
}

// Rule 11 for an error whose methods panic: nothing is lost for it, and of a sink that says so it is not known what is stored.
func TestErrorsThatPanicLoseNothing(t *testing.T) {
	for name, err := range map[string]error{
		"Is":              spiteful{is: true},
		"As":              spiteful{as: true},
		"Unwrap":          spiteful{unwrap: true},
		"Error":           spiteful{text: true},
		"Is exits":        spiteful{is: true, exits: true},
		"Unwrap exits":    spiteful{unwrap: true, exits: true},
		"Error exits":     spiteful{text: true, exits: true},
		"wrapped":         fmt.Errorf("store: %w", spiteful{as: true}),
		"joined":          errors.Join(errAway, spiteful{is: true}),
		"behind a reason": holdfast.Permanent(spiteful{unwrap: true}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 2), &letterBox{}, newStore(t)
				stage := work(func(_ context.Context, n int) (int, error) {
					if n == 1 {
						return 0, err
					}
					return n, nil
				}, pipeline.StageConfig{})
				calls := 0
				sink := sinkFunc(func(ctx context.Context, batch holdfast.Batch[int]) error {
					switch calls++; {
					case calls < 4:
						return err
					case calls < 7:
						return &holdfast.BatchError{Items: map[int]error{0: holdfast.Hold(errAway), 1: err}}
					}
					return s.Write(ctx, batch)
				})
				for _, v := range []string{"0", "1", "2"} {
					b.produce(0, v)
				}
				away := 3
				dead := boxFunc(func(ctx context.Context, letters ...dlq.Letter) error {
					if away--; away >= 0 {
						return err
					}
					return box.Write(ctx, letters...)
				})
				r := startWith(t, b, stage, sink, pipeline.Config{DeadLetters: dead, DeadLetterAfter: time.Hour, Logger: quiet()})
				time.Sleep(30 * time.Minute)
				b.produce(0, "3")
				time.Sleep(10 * time.Minute)
				if h := r.Health(); h.Degraded() {
					t.Errorf("health %+v", h)
				}
				r.mustStop(t)
				ends := make(map[int]bool)
				for _, l := range box.letters {
					ends[int(l.Message.Offset)] = true
				}
				for _, n := range s.stored() {
					ends[n] = true
				}
				if len(ends) != 4 || b.committed(0) != 4 {
					t.Errorf("stored %v, letters %+v, committed %d", s.stored(), box.letters, b.committed(0))
				}
			})
		})
	}
}

// An error that panics when it is asked is the message's failure, as any other panic.
func TestErrorThatPanicsHasReasonPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		guard, err := breaker.New(breaker.Config{Name: "guard"})
		if err != nil {
			t.Fatal(err)
		}
		stage := work(func(context.Context, int) (int, error) { return 0, spiteful{as: true} }, pipeline.StageConfig{Breaker: guard})
		b.produce(0, "0")
		r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Minute)
		r.mustStop(t)
		if got := box.of(dlq.Panicked); !slices.Equal(got, []int64{0}) || b.committed(0) != 1 || guard.Stats().Totals.Failures != 1 {
			t.Errorf("letters %+v, committed %d, circuit %+v", box.letters, b.committed(0), guard.Stats())
		}
	})
}
