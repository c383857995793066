package breaker

import (
	"context"
	"errors"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func newBreaker(tb testing.TB, cfg Config) *Breaker {
	tb.Helper()
	b, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// TestPitfall20HotPathTakesNoLock holds the lock and goes through everything that must not want it. When it hangs, the
// goroutine dump shows where.
func TestPitfall20HotPathTakesNoLock(t *testing.T) {
	ctx := t.Context()
	failure := func(context.Context) error { return errors.New("down") }
	success := func(context.Context) error { return nil }
	for name, cfg := range map[string]Config{
		"default": {Timeout: time.Hour},
		"all rules": {
			Timeout: time.Hour, FailureRate: 0.9, Window: time.Hour, SlowCallDuration: time.Hour, MaxConcurrentCalls: 10,
			ShouldTrip: func(Counts) bool { return false },
		},
	} {
		b := newBreaker(t, cfg)
		b.mu.Lock()
		_ = b.Execute(ctx, success)
		_ = b.Execute(ctx, failure)
		_ = b.Execute(ctx, success)
		_ = b.State()
		_ = b.IsOpen()
		_ = b.WaitUntilReady(canceled(ctx))
		b.mu.Unlock()
		for range 5 {
			_ = b.Execute(ctx, failure)
		}
		b.mu.Lock()
		if err := b.Execute(ctx, success); !errors.Is(err, ErrCircuitOpen) {
			t.Fatalf("%s: %v, want ErrCircuitOpen", name, err)
		}
		_ = b.State()
		b.mu.Unlock()

		b.phase.Load().gate.until.Store(0) // As if the hour were over.
		if _, err := b.Allow(); err != nil {
			t.Fatal(err)
		}
		b.mu.Lock()
		if err := b.Execute(ctx, success); !errors.Is(err, ErrCircuitOpen) {
			t.Fatalf("%s: %v, want ErrCircuitOpen while the probe is out", name, err)
		}
		b.mu.Unlock()
	}
}

func canceled(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

func TestPitfall22CountersDoNotWrap(t *testing.T) {
	b := newBreaker(t, Config{MaxFailures: -1, Window: time.Hour})
	b.phase.Load().streak.Store(math.MaxInt32)
	for range 3 {
		_ = b.Execute(t.Context(), func(context.Context) error { return errors.New("down") })
	}
	if got := b.Stats().Counts.ConsecutiveFailures; got != math.MaxInt32 {
		t.Fatalf("the streak is %d, want it to stay full", got)
	}
	b.failures.Store(math.MaxUint32)
	_ = b.Execute(t.Context(), func(context.Context) error { return errors.New("down") })
	if got := b.Stats(); got.Totals.Failures != math.MaxUint32+1 || got.Counts.WindowFailures != math.MaxUint32+1 {
		t.Fatalf("failures are %d, %d in the window, want more than 32 bits", got.Totals.Failures, got.Counts.WindowFailures)
	}
}

// TestPitfall24NoUpdateIsLost has all goroutines meet at each turn of the slices.
func TestPitfall24NoUpdateIsLost(t *testing.T) {
	const goroutines, rounds = 4, 2000
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, Config{MaxFailures: -1, Window: 10 * time.Second})
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				for range rounds {
					time.Sleep(time.Second)
					for range 2 {
						p, err := b.Allow()
						if err != nil {
							t.Error(err)
						}
						p.DoneAs(Outcome(g%2), nil) // Success, Failure.
					}
				}
			})
		}
		time.Sleep(time.Second / 2)
		for i := range rounds {
			time.Sleep(time.Second)
			got, want := b.Stats().Counts, uint64(2*goroutines*min(i+1, windowSlices))
			if got.WindowCalls != want || got.WindowFailures != want/2 {
				t.Fatalf("second %d: %d calls, %d failures; want %d and half of it", i, got.WindowCalls, got.WindowFailures, want)
			}
		}
		wg.Wait()
	})
}

// TestGroupLooksAgain holds the group's lock until all wait for it, so that all miss at once and each comes to make one.
func TestGroupLooksAgain(t *testing.T) {
	const goroutines = 16
	g := NewGroup()
	var arrived atomic.Int32
	var got [goroutines]*Breaker
	var wg sync.WaitGroup
	g.mu.Lock()
	for i := range goroutines {
		wg.Go(func() {
			arrived.Add(1)
			got[i], _ = g.GetOrCreate(Config{Name: "one"})
		})
	}
	for arrived.Load() < goroutines {
		runtime.Gosched()
	}
	for range 100 {
		runtime.Gosched() // From their arrival to the lock.
	}
	g.mu.Unlock()
	wg.Wait()
	for _, b := range got {
		if b == nil || b != got[0] {
			t.Fatal("two breakers were made for one name")
		}
	}
}

func TestWindowSlides(t *testing.T) {
	w := newWindow(10 * time.Second)
	var counts ended
	for _, tt := range []struct {
		at   time.Duration
		more ended // Ends then.
		want ended // Is in the window, with it.
	}{
		{0, ended{failures: 1}, ended{failures: 1}},
		{999 * time.Millisecond, ended{successes: 1, slow: 1}, ended{1, 1, 1}},
		{5 * time.Second, ended{failures: 1, slow: 1}, ended{1, 2, 2}},
		{10*time.Second - 1, ended{}, ended{1, 2, 2}},
		{10 * time.Second, ended{}, ended{0, 1, 1}},
		{15*time.Second - 1, ended{successes: 3}, ended{3, 1, 1}},
		{15 * time.Second, ended{}, ended{3, 0, 0}},
		{24*time.Second - 1, ended{}, ended{3, 0, 0}},
		{24 * time.Second, ended{}, ended{}},
		{1000 * time.Hour, ended{successes: 1}, ended{1, 0, 0}},
		{999 * time.Hour, ended{failures: 1}, ended{1, 1, 0}}, // Overtaken: it lands in the newer slice, and undoes nothing.
		{1000*time.Hour + 9*time.Second, ended{}, ended{1, 1, 0}},
		{1000*time.Hour + 10*time.Second, ended{}, ended{}},
	} {
		w.turn(tt.at, counts)
		counts = ended{counts.successes + tt.more.successes, counts.failures + tt.more.failures, counts.slow + tt.more.slow}
		if got := counts.since(w.view.Load().start); got != tt.want {
			t.Errorf("at %v: %+v in the window, want %+v", tt.at, got, tt.want)
		}
	}
}
