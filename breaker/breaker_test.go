package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

func TestZeroConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, breaker.Config{Jitter: -1})
		run(t, b, 4, fail)
		run(t, b, 1, succeed)
		run(t, b, 4, fail)
		wantState(t, b, breaker.Closed)
		run(t, b, 1, fail)
		wantState(t, b, breaker.Open)
		if got := b.Stats().TimeUntilHalfOpen; got != time.Minute {
			t.Fatalf("open for %v, want 1m", got)
		}
		time.Sleep(time.Minute)
		run(t, b, 1, succeed)
		wantState(t, b, breaker.HalfOpen)
		run(t, b, 1, succeed)
		wantState(t, b, breaker.Closed)
	})
}

func TestRules(t *testing.T) {
	slow := func(context.Context) error { time.Sleep(time.Second); return nil }
	tests := []struct {
		name  string
		cfg   breaker.Config
		calls func(*testing.T, *breaker.Breaker)
		want  breaker.Cause // 0 for closed.
	}{
		{"consecutive failures", breaker.Config{MaxFailures: 3}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 3, fail)
		}, breaker.CauseConsecutiveFailures},
		{"consecutive failures off", breaker.Config{MaxFailures: -1}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 100, fail)
		}, 0},
		{"ignored calls between failures", breaker.Config{MaxFailures: 2}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 1, fail)
			run(t, b, 1, func(context.Context) error { return context.Canceled })
			run(t, b, 1, fail)
		}, breaker.CauseConsecutiveFailures},
		{"failure rate", breaker.Config{FailureRate: 0.25, MinCalls: 8}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 6, succeed)
			run(t, b, 1, fail)
			run(t, b, 1, succeed)
			wantState(t, b, breaker.Closed)
			run(t, b, 3, fail)
		}, breaker.CauseFailureRate},
		{"failure rate below the minimum", breaker.Config{FailureRate: 0.25, MinCalls: 8}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 3, succeed)
			run(t, b, 4, fail)
		}, 0},
		{"failure rate of old calls", breaker.Config{FailureRate: 0.5, MinCalls: 4}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 3, fail)
			time.Sleep(10 * time.Second)
			run(t, b, 4, succeed)
		}, 0},
		{"failure rate as successes age", breaker.Config{FailureRate: 0.5, MinCalls: 2}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 10, succeed)
			time.Sleep(5 * time.Second)
			run(t, b, 2, fail)
			wantState(t, b, breaker.Closed)
			time.Sleep(5 * time.Second)
			run(t, b, 1, succeed)
		}, breaker.CauseFailureRate},
		{"slow calls", breaker.Config{SlowCallDuration: time.Second, SlowMinCalls: 3}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 1, succeed)
			run(t, b, 2, slow)
		}, breaker.CauseSlowCallRate},
		{"slow calls have their own minimum", breaker.Config{
			SlowCallDuration: time.Second, SlowMinCalls: 3, FailureRate: 0.5, MinCalls: 1,
		}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 2, slow)
			wantState(t, b, breaker.Closed)
			run(t, b, 1, succeed)
		}, breaker.CauseSlowCallRate},
		{"fast enough", breaker.Config{SlowCallDuration: time.Second + 1, SlowMinCalls: 1}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 100, slow)
		}, 0},
		{"should trip", breaker.Config{ShouldTrip: func(c breaker.Counts) bool {
			return c == breaker.Counts{Calls: 4, Successes: 3, Failures: 1}
		}}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 1, succeed)
			run(t, b, 1, fail)
			run(t, b, 2, succeed)
		}, breaker.CauseShouldTrip},
		{"should trip by the window", breaker.Config{Window: time.Second, ShouldTrip: func(c breaker.Counts) bool {
			return c.WindowCalls == 2
		}}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 1, succeed)
			time.Sleep(time.Second)
			run(t, b, 1, succeed)
			wantState(t, b, breaker.Closed)
			run(t, b, 1, succeed)
		}, breaker.CauseShouldTrip},
		{"a telling error", breaker.Config{Classify: func(err error) breaker.Outcome {
			if err.Error() == "read only" {
				return breaker.Trip
			}
			return breaker.DefaultClassify(err)
		}}, func(t *testing.T, b *breaker.Breaker) {
			run(t, b, 1, fail)
			wantState(t, b, breaker.Closed)
			run(t, b, 1, func(context.Context) error { return errors.New("read only") })
		}, breaker.CauseTrip},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got breaker.Cause
				tt.cfg.OnEvent = func(e breaker.Event) { got = e.Cause }
				if tt.cfg.MaxFailures == 0 {
					tt.cfg.MaxFailures = 10
				}
				b := mustNew(t, tt.cfg)
				tt.calls(t, b)
				if got != tt.want {
					t.Fatalf("opened by %v, want %v", got, tt.want)
				}
			})
		})
	}
}

func TestOpenTimeGrowsAndFallsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.MaxTimeout = 5 * time.Second })
		for round := range 2 {
			for _, seconds := range []int{1, 2, 4, 5, 5} {
				want := time.Duration(seconds) * time.Second
				run(t, b, 1, fail)
				if got := b.Stats().TimeUntilHalfOpen; got != want {
					t.Fatalf("round %d: open for %v, want %v", round, got, want)
				}
				time.Sleep(want)
			}
			run(t, b, 1, succeed)
			wantState(t, b, breaker.Closed)
		}
	})
}

func TestLongTimesDoNotOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.ProbeTimeout = math.MaxInt64 })
		run(t, b, 1, fail)
		time.Sleep(time.Second)
		allow(t, b).Done(context.Canceled)
		time.Sleep(time.Hour)
		probe := allow(t, b)
		wantRejected(t, b)
		probe.Done(errDown) // In time, so that it counts.
		wantState(t, b, breaker.Open)

		b = steady(t, func(c *breaker.Config) { c.Timeout, c.MaxTimeout = math.MaxInt64-1, math.MaxInt64 })
		run(t, b, 1, fail)
		_, err := b.Allow()
		if open, ok := errors.AsType[*breaker.OpenError](err); !ok || open.RetryAfter < 1e6*time.Hour/2 {
			t.Fatalf("%v, want to be told of a long time", err)
		}
		if got := b.Stats().TimeUntilHalfOpen; got < 1e6*time.Hour/2 {
			t.Fatalf("open for %v, want a long time", got)
		}
	})
}

// TestSlowSuccessClosesTheCircuit has calls that take longer than ProbeTimeout: it gives up their slot, not their word.
func TestSlowSuccessClosesTheCircuit(t *testing.T) {
	slowly := func(context.Context) error { time.Sleep(3 * time.Second); return nil }
	for _, threshold := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			b := steady(t, func(c *breaker.Config) { c.SuccessThreshold = threshold })
			run(t, b, 1, fail)
			time.Sleep(time.Second)
			run(t, b, threshold, slowly)
			wantState(t, b, breaker.Closed)
			checkConserved(t, b)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.SlowCallDuration = 2 * time.Second })
		run(t, b, 1, fail)
		time.Sleep(time.Second)
		run(t, b, 1, slowly) // Slow by the rule: that proves nothing.
		wantState(t, b, breaker.HalfOpen)
	})
}

func TestJitterShortens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := map[time.Duration]bool{}
		for range 200 {
			b := steady(t, func(c *breaker.Config) { c.Timeout, c.Jitter = 100*time.Second, 0.25 })
			run(t, b, 1, fail)
			d := b.Stats().TimeUntilHalfOpen
			if d > 100*time.Second || d < 75*time.Second {
				t.Fatalf("open for %v, want 75s to 100s", d)
			}
			seen[d.Truncate(time.Second)] = true
		}
		if len(seen) < 15 {
			t.Fatalf("200 open times fall into %d seconds of 25", len(seen))
		}
	})
}

