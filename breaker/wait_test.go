package breaker_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

func TestWaitUntilReadyWakesAtHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t)
		if err := b.WaitUntilReady(t.Context()); err != nil {
			t.Fatalf("closed: %v", err)
		}
		run(t, b, 1, fail)
		began := time.Now()
		if err := b.WaitUntilReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(began); got != time.Second {
			t.Fatalf("woke after %v, want 1s", got)
		}
		if err := b.Execute(t.Context(), succeed); err != nil {
			t.Fatalf("the call that was waited for: %v", err)
		}
	})
}

// TestWaitUntilReadyLetsOneProbe has many who wait and then call, with an answer that takes a while: nobody may be
// rejected, so that nobody has woken in vain.
func TestWaitUntilReadyLetsOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.SuccessThreshold = 3 })
		run(t, b, 1, fail)
		var calls, rejected atomic.Int32
		for range 100 {
			go func() {
				if err := b.WaitUntilReady(t.Context()); err != nil {
					t.Error(err)
					return
				}
				err := b.Execute(t.Context(), func(context.Context) error {
					calls.Add(1)
					time.Sleep(100 * time.Millisecond)
					return nil
				})
				if err != nil {
					rejected.Add(1)
				}
			}()
		}
		time.Sleep(time.Second - 50*time.Millisecond) // Then look in the middle of each probe.
		for i, want := range []int32{1, 2, 3, 100} {
			time.Sleep(100 * time.Millisecond)
			if got := calls.Load(); got != want {
				t.Fatalf("step %d: %d calls were made, want %d", i, got, want)
			}
		}
		if rejected.Load() != 0 {
			t.Fatalf("%d were woken and rejected", rejected.Load())
		}
		time.Sleep(time.Second)
		wantState(t, b, breaker.Closed)
	})
}

func TestWaitUntilReadyAfterAProbeFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t)
		run(t, b, 1, fail)
		time.Sleep(time.Second)
		probe := allow(t, b)
		var ready atomic.Bool
		go func() {
			if err := b.WaitUntilReady(t.Context()); err != nil {
				t.Error(err)
			}
			ready.Store(true)
		}()
		time.Sleep(500 * time.Millisecond)
		probe.Done(errDown)
		time.Sleep(time.Second - 1)
		synctest.Wait()
		if ready.Load() {
			t.Fatal("woken while the circuit was open")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !ready.Load() {
			t.Fatal("not woken when the circuit was half-open")
		}
	})
}

func TestWaitUntilReadyPassesOnALostTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t)
		run(t, b, 1, fail)
		type wake struct {
			waiter int
			after  time.Duration
		}
		ready := make(chan wake, 3)
		began := time.Now()
		for waiter := range 3 {
			go func() { // Nobody calls.
				if err := b.WaitUntilReady(t.Context()); err != nil {
					t.Error(err)
				}
				ready <- wake{waiter, time.Since(began)}
			}()
			synctest.Wait()
		}
		for waiter := range 3 {
			if got, want := <-ready, (wake{waiter, time.Duration(waiter+1) * time.Second}); got != want {
				t.Fatalf("woken %+v, want %+v", got, want)
			}
		}
	})
}

func TestWaitUntilReadyPassesOnALostTurnWhileOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustNew(t, breaker.Config{MaxConcurrentCalls: 2})
		if err := b.WaitUntilReady(t.Context()); err != nil { // And does not call.
			t.Fatal(err)
		}
		var running, most atomic.Int32
		for range 4 {
			go func() {
				for range 10 {
					if err := b.WaitUntilReady(t.Context()); err != nil {
						t.Error(err)
						return
					}
					err := b.Execute(t.Context(), func(context.Context) error {
						n := running.Add(1)
						for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
						}
						time.Sleep(600 * time.Millisecond)
						running.Add(-1)
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			}()
		}
		time.Sleep(time.Second - 1)
		if got := most.Load(); got != 1 {
			t.Fatalf("%d calls at once, want 1 beside the turn that may yet be taken", got)
		}
		time.Sleep(time.Second)
		if got := most.Load(); got != 2 {
			t.Fatalf("%d calls at once, want 2 after the turn was lost", got)
		}
		time.Sleep(time.Minute)
	})
}

