package retry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	avast "github.com/avast/retry-go/v4"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

var errDown = errors.New("connection refused")

func fail(context.Context) error { return errDown }

func notCalled(t *testing.T) func(context.Context) error {
	return func(context.Context) error {
		t.Helper()
		t.Error("called")
		return nil
	}
}

// sharp is a policy whose waits can be foretold: 100 ms, 200 ms, 400 ms...
func sharp(attempts int) retry.Policy { return retry.Policy{Attempts: attempts, Jitter: -1} }

func TestDoUntilItSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at []time.Duration
		err := retry.Do(t.Context(), sharp(9), func(context.Context) error {
			at = append(at, time.Since(began))
			if len(at) == 4 {
				return nil
			}
			return errDown
		})
		const ms = time.Millisecond
		if want := []time.Duration{0, 100 * ms, 300 * ms, 700 * ms}; err != nil || !slices.Equal(at, want) {
			t.Fatalf("%v, attempts at %v, want %v", err, at, want)
		}
	})
}

func TestDoGivesUp(t *testing.T) {
	for attempts, want := range map[int]int{0: 3, -1: 1, 1: 1, 2: 2, 50: 50} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			began := time.Now()
			err := retry.Do(t.Context(), sharp(attempts), func(context.Context) error {
				calls++
				return fmt.Errorf("try %d: %w", calls, errDown)
			})
			var e *retry.Error
			if !errors.As(err, &e) || !errors.Is(err, errDown) || calls != want || e.Attempts != want || e.Stop != nil {
				t.Fatalf("Attempts %d: %d calls, %#v", attempts, calls, err)
			}
			if e.Elapsed != time.Since(began) {
				t.Fatalf("elapsed %v, want %v", e.Elapsed, time.Since(began))
			}
			plural := "s"
			if want == 1 {
				plural = ""
			}
			if text := fmt.Sprintf("retry: gave up after %d attempt%s: try %d: connection refused", want, plural, want); err.Error() != text {
				t.Fatalf("%q, want %q", err, text)
			}
		})
	}
}

func TestWhatEndsRetriesAtOnce(t *testing.T) {
	for name, cause := range map[string]error{
		"Permanent":           holdfast.Permanent(errDown),
		"Hold":                fmt.Errorf("insert: %w", holdfast.Hold(errDown)),
		"Skip":                holdfast.ErrSkip,
		"Unrecoverable":       avast.Unrecoverable(errDown),
		"wrapped":             fmt.Errorf("call: %w", avast.Unrecoverable(errDown)),
		"circuit further in":  &breaker.OpenError{Name: "inner"},
		"bulkhead further in": fmt.Errorf("inner: %w", breaker.ErrTooManyCalls),
		"not retryable":       errors.New("404"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := sharp(5)
				p.Retryable = func(err error) bool { return err.Error() != "404" }
				var counter retry.Counter
				p.OnAttempt = counter.Observe
				calls := 0
				began := time.Now()
				err := retry.Do(t.Context(), p, func(context.Context) error { calls++; return cause })
				if got, want := counter.Stats(), (retry.Counts{Attempts: 1, GaveUp: 1}); got != want {
					t.Errorf("counted %+v, want %+v", got, want)
				}
				var e *retry.Error
				if calls != 1 || !errors.As(err, &e) || e.Attempts != 1 || !errors.Is(err, cause) || time.Since(began) != 0 {
					t.Fatalf("%d calls in %v, %#v", calls, time.Since(began), err)
				}
			})
		})
	}
}

func TestVerdictsShineThrough(t *testing.T) {
	err := retry.Do(t.Context(), retry.Policy{}, func(context.Context) error { return holdfast.Permanent(errDown) })
	if !holdfast.IsPermanent(err) || breaker.DefaultClassify(err) != breaker.Ignore {
		t.Errorf("%v has lost that it is permanent", err)
	}
	err = retry.Do(t.Context(), sharp(-1), func(context.Context) error { return holdfast.RetryAfter(time.Hour, errDown) })
	if d, ok := holdfast.RetryDelay(err); !ok || d != time.Hour {
		t.Errorf("%v has lost its delay", err)
	}
}

func TestRetryableIsNotAskedAboutVerdicts(t *testing.T) {
	p := sharp(3)
	p.Retryable = func(err error) bool { t.Errorf("asked about %v", err); return true }
	_ = retry.Do(t.Context(), p, func(context.Context) error { return holdfast.Permanent(errDown) })
}

