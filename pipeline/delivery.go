package pipeline

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
)

// deliver writes b until all of it is stored, dead-lettered, or handed back because its claims are drained. What may be
// stored is never dead-lettered. It waits, and its lanes with it, until its fate is known.
func (o *outlet[T]) deliver(ctx context.Context, b *batch[T]) {
	defer func() {
		o.gate.leave(b.turn)
		o.engine.troubles.clear(o.place, b)
	}()
	if !o.gate.isOpen() && o.gate.contested() { // Half-open, as it seems, and others have waited longer.
		o.queueUp(ctx, b, maxProbeWait)
	}
	b.release(false)
	for tries := 1; len(b.items) > 0 && ctx.Err() == nil; tries++ {
		held, err := o.ahead(b)
		if held == nil {
			err = o.write(ctx, b)
		} else {
			err = behindHeld(err)
		}
		o.gate.leave(b.turn)
		b.turn = nil
		b.release(false)
		if err == nil || ctx.Err() != nil || len(b.items) == 0 {
			return
		}
		if b.held != nil {
			o.hold(b, err) // Those behind it wait for this now.
		}
		switch rejected := errors.Is(err, breaker.ErrCircuitOpen); {
		case holdfast.IsHold(err):
			o.engine.troubles.set(o.place, b, "held", err)
			o.wait(ctx, b, backoff(tries, err), nil)
		case rejected:
			o.rejected(ctx, b, tries, err, held.hasLanded())
		case holdfast.IsPermanent(err) && !b.ambiguous():
			o.buryAll(b, &failure{reason: permanentReason(err), stage: sinkStage, attempts: tries, err: err})
			return
		default: // The sink fails, and no circuit has opened for it yet.
			o.engine.troubles.set(o.place, b, "failing", err)
			o.wait(ctx, b, backoff(tries, err), held.hasLanded())
		}
	}
}

// write hands b to the sink, and settles what the sink has answered for. What is left of b was not stored for the reason
// returned; nil means that nothing is left.
func (o *outlet[T]) write(ctx context.Context, b *batch[T]) error {
	err := o.call(ctx, b)
	refused, ambiguous := verdict(err, len(b.items))
	switch {
	case ambiguous:
		b.doubt()
	case err == nil:
		o.answered()
		o.settled(b.items, b.marks)
		b.keep(func(int) bool { return false })
	case refused != nil:
		if err = o.refused(ctx, b, refused); !errors.Is(err, breaker.ErrCircuitOpen) {
			o.answered()
		}
	}
	return err
}

// errNobodys is why a write is cut short.
var errNobodys = errors.New("pipeline: all partitions of the batch are given up, so that its outcome settles nothing")

// overdue is how long a sink may take to return once its context has ended, before health says that it does not.
const overdue = time.Second

// call hands b to the sink. The context ends when the last of b's claims is released: nobody could settle anything then.
func (o *outlet[T]) call(ctx context.Context, b *batch[T]) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	abandon := func() {
		if b.isNobodys() {
			cancel(errNobodys)
		}
	}
	o.whileWritten(b, abandon)
	abandon() // It may have become so a moment ago.
	defer o.whileWritten(b, nil)
	answer := make(chan error, 1)
	var call sync.WaitGroup
	defer call.Wait()
	call.Go(func() {
		answer <- writeTo(ctx, o.sink, holdfast.Batch[T]{Spans: slices.Clone(b.spans), Items: slices.Clone(b.items)})
	})
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-answer:
		return err
	case <-time.After(overdue):
		o.engine.troubles.set(o.place, b, "does not return", context.Cause(ctx))
		return <-answer
	}
}

// whileWritten sets what is to be called while b is being written and a claim is released.
func (o *outlet[T]) whileWritten(b *batch[T], abandon func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b.abandon = abandon
}

