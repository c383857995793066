package breaker

// admit lets one call in or returns why not.
func (b *Breaker) admit() (call, error) {
	ph := b.phase.Load()
	if !ph.is(Closed) || !b.simpleIn {
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
	if err != nil {
		if b.limit > 0 {
			b.leave()
		}
		return call{}, err
	}
	told := false
	defer func() {
		if !told { // A listener ended the goroutine: this call will not be made.
			b.settle(c, Ignore, flags{})
		}
	}()
	b.listeners.deliver(&b.mu)
	told = true
	return c, nil
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