func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := sharp(3)
		p.MaxDelay = time.Second
		for _, tt := range []struct{ asked, want time.Duration }{
			{time.Minute, 2 * time.Minute}, // Longer than MaxDelay.
			{150 * time.Millisecond, 350 * time.Millisecond},
			{0, 300 * time.Millisecond},
		} {
			began := time.Now()
			_ = retry.Do(t.Context(), p, func(context.Context) error { return holdfast.RetryAfter(tt.asked, errDown) })
			if got := time.Since(began); got != tt.want {
				t.Errorf("RetryAfter %v: took %v, want %v", tt.asked, got, tt.want)
			}
		}
	})
}

func TestNeverSleepsPastTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			timeout, took time.Duration
			attempts      int
		}{
			{100 * time.Millisecond, 0, 1}, // The wait would end with the deadline itself.
			{300 * time.Millisecond, 100 * time.Millisecond, 2},
			{301 * time.Millisecond, 300 * time.Millisecond, 3},
		} {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), tt.timeout)
			err := retry.Do(ctx, sharp(10), fail)
			var e *retry.Error
			if !errors.As(err, &e) || !errors.Is(err, errDown) || !errors.Is(err, retry.ErrNoTime) || e.Attempts != tt.attempts {
				t.Errorf("deadline %v: %v", tt.timeout, err)
			}
			if got := time.Since(began); got != tt.took {
				t.Errorf("deadline %v: took %v, want %v", tt.timeout, got, tt.took)
			}
			cancel()
		}
	})
}

func TestMaxElapsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for elapsed, want := range map[time.Duration]int{
			1: 1, 100*time.Millisecond - 1: 1, 100 * time.Millisecond: 2, 299 * time.Millisecond: 2, 300 * time.Millisecond: 3,
		} {
			p := sharp(10)
			p.MaxElapsed = elapsed
			err := retry.Do(t.Context(), p, fail)
			var e *retry.Error
			if !errors.As(err, &e) || e.Attempts != want || !errors.Is(err, retry.ErrNoTime) {
				t.Errorf("MaxElapsed %v: %v, want %d attempts", elapsed, err, want)
			}
			if text := "no time for another attempt"; !strings.Contains(err.Error(), text) {
				t.Errorf("%v does not say %s", err, text)
			}
		}
	})
}

func TestContextEnds(t *testing.T) {
	reason := errors.New("shutdown")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := retry.Do(ctx, sharp(3), notCalled(t)); !errors.Is(err, context.Canceled) {
			t.Errorf("before: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		// During the wait.
		var told []retry.Result
		p := sharp(3)
		p.OnAttempt = func(a retry.Attempt) { told = append(told, a.Result) }
		ctx, cancel := context.WithCancelCause(t.Context())
		began := time.Now()
		time.AfterFunc(30*time.Millisecond, func() { cancel(reason) })
		err := retry.Do(ctx, p, fail)
		var e *retry.Error
		if !errors.As(err, &e) || e.Attempts != 1 || !errors.Is(err, context.Canceled) || !errors.Is(err, errDown) {
			t.Errorf("during the wait: %v", err)
		}
		if got := time.Since(began); got != 30*time.Millisecond {
			t.Errorf("came back after %v, want 30ms", got)
		}
		if want := []retry.Result{retry.Retrying, retry.Canceled}; !slices.Equal(told, want) {
			t.Errorf("told of %v, want %v", told, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		// During the attempt, which hides it.
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		var counter retry.Counter
		p := sharp(3)
		p.OnAttempt = counter.Observe
		err := retry.Do(ctx, p, func(context.Context) error { calls++; cancel(); return errDown })
		if calls != 1 || !errors.Is(err, context.Canceled) || !errors.Is(err, errDown) {
			t.Errorf("during the attempt: %d calls, %v", calls, err)
		}
		if got, want := counter.Stats(), (retry.Counts{Attempts: 1, GaveUp: 1}); got != want {
			t.Errorf("during the attempt: counted %+v, want %+v", got, want)
		}
	})
}

func TestCauseOfTheContextsEndIsKept(t *testing.T) {
	reason := errors.New("partition revoked")
	for _, tt := range []struct {
		after   time.Duration // During the first wait, if not 0;
		attempt int           // else during this attempt; 0 is before.
		want    string
	}{
		{0, 0, "context canceled: partition revoked"},
		{30 * time.Millisecond, 0, "retry: stopped after 1 attempt (context canceled: partition revoked): connection refused"},
		{0, 2, "retry: stopped after 2 attempts (context canceled: partition revoked): connection refused"},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			calls := 0
			if tt.after > 0 {
				time.AfterFunc(tt.after, func() { cancel(reason) })
			} else if tt.attempt == 0 {
				cancel(reason)
			}
			err := retry.Do(ctx, sharp(3), func(context.Context) error {
				if calls++; calls == tt.attempt {
					cancel(reason)
				}
				return errDown
			})
			if !errors.Is(err, reason) || !errors.Is(err, context.Canceled) || err.Error() != tt.want {
				t.Errorf("\n got %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestEachAttemptAsksTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := breaker.New(breaker.Config{Name: "mail", MaxFailures: 10, Jitter: -1})
		if err != nil {
			t.Fatal(err)
		}
		_ = retry.DoThrough(t.Context(), b, sharp(4), fail)
		if got, want := b.Stats().Totals, (breaker.Totals{Calls: 4, Failures: 4}); got != want {
			t.Fatalf("the breaker saw %+v, want %+v", got, want)
		}
		_, _ = retry.DoValueThrough(t.Context(), b, sharp(4), func(context.Context) (int, error) { return 0, holdfast.Permanent(errDown) })
		if got, want := b.Stats().Totals, (breaker.Totals{Calls: 5, Failures: 4, Ignored: 1}); got != want {
			t.Fatalf("the breaker saw %+v, want %+v", got, want)
		}
	})
}

func TestOpenCircuitEndsTheRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := breaker.New(breaker.Config{Name: "mail", MaxFailures: 2, Jitter: -1})
		if err != nil {
			t.Fatal(err)
		}
		var counter retry.Counter
		p := sharp(5)
		p.OnAttempt = counter.Observe
		began := time.Now()
		err = retry.DoThrough(t.Context(), b, p, fail)
		var e *retry.Error
		var open *breaker.OpenError
		if !errors.As(err, &e) || e.Attempts != 2 || !errors.Is(err, errDown) || !errors.As(err, &open) || open.Name != "mail" {
			t.Fatalf("opened on the way: %v", err)
		}
		// It opened with the second attempt: to wait for a third would be in vain.
		if got := time.Since(began); got != 100*time.Millisecond {
			t.Fatalf("came back after %v, want 100ms", got)
		}

		err = retry.DoThrough(t.Context(), b, p, notCalled(t))
		if !errors.Is(err, breaker.ErrCircuitOpen) || errors.As(err, &e) {
			t.Fatalf("open from the start: %v, want the rejection as it is", err)
		}
		if got, want := counter.Stats(), (retry.Counts{Attempts: 2, Retries: 1, GaveUp: 1, Rejected: 1}); got != want {
			t.Fatalf("counted %+v, want %+v", got, want)
		}
		if got := b.Stats().Totals; got.RejectedOpen != 1 || got.Failures != 2 {
			t.Fatalf("the breaker saw %+v", got)
		}
	})
}