// answered notes that the sink has taken a batch, whatever it refused of it. When its circuit is open all the same, the batch
// went through another one, as with Route, or before that opened: those who wait may try, but no outage has ended.
func (o *outlet[T]) answered() {
	o.engine.counts.batches.Add(1)
	if !o.gate.isOpen() {
		o.outage.end()
		o.engine.troubles.clear(o.place, nil)
	}
	o.gate.answered()
}

// settled counts and settles stored items.
func (o *outlet[T]) settled(items []holdfast.Item[T], marks []mark) {
	o.engine.counts.stored.Add(uint64(len(items)))
	var redriven uint64
	for i := range items {
		if items[i].Source.Letter != nil {
			redriven++
		}
	}
	o.engine.counts.redriven.Add(redriven)
	settleMarks(marks)
}

// refused settles what a sink stored of b, and has the claims dead-letter what it refused. Items that were refused for a
// reason that is not their own stay in b, and the error of one of them is returned; nil means that nothing is left.
func (o *outlet[T]) refused(ctx context.Context, b *batch[T], e *holdfast.BatchError) error {
	var (
		graves []grave
		again  error
		items  []holdfast.Item[T]
		marks  []mark
		unsure = make([]bool, len(b.items))
	)
	for i := range b.items {
		unsure[i] = staysUnsure(b.isUnsure(i), refusal(e, i))
	}
	b.unsure = unsure
	b.keep(func(i int) bool {
		err := refusal(e, i)
		switch {
		case err == nil:
			items, marks = append(items, b.items[i]), append(marks, b.marks[i])
			return false
		case !waits(ctx, err) && !unsure[i]:
			graves = o.dig(graves, b.items[i], b.marks[i], itemFailure(err))
			return false
		case again == nil || holdfast.IsHold(err): // What is held must not be treated as rejected.
			again = err
		}
		return true
	})
	o.settled(items, marks)
	toClaims(graves)
	return again
}

// rejected waits while the circuit is open, or until ready is closed, or dead-letters b once it has been open for long enough.
func (o *outlet[T]) rejected(ctx context.Context, b *batch[T], tries int, err error, ready <-chan struct{}) {
	// What others get through another of the sink's circuits must not keep b for longer than its own patience.
	left := o.patience - max(o.outage.length(o.patience), b.outage.length(o.patience))
	if o.gate.isOpen() {
		b.unseen = 0
		o.engine.troubles.set(o.place, nil, "circuit open", err)
		_ = o.gate.ready() // So that the trouble ends with the outage, whoever is left to see it.
	} else {
		b.unseen++
		o.engine.troubles.set(o.place, b, "circuit open", err)
	}
	switch endless := o.patience < 0 || b.ambiguous(); {
	case !endless && left <= 0 && o.isOpen(b, err):
		o.buryRejected(ctx, b, err)
	case !o.gate.isOpen(): // Busy probing, or another circuit than the one that is shown.
		o.wait(ctx, b, min(backoff(tries, err), maxProbeWait), ready)
	case endless:
		if o.patience >= 0 {
			o.hold(b, err)
		}
		o.queueUp(ctx, b, openFor(err))
	default:
		o.queueUp(ctx, b, min(left, openFor(err)))
	}
}

// openFor is how long a batch waits for its turn at the gate before it tries again: that may wait for another of the sink's
// circuits than the one that rejected the batch with err.
func openFor(err error) time.Duration {
	known := time.Duration(0)
	if open, ok := errors.AsType[*breaker.OpenError](err); ok {
		known = open.RetryAfter
	}
	return cmp.Or(known, unknownOpen) + maxProbeWait
}

// isOpen tells whether the circuit that rejected b is open, and not merely busy probing. What is rejected again while the
// circuit that the sink shows admits calls was rejected by another.
func (o *outlet[T]) isOpen(b *batch[T], err error) bool {
	if o.gate.isOpen() {
		return true
	}
	if o.gate.shown() && b.unseen < 2 {
		return false
	}
	open, ok := errors.AsType[*breaker.OpenError](err)
	return !ok || open.State == breaker.Open
}

