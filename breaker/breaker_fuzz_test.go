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
		MinCalls:           int(b[4]/4%5) + 1,
		Window:             []time.Duration{0, time.Second}[b[4]/32%2],
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
	if b[5]%3 == 0 {
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