func TestFullBreakerEndsTheRetries(t *testing.T) {
	b, err := breaker.New(breaker.Config{MaxConcurrentCalls: 1})
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Allow()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Done(nil)
	var attempted *retry.Error
	err = retry.DoThrough(t.Context(), b, sharp(5), notCalled(t))
	if !errors.Is(err, breaker.ErrTooManyCalls) || errors.As(err, &attempted) {
		t.Fatalf("%v, want ErrTooManyCalls as it is", err)
	}
}

func TestValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		v, err := retry.DoValue(t.Context(), sharp(3), func(context.Context) (string, error) {
			calls++
			if calls == 2 {
				return "whole", nil
			}
			return "half", errDown
		})
		if v != "whole" || err != nil {
			t.Errorf("got %q, %v", v, err)
		}
		v, err = retry.DoValue(t.Context(), sharp(2), func(context.Context) (string, error) { return "half", errDown })
		if v != "" || !errors.Is(err, errDown) {
			t.Errorf("got %q, %v; want the zero value and the error", v, err)
		}
	})
}

func TestFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := breaker.New(breaker.Config{MaxFailures: 3})
		if err != nil {
			t.Fatal(err)
		}
		var causes []error
		fallback := func(_ context.Context, cause error) error { causes = append(causes, cause); return nil }
		value := func(_ context.Context, cause error) (int, error) { causes = append(causes, cause); return 7, nil }
		for range 2 { // The second meets the open circuit.
			if err := retry.DoThroughWithFallback(t.Context(), b, sharp(3), fail, fallback); err != nil {
				t.Fatal(err)
			}
		}
		v, err := retry.DoValueThroughWithFallback(t.Context(), b, sharp(3), func(context.Context) (int, error) { return 1, nil }, value)
		if v != 7 || err != nil {
			t.Fatalf("got %d, %v; want the fallback's", v, err)
		}
		if len(causes) != 3 || !errors.Is(causes[0], errDown) || !errors.Is(causes[1], breaker.ErrCircuitOpen) || !errors.Is(causes[2], breaker.ErrCircuitOpen) {
			t.Fatalf("causes %v", causes)
		}
		b.Reset()
		v, err = retry.DoValueThroughWithFallback(t.Context(), b, sharp(3), func(context.Context) (int, error) { return 1, nil }, value)
		if v != 1 || err != nil || len(causes) != 3 {
			t.Fatalf("got %d, %v; want the call's", v, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = retry.DoThroughWithFallback(ctx, b, sharp(3), func(context.Context) error { cancel(); return errDown }, fallback)
		if !errors.Is(err, context.Canceled) || len(causes) != 3 {
			t.Fatalf("cancelled: %v, %d causes", err, len(causes))
		}
	})
}

func TestOnAttemptSeesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ms = time.Millisecond
		for name, tt := range map[string]struct {
			succeedWith int
			want        []retry.Attempt
			counts      retry.Counts
		}{
			"at once": {1, []retry.Attempt{{Number: 1, Result: retry.Succeeded, Elapsed: 10 * ms}}, retry.Counts{Attempts: 1, Succeeded: 1}},
			"late": {2, []retry.Attempt{
				{Number: 1, Result: retry.Retrying, Err: errDown, Delay: 100 * ms, Elapsed: 10 * ms},
				{Number: 2, Result: retry.Succeeded, Elapsed: 120 * ms},
			}, retry.Counts{Attempts: 2, Retries: 1, Succeeded: 1}},
			"never": {0, []retry.Attempt{
				{Number: 1, Result: retry.Retrying, Err: errDown, Delay: 100 * ms, Elapsed: 10 * ms},
				{Number: 2, Result: retry.Retrying, Err: errDown, Delay: 200 * ms, Elapsed: 120 * ms},
				{Number: 3, Result: retry.GaveUp, Err: errDown, Elapsed: 330 * ms},
			}, retry.Counts{Attempts: 3, Retries: 2, GaveUp: 1}},
		} {
			var counter retry.Counter
			var got []retry.Attempt
			p := sharp(3)
			p.OnAttempt = func(a retry.Attempt) { counter.Observe(a); got = append(got, a) }
			calls := 0
			_ = retry.Do(t.Context(), p, func(context.Context) error {
				time.Sleep(10 * ms)
				if calls++; calls == tt.succeedWith {
					return nil
				}
				return errDown
			})
			if !slices.Equal(got, tt.want) {
				t.Errorf("%s:\n got %+v\nwant %+v", name, got, tt.want)
			}
			if counter.Stats() != tt.counts {
				t.Errorf("%s: counted %+v, want %+v", name, counter.Stats(), tt.counts)
			}
		}
	})
}

func TestCounterFromManyGoroutines(t *testing.T) {
	var counter retry.Counter
	p := retry.Policy{Attempts: 3, Delay: -1, OnAttempt: counter.Observe}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for range 20 {
				_ = retry.Do(t.Context(), p, func(context.Context) error {
					if i%2 == 0 {
						return nil
					}
					return errDown
				})
			}
		})
	}
	wg.Wait()
	if got, want := counter.Stats(), (retry.Counts{Attempts: 2000, Retries: 1000, Succeeded: 500, GaveUp: 500}); got != want {
		t.Fatalf("counted %+v, want %+v", got, want)
	}
}

func TestPanicPassesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		defer func() {
			if p := recover(); p != "boom" || calls != 2 {
				t.Errorf("recovered %v after %d calls", p, calls)
			}
		}()
		_ = retry.Do(t.Context(), sharp(5), func(context.Context) error {
			if calls++; calls == 2 {
				panic("boom")
			}
			return errDown
		})
	})
}

func TestNonsenseIsRefused(t *testing.T) {
	fallback := func(context.Context, error) error { t.Error("fallback called"); return nil }
	//nolint:staticcheck // Nil contexts on purpose.
	for name, err := range map[string]error{
		"no context":           retry.Do(nil, retry.Policy{}, fail),
		"no function":          retry.Do(t.Context(), retry.Policy{}, nil),
		"no context, fallback": retry.DoThroughWithFallback(nil, nil, retry.Policy{}, fail, fallback),
		"no call, fallback":    retry.DoThroughWithFallback(t.Context(), nil, retry.Policy{}, nil, fallback),
		"no fallback":          retry.DoThroughWithFallback(t.Context(), nil, retry.Policy{}, fail, nil),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := retry.DoValue[int](t.Context(), retry.Policy{}, nil); err == nil {
		t.Error("no function with a value: no error")
	}
}

func TestResultNames(t *testing.T) {
	var got []string
	for r := retry.Succeeded; r <= retry.Canceled+1; r++ {
		got = append(got, r.String())
	}
	if want := []string{"succeeded", "retrying", "gave_up", "rejected", "canceled", "Result(5)"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
