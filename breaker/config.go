package breaker

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"
)

// Config says when a breaker opens, for how long, and what closes it again. The zero value is a good default: it opens
// after 5 failures in a row, for 60 s, and closes after 2 successful probes, one at a time. A Timeout, MaxTimeout or
// ProbeTimeout of more than 100 years counts as 100 years.
type Config struct {
	// Name is used in errors, events and metrics. It may be empty.
	Name string

	// Disabled makes a breaker that passes every call and counts nothing.
	Disabled bool

	// MaxFailures opens the circuit after that many failures in a row, however slowly they come. 0 means 5, -1 means
	// that this rule is off.
	MaxFailures int

	// Timeout is how long the circuit stays open. 0 means 60 s.
	Timeout time.Duration

	// MaxTimeout lets the open time double with every trip that follows a failed probe, up to this. 0 means Timeout,
	// that is: it does not grow.
	MaxTimeout time.Duration

	// Jitter shortens each open time by a random share of up to this, so that a fleet does not probe in step. 0 means
	// 0.1, -1 means none.
	Jitter float64

	// SuccessThreshold is how many probes must succeed to close the circuit. 0 means 2.
	SuccessThreshold int

	// MaxProbes is how many calls may probe at once. 0 means 1.
	MaxProbes int

	// ProbeTimeout is after how long a probe that has not reported is given up: another may take its slot. The call
	// itself is not ended, and keeps its place among MaxConcurrentCalls until it reports. A success that it reports after
	// all counts as long as the same half-open state lasts; anything else does nothing. 0 means Timeout.
	ProbeTimeout time.Duration

	// MaxConcurrentCalls is how many calls may run at once, in any state. A call keeps its place until it reports: a
	// Permit that never does takes one for good, Reset or not. 0 and -1 mean no limit.
	MaxConcurrentCalls int

	// Window is the length of the sliding window of the two rates below, kept in ten slices; at least 1 ms. 0 means 10 s.
	// With no rate set it is kept only when it is set itself, for ShouldTrip to read.
	Window time.Duration

	// FailureRate opens the circuit when that share of the calls in the window failed, in (0, 1]. It is judged with
	// every outcome that counts. 0 means that this rule is off.
	FailureRate float64

	// MinCalls is how many calls the window must hold before FailureRate is judged. 0 means 20. It is refused when neither
	// rate is on.
	MinCalls int

	// SlowCallDuration is from when on a call, failed or not, is slow. 0 means that the slow-call rule is off. With it
	// on, a slow probe does not close the circuit: it opens it.
	SlowCallDuration time.Duration

	// SlowCallRate opens the circuit when that share of the calls in the window was slow, in (0, 1]. 0 means 0.5.
	SlowCallRate float64

	// SlowMinCalls is how many calls the window must hold before SlowCallRate is judged. 0 means MinCalls.
	SlowMinCalls int

	// ShouldTrip, when set, is asked with every outcome that counts while the circuit is closed, beside the rules above.
	// It may be called by several goroutines at once, and never under a lock. If it panics, the call's outcome has been
	// counted and the panic passes on to the caller.
	ShouldTrip func(Counts) bool

	// Classify says what an error, never nil, means. Nil means DefaultClassify. Execute does not ask it when the
	// caller's context was cancelled: that is ignored whatever the error says.
	Classify func(error) Outcome

	// OnStateChange and OnEvent are told of changes in the order in which they happened, one at a time, never under a
	// lock, by the goroutine whose call made the change or by one that was already telling. They may call the breaker.
	// A panic in them is logged and goes no further. They hold up the call that tells: be quick. What changes meanwhile
	// is kept in memory until they come back, about two events for each open time.
	OnStateChange func(name string, from, to State)
	OnEvent       func(Event)

	// Logger is told when a listener panics, and nothing else. Nil means slog.Default().
	Logger *slog.Logger
}

