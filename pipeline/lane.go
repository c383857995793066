package pipeline

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/retry"
)

var errNoReason = errors.New("pipeline: the sink refused the item and did not say why")

// lane gathers the items of many claims into batches and writes them to the sink, one at a time, so that a claim's
// order is kept through every retry. The messages of a pipeline take one lane, those on their way home another.
//
// A batch whose fate is unknown while the circuit is open is held aside: it is the next to be written once the circuit
// admits a call, and what comes after it must not be written before it, but may be dead-lettered.
type lane[T any] struct {
	engine   *engine
	sink     Sink[T]
	gate     *gate
	place    string // Its name in health.
	patience time.Duration
	outage   outage

	kick chan struct{} // Holds a token when the writer has something to look at.

	mu      sync.Mutex
	current *batch[T]

	// The writer's own.
	held      *batch[T]
	heldWhy   error // Why it could not be written the last time.
	heldTries int
	heldNext  time.Time // No try before.
}

func newLane[T any](e *engine, sink Sink[T], patience time.Duration, place string) *lane[T] {
	inside, _ := sink.(circuit)
	return &lane[T]{
		engine: e, sink: sink, gate: newGate(inside), place: place, patience: patience,
		kick: make(chan struct{}, 1), current: newBatch[T](),
	}
}

// add puts an item into the current batch. It waits while that is full and not yet taken, and returns errStopped when
// the item's claim is drained meanwhile.
func (l *lane[T]) add(item holdfast.Item[T], m mark, size int) error {
	limits := l.engine.cfg.Batch
	for {
		l.mu.Lock()
		b := l.current
		if fits := b.fits(size, limits); fits {
			b.add(item, m, size, limits)
			notable := len(b.items) == 1 || b.due
			l.mu.Unlock()
			if notable {
				l.nudge()
			}
			return nil
		}
		b.due = true
		l.mu.Unlock()
		l.nudge()
		select {
		case <-b.taken:
		case <-m.claim.closing:
			return errStopped
		}
	}
}

// flush has the current batch written without waiting for more, and has the writer look which claims are drained.
func (l *lane[T]) flush() {
	l.mu.Lock()
	l.current.due = true
	l.mu.Unlock()
	l.nudge()
}

func (l *lane[T]) nudge() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// run writes batches until ctx ends.
func (l *lane[T]) run(ctx context.Context) {
	var watch sync.WaitGroup
	defer watch.Wait()
	defer l.noneHeld() // Its claims are gone, or nothing would end.
	defer l.engine.troubles.clear(l.place)
	watch.Go(func() { l.gate.watch(ctx, func() { l.engine.troubles.clear(l.place) }) })
	for ctx.Err() == nil {
		b, wait := l.next()
		if b != nil {
			l.settle(ctx, b)
			continue
		}
		var ready <-chan struct{}
		l.releaseHeld()
		if l.held != nil {
			again := time.Until(l.heldNext)
			if again <= 0 && !l.gate.isOpen() {
				l.tryHeld(ctx)
				continue
			}
			if ready = l.gate.ready(); again > 0 {
				ready, wait = nil, min(wait, again)
			}
		}
		sleep(ctx, wait, l.kick, ready)
	}
}

// next takes the current batch if it is due, and otherwise says when it will be.
func (l *lane[T]) next() (*batch[T], time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renew()
	b := l.current
	if len(b.items) == 0 {
		return nil, forever
	}
	if left := l.engine.cfg.Batch.Delay - time.Since(b.began); left > 0 && !b.due {
		return nil, left
	}
	l.current = newBatch[T]()
	close(b.taken)
	b.span()
	return b, 0
}

// renew replaces the current batch when all of it was handed back, so that those who wait for it to be taken go on. It
// needs the lock.
func (l *lane[T]) renew() {
	if b := l.current; b.due && len(b.items) == 0 {
		l.current = newBatch[T]()
		close(b.taken)
	}
}

// settle writes b until all of it is stored, dead-lettered, held aside, or handed back because its claims are drained.
func (l *lane[T]) settle(ctx context.Context, b *batch[T]) {
	b.release(false)
	for tries := 1; len(b.items) > 0; tries++ {
		err := l.write(ctx, b)
		if err == nil || ctx.Err() != nil {
			return
		}
		rejected := errors.Is(err, breaker.ErrCircuitOpen)
		switch {
		case holdfast.IsHold(err):
			l.engine.troubles.set(l.place, "held", err)
			l.wait(ctx, b, backoff(tries, err), nil)
		case rejected && b.ambiguous && l.gate.shown():
			l.hold(b, err)
			return
		case rejected && !b.ambiguous:
			l.rejected(ctx, b, tries, err)
		case holdfast.IsPermanent(err) && !b.ambiguous:
			l.buryAll(b, &failure{reason: permanentReason(err), stage: sinkStage, attempts: tries, err: err})
			return
		default: // The sink fails, and no circuit has opened for it yet.
			l.engine.troubles.set(l.place, "failing", err)
			l.wait(ctx, b, backoff(tries, err), nil)
		}
	}
	if l.gate.ready(); !l.gate.isOpen() { // Otherwise the gate tells when it ends.
		l.engine.troubles.clear(l.place)
	}
}

