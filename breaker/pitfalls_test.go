package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

// The tests in this file are the known ways in which circuit breakers have been wrong, one test for each. Those that
// need a look inside are in internal_test.go.

func TestPitfall01LostProbeDoesNotWedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.ProbeTimeout = 5 * time.Second })
		run(t, b, 1, fail)
		time.Sleep(time.Second)
		lost := allow(t, b)
		time.Sleep(5*time.Second - 1)
		wantRejected(t, b)
		time.Sleep(time.Nanosecond)
		second := allow(t, b)
		lost.Done(errDown)
		wantState(t, b, breaker.HalfOpen)
		wantRejected(t, b) // The late report freed no slot that it did not have.
		second.Done(nil)
		wantState(t, b, breaker.Closed)
		checkConserved(t, b)
	})
}

func TestPitfall02ProbeThatPanicsOrExits(t *testing.T) {
	for name, end := range map[string]func(context.Context) error{
		"panic":  func(context.Context) error { panic("boom") },
		"Goexit": func(context.Context) error { runtime.Goexit(); return nil },
		"nil":    func(context.Context) error { panic(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := steady(t)
				run(t, b, 1, fail)
				time.Sleep(time.Second)
				var recovered any
				done := make(chan struct{})
				go func() {
					defer close(done)
					defer func() { recovered = recover() }()
					_ = b.Execute(t.Context(), end)
				}()
				<-done
				if name == "panic" && recovered != "boom" {
					t.Fatalf("recovered %v, want the panic as it was", recovered)
				}
				wantState(t, b, breaker.Open)
				if got := b.Stats().Totals; got.Panics != 1 || got.Failures != 2 {
					t.Fatalf("panics and failures are %d and %d, want 1 and 2", got.Panics, got.Failures)
				}
				time.Sleep(time.Second)
				run(t, b, 1, succeed)
				wantState(t, b, breaker.Closed)
				checkConserved(t, b)
			})
		})
	}
}

func TestPitfall03IgnoredProbeFreesItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t)
		run(t, b, 1, fail)
		time.Sleep(time.Second)
		for range 10 {
			run(t, b, 1, func(context.Context) error { return context.Canceled })
			wantState(t, b, breaker.HalfOpen)
		}
		run(t, b, 1, succeed)
		wantState(t, b, breaker.Closed)
	})
}

func TestPitfall04StaleResultDecidesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.SuccessThreshold = 3 })
		stale := []*breaker.Permit{allow(t, b), allow(t, b), allow(t, b), allow(t, b), allow(t, b)}
		run(t, b, 1, fail)
		stale[0].Done(nil) // Into open.
		wantState(t, b, breaker.Open)
		time.Sleep(time.Second)
		probe := allow(t, b)
		for _, p := range stale[1:4] {
			p.Done(nil) // Into half-open: as many as would close it.
			wantState(t, b, breaker.HalfOpen)
			wantRejected(t, b)
		}
		stale[4].Done(errDown)
		wantState(t, b, breaker.HalfOpen)
		probe.Done(nil)
		run(t, b, 2, succeed)
		wantState(t, b, breaker.Closed)
		if got := b.Stats().Counts; got != (breaker.Counts{}) {
			t.Fatalf("a circuit that has just closed has counts %+v", got)
		}
		checkConserved(t, b)
	})
}

func TestPitfall04StaleProbeDecidesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.MaxProbes, c.SuccessThreshold = 2, 2 })
		run(t, b, 1, fail)
		time.Sleep(time.Second)
		slow := allow(t, b)
		run(t, b, 1, fail)
		time.Sleep(time.Second)
		run(t, b, 1, succeed)
		slow.Done(nil) // A probe of the half-open state before this one.
		wantState(t, b, breaker.HalfOpen)
	})
}

func TestPitfall05StaleNeutralFreesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t)
		stale := allow(t, b)
		run(t, b, 1, fail)
		time.Sleep(time.Second)
		allow(t, b)
		stale.Done(context.Canceled)
		wantRejected(t, b)
	})
}

