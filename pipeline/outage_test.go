package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/retry"
)

// What an open circuit has rejected, and could not dead-letter, is processed once the circuit closes.
func TestMessagesMoveAgainWhenTheCircuitCloses(t *testing.T) {
	for name, c := range map[string]struct {
		stage bool
		box   pipeline.DeadLetters
	}{
		"sink, no dead letters":    {false, nil},
		"stage, no dead letters":   {true, nil},
		"sink, dead letters away":  {false, &letterBox{away: errAway}},
		"stage, dead letters away": {true, &letterBox{away: errAway}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, s := newBroker(t, "orders", 1), newStore(t)
				circuit, steps := s.breaker, number()
				if c.stage {
					circuit = newBreaker(t, "guard")
					steps = work(pass, pipeline.StageConfig{Breaker: circuit})
				}
				circuit.ForceOpen()
				for i := range 25 {
					b.produce(0, fmt.Sprint(i))
				}
				r := startWith(t, b, steps, s, pipeline.Config{DeadLetters: c.box, Logger: quiet()})
				time.Sleep(10 * time.Minute)
				circuit.Reset()
				time.Sleep(2 * time.Minute) // Longer than any backoff.
				if got := s.stored(); !slices.Equal(got, numbers(25)) || b.committed(0) != 25 || r.Health().Degraded() {
					t.Errorf("stored %v, committed %d, health %+v", got, b.committed(0), r.Health())
				}
				r.mustStop(t)
			})
		})
	}
}

// A sink may be rejected by another circuit than the one it shows, or by one that it does not show.
func TestRejectionByACircuitNotSeenIsNoBusyLoop(t *testing.T) {
	for name, shown := range map[string]bool{"another": true, "hidden": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, s := newBroker(t, "orders", 1), newStore(t)
				calls := 0
				var sink pipeline.Sink[int] = sinkFunc(func(context.Context, holdfast.Batch[int]) error {
					calls++
					return &breaker.OpenError{Name: "other", State: breaker.Open}
				})
				if shown {
					sink = &scripted{store: s, write: sink.Write}
				}
				b.produce(0, "0")
				r := start(t, b, sink, pipeline.Config{DeadLetterAfter: -1, Logger: quiet()})
				time.Sleep(time.Minute)
				synctest.Wait()
				if calls < 60 || calls > 200 {
					t.Errorf("%d calls in a minute, want one or two a second", calls)
				}
				r.mustStop(t)
			})
		})
	}
}

// An outage ends although nothing is processed after it, or nothing that reaches the sink.
func TestEveryOutageHasItsOwnPatience(t *testing.T) {
	for name, c := range map[string]struct{ stage, skips bool }{
		"sink, nothing between":           {false, false},
		"stage, nothing between":          {true, false},
		"stage, skipped messages between": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				circuit, steps := s.breaker, number()
				if c.stage {
					circuit = newBreaker(t, "guard")
					steps = work(func(_ context.Context, n int) (int, error) {
						if n == 1 {
							return 0, holdfast.ErrSkip
						}
						return n, nil
					}, pipeline.StageConfig{Breaker: circuit})
				}
				circuit.ForceOpen()
				b.produce(0, "0")
				r := startWith(t, b, steps, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: 2 * time.Minute, Logger: quiet()})
				time.Sleep(3 * time.Minute)
				circuit.Reset()
				if c.skips {
					b.produce(0, "1")
					time.Sleep(time.Minute)
				} else {
					time.Sleep(24 * time.Hour)
				}
				circuit.ForceOpen()
				b.produce(0, "2")
				time.Sleep(110 * time.Second)
				if n := box.len(); n != 1 {
					t.Errorf("%d letters 110 s into the second outage, want the first one's only", n)
				}
				time.Sleep(20 * time.Second)
				if n := box.len(); n != 2 {
					t.Errorf("%d letters 130 s into the second outage, want 2", n)
				}
				r.mustStop(t)
			})
		})
	}
}

// A probe that fails ends no outage: the patience is spent, though the circuit admits a call now and then.
func TestPatienceOutlastsFailedProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		s.do(func(int, holdfast.Batch[int]) error { return errAway })
		for i := range 5 {
			b.produce(0, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: 5 * time.Minute, Logger: quiet()})
		time.Sleep(10 * time.Minute)
		if box.len() != 5 || s.count() < 4 {
			t.Errorf("%d letters after %d calls, want 5 after several probes", box.len(), s.count())
		}
		r.mustStop(t)
	})
}

// However many partitions the dead-letter topic has, their claims do not take each other's turns at a circuit that lets
// one call at a time probe, nor those of messages.
func TestIdleClaimsOnTheWayHomeTakeNoTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		letters := newBroker(t, "orders.dlq", 60)
		b, box, s := newBroker(t, "orders", 1), &letterBox{into: letters}, newStore(t)
		_ = s.breaker.Execute(t.Context(), func(context.Context) error { return errAway })
		b.produce(0, "0")
		r := start(t, cluster{b, letters}, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Logger: quiet()})
		time.Sleep(10 * time.Second)
		_, err := s.breaker.Allow()
		var open *breaker.OpenError
		if !errors.As(err, &open) {
			t.Fatalf("the circuit is %v, the test wants it open", s.breaker.State())
		}
		time.Sleep(open.RetryAfter + 2*time.Second)
		if got := s.stored(); len(got) != 1 {
			t.Errorf("stored %v, 2 s after the circuit would have admitted a call", got)
		}
		r.mustStop(t)
	})
}

