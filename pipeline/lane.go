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

// lane gathers the items of many claims into batches and writes them to the sink, one at a time, so that a claim's
// order is kept through every retry. The messages of a pipeline take one lane, those on their way home another.
//
// A batch whose fate is unknown while the circuit is open is held aside: it is the next to be written once the circuit
// admits a call, and what comes after it must not be written before it, but may be dead-lettered.
type lane[T any] struct {
	engine   *engine
	sink     Sink[T]
	circuit  circuit // Nil when the sink shows none.
	place    string  // Its name in health.
	patience time.Duration
	began    chan *batch[T] // Holds the current batch from its first item until the writer has seen it.

	mu        sync.Mutex
	current   *batch[T]
	interrupt context.CancelFunc // Ends the writer's waiting.

	outage outage

	held      *batch[T] // The writer's own.
	heldWhy   error     // The rejection, without what makes the held batch ambiguous.
	heldReady chan struct{}
	waiters   sync.WaitGroup
}

func newLane[T any](e *engine, sink Sink[T], patience time.Duration, place string) *lane[T] {
	l := &lane[T]{engine: e, sink: sink, place: place, patience: patience, began: make(chan *batch[T], 1), current: newBatch[T]()}
	l.circuit, _ = sink.(circuit)
	return l
}

// add puts an item into the current batch. It waits while that is full and not yet taken, and returns errStopped when
// the item's claim is drained meanwhile.
func (l *lane[T]) add(item holdfast.Item[T], m mark) error {
	size := sizeOf(item.Source)
	limits := l.engine.cfg.Batch
	for {
		l.mu.Lock()
		b := l.current
		if b.fits(size, limits) {
			b.add(item, m, size)
			if len(b.items) == 1 {
				select {
				case l.began <- b:
				default: // The writer has yet to see that this batch began: its items were handed back meanwhile.
				}
			}
			if len(b.items) == limits.Count || b.bytes >= limits.Bytes {
				b.close()
			}
			l.mu.Unlock()
			return nil
		}
		b.close()
		l.mu.Unlock()
		select {
		case <-b.taken:
		case <-m.claim.closing:
			return errStopped
		}
	}
}

// flush has the current batch written without waiting for more, and ends the writer's waiting so that it looks which
// claims are being drained.
func (l *lane[T]) flush() {
	l.mu.Lock()
	l.current.close()
	interrupt := l.interrupt
	l.mu.Unlock()
	if interrupt != nil {
		interrupt()
	}
}

// run writes batches until ctx ends.
func (l *lane[T]) run(ctx context.Context) {
	defer l.waiters.Wait()
	var closed <-chan struct{}
	delay := time.NewTimer(time.Hour)
	delay.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case b := <-l.began:
			closed = b.closed
			delay.Reset(l.engine.cfg.Batch.Delay)
			continue
		case <-l.heldReady:
			l.settleHeld(ctx)
			continue
		case <-closed:
		case <-delay.C:
		}
		delay.Stop()
		closed = nil
		l.settle(ctx, l.take())
	}
}

func (l *lane[T]) take() *batch[T] {
	l.mu.Lock()
	b := l.current
	l.current = newBatch[T]()
	l.mu.Unlock()
	close(b.taken)
	b.span()
	return b
}