func TestOpenError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t)
		run(t, b, 1, fail)
		time.Sleep(200*time.Millisecond + 1)
		check := func(want breaker.OpenError, text string) {
			t.Helper()
			err := b.Execute(t.Context(), func(context.Context) error { t.Fatal("called"); return nil })
			var got *breaker.OpenError
			if !errors.As(err, &got) || !errors.Is(err, breaker.ErrCircuitOpen) || *got != want || err.Error() != text {
				t.Fatalf("got %#v (%v), want %+v", err, err, want)
			}
		}
		check(breaker.OpenError{Name: "steady", State: breaker.Open, RetryAfter: 800 * time.Millisecond},
			`breaker: circuit "steady" open, retry after 800ms`)
		time.Sleep(500 * time.Millisecond)
		check(breaker.OpenError{Name: "steady", State: breaker.Open, RetryAfter: 300 * time.Millisecond},
			`breaker: circuit "steady" open, retry after 300ms`)
		time.Sleep(300 * time.Millisecond)
		allow(t, b)
		check(breaker.OpenError{Name: "steady", State: breaker.HalfOpen}, `breaker: circuit "steady" half-open, its probes are out`)
		b.ForceOpen()
		check(breaker.OpenError{Name: "steady", State: breaker.Open}, `breaker: circuit "steady" open`)
	})
}

func TestForceOpenAndReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []breaker.Event
		changes := 0
		b := steady(t, func(c *breaker.Config) {
			c.OnEvent = func(e breaker.Event) { events = append(events, e) }
			c.OnStateChange = func(string, breaker.State, breaker.State) { changes++ }
		})
		running := allow(t, b)
		run(t, b, 1, fail)
		b.ForceOpen()
		time.Sleep(1000 * time.Hour)
		wantRejected(t, b)
		if s := b.Stats(); !s.Forced || s.State != breaker.Open || s.TimeUntilHalfOpen != 0 || !b.IsOpen() {
			t.Fatalf("forced open: %+v", s)
		}
		b.Reset()
		running.Done(errDown) // Of before the reset.
		if s := b.Stats(); s.Forced || s.State != breaker.Closed || s.Counts != (breaker.Counts{}) {
			t.Fatalf("reset: %+v", s)
		}
		b.Reset()
		if len(events) != 3 || changes != 2 || events[1].From != breaker.Open || events[1].Cause != breaker.CauseForced ||
			events[2].Cause != breaker.CauseReset {
			t.Fatalf("%d changes, events %+v", changes, events)
		}
		run(t, b, 1, fail)
		wantState(t, b, breaker.Open)
		b.Reset()
		checkConserved(t, b)
	})
}