// A probe of a stage that tries once is no end of the outage either, though it is the end of its message.
func TestStagesPatienceOutlastsFailedProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		down := func(context.Context, int) (int, error) { return 0, errAway }
		steps := work(down, pipeline.StageConfig{Breaker: newBreaker(t, "guard"), Retry: retry.Policy{Attempts: -1}})
		for i := range 100 {
			b.produce(0, fmt.Sprint(i))
		}
		r := startWith(t, b, steps, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: 5 * time.Minute, Logger: quiet()})
		time.Sleep(10 * time.Minute)
		if box.len() != 100 {
			t.Errorf("%d letters after 10 minutes, want 100", box.len())
		}
		r.mustStop(t)
	})
}

// What goes through one of a route's circuits does not end another's outage: what that rejects is dead-lettered in time, and
// it is not told of with each batch.
func TestOutageOfOneRouteIsNotEndedByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, even, odd := newBroker(t, "orders", 2), &letterBox{}, newStore(t), newStore(t)
		odd.do(func(int, holdfast.Batch[int]) error {
			time.Sleep(3 * time.Second) // While it probes it is not open.
			return errAway
		})
		sink := pipeline.Route(func(n int) string { return []string{"even", "odd"}[n%2] },
			map[string]pipeline.Sink[int]{"even": even, "odd": odd})
		told := 0
		listen := func(e pipeline.Event) {
			if e.Kind == pipeline.Waiting {
				told++
			}
		}
		r := start(t, b, sink, pipeline.Config{DeadLetters: box, DeadLetterAfter: 5 * time.Minute, OnEvent: listen, Logger: quiet()})
		b.produce(1, "1")
		for range 360 {
			b.produce(0, "0")
			time.Sleep(time.Second)
		}
		if box.len() != 1 || b.committed(1) != 1 || len(even.stored()) < 300 {
			t.Errorf("%d letters, committed %d, %d stored beside it", box.len(), b.committed(1), len(even.stored()))
		}
		r.mustStop(t)
		if calls := odd.count(); told > 2*calls {
			t.Errorf("told %d times of what waits, in %d calls", told, calls)
		}
	})
}

// A write from before the circuit opened that succeeds says nothing of it.
func TestLateSuccessEndsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s, release := newBroker(t, "orders", 2), newStore(t), make(chan struct{})
		var over atomic.Int32
		listen := func(e pipeline.Event) {
			if e.Kind == pipeline.Moving {
				over.Add(1)
			}
		}
		sink := &scripted{store: s, write: func(ctx context.Context, batch holdfast.Batch[int]) error {
			if batch.Items[0].Value == 0 {
				<-release
				return nil
			}
			return s.Write(ctx, batch)
		}}
		b.produce(0, "0")
		r := start(t, b, sink, pipeline.Config{DeadLetterAfter: -1, OnEvent: listen, Logger: quiet()})
		time.Sleep(2 * time.Second)
		s.breaker.ForceOpen()
		b.produce(1, "1")
		time.Sleep(2 * time.Second)
		close(release)
		synctest.Wait()
		if got := places(r.Health()); b.committed(0) != 1 || !slices.Equal(got, []string{"sink"}) || over.Load() != 0 {
			t.Errorf("committed %d, trouble at %v, over %d times; want 1, and the sink's, all the time", b.committed(0), got, over.Load())
		}
		r.mustStop(t)
	})
}

// A route's circuit that stays open does not keep what another one has rejected once that admits calls again.
func TestOutageOfOneRouteDoesNotKeepAnother(t *testing.T) {
	for name, forced := range map[string]bool{"opened": false, "forced open": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, even, odd := newBroker(t, "orders", 2), newStore(t), newStore(t)
				odd.breaker.ForceOpen()
				if forced {
					even.breaker.ForceOpen()
				} else {
					_ = even.breaker.Execute(t.Context(), func(context.Context) error { return errAway })
				}
				sink := pipeline.Route(func(n int) string { return []string{"even", "odd"}[n%2] },
					map[string]pipeline.Sink[int]{"even": even, "odd": odd})
				b.produce(0, "0")
				b.produce(1, "1")
				r := start(t, b, sink, pipeline.Config{DeadLetterAfter: -1, Logger: quiet()})
				time.Sleep(10 * time.Second)
				if forced {
					even.breaker.Reset()
				}
				time.Sleep(2 * time.Minute)
				if got := even.stored(); !slices.Equal(got, []int{0}) {
					t.Errorf("stored %v two minutes later", got)
				}
				odd.breaker.Reset()
				time.Sleep(time.Minute)
				r.mustStop(t)
				if got := odd.stored(); !slices.Equal(got, []int{1}) {
					t.Errorf("stored %v a minute after the other circuit has closed", got)
				}
			})
		})
	}
}