func TestPitfall06CallersCancellationIsIgnored(t *testing.T) {
	hidden := errors.New("driver: operation was canceled")
	tests := []struct {
		name string
		call func(context.Context) (context.Context, error)
		want breaker.Totals
	}{
		{"plain", func(ctx context.Context) (context.Context, error) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, ctx.Err()
		}, breaker.Totals{Calls: 1, Ignored: 1}},
		{"hidden in a string", func(ctx context.Context) (context.Context, error) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, hidden
		}, breaker.Totals{Calls: 1, Ignored: 1}},
		{"with a cause", func(ctx context.Context) (context.Context, error) {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(errors.New("user closed the tab"))
			return ctx, context.Cause(ctx)
		}, breaker.Totals{Calls: 1, Ignored: 1}},
		{"deadline", func(ctx context.Context) (context.Context, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			<-ctx.Done()
			cancel()
			return ctx, ctx.Err()
		}, breaker.Totals{Calls: 1, Failures: 1, Timeouts: 1, StateChanges: 1}},
		{"deadline hidden in a string", func(ctx context.Context) (context.Context, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			<-ctx.Done()
			cancel()
			return ctx, hidden
		}, breaker.Totals{Calls: 1, Failures: 1, Timeouts: 1, StateChanges: 1}},
		{"deadline told as a cancellation", func(ctx context.Context) (context.Context, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			<-ctx.Done()
			cancel()
			return ctx, fmt.Errorf("query: %w", context.Canceled)
		}, breaker.Totals{Calls: 1, Failures: 1, Timeouts: 1, StateChanges: 1}},
		{"deadline further in", func(ctx context.Context) (context.Context, error) {
			return ctx, fmt.Errorf("query: %w", context.DeadlineExceeded)
		}, breaker.Totals{Calls: 1, Failures: 1, Timeouts: 1, StateChanges: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := steady(t)
				// The context ends during the call, so it is made by hand here: Execute refuses one that has ended.
				ctx := &lateContext{Context: t.Context()}
				_ = b.Execute(ctx, func(context.Context) error {
					var err error
					ctx.Context, err = tt.call(ctx.Context)
					return err
				})
				if got := b.Stats().Totals; got != tt.want {
					t.Fatalf("totals\n got %+v\nwant %+v", got, tt.want)
				}
			})
		})
	}
}

// lateContext turns into another context while the call is under way.
type lateContext struct{ context.Context }

func TestPitfall07ListenerMayCallTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *breaker.Breaker
		var seen []string
		b = steady(t, func(c *breaker.Config) {
			c.OnStateChange = func(_ string, _, to breaker.State) {
				seen = append(seen, to.String())
				_ = b.Stats()
				_ = b.Execute(t.Context(), fail)
				if to == breaker.Open && len(seen) == 1 {
					b.Reset()
				}
				if len(seen) > 3 {
					b.ForceOpen()
				}
			}
		})
		run(t, b, 1, fail)
		synctest.Wait()
		// Open; reset by the listener; its own failing call opens it; that one's does nothing.
		if want := []string{"open", "closed", "open"}; !slices.Equal(seen, want) {
			t.Fatalf("told of %v, want %v", seen, want)
		}
	})
}

func TestPitfall08EventsInOrderOneAtATime(t *testing.T) {
	var b *breaker.Breaker
	var telling atomic.Int32
	last := breaker.Closed
	events := 0
	b = steady(t, func(c *breaker.Config) {
		c.OnEvent = func(e breaker.Event) {
			if telling.Add(1) != 1 {
				t.Error("two events are told at once")
			}
			if e.From != last {
				t.Errorf("event %d is from %v, the one before was to %v", events, e.From, last)
			}
			last = e.To
			events++
			runtime.Gosched()
			telling.Add(-1)
			if events%3 == 0 {
				panic("listener")
			}
		}
		c.Logger = quiet
	})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 300 {
				if i%2 == 0 {
					run(t, b, 1, fail)
				} else {
					b.Reset()
				}
			}
		})
	}
	wg.Wait()
	if got := b.Stats(); uint64(events) != got.Totals.StateChanges || last != got.State {
		t.Fatalf("told of %d changes up to %v, want %d up to %v", events, last, got.Totals.StateChanges, got.State)
	}
}

func TestPitfall09NoMoreProbesThanAllowed(t *testing.T) {
	for _, probes := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			b := steady(t, func(c *breaker.Config) { c.MaxProbes, c.SuccessThreshold = probes, 1000 })
			run(t, b, 1, fail)
			time.Sleep(time.Second)
			var in, most, total atomic.Int32
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					_ = b.Execute(t.Context(), func(context.Context) error {
						total.Add(1)
						n := in.Add(1)
						for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
						}
						time.Sleep(100 * time.Millisecond)
						in.Add(-1)
						return nil
					})
				})
			}
			wg.Wait()
			if int(total.Load()) != probes || int(most.Load()) != probes {
				t.Fatalf("of 100 callers %d were admitted, %d at once, want %d", total.Load(), most.Load(), probes)
			}
		})
	}
}

func TestPitfall10HalfOpenNeedsNoMinimumOfCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.FailureRate, c.MinCalls = 0.5, 1000 })
		run(t, b, 1, fail)
		time.Sleep(time.Second)
		run(t, b, 1, fail)
		wantState(t, b, breaker.Open)
		time.Sleep(time.Second)
		run(t, b, 1, succeed)
		wantState(t, b, breaker.Closed)
	})
}

func TestPitfall11WindowDoesNotAgeTheStreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, breaker.Config{MaxFailures: 20, FailureRate: 0.5, Window: 10 * time.Second})
		for range 19 {
			run(t, b, 1, fail)
			time.Sleep(19 * time.Second)
		}
		wantState(t, b, breaker.Closed)
		run(t, b, 1, fail)
		wantState(t, b, breaker.Open)
	})
}

func TestPitfall12TimeIsMonotonic(t *testing.T) {
	b := steady(t)
	run(t, b, 1, fail)
	// All of a breaker's times count from here, and a time that has a monotonic reading prints it.
	if since := b.Stats().Since.String(); !strings.Contains(since, " m=") {
		t.Fatalf("the state began at %s, without a monotonic reading", since)
	}
}