// write hands b to the sink, a held batch before it, and settles what the sink has answered for. What is left of b was
// not stored for the reason returned; nil means that nothing is left.
func (l *lane[T]) write(ctx context.Context, b *batch[T]) error {
	if l.held != nil && b != l.held {
		if !l.gate.isOpen() && time.Now().After(l.heldNext) {
			l.tryHeld(ctx)
		}
		if l.held != nil {
			return behindHeld(l.heldWhy)
		}
	}
	err := writeTo(ctx, l.sink, holdfast.Batch[T]{Spans: slices.Clone(b.spans), Items: slices.Clone(b.items)})
	refused, ambiguous := verdict(err)
	switch {
	case ambiguous:
		b.wholly, b.ambiguous = true, true
	case err == nil:
		l.answered()
		l.settled(b.items, b.marks)
		b.items, b.marks = nil, nil
	case refused != nil:
		if err = l.refused(ctx, b, refused); !errors.Is(err, breaker.ErrCircuitOpen) {
			l.answered()
		}
	}
	return err
}

// refusal is the error of item i, nil if it is stored.
func refusal(e *holdfast.BatchError, i int) error {
	err, named := e.Items[i]
	if named && err == nil {
		return errNoReason
	}
	return err
}

// verdict tells what an error of a sink says of its batch: which items it refused, the others being stored, or that
// nobody knows.
func verdict(err error) (refused *holdfast.BatchError, ambiguous bool) {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if r, ok := e.(*holdfast.BatchError); ok { //nolint:errorlint // What stands around it counts, so it is unwrapped here.
			return r, false
		}
		if a, ok := e.(interface{ Ambiguous() bool }); ok && a.Ambiguous() {
			return nil, true
		}
	}
	return nil, holdfast.IsAmbiguous(err)
}

// answered notes that the sink has taken a batch, whatever it refused of it.
func (l *lane[T]) answered() {
	l.outage.end()
	l.engine.counts.batches.Add(1)
	l.engine.troubles.clear(l.place)
}

// settled counts and settles stored items.
func (l *lane[T]) settled(items []holdfast.Item[T], marks []mark) {
	l.engine.counts.stored.Add(uint64(len(items)))
	var redriven uint64
	for i := range items {
		if items[i].Source.Letter != nil {
			redriven++
		}
	}
	l.engine.counts.redriven.Add(redriven)
	settleMarks(marks)
}

// refused settles what a sink stored of b, and has the claims dead-letter what it refused. Items that were refused for a
// reason that is not their own stay in b, and the error of one of them is returned; nil means that nothing is left.
func (l *lane[T]) refused(ctx context.Context, b *batch[T], e *holdfast.BatchError) error {
	var (
		graves []grave
		again  error
		stored batch[T]
		left   = batch[T]{ambiguous: b.wholly}
	)
	for i, item := range b.items {
		m, err := b.marks[i], refusal(e, i)
		m.unsure = m.unsure || holdfast.IsAmbiguous(err)
		switch {
		case err == nil:
			stored.push(item, m)
		case waits(ctx, err) || m.unsure:
			left.push(item, m)
			left.ambiguous = left.ambiguous || m.unsure
			if again == nil || holdfast.IsHold(err) { // What is held must not be treated as rejected.
				again = err
			}
		default:
			graves = l.dig(graves, item, m, itemFailure(err))
		}
	}
	l.settled(stored.items, stored.marks)
	b.items, b.marks, b.ambiguous = left.items, left.marks, left.ambiguous
	toClaims(graves)
	return again
}

// itemFailure is what it means that a sink refused one item.
func itemFailure(err error) *failure {
	f := &failure{reason: dlq.RetriesExhausted, stage: sinkStage, attempts: 1, err: err}
	if tried, ok := errors.AsType[*retry.Error](err); ok {
		f.attempts, f.err = tried.Attempts, tried.Err
	}
	switch _, panicked := errors.AsType[*PanicError](err); {
	case panicked:
		f.reason = dlq.Panicked
	case holdfast.IsPermanent(err):
		f.reason = permanentReason(err)
	}
	return f
}

// rejected waits while the circuit is open, or dead-letters b once it has been open for long enough.
func (l *lane[T]) rejected(ctx context.Context, b *batch[T], tries int, err error) {
	left := l.patience - l.outage.length(l.patience)
	l.engine.troubles.set(l.place, "circuit open", err)
	ready := l.gate.ready() // Also ends the trouble when the outage ends.
	switch {
	case l.patience >= 0 && left <= 0 && l.isOpen(err):
		l.buryRejected(ctx, b, err)
	case !l.gate.isOpen(): // Busy probing, or another circuit than the one that is shown.
		l.wait(ctx, b, min(backoff(tries, err), maxProbeWait), nil)
	case l.patience >= 0:
		l.wait(ctx, b, left, ready)
	default:
		l.wait(ctx, b, forever, ready)
	}
}

