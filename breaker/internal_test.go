package breaker

import (
	"context"
	"errors"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
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
			Timeout: time.Hour, FailureRate: 0.9, SlowCallDuration: time.Hour, MaxConcurrentCalls: 10,
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
	b := newBreaker(t, Config{MaxFailures: -1, FailureRate: 1})
	ph := b.phase.Load()
	ph.streak.Store(math.MaxInt32)
	for range 3 {
		_ = b.Execute(t.Context(), func(context.Context) error { return errors.New("down") })
	}
	if got := b.Stats().Counts.ConsecutiveFailures; got != math.MaxInt32 {
		t.Fatalf("the streak is %d, want it to stay full", got)
	}
	full := uint64(math.MaxUint32)
	ph.window.slices[0].calls.Store(full)
	ph.window.record(0, false, false)
	if got := ph.window.slices[0].calls.Load(); got != full {
		t.Fatalf("the slice is %#x, want it to stay full", got)
	}
	b.failures.Store(math.MaxUint32)
	_ = b.Execute(t.Context(), func(context.Context) error { return errors.New("down") })
	if got := b.Stats().Totals.Failures; got != math.MaxUint32+1 {
		t.Fatalf("failures are %d, want more than 32 bits", got)
	}
}

func TestPitfall24NoUpdateIsLost(t *testing.T) {
	const goroutines, rounds = 4, 5000
	w := newWindow(10 * time.Second)
	var arrived [rounds]atomic.Int32
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range rounds {
				// All meet at each turn of the slices.
				for arrived[i].Add(1); arrived[i].Load() < goroutines; {
					runtime.Gosched()
				}
				w.record(time.Duration(i)*time.Second, g%2 == 0, g%4 == 0)
				w.record(time.Duration(i)*time.Second, g%2 == 0, g%4 == 0)
				if i%windowSlices != windowSlices-1 {
					continue
				}
				for arrived[i].Add(1); arrived[i].Load() < 2*goroutines; {
					runtime.Gosched()
				}
				calls, failures, slow := w.sum(time.Duration(i) * time.Second)
				if want := uint64(2 * goroutines * windowSlices); calls != want || failures != want/2 || slow != want/4 {
					t.Errorf("%d calls, %d failures, %d slow; want %d and a half and a quarter of it", calls, failures, slow, want)
				}
				for arrived[i].Add(1); arrived[i].Load() < 3*goroutines; {
					runtime.Gosched()
				}
			}
		})
	}
	wg.Wait()
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
	w.record(0, true, false)
	w.record(999*time.Millisecond, false, true)
	w.record(5*time.Second, true, true)
	for _, tt := range []struct {
		at                    time.Duration
		calls, failures, slow uint64
	}{
		{5 * time.Second, 3, 2, 2},
		{10*time.Second - 1, 3, 2, 2},
		{10 * time.Second, 1, 1, 1},
		{15*time.Second - 1, 1, 1, 1},
		{15 * time.Second, 0, 0, 0},
		{1000 * time.Hour, 0, 0, 0},
	} {
		calls, failures, slow := w.sum(tt.at)
		if calls != tt.calls || failures != tt.failures || slow != tt.slow {
			t.Errorf("at %v: %d calls, %d failures, %d slow; want %+v", tt.at, calls, failures, slow, tt)
		}
	}
}