func TestPitfall13NothingIsLockedDuringACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.MaxProbes, c.MaxConcurrentCalls = 2, 2 })
		run(t, b, 1, fail)
		time.Sleep(time.Second)
		release := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				_ = b.Execute(t.Context(), func(context.Context) error { <-release; return errDown })
			})
		}
		synctest.Wait()
		if got := b.Stats().RunningCalls; got != 2 {
			t.Fatalf("%d calls run, want 2 at once", got)
		}
		wantRejected(t, b)
		b.ForceOpen()
		b.Reset()
		wantState(t, b, breaker.Closed)
		close(release)
		wg.Wait()
		checkConserved(t, b)
	})
}

func TestPitfall14RejectionIsNoFailure(t *testing.T) {
	inner := steady(t)
	run(t, inner, 1, fail)
	outer := steady(t)
	full := steady(t, func(c *breaker.Config) { c.MaxConcurrentCalls = 1 })
	allow(t, full)
	for range 3 {
		for _, in := range []*breaker.Breaker{inner, full} {
			if err := outer.Execute(t.Context(), func(ctx context.Context) error { return in.Execute(ctx, fail) }); err == nil {
				t.Fatal("the inner breaker admitted the call")
			}
		}
	}
	wantState(t, outer, breaker.Closed)
	if got, want := outer.Stats().Totals, (breaker.Totals{Calls: 6, Ignored: 6}); got != want {
		t.Fatalf("outer totals %+v, want %+v", got, want)
	}
	if got, want := inner.Stats().Totals, (breaker.Totals{Calls: 1, Failures: 1, RejectedOpen: 3, StateChanges: 1}); got != want {
		t.Fatalf("inner totals %+v, want %+v", got, want)
	}
}

func TestPitfall15WaitingCanBeLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.Timeout = time.Hour })
		run(t, b, 1, fail)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // A consumer's next sign of life is due then.
		defer cancel()
		began := time.Now()
		if err := b.WaitUntilReady(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("WaitUntilReady: %v", err)
		}
		if got := time.Since(began); got != time.Second {
			t.Fatalf("came back after %v, want 1s", got)
		}
	})
}

func TestPitfall16LowAndHighTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := breaker.Config{MaxFailures: 5, FailureRate: 0.5, MinCalls: 100}
		low := mustNew(t, cfg)
		for range 5 {
			run(t, low, 1, fail)
			time.Sleep(time.Minute)
		}
		if got := low.Stats().Totals.StateChanges; got != 1 {
			t.Fatalf("five failures a minute apart made %d changes, want 1", got)
		}
		high := mustNew(t, cfg)
		for range 100 {
			run(t, high, 1, fail)
			run(t, high, 999, succeed)
		}
		wantState(t, high, breaker.Closed)
	})
}

func TestPitfall17ConcurrentFailuresAllCount(t *testing.T) {
	for range 50 {
		b := mustNew(t, breaker.Config{MaxFailures: 64})
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() { run(t, b, 1, fail) })
		}
		wg.Wait()
		wantState(t, b, breaker.Open)
	}
}

func TestPitfall18DoneTwice(t *testing.T) {
	b := mustNew(t, breaker.Config{MaxFailures: 2})
	p := allow(t, b)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() { p.Done(errDown) })
	}
	wg.Wait()
	p.DoneAs(breaker.Trip, nil)
	wantState(t, b, breaker.Closed)
	if got := b.Stats().Totals.Failures; got != 1 {
		t.Fatalf("one call failed %d times", got)
	}
}

func TestPitfall19IdleBreakerSaysHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		b := steady(t, func(c *breaker.Config) { c.OnStateChange = func(string, breaker.State, breaker.State) { told++ } })
		run(t, b, 1, fail)
		time.Sleep(time.Second - 1)
		if !b.IsOpen() || b.Stats().TimeUntilHalfOpen != 1 {
			t.Fatalf("1ns before half-open: %+v", b.Stats())
		}
		time.Sleep(time.Nanosecond)
		if got := b.Stats(); b.State() != breaker.HalfOpen || b.IsOpen() || got.State != breaker.HalfOpen || got.TimeUntilHalfOpen != 0 {
			t.Fatalf("State %v, IsOpen %v, Stats %+v; want half-open", b.State(), b.IsOpen(), got)
		}
		if told != 1 {
			t.Fatalf("looking at it told the listener: %d times, want 1", told)
		}
	})
}

func TestPitfall21NoGoroutineAtRest(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 1000 {
		b := steady(t)
		run(t, b, 3, fail)
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Fatalf("a thousand breakers began %d goroutines", after-before)
	}
}

func TestPitfall23RateIsJudgedOnSuccessToo(t *testing.T) {
	b := mustNew(t, breaker.Config{MaxFailures: -1, FailureRate: 0.5, MinCalls: 10})
	run(t, b, 9, fail)
	wantState(t, b, breaker.Closed)
	run(t, b, 1, succeed)
	wantState(t, b, breaker.Open)
}