// isOpen tells whether the circuit that rejected the batch is open, and not merely busy probing.
func (l *lane[T]) isOpen(err error) bool {
	if open, ok := errors.AsType[*breaker.OpenError](err); ok && !l.gate.shown() {
		return open.State == breaker.Open
	}
	return !l.gate.shown() || l.gate.isOpen()
}

// buryRejected dead-letters b in small steps for as long as the circuit is open. What is left of b is written.
func (l *lane[T]) buryRejected(ctx context.Context, b *batch[T], why error) {
	f := &failure{reason: dlq.CircuitOpen, stage: sinkStage, err: why}
	if open, ok := errors.AsType[*breaker.OpenError](why); ok {
		f.circuit = open.Name
	}
	place := l.place + " dead letters"
	defer l.engine.troubles.clear(place)
	for tries := 0; len(b.items) > 0 && ctx.Err() == nil && l.isOpen(why); {
		step := min(len(b.items), l.engine.limit.step())
		delay, cancel := l.engine.limit.reserve(step)
		if delay > 0 && !l.wait(ctx, b, delay, nil) {
			cancel()
			continue
		}
		var graves []grave
		for i, item := range b.items[:step] {
			graves = l.dig(graves, item, b.marks[i], f)
		}
		left, err := l.engine.bury(ctx, graves)
		b.drop(step, left)
		if err == nil {
			tries = 0
			b.release(true)
			continue
		}
		tries++
		l.engine.troubles.set(place, "cannot be written", err)
		l.wait(ctx, b, backoff(tries, err), nil)
		if !l.gate.shown() {
			return // Only another attempt tells whether the circuit is still open.
		}
	}
}

// buryAll has the claims dead-letter all of b.
func (l *lane[T]) buryAll(b *batch[T], f *failure) {
	l.answered()
	var graves []grave
	for i, item := range b.items {
		graves = l.dig(graves, item, b.marks[i], f)
	}
	b.items, b.marks = nil, nil
	toClaims(graves)
}

// dig appends a grave for an item. Values of one message that fail together get one letter.
func (l *lane[T]) dig(graves []grave, item holdfast.Item[T], m mark, f *failure) []grave {
	if last := len(graves) - 1; last >= 0 && graves[last].mark == m {
		graves[last].values++
		return graves
	}
	return append(graves, grave{mark: m, letter: l.engine.letter(item.Source, f), values: 1})
}

// hold sets b aside until the circuit admits a call.
func (l *lane[T]) hold(b *batch[T], err error) {
	l.engine.troubles.clear(l.place) // That is where it waits now:
	l.engine.troubles.set(l.heldPlace(), "held while the circuit is open, as it may be stored already", err)
	l.held, l.heldWhy, l.heldTries, l.heldNext = b, err, 0, time.Time{}
}

// tryHeld writes the held batch once. It is no longer held when its fate is known.
func (l *lane[T]) tryHeld(ctx context.Context) {
	l.releaseHeld()
	if l.held == nil {
		return
	}
	err := l.write(ctx, l.held)
	if err == nil {
		l.noneHeld()
		return
	}
	l.heldTries++
	pause := backoff(l.heldTries, err)
	if errors.Is(err, breaker.ErrCircuitOpen) {
		pause = min(pause, maxProbeWait)
	}
	l.heldWhy, l.heldNext = err, time.Now().Add(pause)
	l.engine.troubles.set(l.heldPlace(), "held, as it may be stored already", err)
}

// releaseHeld gives the held batch up when all of its claims are gone.
func (l *lane[T]) releaseHeld() {
	if l.held == nil {
		return
	}
	if l.held.release(false); len(l.held.items) == 0 {
		l.noneHeld()
	}
}

func (l *lane[T]) noneHeld() {
	l.held, l.heldWhy = nil, nil
	l.engine.troubles.clear(l.heldPlace())
}

// heldPlace names the held batch in health.
func (l *lane[T]) heldPlace() string { return l.place + ", held batch" }

// wait waits for d or until ready is closed, and tells whether it came to that with b as it was. Claims that begin to
// drain do not wait with it: what they have in b, or in the batch that is being gathered behind it, is handed back, and
// when nothing of b is left the waiting is over.
func (l *lane[T]) wait(ctx context.Context, b *batch[T], d time.Duration, ready <-chan struct{}) bool {
	deadline := time.Now().Add(d)
	had := len(b.items)
	for {
		b.release(true)
		l.mu.Lock()
		l.current.release(true)
		l.renew()
		l.mu.Unlock()
		if len(b.items) == 0 || ctx.Err() != nil {
			return false
		}
		left := time.Until(deadline)
		if left <= 0 || isClosed(ready) {
			return len(b.items) == had
		}
		sleep(ctx, left, l.kick, ready)
	}
}
