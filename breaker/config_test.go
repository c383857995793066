package breaker_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

func TestValidateNamesFieldAndValue(t *testing.T) {
	for _, tt := range []struct {
		cfg  breaker.Config
		want string
	}{
		{breaker.Config{MaxFailures: -2}, "breaker: Config.MaxFailures must be at least 0, or -1 for off, got -2"},
		{breaker.Config{Timeout: -time.Second}, "breaker: Config.Timeout must be at least 0, got -1s"},
		{breaker.Config{MaxTimeout: time.Second}, "breaker: Config.MaxTimeout must be at least Timeout (1m0s), got 1s"},
		{breaker.Config{Jitter: 1}, "breaker: Config.Jitter must be in [0, 1), or -1 for none, got 1"},
		{breaker.Config{Jitter: math.NaN()}, "breaker: Config.Jitter must be in [0, 1), or -1 for none, got NaN"},
		{breaker.Config{SuccessThreshold: -1}, "breaker: Config.SuccessThreshold must be at least 0, got -1"},
		{breaker.Config{MaxProbes: -1}, "breaker: Config.MaxProbes must be at least 0, got -1"},
		{breaker.Config{ProbeTimeout: -1}, "breaker: Config.ProbeTimeout must be at least 0, got -1ns"},
		{breaker.Config{MaxConcurrentCalls: -2}, "breaker: Config.MaxConcurrentCalls must be at least 0, or -1 for off, got -2"},
		{breaker.Config{Window: time.Millisecond - 1}, "breaker: Config.Window must be at least 1ms, or 0, got 999.999µs"},
		{breaker.Config{FailureRate: 1.7}, "breaker: Config.FailureRate must be in (0, 1], or 0, got 1.7"},
		{breaker.Config{FailureRate: math.NaN()}, "breaker: Config.FailureRate must be in (0, 1], or 0, got NaN"},
		{breaker.Config{MinCalls: -1}, "breaker: Config.MinCalls must be at least 0, got -1"},
		{breaker.Config{MinCalls: 5}, "breaker: Config.MinCalls must be 0 without FailureRate or SlowCallDuration, got 5"},
		{breaker.Config{SlowCallDuration: -1}, "breaker: Config.SlowCallDuration must be at least 0, got -1ns"},
		{breaker.Config{SlowCallRate: 0.5}, "breaker: Config.SlowCallRate must be 0 without SlowCallDuration, got 0.5"},
		{breaker.Config{SlowMinCalls: 5}, "breaker: Config.SlowMinCalls must be 0 without SlowCallDuration, got 5"},
		{
			breaker.Config{SlowCallDuration: 1, SlowCallRate: -0.1},
			"breaker: Config.SlowCallRate must be in (0, 1], or 0, got -0.1",
		},
	} {
		err := tt.cfg.Validate()
		if err == nil || err.Error() != tt.want {
			t.Errorf("%+v:\n got %v\nwant %s", tt.cfg, err, tt.want)
		}
		if b, err := breaker.New(tt.cfg); b != nil || err == nil {
			t.Errorf("New took %+v", tt.cfg)
		}
	}
	err := breaker.Config{MaxFailures: -2, MaxProbes: -3}.Validate()
	if err == nil || !strings.Contains(err.Error(), "MaxFailures") || !strings.Contains(err.Error(), "MaxProbes") {
		t.Errorf("two faults give %v", err)
	}
}

func TestPresets(t *testing.T) {
	type numbers struct {
		failures, successes, concurrent int
		timeout                         time.Duration
	}
	for _, tt := range []struct {
		cfg  breaker.Config
		want numbers
	}{
		{breaker.DefaultConfig("a"), numbers{5, 2, 0, 60 * time.Second}},
		{breaker.AggressiveConfig("a"), numbers{3, 3, 100, 30 * time.Second}},
		{breaker.ConservativeConfig("a"), numbers{10, 5, 0, 120 * time.Second}},
		{breaker.NotificationConfig("a"), numbers{3, 1, 50, 120 * time.Second}},
	} {
		got := numbers{tt.cfg.MaxFailures, tt.cfg.SuccessThreshold, tt.cfg.MaxConcurrentCalls, tt.cfg.Timeout}
		if got != tt.want || tt.cfg.Name != "a" || tt.cfg.Validate() != nil {
			t.Errorf("got %+v, want %+v", tt.cfg, tt.want)
		}
	}
}

func TestWithCallbacks(t *testing.T) {
	var changes int
	cfg := breaker.DefaultConfig("a").WithCallbacks(
		func(c breaker.Counts) bool { return c.Failures == 2 },
		func(string, breaker.State, breaker.State) { changes++ },
	).WithCallbacks(nil, nil)
	b := mustNew(t, cfg)
	run(t, b, 1, fail)
	run(t, b, 1, succeed)
	wantState(t, b, breaker.Closed)
	run(t, b, 1, fail)
	wantState(t, b, breaker.Open)
	if changes != 1 {
		t.Errorf("told of %d changes, want 1", changes)
	}
}