// queueUp waits for b's turn at the gate, but no longer than d.
func (o *outlet[T]) queueUp(ctx context.Context, b *batch[T], d time.Duration) {
	b.turn = o.gate.join(b.oldest)
	o.wait(ctx, b, d, b.turn.come)
	if !isClosed(b.turn.come) {
		o.gate.leave(b.turn)
		b.turn = nil
	}
}

// behindHeld is why a batch cannot be written while one before it is held aside for the reason why. The uncertainty
// about that one is not its own.
func behindHeld(why error) error {
	held := &behindHeldError{text: errorText(why)}
	if open, ok := errors.AsType[*breaker.OpenError](why); ok {
		held.rejection = open
	} else if errors.Is(why, breaker.ErrCircuitOpen) {
		held.rejection = breaker.ErrCircuitOpen
	}
	return held
}

type behindHeldError struct {
	text      string
	rejection error
}

func (e *behindHeldError) Error() string {
	return "pipeline: behind a batch whose fate is not known: " + e.text
}
func (e *behindHeldError) Unwrap() error { return e.rejection }

// buryRejected has the claims dead-letter b for as long as the circuit is open. What is recalled stays in b.
func (o *outlet[T]) buryRejected(ctx context.Context, b *batch[T], why error) {
	f := &failure{reason: dlq.CircuitOpen, stage: sinkStage, err: why}
	if open, ok := errors.AsType[*breaker.OpenError](why); ok {
		f.circuit = open.Name
	}
	var graves []grave
	for i, item := range b.items {
		graves = o.dig(graves, item, b.marks[i], f)
	}
	for i := range graves {
		graves[i].rejection, graves[i].open = &b.rejection, func() bool { return o.isOpen(b, why) }
	}
	b.rejection.add(len(graves))
	toClaims(graves)
	for over := false; !over; {
		select {
		case <-b.rejection.over:
			over = true
		case <-b.kick:
			o.handBackBehind(b)
		}
	}
	recalled := b.rejection.recalls()
	b.keep(func(i int) bool {
		_, stays := recalled[b.marks[i]]
		return stays
	})
}

// buryAll has the claims dead-letter all of b.
func (o *outlet[T]) buryAll(b *batch[T], f *failure) {
	o.answered()
	var graves []grave
	for i, item := range b.items {
		graves = o.dig(graves, item, b.marks[i], f)
	}
	b.keep(func(int) bool { return false })
	toClaims(graves)
}

// dig appends a grave for an item. Values of one message that fail together get one letter.
func (o *outlet[T]) dig(graves []grave, item holdfast.Item[T], m mark, f *failure) []grave {
	if last := len(graves) - 1; last >= 0 && graves[last].mark == m {
		graves[last].values++
		return graves
	}
	return append(graves, grave{mark: m, letter: o.engine.letter(item.Source, f), values: 1})
}

// toClaims has each claim write its own letters.
func toClaims(graves []grave) {
	for len(graves) > 0 {
		c := graves[0].claim
		n := slices.IndexFunc(graves, func(g grave) bool { return g.claim != c })
		if n < 0 {
			n = len(graves)
		}
		c.bury(graves[:n]...)
		graves = graves[n:]
	}
}

// wait waits for d or until ready is closed. Claims that begin to drain do not wait with it: what they have in b, or queued
// where b is in the way, is handed back, and when nothing of b is left the waiting is over.
func (o *outlet[T]) wait(ctx context.Context, b *batch[T], d time.Duration, ready <-chan struct{}) {
	deadline := time.Now().Add(d)
	for {
		b.release(true)
		o.leave(b)
		o.handBackBehind(b)
		left := time.Until(deadline)
		if len(b.items) == 0 || ctx.Err() != nil || left <= 0 || isClosed(ready) {
			return
		}
		sleep(ctx, left, b.kick, ready)
	}
}