// Validate reports every fault at once. Zero values are no faults.
func (c Config) Validate() error {
	var errs []error
	fault := func(ok bool, field, want string, got any) {
		if !ok {
			errs = append(errs, fmt.Errorf("breaker: Config.%s must be %s, got %v", field, want, got))
		}
	}
	count := func(field string, n int) { fault(n >= 0, field, "at least 0", n) }
	countOrOff := func(field string, n int) { fault(n >= -1, field, "at least 0, or -1 for off", n) }
	duration := func(field string, d time.Duration) { fault(d >= 0, field, "at least 0", d) }
	rate := func(field string, r float64) { fault(r >= 0 && r <= 1, field, "in (0, 1], or 0", r) }

	countOrOff("MaxFailures", c.MaxFailures)
	duration("Timeout", c.Timeout)
	timeout := cmp.Or(c.Timeout, defaultTimeout)
	fault(c.MaxTimeout == 0 || c.MaxTimeout >= timeout, "MaxTimeout", fmt.Sprintf("at least Timeout (%v)", timeout), c.MaxTimeout)
	fault(c.Jitter == -1 || c.Jitter >= 0 && c.Jitter < 1, "Jitter", "in [0, 1), or -1 for none", c.Jitter)
	count("SuccessThreshold", c.SuccessThreshold)
	count("MaxProbes", c.MaxProbes)
	duration("ProbeTimeout", c.ProbeTimeout)
	countOrOff("MaxConcurrentCalls", c.MaxConcurrentCalls)
	fault(c.Window == 0 || c.Window >= time.Millisecond, "Window", "at least 1ms, or 0", c.Window)
	rate("FailureRate", c.FailureRate)
	count("MinCalls", c.MinCalls)
	duration("SlowCallDuration", c.SlowCallDuration)
	rate("SlowCallRate", c.SlowCallRate)
	count("SlowMinCalls", c.SlowMinCalls)
	if c.SlowCallDuration == 0 {
		fault(c.SlowCallRate == 0, "SlowCallRate", "0 without SlowCallDuration", c.SlowCallRate)
		fault(c.SlowMinCalls == 0, "SlowMinCalls", "0 without SlowCallDuration", c.SlowMinCalls)
		fault(c.FailureRate != 0 || c.MinCalls <= 0, "MinCalls", "0 without FailureRate or SlowCallDuration", c.MinCalls)
	}
	return errors.Join(errs...)
}

const (
	defaultTimeout = 60 * time.Second
	longest        = 100 * 365 * 24 * time.Hour // Longer times count as this, so that they can be added to the clock.
)

func (c Config) withDefaults() Config {
	c.MaxFailures = cmp.Or(c.MaxFailures, 5)
	c.Timeout = min(cmp.Or(c.Timeout, defaultTimeout), longest)
	c.MaxTimeout = min(cmp.Or(c.MaxTimeout, c.Timeout), longest)
	c.Jitter = max(cmp.Or(c.Jitter, 0.1), 0)
	c.SuccessThreshold = cmp.Or(c.SuccessThreshold, 2)
	c.MaxProbes = cmp.Or(c.MaxProbes, 1)
	c.ProbeTimeout = min(cmp.Or(c.ProbeTimeout, c.Timeout), longest)
	if c.FailureRate > 0 || c.SlowCallDuration > 0 {
		c.Window = cmp.Or(c.Window, 10*time.Second)
	}
	c.MinCalls = cmp.Or(c.MinCalls, 20) // As Hystrix has it.
	if c.SlowCallDuration > 0 {
		c.SlowCallRate = cmp.Or(c.SlowCallRate, 0.5)
	}
	c.SlowMinCalls = cmp.Or(c.SlowMinCalls, c.MinCalls)
	return c
}

// narrow keeps an idle breaker small; nobody means more than 2^31 of anything.
func narrow(n int) int32 { return int32(min(n, math.MaxInt32)) }
