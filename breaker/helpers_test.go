package breaker_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

// quiet is for the breakers whose listeners panic on purpose.
var quiet = slog.New(slog.DiscardHandler)

var errDown = errors.New("connection refused")

// is says that an error came as it was, not wrapped.
func is(got, want error) bool { return got == want } //nolint:errorlint // That is the point.

func succeed(context.Context) error { return nil }
func fail(context.Context) error    { return errDown }

func mustNew(tb testing.TB, cfg breaker.Config) *breaker.Breaker {
	tb.Helper()
	b, err := breaker.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// steady makes a breaker that opens with the first failure, for a second sharp, and closes with the first success.
func steady(tb testing.TB, change ...func(*breaker.Config)) *breaker.Breaker {
	tb.Helper()
	cfg := breaker.Config{Name: "steady", MaxFailures: 1, Timeout: time.Second, Jitter: -1, SuccessThreshold: 1}
	for _, f := range change {
		f(&cfg)
	}
	return mustNew(tb, cfg)
}

// run executes fn, and swallows what it returns: the test looks at the breaker.
func run(tb testing.TB, b *breaker.Breaker, times int, fn func(context.Context) error) {
	tb.Helper()
	for range times {
		_ = b.Execute(tb.Context(), fn)
	}
}

func allow(tb testing.TB, b *breaker.Breaker) *breaker.Permit {
	tb.Helper()
	p, err := b.Allow()
	if err != nil {
		tb.Fatalf("Allow: %v, want a permit", err)
	}
	return &p
}

func wantState(tb testing.TB, b *breaker.Breaker, want breaker.State) {
	tb.Helper()
	if got := b.State(); got != want {
		tb.Fatalf("state is %v, want %v", got, want)
	}
}

func wantRejected(tb testing.TB, b *breaker.Breaker) {
	tb.Helper()
	if p, err := b.Allow(); !errors.Is(err, breaker.ErrCircuitOpen) {
		p.DoneAs(breaker.Ignore, nil)
		tb.Fatalf("Allow: %v, want ErrCircuitOpen", err)
	}
}

// checkConserved says that every admitted call is accounted for.
func checkConserved(tb testing.TB, b *breaker.Breaker) {
	tb.Helper()
	s := b.Stats()
	if got := s.Totals.Successes + s.Totals.Failures + s.Totals.Ignored + uint64(s.RunningCalls); got != s.Totals.Calls {
		tb.Fatalf("admitted %d calls, accounted for %d: %+v", s.Totals.Calls, got, s)
	}
}
