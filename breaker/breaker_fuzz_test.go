package breaker_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

// FuzzAgainstReference turns bytes into a configuration and operations, and compares the breaker with the reference
// after each.
func FuzzAgainstReference(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		seed := make([]byte, 10+rng.IntN(150))
		for i := range seed {
			seed[i] = byte(rng.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 8 || len(data) > 400 { // The reference takes quadratic time.
			return
		}
		synctest.Test(t, func(t *testing.T) { compare(t, data[:8], data[8:]) })
	})
}

func compare(t *testing.T, settings, operations []byte) {
	cfg, filled := fuzzConfig(settings)
	var events []breaker.Event
	cfg.OnEvent = func(e breaker.Event) { events = append(events, e) }
	b := mustNew(t, cfg)
	began := time.Now()
	ref := &reference{cfg: filled}

	type pair struct {
		permit *breaker.Permit
		call   *refCall
	}
	var pairs []pair // Reported or not: a second report must do nothing.
	for i, op := range operations {
		arg := int(op >> 3)
		switch op & 7 {
		case 0, 1, 2:
			p, err := b.Allow()
			call, want := ref.allow()
			if got := verdictOf(err); got != want {
				t.Fatalf("op %d: Allow gave %v, want verdict %d", i, err, want)
			}
			if open, ok := errors.AsType[*breaker.OpenError](err); ok {
				checkRejection(t, ref, open)
			}
			if err == nil {
				pairs = append(pairs, pair{&p, call})
			}
		case 3, 4, 5:
			if len(pairs) == 0 {
				continue
			}
			p := pairs[len(pairs)-1-arg%min(len(pairs), 4)]
			o := []breaker.Outcome{
				breaker.Success, breaker.Failure, breaker.Success, breaker.Failure,
				breaker.Failure, breaker.Ignore, breaker.Trip, breaker.Failure,
			}[arg/4]
			var err error
			if arg/4 == 7 {
				err = context.DeadlineExceeded
			}
			p.permit.DoneAs(o, err)
			ref.done(p.call, o, err != nil)
		case 6:
			time.Sleep([]time.Duration{
				time.Millisecond, 99 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
				500 * time.Millisecond, time.Second, 3 * time.Second, 20 * time.Second,
			}[arg%8])
		case 7:
			switch {
			case arg == 0:
				b.ForceOpen()
				ref.forceOpen()
			case arg == 1:
				b.Reset()
				ref.reset()
			case arg < 10 && len(pairs) > 0:
				p := pairs[arg%len(pairs)]
				p.permit.DoneAs(breaker.Success, nil)
				ref.done(p.call, breaker.Success, false)
			case arg >= 10 && arg < 24:
				executeBoth(t, b, ref, []end{succeeds, succeeds, fails, cancels, panics}[arg%5])
			case arg >= 24:
				waitBoth(t, b, ref, []time.Duration{
					time.Millisecond, 400 * time.Millisecond, 2 * time.Second, time.Minute,
				}[arg%4], func() bool { return len(events) > len(ref.events) })
			}
		}
		ref.now = time.Since(began)
		got := b.Stats()
		got.Since = time.Time{}
		if want := ref.stats(); got != want {
			t.Fatalf("op %d (%d, %d) of %+v:\n got %+v\nwant %+v", i, op&7, arg, filled, got, want)
		}
		if b.State() != got.State || b.IsOpen() != (got.State == breaker.Open) {
			t.Fatalf("op %d: State %v and IsOpen %v differ from Stats %v", i, b.State(), b.IsOpen(), got.State)
		}
	}
	for i := range events {
		events[i].At = time.Time{}
	}
	if !reflect.DeepEqual(events, ref.events) {
		t.Fatalf("events of %+v:\n got %+v\nwant %+v", filled, events, ref.events)
	}
}

type end int

const (
	succeeds end = iota
	fails
	cancels
	panics
)

func executeBoth(t *testing.T, b *breaker.Breaker, ref *reference, how end) {
	t.Helper()
	answer := []error{nil, errDown, context.Canceled, nil}[how]
	call, want := ref.allow()
	defer func() {
		if p := recover(); (p != nil) != (how == panics && want == admitted) {
			t.Fatalf("Execute: recovered %v, want verdict %d of a call that ends by %d", p, want, how)
		}
	}()
	if want == admitted {
		ref.done(call, []breaker.Outcome{breaker.Success, breaker.Failure, breaker.Ignore, breaker.Failure}[how], false)
		if how == panics {
			ref.totals.Panics++
		}
	}
	err := b.Execute(t.Context(), func(context.Context) error {
		if how == panics {
			panic("boom")
		}
		return answer
	})
	if got := verdictOf(err); want != admitted && got != want || want == admitted && !is(err, answer) {
		t.Fatalf("Execute gave %v, want verdict %d", err, want)
	}
}