// settle writes b until all of it is stored, dead-lettered, held aside, or handed back because its claims are drained.
func (l *lane[T]) settle(ctx context.Context, b *batch[T]) {
	for tries := 1; ; tries++ {
		if tries > 1 {
			l.handBack(b)
		} else {
			b.release(false)
		}
		if len(b.items) == 0 {
			return
		}
		err := l.write(ctx, b)
		if refused, ok := errors.AsType[*holdfast.BatchError](err); ok {
			err = l.refused(ctx, b, refused)
		} else if err == nil {
			l.stored(b)
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		b.ambiguous = b.ambiguous || holdfast.IsAmbiguous(err)
		switch {
		case errors.Is(err, breaker.ErrCircuitOpen) && b.ambiguous && l.circuit != nil:
			l.engine.troubles.set(l.heldPlace(), "held while the circuit is open, as it may be stored already", err)
			l.hold(ctx, b, err)
			return
		case errors.Is(err, breaker.ErrCircuitOpen) && !b.ambiguous:
			l.rejected(ctx, b, err)
		case holdfast.IsPermanent(err) && !b.ambiguous:
			l.buryAll(ctx, b, permanentReason(err), err)
		default: // holdfast.Hold, or a failure that no circuit has opened for yet.
			l.engine.troubles.set(l.place, "failing", err)
			_ = l.pause(ctx, b, backoff(tries, err)) // Whether it was cut short, release will see.
		}
	}
}

// handBack drops what need not be written any more from b and from the batch that is being gathered behind it: b cannot
// be written now, and claims that are being drained must not wait for that.
func (l *lane[T]) handBack(b *batch[T]) {
	b.release(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current.release(true)
}

// write hands b to the sink, a held batch before it.
func (l *lane[T]) write(ctx context.Context, b *batch[T]) error {
	if l.held != nil && !l.circuit.IsOpen() {
		l.settleHeld(ctx)
	}
	if l.held != nil {
		return &behindHeldError{l.heldWhy}
	}
	return writeTo(ctx, l.sink, holdfast.Batch[T]{Spans: b.spans, Items: b.items})
}

func (l *lane[T]) stored(b *batch[T]) {
	l.answered()
	l.settled(b.items, b.marks)
}

// answered notes that the sink has taken a batch, whatever it refused of it.
func (l *lane[T]) answered() {
	l.outage.end()
	l.engine.counts.batches.Add(1)
	l.engine.troubles.clear(l.place)
	l.engine.troubles.clear(l.heldPlace())
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

// refused settles what a sink stored of b and dead-letters what it refused. Items that were refused for a reason that
// is not their own stay in b, and the error of one of them is returned; nil means that nothing is left.
func (l *lane[T]) refused(ctx context.Context, b *batch[T], e *holdfast.BatchError) error {
	var (
		graves []grave
		again  error
		stored batch[T]
		left   batch[T]
	)
	for i, item := range b.items {
		err := e.Items[i]
		switch {
		case err == nil:
			stored.add(item, b.marks[i], 0)
		case waits(ctx, err):
			left.add(item, b.marks[i], 0)
			again = err
		default:
			graves = l.dig(graves, item, b.marks[i], itemFailure(err))
		}
	}
	l.answered()
	l.settled(stored.items, stored.marks)
	b.items, b.marks = left.items, left.marks
	l.bury(ctx, b, graves)
	return again
}

// dig appends a grave for an item. Values of one message that fail together get one letter.
func (l *lane[T]) dig(graves []grave, item holdfast.Item[T], m mark, f *failure) []grave {
	if last := len(graves) - 1; last >= 0 && graves[last].mark == m {
		graves[last].values++
		return graves
	}
	return append(graves, grave{m, l.engine.letter(item.Source, f), 1})
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
func (l *lane[T]) rejected(ctx context.Context, b *batch[T], err error) {
	left := l.patience - l.outage.length()
	l.engine.troubles.set(l.place, "circuit open", err)
	if l.patience >= 0 && left <= 0 && l.isOpen(err) {
		l.buryRejected(ctx, b, err)
		return
	}
	switch {
	case l.circuit == nil:
		_ = l.pause(ctx, b, backoff(1, err))
	case l.patience >= 0:
		l.waitFor(ctx, b, max(left, halfOpenWait))
	default:
		l.waitFor(ctx, b, 0)
	}
}

// buryRejected dead-letters b in small steps for as long as the circuit is open. What is left of b is written.
func (l *lane[T]) buryRejected(ctx context.Context, b *batch[T], err error) {
	f := &failure{reason: dlq.CircuitOpen, stage: sinkStage, err: err}
	if open, ok := errors.AsType[*breaker.OpenError](err); ok {
		f.circuit = open.Name
	}
	for len(b.items) > 0 && ctx.Err() == nil && l.isOpen(err) {
		step := min(len(b.items), l.engine.limit.step())
		graves := l.digAll(b, step, f)
		b.items, b.marks = b.items[step:], b.marks[step:]
		l.bury(ctx, b, graves)
		l.handBack(b)
	}
}

func (l *lane[T]) buryAll(ctx context.Context, b *batch[T], reason dlq.Reason, err error) {
	f := &failure{reason: reason, stage: sinkStage, attempts: 1, err: err}
	graves := l.digAll(b, len(b.items), f)
	b.items, b.marks = nil, nil
	l.bury(ctx, b, graves)
}

// digAll makes the graves of b's first n items.
func (l *lane[T]) digAll(b *batch[T], n int, f *failure) []grave {
	var graves []grave
	for i, item := range b.items[:n] {
		graves = l.dig(graves, item, b.marks[i], f)
	}
	return graves
}

// bury writes letters until all are written or their claims are gone or drained, which hands the messages back. The rest
// of b, which has to wait for that, is handed back likewise.
func (l *lane[T]) bury(ctx context.Context, b *batch[T], graves []grave) {
	for len(graves) > 0 && ctx.Err() == nil {
		waiting := &batch[T]{marks: slices.Clone(b.marks)}
		for _, g := range graves {
			waiting.marks = append(waiting.marks, g.mark)
		}
		graves = l.engine.bury(ctx, graves, l.place+" dead letters", func(d time.Duration) error {
			return l.pause(ctx, waiting, d)
		})
		graves = releaseGraves(graves)
		if len(graves) > 0 {
			l.handBack(b)
		}
	}
}

// heldPlace names the batch held aside, in health.
func (l *lane[T]) heldPlace() string { return l.place + ", held batch" }

// isOpen tells whether the circuit that rejected the batch is open, and not merely busy probing.
func (l *lane[T]) isOpen(err error) bool {
	if l.circuit != nil {
		return l.circuit.IsOpen()
	}
	var open *breaker.OpenError
	return !errors.As(err, &open) || open.State == breaker.Open
}

// hold sets b aside until the circuit admits a call.
func (l *lane[T]) hold(ctx context.Context, b *batch[T], err error) {
	ready := make(chan struct{})
	l.held, l.heldReady, l.heldWhy = b, ready, breaker.ErrCircuitOpen
	if open, ok := errors.AsType[*breaker.OpenError](err); ok {
		l.heldWhy = open
	}
	l.waiters.Go(func() {
		defer close(ready)
		_ = l.circuit.WaitUntilReady(ctx) // Whether it is ready, the next attempt tells.
	})
}

func (l *lane[T]) settleHeld(ctx context.Context) {
	b := l.held
	l.held, l.heldReady = nil, nil
	l.settle(ctx, b)
}

// pause waits for d, or until a claim of b is drained, which is errStopped.
func (l *lane[T]) pause(ctx context.Context, b *batch[T], d time.Duration) error {
	return l.interruptible(ctx, b, d, func(ctx context.Context) { <-ctx.Done() })
}

// waitFor waits for the circuit, at the most for limit if that is above zero, or until a claim of b is drained.
func (l *lane[T]) waitFor(ctx context.Context, b *batch[T], limit time.Duration) {
	_ = l.interruptible(ctx, b, limit, func(ctx context.Context) { _ = l.circuit.WaitUntilReady(ctx) })
}

func (l *lane[T]) interruptible(ctx context.Context, b *batch[T], limit time.Duration, wait func(context.Context)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if limit > 0 {
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	l.setInterrupt(cancel)
	defer l.setInterrupt(nil)
	if !b.draining() {
		wait(ctx)
	}
	if b.draining() {
		return errStopped
	}
	return nil
}

func (l *lane[T]) setInterrupt(cancel context.CancelFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.interrupt = cancel
}
