package breaker_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

// TestStressConservation has many goroutines do everything at once, and counts from outside: each call that was admitted
// succeeded, failed, was ignored, panicked or still runs, and nothing is counted twice.
func TestStressConservation(t *testing.T) {
	for name, cfg := range map[string]breaker.Config{
		"default": {MaxFailures: 3},
		"all rules": {
			MaxFailures: 20, FailureRate: 0.6, MinCalls: 10, SlowCallDuration: 20 * time.Microsecond, SlowCallRate: 0.9,
			Window: 5 * time.Millisecond, MaxConcurrentCalls: 6, MaxProbes: 2, MaxTimeout: time.Millisecond,
			ShouldTrip: func(c breaker.Counts) bool { return c.Failures > 500 },
		},
		"lost probes": {MaxFailures: 2, ProbeTimeout: time.Microsecond, MaxProbes: 3},
	} {
		t.Run(name, func(t *testing.T) { stress(t, cfg) })
	}
}

func stress(t *testing.T, cfg breaker.Config) {
	cfg.Timeout, cfg.Logger = 100*time.Microsecond, quiet
	var events atomic.Uint64
	cfg.OnEvent = func(breaker.Event) {
		if events.Add(1)%7 == 0 {
			panic("listener")
		}
	}
	b := mustNew(t, cfg)
	var want struct{ succeeded, failed, ignored, panicked, open, many atomic.Uint64 }
	var running, most atomic.Int64
	var left sync.Mutex
	var lost []*breaker.Permit

	ends := []func(context.Context) error{
		func(context.Context) error { want.succeeded.Add(1); return nil },
		func(context.Context) error { want.succeeded.Add(1); runtime.Gosched(); return nil },
		func(context.Context) error { want.failed.Add(1); return errDown },
		func(context.Context) error { want.failed.Add(1); return context.DeadlineExceeded },
		func(context.Context) error { want.ignored.Add(1); return context.Canceled },
		func(context.Context) error { want.panicked.Add(1); panic("boom") },
	}
	one := func(rng *rand.Rand) {
		defer func() { _ = recover() }()
		end := ends[rng.IntN(len(ends))]
		err := b.Execute(t.Context(), func(ctx context.Context) error {
			n := running.Add(1)
			defer running.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			return end(ctx)
		})
		switch {
		case errors.Is(err, breaker.ErrCircuitOpen):
			want.open.Add(1)
		case errors.Is(err, breaker.ErrTooManyCalls):
			want.many.Add(1)
		}
	}
	byHand := func(rng *rand.Rand) {
		p, err := b.Allow()
		switch {
		case errors.Is(err, breaker.ErrCircuitOpen):
			want.open.Add(1)
			return
		case errors.Is(err, breaker.ErrTooManyCalls):
			want.many.Add(1)
			return
		case rng.IntN(100) == 0 && cfg.MaxConcurrentCalls == 0:
			left.Lock()
			lost = append(lost, &p)
			left.Unlock()
			return
		}
		var wg sync.WaitGroup
		wg.Go(func() { p.DoneAs(breaker.Success, nil) })
		p.DoneAs(breaker.Success, nil)
		wg.Wait()
		want.succeeded.Add(1)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			for i := range 4000 {
				switch n := rng.IntN(1000); {
				case n == 0:
					b.ForceOpen()
				case n < 4:
					b.Reset()
				case n < 10:
					ctx, cancel := context.WithTimeout(t.Context(), 200*time.Microsecond)
					_ = b.WaitUntilReady(ctx)
					cancel()
				case n < 100:
					byHand(rng)
				default:
					one(rng)
				}
				if i%100 == 0 {
					if s := b.Stats(); s.RunningCalls < 0 || s.Counts.Calls > s.Totals.Calls {
						t.Errorf("impossible: %+v", s)
					}
				}
			}
		})
	}
	wg.Wait()

	s := b.Stats()
	got := s.Totals
	if got.Successes != want.succeeded.Load() || got.Failures != want.failed.Load()+want.panicked.Load() ||
		got.Ignored != want.ignored.Load() || got.Panics != want.panicked.Load() ||
		got.RejectedOpen != want.open.Load() || got.RejectedTooMany != want.many.Load() || s.RunningCalls != len(lost) {
		t.Errorf("counted %+v\nsaw succeeded %d, failed %d, panicked %d, ignored %d, open %d, too many %d, lost %d", got,
			want.succeeded.Load(), want.failed.Load(), want.panicked.Load(), want.ignored.Load(), want.open.Load(),
			want.many.Load(), len(lost))
	}
	checkConserved(t, b)
	if got.StateChanges < 10 {
		t.Errorf("only %d changes of state: nothing was tried", got.StateChanges)
	}
	if limit := int64(cfg.MaxConcurrentCalls); limit > 0 && most.Load() > limit {
		t.Errorf("%d calls ran at once, the limit is %d", most.Load(), limit)
	}
	for _, p := range lost {
		p.Done(nil)
	}
	b.Reset()
	if s := b.Stats(); s.RunningCalls != 0 || b.Execute(t.Context(), succeed) != nil {
		t.Errorf("after all is done and reset: %+v", s)
	}
}
