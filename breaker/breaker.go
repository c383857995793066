package breaker

import (
	"context"
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
	simple           bool // A success while closed needs nothing but to be counted.
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
	base            atomic.Pointer[Counts] // What had been counted when the phase began; nil is nothing.

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
	b.simple = b.limit == 0 && b.rates == nil && b.shouldTrip == nil
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

// Allow admits one call, for those who cannot use Execute, or says why not: an OpenError or ErrTooManyCalls. An admitted
// call must be reported with the Permit.
func (b *Breaker) Allow() (Permit, error) {
	if b == nil || b.disabled {
		return Permit{}, nil
	}
	c, err := b.admit()
	if err != nil {
		return Permit{}, err
	}
	return Permit{breaker: b, call: c}, nil
}

// Execute calls fn if the circuit admits it, and returns fn's error as it is. It returns an OpenError or ErrTooManyCalls
// without calling fn. When ctx has ended before, it returns ctx's error without calling fn, and nothing is counted.
//
// When ctx was cancelled by the time fn returns an error, the call is ignored; when its deadline has passed, that is a
// failure. A panic or runtime.Goexit in fn is counted as a failure and passes on.
func (b *Breaker) Execute(ctx context.Context, fn func(context.Context) error) error {
	if ctx == nil || fn == nil {
		return errNoCall
	}
	if b == nil || b.disabled {
		return fn(ctx)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := b.admit()
	if err != nil {
		return err
	}
	settled := false
	defer func() {
		if !settled { // No recover: the panic keeps its stack, and Goexit comes here as well.
			b.settle(c, Failure, flags{panicked: true})
		}
	}()
	if err = fn(ctx); err == nil {
		settled = true
		b.settle(c, Success, flags{})
		return nil
	}
	o := b.classify(ctx, err)
	settled = true
	b.settle(c, o, flags{timeout: isTimeout(err) || ctx.Err() != nil})
	return err
}

// ExecuteWithFallback is Execute, and calls fallback with whatever error that returns, rejections included. It does not
// when ctx was cancelled: nobody waits for the answer any more. The breaker does not count what fallback does.
func (b *Breaker) ExecuteWithFallback(
	ctx context.Context, fn func(context.Context) error, fallback func(ctx context.Context, cause error) error,
) error {
	if fallback == nil {
		return errNoCall
	}
	err := b.Execute(ctx, fn)
	if err == nil || ctx == nil || fn == nil || ctx.Err() == context.Canceled { //nolint:errorlint // This very value.
		return err
	}
	return fallback(ctx, err)
}

// ExecuteValue is Breaker.Execute for a function with a result. It returns what fn returned, or the zero T for a call
// that was not made.
func ExecuteValue[T any](ctx context.Context, b *Breaker, fn func(context.Context) (T, error)) (T, error) {
	var v T
	if fn == nil {
		return v, errNoCall
	}
	err := b.Execute(ctx, func(ctx context.Context) (err error) {
		v, err = fn(ctx)
		return err
	})
	return v, err
}

// admit lets one call in or returns why not.
func (b *Breaker) admit() (call, error) {
	ph := b.phase.Load()
	if !ph.is(Closed) || !b.simple {
		return b.admitByRules(ph)
	}
	b.calls.Add(1)
	return call{phase: ph}, nil
}

func (b *Breaker) admitByRules(ph *phase) (call, error) {
	if !ph.is(Closed) {
		if now := ph.now(); ph.gate.blockedFor(now) > 0 {
			b.rejectedOpen.Add(1)
			return call{}, ph.gate.reject(b.name, ph, now)
		}
	}
	if b.limit > 0 && !b.enter() {
		b.rejectedTooMany.Add(1)
		return call{}, ErrTooManyCalls
	}
	if ph.is(Closed) {
		return b.begin(ph, 0), nil
	}
	c, err := b.admitProbe()
	b.listeners.deliver(&b.mu)
	if err != nil && b.limit > 0 {
		b.leave()
	}
	return c, err
}

// begin counts a call in.
func (b *Breaker) begin(ph *phase, probe uint64) call {
	b.calls.Add(1)
	b.takeTurn()
	c := call{phase: ph, probe: probe}
	if b.rates != nil && b.rates.slowDuration > 0 {
		c.started = ph.now()
	}
	return c
}

// admitProbe looks again under the lock, where nothing changes meanwhile.
func (b *Breaker) admitProbe() (call, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ph := b.phase.Load()
	if ph.is(Open) && ph.gate.blockedFor(ph.now()) == 0 {
		ph = b.newPhase(HalfOpen)
		b.moveTo(ph, CauseTimeout, 0)
	}
	if ph.is(Closed) {
		return b.begin(ph, 0), nil
	}
	now := ph.now()
	if ph.is(HalfOpen) {
		if probe, ok := ph.gate.grant(now, b.probeTimeout, int(b.maxProbes)); ok {
			return b.begin(ph, probe), nil
		}
	}
	b.rejectedOpen.Add(1)
	return call{}, ph.gate.reject(b.name, ph, now)
}

// enter takes one of the limited places. It is a loop and not an add with an undo, so that no call is turned away for
// the sake of another that was.
func (b *Breaker) enter() bool {
	for {
		n := b.running.Load()
		if n >= b.limit {
			return false
		}
		if b.running.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (b *Breaker) leave() {
	b.running.Add(-1)
	if b.waiting.Load() > 0 {
		b.mu.Lock()
		b.wakeFirst()
		b.mu.Unlock()
	}
}

// settle counts an admitted call's outcome, and opens or closes the circuit by it.
func (b *Breaker) settle(c call, o Outcome, f flags) {
	ph := c.phase
	if o != Success || !b.simple || !ph.is(Closed) || b.phase.Load() != ph {
		b.settleByRules(c, o, f)
		return
	}
	if ph.streak.Load() != 0 { // Only then a write, so that calls on several cores do not fight for the line.
		ph.streak.Store(0)
	}
	b.successes.Add(1)
}

func (b *Breaker) settleByRules(c call, o Outcome, f flags) {
	ph := c.phase
	var now time.Duration
	if b.rates != nil || ph.is(HalfOpen) {
		now = ph.now()
	}
	f.slow = b.rates != nil && b.rates.slowDuration > 0 && o != Ignore && now-c.started >= b.rates.slowDuration
	switch {
	case ph.is(HalfOpen):
		b.settleProbe(c, o, f, now)
	case b.phase.Load() != ph:
		b.mu.Lock()
		b.tallyLate(o, f)
		b.mu.Unlock()
	default:
		b.tally(o, f)
	}
	if b.limit > 0 {
		b.leave()
	}
	if ph.is(Closed) && o != Ignore && b.phase.Load() == ph {
		if cause, ok := b.mustTrip(ph, o, f.slow, now); ok {
			b.trip(ph, cause)
		}
	}
}

// mustTrip notes the outcome of a closed phase and asks every rule.
func (b *Breaker) mustTrip(ph *phase, o Outcome, slow bool, now time.Duration) (Cause, bool) {
	failed := o != Success
	if failed {
		if ph.streak.Add(1) < 0 {
			ph.streak.Store(1<<31 - 1) // Full, and stays full.
		}
	} else if ph.streak.Load() != 0 {
		ph.streak.Store(0)
	}
	if ph.window != nil {
		ph.window.record(now, failed, slow)
	}
	if o == Trip {
		return CauseTrip, true
	}
	if failed && b.maxFailures > 0 && ph.streak.Load() >= b.maxFailures {
		return CauseConsecutiveFailures, true
	}
	if ph.window != nil {
		if cause, ok := b.rates.exceeded(ph.window, now); ok {
			return cause, true
		}
	}
	return CauseShouldTrip, b.shouldTrip != nil && b.shouldTrip(b.counts(ph))
}

// trip opens the circuit if ph is not over.
func (b *Breaker) trip(ph *phase, cause Cause) {
	b.mu.Lock()
	if b.phase.Load() == ph {
		b.open(cause)
	}
	b.mu.Unlock()
	b.listeners.deliver(&b.mu)
}

func (b *Breaker) settleProbe(c call, o Outcome, f flags, now time.Duration) {
	ph := c.phase
	b.mu.Lock()
	switch {
	case b.phase.Load() != ph || !ph.gate.giveBack(c.probe, now, int(b.maxProbes)):
		b.tallyLate(o, f)
	case o == Ignore:
		b.tally(o, f)
	case o == Success && !f.slow:
		b.tally(o, f)
		ph.gate.successes++
		if ph.gate.successes >= b.successThreshold {
			b.moveTo(b.newPhase(Closed), CauseRecovered, 0)
		}
	default:
		b.tally(o, f)
		b.open(CauseProbeFailed)
	}
	b.wakeFirst()
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
			Counts: b.counts(prev), OpenFor: openFor,
		})
	}
	if changed {
		b.changes.Add(1)
	}
	if next.is(Closed) {
		b.trips = 0
	}
	t := b.totals()
	b.base.Store(&Counts{Calls: t.Calls, Successes: t.Successes, Failures: t.Failures, Ignored: t.Ignored, Slow: t.Slow})
	b.turns.Store(0)
	b.phase.Store(next)
	b.wakeFirst()
}