func TestWaitUntilReadyWhenAListenerEndsTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *breaker.Breaker
		var place *breaker.Permit
		b = steady(t, func(c *breaker.Config) {
			c.MaxFailures, c.MaxConcurrentCalls = -1, 1
			c.ShouldTrip = func(breaker.Counts) bool {
				place = allow(t, b) // So that the circuit opens with no place free.
				return true
			}
			c.OnStateChange = func(_ string, _, to breaker.State) {
				if to == breaker.HalfOpen {
					runtime.Goexit()
				}
			}
		})
		run(t, b, 1, fail)
		first := make(chan struct{})
		go func() {
			defer close(first)
			_ = b.WaitUntilReady(t.Context())
			t.Error("came back, want its goroutine ended")
		}()
		<-first
		var ready atomic.Bool
		go func() { ready.Store(b.WaitUntilReady(t.Context()) == nil) }()
		synctest.Wait()
		place.Done(nil)
		synctest.Wait()
		if !ready.Load() {
			t.Fatal("the second one waits behind one that is gone")
		}
	})
}

func TestWaitUntilReadyForgetsTurnsWithTheirState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.Timeout = 100 * time.Millisecond })
		for range 2 {
			run(t, b, 1, fail)
			began := time.Now()
			if err := b.WaitUntilReady(t.Context()); err != nil { // And does not call.
				t.Fatal(err)
			}
			if got := time.Since(began); got != 100*time.Millisecond {
				t.Fatalf("woke after %v, want 100ms", got)
			}
			b.Reset()
		}
	})
}

func TestWaitUntilReadyAfterALostProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.ProbeTimeout = 7 * time.Second })
		run(t, b, 1, fail)
		time.Sleep(time.Second)
		allow(t, b)
		began := time.Now()
		if err := b.WaitUntilReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(began); got != 7*time.Second {
			t.Fatalf("woke after %v, want 7s", got)
		}
		allow(t, b)
	})
}

func TestWaitUntilReadyWhenTheFirstLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t)
		run(t, b, 1, fail)
		ctx, cancel := context.WithCancel(t.Context())
		var left error
		go func() { left = b.WaitUntilReady(ctx) }()
		synctest.Wait()
		var ready atomic.Bool
		go func() { ready.Store(b.WaitUntilReady(t.Context()) == nil) }()
		synctest.Wait()
		cancel()
		time.Sleep(time.Second)
		synctest.Wait()
		if !errors.Is(left, context.Canceled) || !ready.Load() {
			t.Fatalf("the first left with %v, the second is ready: %v", left, ready.Load())
		}
	})
}

func TestWaitUntilReadyForcedOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t)
		b.ForceOpen()
		var ready atomic.Int32
		for range 5 {
			go func() {
				if b.WaitUntilReady(t.Context()) == nil {
					ready.Add(1)
				}
			}()
		}
		time.Sleep(1000 * time.Hour)
		synctest.Wait()
		if ready.Load() != 0 {
			t.Fatal("woken while the circuit was forced open")
		}
		b.Reset()
		synctest.Wait()
		if ready.Load() != 5 {
			t.Fatalf("after Reset %d of 5 are ready", ready.Load())
		}
	})
}

func TestWaitUntilReadyForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := steady(t, func(c *breaker.Config) { c.MaxConcurrentCalls = 2 })
		p1, p2 := allow(t, b), allow(t, b)
		var ready, rejected atomic.Int32
		for range 10 {
			go func() {
				if b.WaitUntilReady(t.Context()) != nil {
					return
				}
				ready.Add(1)
				if b.Execute(t.Context(), func(context.Context) error { time.Sleep(time.Second); return nil }) != nil {
					rejected.Add(1)
				}
			}()
		}
		synctest.Wait()
		if ready.Load() != 0 {
			t.Fatalf("%d are ready while all places are taken", ready.Load())
		}
		p1.Done(nil)
		synctest.Wait()
		if ready.Load() != 1 {
			t.Fatalf("%d are ready for one free place", ready.Load())
		}
		p2.Done(context.Canceled)
		synctest.Wait()
		if ready.Load() != 2 {
			t.Fatalf("%d are ready for two free places", ready.Load())
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if ready.Load() != 10 || rejected.Load() != 0 {
			t.Fatalf("%d of 10 were ready, %d of them rejected", ready.Load(), rejected.Load())
		}
		checkConserved(t, b)
	})
}
