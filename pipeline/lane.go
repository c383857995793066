package pipeline

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/internal/mutant"
)

// lane is a line of messages of one claim that do not overtake each other: all of a partition's, or those of some of its
// keys. One goroutine takes them through the stages, one after the other. What the stages make of them queues at the
// outlet, which has the items of a lane in no more than one batch at a time.
type lane[T any] struct {
	walk
	run     call[holdfast.Message, T]
	outlet  *outlet[T]
	ordered bool        // False: its items may be in several batches at a time.
	feed    chan flight // Nil when the claim's own goroutine brings the messages.

	hand []passage[T] // What it has begun with, in order.

	// rejected are messages that a stage's open circuit is to dead-letter, see settleRejected.
	rejected  []flight
	rejection rejection

	// line is the outlet's.
	line line[T]
}

// walk is where a lane's goroutine is. A stage knows its lane by it.
type walk struct {
	claim *claim
	n     atomic.Int64         // The number of the message at hand.
	stage atomic.Pointer[step] // Where it is.
}

// flight is a message on its way through the stages.
type flight struct {
	message *holdfast.Message
	n       int
	fetch   *fetch
}

// passage is a message in a lane's hands, and what the stages made of it once it has been there.
type passage[T any] struct {
	flight
	over bool
	out  values[T]
	err  error
}

// fetch is what one Fetch has returned.
type fetch struct {
	// uncharged is its size, until an item is charged with it: one message that is kept keeps all of it in memory.
	uncharged atomic.Int64
}

// lanes are a claim's. Partition order has one, which the claim's own goroutine walks.
type lanes[T any] struct {
	all   []*lane[T]
	seed  maphash.Seed
	order Order
	turn  int
	work  sync.WaitGroup
}

func openLanes[T any](ctx context.Context, c *claim, run call[holdfast.Message, T], o *outlet[T]) *lanes[T] {
	cfg := c.engine.cfg
	ls := &lanes[T]{order: cfg.Order, seed: maphash.MakeSeed()}
	count, shared := 1, (chan flight)(nil)
	if cfg.Order != ByPartition {
		count = cfg.Lanes
	}
	if cfg.Order == Unordered {
		shared = make(chan flight)
	}
	for range count {
		l := &lane[T]{run: run, outlet: o, ordered: cfg.Order != Unordered, feed: shared}
		l.claim = c
		l.rejection.over = make(chan struct{}, 1)
		if cfg.Order == ByKey {
			l.feed = make(chan flight, laneBuffer)
		}
		ls.all = append(ls.all, l)
	}
	if cfg.Order != ByPartition {
		for _, l := range ls.all {
			ls.work.Go(func() { outlast(func() { l.walkOn(ctx) }) })
		}
	}
	c.mu.Lock()
	for _, l := range ls.all {
		c.walks = append(c.walks, &l.walk)
	}
	c.mu.Unlock()
	o.open(ls.all)
	return ls
}

// laneBuffer is how many messages may wait for their lane, so that one that is slow does not stop the others at once.
const laneBuffer = 64

// take takes a message to its lane. It returns errStopped when the claim is drained first; then the message is handed back.
func (ls *lanes[T]) take(ctx context.Context, f flight) error {
	if ls.order == ByPartition {
		return ls.all[0].through(ctx, f)
	}
	c := ls.all[0].claim
	select {
	case ls.of(f.message).feed <- f:
		return nil
	case <-c.closing:
		c.handBack(f.n)
		return errStopped
	}
}

func (ls *lanes[T]) of(m *holdfast.Message) *lane[T] {
	if ls.order == ByKey && m.Key != nil && !mutant.Is("9 a key has several lanes") {
		return ls.all[maphash.Bytes(ls.seed, m.Key)%uint64(len(ls.all))]
	}
	ls.turn++
	return ls.all[ls.turn%len(ls.all)]
}

// idle has the claim's own lane write its letters before its goroutine waits for something else.
func (ls *lanes[T]) idle(ctx context.Context) error {
	if ls.order == ByPartition {
		return ls.all[0].settleRejected(ctx)
	}
	return nil
}

// close waits until what the lanes were given is handed on or back. The claim's drain has begun.
func (ls *lanes[T]) close(ctx context.Context) {
	_ = ls.idle(ctx)
	switch ls.order {
	case Unordered:
		close(ls.all[0].feed)
	case ByPartition: // Its lane is not fed.
	case ByKey:
		for _, l := range ls.all {
			close(l.feed)
		}
	}
	ls.work.Wait()
}

// walkOn takes what the lane is fed through the stages until the feed is closed.
func (l *lane[T]) walkOn(ctx context.Context) {
	for {
		var f flight
		var ok bool
		select {
		case f, ok = <-l.feed:
		default:
			_ = l.settleRejected(ctx) // Stopped, it hands its messages back; the next message will say so, too.
			f, ok = <-l.feed
		}
		if !ok {
			return
		}
		_ = l.through(ctx, f)
	}
}

// through takes one message through the stages, behind what the lane has in hand, and settles it, hands it on, or has a
// letter written. It returns errStopped when the claim is drained first; the message is then handed back.
func (l *lane[T]) through(ctx context.Context, f flight) error {
	l.hand = append(l.hand, passage[T]{flight: f})
	return l.work(ctx)
}