func TestNilAndDisabledPassEverything(t *testing.T) {
	for name, b := range map[string]*breaker.Breaker{
		"nil":      nil,
		"disabled": mustNew(t, breaker.Config{Disabled: true, MaxFailures: 1, MaxConcurrentCalls: 1}),
	} {
		t.Run(name, func(t *testing.T) {
			b.ForceOpen()
			for range 10 {
				p, err := b.Allow()
				if err != nil {
					t.Fatal(err)
				}
				defer p.Done(errDown)
				if err := b.Execute(t.Context(), fail); !errors.Is(err, errDown) {
					t.Fatalf("got %v, want the call's error", err)
				}
			}
			if v, err := breaker.ExecuteValue(t.Context(), b, func(context.Context) (int, error) { return 7, nil }); v != 7 || err != nil {
				t.Fatalf("got %d, %v", v, err)
			}
			if err := b.WaitUntilReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.Reset()
			if s := b.Stats(); s.State != breaker.Closed || s.Totals != (breaker.Totals{}) || b.IsOpen() || b.Name() != "" {
				t.Fatalf("stats %+v", s)
			}
		})
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	b := steady(t)
	fallback := func(_ context.Context, cause error) error { t.Errorf("fallback called with %v", cause); return nil }
	//nolint:staticcheck // Nil contexts on purpose.
	for name, err := range map[string]error{
		"no context":           b.Execute(nil, succeed),
		"no function":          b.Execute(t.Context(), nil),
		"no function, nil":     (*breaker.Breaker)(nil).Execute(t.Context(), nil),
		"no context, fallback": b.ExecuteWithFallback(nil, succeed, fallback),
		"no call, fallback":    b.ExecuteWithFallback(t.Context(), nil, fallback),
		"no fallback":          b.ExecuteWithFallback(t.Context(), fail, nil),
		"no context, wait":     b.WaitUntilReady(nil),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := breaker.ExecuteValue[int](t.Context(), b, nil); err == nil {
		t.Error("no function with a value: no error")
	}
	if got := b.Stats().Totals; got != (breaker.Totals{}) {
		t.Errorf("nonsense was counted: %+v", got)
	}
	var p *breaker.Permit
	p.Done(nil)
}

func TestEndedContextIsNotCalledFor(t *testing.T) {
	b := steady(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Execute(ctx, func(context.Context) error { t.Error("called"); return nil }); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if got := b.Stats().Totals; got != (breaker.Totals{}) {
		t.Fatalf("counted: %+v", got)
	}
}

func TestMaxConcurrentCalls(t *testing.T) {
	b := steady(t, func(c *breaker.Config) { c.MaxConcurrentCalls = 2 })
	first, second := allow(t, b), allow(t, b)
	if err := b.Execute(t.Context(), succeed); !errors.Is(err, breaker.ErrTooManyCalls) || errors.Is(err, breaker.ErrCircuitOpen) {
		t.Fatalf("third call: %v, want ErrTooManyCalls", err)
	}
	first.Done(nil)
	first.Done(nil)
	third := allow(t, b)
	if _, err := b.Allow(); !errors.Is(err, breaker.ErrTooManyCalls) {
		t.Fatalf("third call at once: %v, want ErrTooManyCalls", err)
	}
	second.Done(errDown) // Opens; the third call runs on and keeps its place.
	b.Reset()
	allow(t, b)
	if _, err := b.Allow(); !errors.Is(err, breaker.ErrTooManyCalls) {
		t.Fatalf("after reset with one from before: %v, want ErrTooManyCalls", err)
	}
	third.Done(nil)
	allow(t, b)
	checkConserved(t, b)
}

func TestExecuteWithFallback(t *testing.T) {
	b := steady(t)
	var causes []error
	fallback := func(_ context.Context, cause error) error {
		causes = append(causes, cause)
		return fmt.Errorf("fallback for: %w", cause)
	}
	if err := b.ExecuteWithFallback(t.Context(), succeed, fallback); err != nil || causes != nil {
		t.Fatalf("success: %v, fallback called with %v", err, causes)
	}
	err := b.ExecuteWithFallback(t.Context(), fail, fallback)
	if !errors.Is(err, errDown) || len(causes) != 1 || !is(causes[0], errDown) || is(err, errDown) {
		t.Fatalf("failure: %v, fallback called with %v", err, causes)
	}
	_ = b.ExecuteWithFallback(t.Context(), fail, fallback)
	if len(causes) != 2 || !errors.Is(causes[1], breaker.ErrCircuitOpen) {
		t.Fatalf("rejection: fallback called with %v", causes)
	}
	b.Reset()
	ctx, cancel := context.WithCancel(t.Context())
	err = b.ExecuteWithFallback(ctx, func(context.Context) error { cancel(); return errDown }, fallback)
	if !is(err, errDown) || len(causes) != 2 {
		t.Fatalf("cancelled: %v, fallback called with %v", err, causes)
	}
	if err := b.ExecuteWithFallback(t.Context(), fail, func(context.Context, error) error { return nil }); err != nil {
		t.Fatalf("a fallback that works: %v", err)
	}
}

func TestExecuteValue(t *testing.T) {
	b := steady(t)
	v, err := breaker.ExecuteValue(t.Context(), b, func(context.Context) (string, error) { return "half", errDown })
	if v != "half" || !is(err, errDown) {
		t.Fatalf("got %q, %v; want what the function returned", v, err)
	}
	v, err = breaker.ExecuteValue(t.Context(), b, func(context.Context) (string, error) { return "whole", nil })
	if v != "" || !errors.Is(err, breaker.ErrCircuitOpen) {
		t.Fatalf("got %q, %v; want a rejection", v, err)
	}
}

func TestUserCodeThatPanicsWhileCounting(t *testing.T) {
	for name, cfg := range map[string]breaker.Config{
		"Classify":   {Classify: func(error) breaker.Outcome { panic("user") }},
		"ShouldTrip": {ShouldTrip: func(breaker.Counts) bool { panic("user") }},
	} {
		cfg.MaxConcurrentCalls = 1
		b := mustNew(t, cfg)
		for range 2 { // The second would find the only place taken.
			for kind, call := range map[string]func(){
				"Execute": func() { _ = b.Execute(t.Context(), fail) },
				"Done":    func() { p := allow(t, b); p.Done(errDown) },
			} {
				func() {
					defer func() {
						if p := recover(); p != "user" {
							t.Errorf("%s in %s: recovered %v", name, kind, p)
						}
					}()
					call()
				}()
			}
		}
		if s := b.Stats(); s.RunningCalls != 0 || s.Totals.Failures != 4 {
			t.Errorf("%s: %+v", name, s)
		}
		checkConserved(t, b)
	}
}

// timeoutless is an error whose method Timeout panics while it is nil.
type timeoutless struct{ timeout bool }

func (e *timeoutless) Error() string { return "no answer" }
func (e *timeoutless) Timeout() bool { return e.timeout }

func TestErrorThatPanicsLeaksNoCall(t *testing.T) {
	b := mustNew(t, breaker.Config{MaxConcurrentCalls: 1})
	var err *timeoutless
	for kind, call := range map[string]func(){
		"Execute": func() { _ = b.Execute(t.Context(), func(context.Context) error { return err }) },
		"Done":    func() { allow(t, b).Done(err) },
		"DoneAs":  func() { allow(t, b).DoneAs(breaker.Failure, err) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: the panic did not pass on", kind)
				}
			}()
			call()
		}()
	}
	if s := b.Stats(); s.RunningCalls != 0 || s.Totals.Failures != 3 || b.Execute(t.Context(), succeed) != nil {
		t.Errorf("%+v, want 3 failures and room for a call", s)
	}
}

func TestNoAllocations(t *testing.T) {
	closed := steady(t)
	opened := steady(t, func(c *breaker.Config) { c.Timeout = time.Hour })
	run(t, opened, 1, fail)
	probing := steady(t, func(c *breaker.Config) { c.Timeout = 1; c.ProbeTimeout = time.Hour })
	run(t, probing, 1, fail)
	if err := probing.WaitUntilReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	allow(t, probing)
	rules := mustNew(t, breaker.Config{FailureRate: 1, SlowCallDuration: time.Hour, MaxConcurrentCalls: 9})
	ctx := t.Context()
	value := func(context.Context) (int, error) { return 1, nil }
	for name, call := range map[string]func(){
		"closed":        func() { _ = closed.Execute(ctx, succeed) },
		"closed, value": func() { _, _ = breaker.ExecuteValue(ctx, closed, value) },
		"closed, permit": func() {
			p, _ := closed.Allow()
			p.Done(nil)
		},
		"closed, rules": func() { _ = rules.Execute(ctx, succeed) },
		"open":          func() { _ = opened.Execute(ctx, succeed) },
		"probes out":    func() { _ = probing.Execute(ctx, succeed) },
	} {
		if got := testing.AllocsPerRun(1000, call); got != 0 {
			t.Errorf("%s: %v allocations, want 0", name, got)
		}
	}
}

func TestIdleBreakerIsSmall(t *testing.T) {
	const n = 20000
	all := make([]*breaker.Breaker, n)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range all {
		all[i] = mustNew(t, breaker.Config{Name: "small"})
	}
	each := (heap() - before) / n
	runtime.KeepAlive(all)
	if each > 300 {
		t.Fatalf("an idle breaker takes %d bytes, want at most 300", each)
	}
}
