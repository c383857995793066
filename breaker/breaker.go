package breaker

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Breaker is a circuit breaker. Make one with New; a nil *Breaker passes every call and counts nothing. All methods are
// safe for concurrent use.
type Breaker struct {
	phase     atomic.Pointer[phase]
	calls     atomic.Uint64 // Admitted.
	successes atomic.Uint64

	// Read-only.
	simpleIn         bool // To admit a call while closed needs nothing but to count it,
	simpleOut        bool // and so does its success.
	disabled         bool
	maxFailures      int32
	successThreshold int32
	maxProbes        int32
	limit            int32 // MaxConcurrentCalls, 0 for none.
	name             string
	timeout          time.Duration
	maxTimeout       time.Duration
	jitter           float64
	probeTimeout     time.Duration
	rates            *rates // Nil without a window.
	shouldTrip       func(Counts) bool
	classifier       func(error) Outcome

	running         atomic.Int32 // Kept only with a limit.
	turns           atomic.Int32 // Waiters who were told to go on and have not called yet.
	waiting         atomic.Int32
	trips           int32 // Since it was last closed. Guarded by mu.
	failures        atomic.Uint64
	ignored         atomic.Uint64
	timeouts        atomic.Uint64
	panics          atomic.Uint64
	slow            atomic.Uint64
	rejectedOpen    atomic.Uint64
	rejectedTooMany atomic.Uint64
	changes         atomic.Uint64
	base            atomic.Pointer[base] // Of the phase; nil is nothing.

	mu        sync.Mutex // Held for every change of phase and for half-open's probes, never while other code is called.
	waiters   *waiters
	listeners *listeners
}

// New makes a closed breaker. It returns Validate's error if there is one.
func New(cfg Config) (*Breaker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	b := &Breaker{
		name:             cfg.Name,
		disabled:         cfg.Disabled,
		maxFailures:      narrow(cfg.MaxFailures),
		successThreshold: narrow(cfg.SuccessThreshold),
		maxProbes:        narrow(cfg.MaxProbes),
		limit:            max(narrow(cfg.MaxConcurrentCalls), 0),
		timeout:          cfg.Timeout,
		maxTimeout:       cfg.MaxTimeout,
		jitter:           cfg.Jitter,
		probeTimeout:     cfg.ProbeTimeout,
		shouldTrip:       cfg.ShouldTrip,
		classifier:       cfg.Classify,
	}
	if cfg.Window > 0 {
		b.rates = &rates{
			window:       cfg.Window,
			failureRate:  cfg.FailureRate,
			minCalls:     uint64(cfg.MinCalls),
			slowDuration: cfg.SlowCallDuration,
			slowRate:     cfg.SlowCallRate,
			slowMinCalls: uint64(cfg.SlowMinCalls),
		}
	}
	if cfg.OnStateChange != nil || cfg.OnEvent != nil {
		b.listeners = &listeners{onStateChange: cfg.OnStateChange, onEvent: cfg.OnEvent, logger: cfg.Logger}
	}
	b.simpleIn = b.limit == 0 && cfg.SlowCallDuration == 0
	b.simpleOut = b.limit == 0 && b.rates == nil && b.shouldTrip == nil
	b.phase.Store(b.newPhase(Closed))
	return b, nil
}

// Name is Config.Name.
func (b *Breaker) Name() string {
	if b == nil {
		return ""
	}
	return b.name
}

// State says what the next call will find: half-open as soon as the open time has passed, whether or not anybody has
// called since. It changes nothing.
func (b *Breaker) State() State {
	if b == nil {
		return Closed
	}
	return b.phase.Load().visible()
}

// IsOpen says that a call made now would be rejected because the circuit is open. Half-open is not open.
func (b *Breaker) IsOpen() bool { return b.State() == Open }

// Reset closes the circuit, forced open or not, and begins anew: counts, window, and the growth of the open time. Calls
// that are running are forgotten for all but Stats.Totals and the limit on concurrent calls.
func (b *Breaker) Reset() {
	if b == nil || b.disabled {
		return
	}
	b.mu.Lock()
	b.moveTo(b.newPhase(Closed), CauseReset, 0)
	b.mu.Unlock()
	b.listeners.deliver(&b.mu)
}

// ForceOpen opens the circuit until Reset is called. State says open, and Stats says Forced. It does nothing to a
// disabled breaker.
func (b *Breaker) ForceOpen() {
	if b == nil || b.disabled {
		return
	}
	b.mu.Lock()
	ph := b.newPhase(Open)
	ph.forced = true
	ph.gate.until.Store(int64(forever))
	b.moveTo(ph, CauseForced, 0)
	b.mu.Unlock()
	b.listeners.deliver(&b.mu)
}

// open needs the lock.
func (b *Breaker) open(cause Cause) {
	d := b.timeout
	for range b.trips {
		if d >= b.maxTimeout/2 {
			d = b.maxTimeout
			break
		}
		d *= 2
	}
	d = max(d-time.Duration(rand.Float64()*b.jitter*float64(d)), 1)
	ph := b.newPhase(Open)
	ph.gate.until.Store(int64(d))
	b.moveTo(ph, cause, d)
	b.trips++
}

func (b *Breaker) newPhase(s State) *phase {
	ph := &phase{state: int8(s), began: time.Now()}
	switch {
	case s != Closed:
		ph.gate = &gate{}
	case b.rates != nil:
		ph.window = newWindow(b.rates.window)
	}
	return ph
}

// moveTo begins the next phase. It needs the lock; who gives that back must deliver what the listeners have to know.
func (b *Breaker) moveTo(next *phase, cause Cause, openFor time.Duration) {
	prev := b.phase.Load()
	changed := prev.state != next.state
	if b.listeners != nil && (changed || prev.forced != next.forced) {
		b.listeners.queue = append(b.listeners.queue, Event{
			Name: b.name, At: next.began, From: State(prev.state), To: State(next.state), Cause: cause,
			Counts: b.countsNow(prev), OpenFor: openFor,
		})
	}
	if changed {
		b.changes.Add(1)
	}
	if next.is(Closed) {
		b.trips = 0
	}
	t := b.totals()
	b.base.Store(&base{calls: t.Calls, ignored: t.Ignored, ended: ended{t.Successes, t.Failures, t.Slow}})
	b.turns.Store(0)
	b.phase.Store(next)
	b.wakeFirst()
}