// waitBoth knows what a wait may come to: when exactly it must be over depends on turns, of which the reference knows
// only that they last no longer than a second.
func waitBoth(t *testing.T, b *breaker.Breaker, ref *reference, atMost time.Duration, changed func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), atMost)
	defer cancel()
	from, began := ref.now, time.Now()
	err := b.WaitUntilReady(ctx)
	ref.now = from + time.Since(began)
	if changed() {
		ref.halfOpen()
	}
	switch {
	case err == nil && !ref.ready(ref.now):
		t.Fatalf("WaitUntilReady after %v: no call would be admitted", time.Since(began))
	case err == nil:
		ref.turnEnds = ref.now + time.Second
	case time.Since(began) != atMost || ref.now > ref.turnEnds && ref.ready(ref.now-1):
		t.Fatalf("WaitUntilReady after %v of %v: %v, and a call would be admitted", time.Since(began), atMost, err)
	}
}

func verdictOf(err error) verdict {
	switch {
	case err == nil:
		return admitted
	case errors.Is(err, breaker.ErrCircuitOpen):
		return rejectedOpen
	case errors.Is(err, breaker.ErrTooManyCalls):
		return rejectedTooMany
	default:
		return -1
	}
}

func checkRejection(t *testing.T, ref *reference, open *breaker.OpenError) {
	t.Helper()
	var left time.Duration
	if ref.state == breaker.Open && !ref.forced {
		left = ref.until - ref.now
	}
	if open.State != ref.state || open.RetryAfter < left || open.RetryAfter >= left+time.Millisecond {
		t.Fatalf("rejected with %+v, want state %v and %v left", open, ref.state, left)
	}
}

// fuzzConfig gives a configuration, and the same with its defaults filled in.
func fuzzConfig(b []byte) (cfg, filled breaker.Config) {
	cfg = breaker.Config{
		Name:               "fuzz",
		Jitter:             -1,
		MaxFailures:        []int{-1, 1, 2, 3, 0}[b[0]%5],
		Timeout:            []time.Duration{time.Second, 250 * time.Millisecond, 0}[b[1]%3],
		SuccessThreshold:   int(b[2] % 4),
		MaxProbes:          int(b[2] / 4 % 4),
		ProbeTimeout:       []time.Duration{0, 500 * time.Millisecond}[b[2]/16%2],
		MaxConcurrentCalls: []int{0, 0, 1, 2, 4}[b[3]%5],
		FailureRate:        []float64{0, 0.5, 0.3, 1}[b[4]%4],
		Window:             []time.Duration{0, time.Second}[b[4]/32%2],
	}
	slowRule := b[5]%3 == 0
	if cfg.FailureRate > 0 || slowRule {
		cfg.MinCalls = int(b[4]/4%5) + 1
	}
	filled = cfg
	orInt := func(n *int, d int) {
		if *n == 0 {
			*n = d
		}
	}
	orInt(&filled.MaxFailures, 5)
	orInt(&filled.SuccessThreshold, 2)
	orInt(&filled.MaxProbes, 1)
	orInt(&filled.MinCalls, 20)
	if filled.Timeout == 0 {
		filled.Timeout = time.Minute
	}
	filled.MaxTimeout = filled.Timeout
	if b[1]/4%2 == 1 {
		cfg.MaxTimeout = filled.Timeout * 5
		filled.MaxTimeout = cfg.MaxTimeout
	}
	if filled.ProbeTimeout == 0 {
		filled.ProbeTimeout = filled.Timeout
	}
	filled.SlowMinCalls = filled.MinCalls
	if slowRule {
		cfg.SlowCallDuration = 100 * time.Millisecond
		cfg.SlowCallRate = []float64{0, 1, 0.25}[b[5]/4%3]
		cfg.SlowMinCalls = int(b[5] / 16 % 4)
		filled.SlowCallDuration, filled.SlowCallRate = cfg.SlowCallDuration, cfg.SlowCallRate
		if filled.SlowCallRate == 0 {
			filled.SlowCallRate = 0.5
		}
		if cfg.SlowMinCalls > 0 {
			filled.SlowMinCalls = cfg.SlowMinCalls
		}
	}
	if filled.Window == 0 && (filled.FailureRate > 0 || filled.SlowCallDuration > 0) {
		filled.Window = 10 * time.Second
	}
	if b[6]%4 == 0 {
		cfg.ShouldTrip = func(c breaker.Counts) bool { return c.Failures >= 3 && c.Failures*2 > c.Successes || c.WindowCalls > 9 }
		filled.ShouldTrip = cfg.ShouldTrip
	}
	return cfg, filled
}