// work takes what the lane has in hand through the stages. Nothing of it is kept on the stack, so that work goes on with the
// next message when one has ended the goroutine.
func (l *lane[T]) work(ctx context.Context) error {
	for len(l.hand) > 0 {
		p := &l.hand[0]
		if !p.over {
			if l.claim.draining() {
				return l.handBack()
			}
			l.runStages(ctx, p)
		}
		failed, _ := p.err.(*failure) //nolint:errorlint // It is never wrapped.
		if failed != nil && failed.reason == dlq.CircuitOpen {
			l.reject(p.flight, failed)
			l.drop()
			continue
		}
		if !mutant.Is("9 what was rejected does not stop what comes after it") && l.recall() {
			continue
		}
		done := *p
		l.drop()
		if l.end(done, failed) != nil {
			return l.handBack()
		}
	}
	return nil
}

// drop lets go of the first message in hand.
func (l *lane[T]) drop() { l.hand = slices.Delete(l.hand, 0, 1) }

// handBack hands back all that the lane has in hand.
func (l *lane[T]) handBack() error {
	for _, p := range l.hand {
		l.claim.handBack(p.n)
	}
	clear(l.hand)
	l.hand = l.hand[:0]
	return errStopped
}

// end is what follows for a message that has been through the stages.
func (l *lane[T]) end(p passage[T], failed *failure) error {
	c := l.claim
	switch {
	case p.err == nil:
		return l.deliver(p.flight, p.out)
	case errors.Is(p.err, holdfast.ErrSkip):
		l.skip(p.flight)
		return nil
	case failed != nil && mutant.Is("1 a failed message is settled without a letter"):
		c.settle(mark{c, p.n})
		return nil
	case failed != nil:
		c.bury(grave{mark: mark{claim: c, n: p.n}, letter: c.engine.letter(p.message, failed), values: 1})
		return nil
	}
	c.handBack(p.n)
	return errStopped
}

// reject has a letter about a message written that a stage's open circuit rejected.
func (l *lane[T]) reject(f flight, why *failure) {
	c := l.claim
	l.rejected = append(l.rejected, f)
	l.rejection.add(1)
	c.bury(grave{
		mark: mark{claim: c, n: f.n}, letter: c.engine.letter(f.message, why), values: 1,
		rejection: &l.rejection, open: why.open,
	})
}

// settleRejected waits for the letters of the rejected messages, before anything that came later is delivered: those
// that cannot be written, or whose circuit has closed, are recalled and tried again first. It returns errStopped when the
// claim is drained meanwhile; they are then handed back.
func (l *lane[T]) settleRejected(ctx context.Context) error {
	for {
		if err := l.work(ctx); err != nil {
			return err
		}
		if !l.recall() {
			return nil
		}
	}
}

// recall waits for the letters of the rejected messages, and takes those that are recalled to hand, before all others. It
// tells whether there were any.
func (l *lane[T]) recall() bool {
	if len(l.rejected) == 0 {
		return false
	}
	<-l.rejection.over
	recalled := l.rejection.recalls()
	var again []passage[T]
	for _, f := range l.rejected {
		if _, ok := recalled[mark{claim: l.claim, n: f.n}]; ok {
			again = append(again, passage[T]{flight: f})
		}
	}
	l.rejected = nil
	l.hand = slices.Insert(l.hand, 0, again...)
	return len(again) > 0
}

// runStages runs the stages with the context that the program makes for the message. When they end the goroutine, that is
// the message's failure.
func (l *lane[T]) runStages(ctx context.Context, p *passage[T]) {
	l.n.Store(int64(p.n))
	p.over = true
	returned := false
	defer func() {
		if !returned {
			p.err = l.exited()
		}
		l.stage.Store(nil)
	}()
	if l.claim.engine.cfg.Context != nil {
		ctx, p.err = l.claim.engine.context(ctx, *p.message)
	}
	if p.err == nil {
		p.out, p.err = l.run(ctx, &l.walk, *p.message)
	}
	returned = true
}

// exited is the failure of the message at hand that its stage, or Config.Context, has ended the goroutine.
func (l *lane[T]) exited() *failure {
	f := &failure{reason: dlq.Panicked, stage: contextStage, err: newPanicError(errGoexit)}
	if at := l.stage.Load(); at != nil {
		f.stage, f.attempts = at.name, 1
		l.claim.engine.troubles.clear(at.place(&l.walk), &l.walk)
	}
	return f
}

// deliver hands the values that the stages made of a message to the outlet.
func (l *lane[T]) deliver(f flight, out values[T]) error {
	if !out.several {
		return l.add(f, 0, out.one)
	}
	if len(out.many) == 0 {
		l.skip(f)
		return nil
	}
	l.claim.expect(f.n, len(out.many))
	for i, v := range out.many {
		if err := l.add(f, i, v); err != nil {
			return err
		}
	}
	return nil
}

func (l *lane[T]) add(f flight, index int, v T) error {
	size := 0
	if f.fetch.uncharged.Load() > 0 {
		size = int(f.fetch.uncharged.Swap(0))
	}
	err := l.outlet.add(l, holdfast.Item[T]{Source: f.message, Index: index, Value: v}, mark{claim: l.claim, n: f.n}, size)
	if err != nil {
		l.claim.handBack(f.n)
	}
	return err
}

func (l *lane[T]) skip(f flight) {
	l.claim.engine.counts.skipped.Add(1)
	l.claim.settle(mark{l.claim, f.n})
}
