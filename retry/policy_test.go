package retry_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/retry"
)

func TestBackoff(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name   string
		policy retry.Policy
		want   map[int]time.Duration
	}{
		{"zero, without jitter", retry.Policy{Jitter: -1}, map[int]time.Duration{
			-5: 100 * ms, 0: 100 * ms, 1: 100 * ms, 2: 200 * ms, 3: 400 * ms, 7: 6400 * ms, 8: 10000 * ms, math.MaxInt: 10000 * ms,
		}},
		{"constant", retry.Policy{Jitter: -1, Multiplier: 1, Delay: time.Second}, map[int]time.Duration{
			1: time.Second, 1000: time.Second, math.MaxInt: time.Second,
		}},
		{"slow growth", retry.Policy{Jitter: -1, Multiplier: 1.5, Delay: 200 * ms, MaxDelay: 500 * ms}, map[int]time.Duration{
			1: 200 * ms, 2: 300 * ms, 3: 450 * ms, 4: 500 * ms,
		}},
		{"hardly any growth", retry.Policy{Jitter: -1, Delay: 1, MaxDelay: math.MaxInt64, Multiplier: math.Nextafter(1, 2)}, map[int]time.Duration{
			2: 1, math.MaxInt: math.MaxInt64, // In one step, not in as many as there are attempts.
		}},
		{"long delay raises the limit", retry.Policy{Jitter: -1, Delay: time.Minute}, map[int]time.Duration{
			1: time.Minute, 2: time.Minute,
		}},
		{"no wait", retry.Policy{Jitter: -1, Delay: -1}, map[int]time.Duration{1: 0, 9: 0}},
		{"no overflow", retry.Policy{Jitter: -1, Multiplier: math.MaxFloat64, MaxDelay: math.MaxInt64}, map[int]time.Duration{
			9: math.MaxInt64,
		}},
	} {
		for n, want := range tt.want {
			if got := tt.policy.Backoff(n); got != want {
				t.Errorf("%s: Backoff(%d) is %v, want %v", tt.name, n, got, want)
			}
		}
	}
}

func TestBackoffJitter(t *testing.T) {
	for _, tt := range []struct {
		jitter   float64
		min, max time.Duration
	}{
		{0, 0, time.Second},
		{1, 0, time.Second},
		{0.25, 750 * time.Millisecond, time.Second},
	} {
		p := retry.Policy{Delay: time.Second, Jitter: tt.jitter}
		var quarters [4]int // Of the range: each must be hit.
		for range 1000 {
			d := p.Backoff(1)
			if d < tt.min || d > tt.max {
				t.Fatalf("jitter %v: %v, want %v to %v", tt.jitter, d, tt.min, tt.max)
			}
			quarters[min(int(4*(d-tt.min)/(tt.max-tt.min)), 3)]++
		}
		for i, n := range quarters {
			if n < 100 {
				t.Errorf("jitter %v: quarter %d was hit %d times of 1000", tt.jitter, i, n)
			}
		}
	}
}

func TestValidateNamesFieldAndValue(t *testing.T) {
	for _, tt := range []struct {
		policy retry.Policy
		want   string
	}{
		{retry.Policy{Attempts: -2}, "retry: Policy.Attempts must be at least 1, 0 for 3, or -1 for once, got -2"},
		{retry.Policy{Delay: -2}, "retry: Policy.Delay must be at least 0, or -1 for none, got -2ns"},
		{retry.Policy{MaxDelay: time.Millisecond}, "retry: Policy.MaxDelay must be at least Delay (100ms), got 1ms"},
		{retry.Policy{Delay: -1, MaxDelay: -time.Second}, "retry: Policy.MaxDelay must be at least Delay (0s), got -1s"},
		{retry.Policy{Multiplier: 0.5}, "retry: Policy.Multiplier must be at least 1, or 0 for 2, got 0.5"},
		{retry.Policy{Multiplier: math.NaN()}, "retry: Policy.Multiplier must be at least 1, or 0 for 2, got NaN"},
		{retry.Policy{Jitter: 1.1}, "retry: Policy.Jitter must be in [0, 1], or -1 for none, got 1.1"},
		{retry.Policy{Jitter: math.NaN()}, "retry: Policy.Jitter must be in [0, 1], or -1 for none, got NaN"},
		{retry.Policy{MaxElapsed: -1}, "retry: Policy.MaxElapsed must be at least 0, got -1ns"},
	} {
		if err := tt.policy.Validate(); err == nil || err.Error() != tt.want {
			t.Errorf("%+v:\n got %v\nwant %s", tt.policy, err, tt.want)
		}
		if err := retry.Do(t.Context(), tt.policy, notCalled(t)); err == nil {
			t.Errorf("Do took %+v", tt.policy)
		}
	}
	err := retry.Policy{Attempts: -2, Jitter: 2}.Validate()
	if err == nil || !strings.Contains(err.Error(), "Attempts") || !strings.Contains(err.Error(), "Jitter") {
		t.Errorf("two faults give %v", err)
	}
	for _, p := range []retry.Policy{{}, retry.DefaultPolicy(), {Attempts: -1, Delay: -1, Jitter: -1}} {
		if err := p.Validate(); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func FuzzBackoff(f *testing.F) {
	f.Add(0, int64(0), int64(0), 0.0, 0.0)
	f.Add(3, int64(200e6), int64(5e9), 1.5, 0.5)
	f.Add(1<<40, int64(1), int64(math.MaxInt64), 1.0000001, 1.0)
	f.Add(math.MaxInt, int64(1), int64(math.MaxInt64-71), math.Nextafter(1, 2), 1.0)
	f.Fuzz(func(t *testing.T, n int, delay, maxDelay int64, multiplier, jitter float64) {
		p := retry.Policy{Delay: time.Duration(delay), MaxDelay: time.Duration(maxDelay), Multiplier: multiplier, Jitter: jitter}
		if p.Validate() != nil {
			return
		}
		limit := p.MaxDelay
		if limit == 0 {
			limit = max(10*time.Second, p.Delay)
		}
		if got := p.Backoff(n); got < 0 || got > limit {
			t.Fatalf("%+v: Backoff(%d) is %v, want 0 to %v", p, n, got, limit)
		}
	})
}
