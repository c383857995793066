package pipeline

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/internal/mutant"
)

// outlet gathers the items of many lanes into batches and writes them to the sink, several at a time. A lane's items are
// in one batch at a time, so that they keep their order through every retry: while that is on its way, its others queue.
// So however many partitions there are, quiet ones share a batch, and busy ones are written side by side. The messages of
// a pipeline have one outlet, those on their way home another.
//
// A batch whose fate is unknown while the circuit is open is held aside: what comes after it in its lanes must not be
// written before it, but may be dead-lettered, so a further batch is taken of them.
type outlet[T any] struct {
	engine   *engine
	sink     Sink[T]
	gate     *gate
	place    string // Its name in health.
	patience time.Duration
	oneSpan  bool // A batch holds items of one claim only.
	outage   outage

	kick chan struct{} // Holds a token when run has something to look at.

	mu      sync.Mutex
	lanes   map[*lane[T]]struct{}
	flying  map[*batch[T]]struct{}
	writers int           // How many more batches may be taken.
	spare   []piece[T]    // The largest line that was given up.
	queued  load          // What lies in all lanes.
	ready   load          // What lies in lanes of which a batch may be taken.
	full    bool          // Somebody waits for room,
	urgent  bool          // which writing what is ready would make.
	room    chan struct{} // Closed when there may be room again.
}

// load is a number of items, and what they weigh.
type load struct{ items, bytes int }

func (l *load) add(m load) { l.items, l.bytes = l.items+m.items, l.bytes+m.bytes }
func (l *load) sub(m load) { l.items, l.bytes = l.items-m.items, l.bytes-m.bytes }

// fills tells whether l is enough for a batch.
func (l load) fills(b BatchConfig) bool { return l.items >= b.Count || l.bytes >= b.Bytes }

// leaves tells whether there is room for one more in so many batches.
func (l load) leaves(one load, b BatchConfig, batches int) bool {
	return l.items/batches < b.Count && (l.bytes+one.bytes-1)/batches < b.Bytes // The bounds may be as large as ints are.
}

// line is a lane's part of an outlet.
type line[T any] struct {
	queue []piece[T] // Given up when it is empty, or every lane would keep what its largest batch took.
	usual int        // How many it had when it was last emptied.
	load  load
	since time.Time // When the first of them came.

	flying []*batch[T] // Those on their way with items of this lane. Empty when the lane is not ordered.
	busy   bool        // One of them is not held aside.
}

// piece is an item that is to be written.
type piece[T any] struct {
	item holdfast.Item[T]
	mark mark
	size int
}

func newOutlet[T any](e *engine, sink Sink[T], g *gate, patience time.Duration, writers int, place string) *outlet[T] {
	if mutant.Is("patience: a message does not wait for an open circuit") && place == sinkStage ||
		mutant.Is("home: a letter on its way home is written again") && place == homeSink {
		patience = 0
	}
	return &outlet[T]{
		engine: e, sink: sink, gate: g, place: place, patience: patience, writers: writers,
		oneSpan: wantsOneSpan(sink),
		kick:    make(chan struct{}, 1), room: make(chan struct{}),
		lanes: make(map[*lane[T]]struct{}), flying: make(map[*batch[T]]struct{}),
	}
}

// open and close are for the lanes of a claim.
func (o *outlet[T]) open(lanes []*lane[T]) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range lanes {
		o.lanes[l] = struct{}{}
	}
}

func (o *outlet[T]) close(lanes []*lane[T]) {
	o.mu.Lock()
	for _, l := range lanes {
		o.empty(l)
		delete(o.lanes, l)
	}
	for b := range o.flying {
		if b.abandon != nil {
			b.abandon()
		}
	}
	o.mu.Unlock()
	o.nudge() // What is on its way may be nobody's any more.
}

// add puts an item into its lane's line. It waits while there is no room, and returns errStopped when the item's claim is
// drained meanwhile.
func (o *outlet[T]) add(l *lane[T], item holdfast.Item[T], m mark, size int) error {
	one := load{1, size}
	for {
		o.mu.Lock()
		if o.fits(l, one) {
			if len(l.line.queue) == 0 {
				l.line.since = time.Now()
				l.line.queue = o.begin(l.line.usual)
			}
			l.line.queue = append(l.line.queue, piece[T]{item, m, size})
			l.line.load.add(one)
			o.queued.add(one)
			notable := false
			if !l.line.busy {
				before := o.ready
				o.ready.add(one)
				limits := o.engine.cfg.Batch
				notable = before.items == 0 || (o.ready.fills(limits) && !before.fills(limits)) || l.claim.full.Load()
			}
			o.mu.Unlock()
			if notable {
				signal(o.kick)
			}
			return nil
		}
		o.full = true
		o.urgent = o.urgent || !l.line.busy || !o.queued.leaves(one, o.engine.cfg.Batch, o.engine.cfg.Batch.Writers+1)
		room := o.room
		o.mu.Unlock()
		signal(o.kick)
		select {
		case <-room:
		case <-m.claim.closing:
			return errStopped
		}
	}
}

// fits tells whether one more item has room. A lane may gather one batch, all lanes one more than there are writers, and
// those that have one on their way as many as there are writers: so lanes that wait do not crowd out the others. A lane's
// first item always fits.
func (o *outlet[T]) fits(l *lane[T], one load) bool {
	limits := o.engine.cfg.Batch
	busy := o.queued
	busy.sub(o.ready)
	return l.line.load.items == 0 || (l.line.load.leaves(one, limits, 1) &&
		o.queued.leaves(one, limits, limits.Writers+1) &&
		(!l.line.busy || busy.leaves(one, limits, limits.Writers)))
}

// flush has everything of draining claims written, or looked at, without waiting for more.
func (o *outlet[T]) flush() { o.nudge() }

// nudge wakes everybody who waits in the outlet.
func (o *outlet[T]) nudge() {
	signal(o.kick)
	o.mu.Lock()
	defer o.mu.Unlock()
	for b := range o.flying {
		signal(b.kick)
	}
}

// run takes batches and has them delivered until ctx ends.
func (o *outlet[T]) run(ctx context.Context) {
	var deliveries sync.WaitGroup
	defer deliveries.Wait()
	for ctx.Err() == nil {
		b, wait := o.next()
		if b == nil {
			sleep(ctx, wait, o.kick, nil)
			continue
		}
		deliveries.Go(func() {
			defer o.landed(b)
			o.deliver(ctx, b)
		})
	}
}

// next takes the next batch if it is due, and otherwise says when it will be.
func (o *outlet[T]) next() (*batch[T], time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writers == 0 || o.ready.items == 0 {
		return nil, forever
	}
	limits := o.engine.cfg.Batch
	var ready []*lane[T]
	due, began := o.urgent || o.ready.fills(limits), time.Now()
	for l := range o.lanes {
		if len(l.line.queue) == 0 || l.line.busy {
			continue
		}
		if l.claim.draining() {
			if o.handBackLate(l); len(l.line.queue) == 0 {
				continue
			}
			due = true
		}
		due = due || l.claim.full.Load()
		ready = append(ready, l)
		if l.line.since.Before(began) {
			began = l.line.since
		}
	}
	if len(ready) == 0 {
		return nil, forever
	}
	if left := limits.Delay - time.Since(began); left > 0 && !due {
		return nil, left
	}
	return o.take(ready), 0
}

// take takes as much as a batch holds from the lanes that have waited longest.
func (o *outlet[T]) take(ready []*lane[T]) *batch[T] {
	slices.SortFunc(ready, func(x, y *lane[T]) int { return x.line.since.Compare(y.line.since) })
	limits := o.engine.cfg.Batch
	b := newBatch[T](min(o.ready.items, limits.Count))
	for _, l := range ready {
		if o.oneSpan && len(b.marks) > 0 && b.marks[0].claim != l.claim {
			continue
		}
		n := b.takeFrom(l, limits)
		if n == 0 {
			break
		}
		o.drop(l, n)
		if l.ordered && !mutant.Is("9 a lane has several batches on their way") {
			b.behind = append(b.behind, l.line.flying...)
			b.lanes = append(b.lanes, l)
			l.line.flying = append(l.line.flying, b)
			o.look(l)
		}
	}
	b.span(o.engine.cfg.Order == ByPartition)
	o.writers--
	o.flying[b] = struct{}{}
	o.makeRoom()
	return b
}

// drop takes the first n pieces out of a lane's line.
func (o *outlet[T]) drop(l *lane[T], n int) {
	var gone load
	for _, p := range l.line.queue[:n] {
		gone.add(load{1, p.size})
	}
	o.shed(l, gone)
	if n == len(l.line.queue) {
		if cap(l.line.queue) > cap(o.spare) {
			clear(l.line.queue)
			o.spare = l.line.queue[:0]
		}
		l.line.queue, l.line.usual = nil, n
		return
	}
	l.line.queue = slices.Clone(l.line.queue[n:])
	l.line.since = time.Now()
}

// begin is an empty line for so many pieces: the one that was given up last if it suits, as it does a lane that is busy.
func (o *outlet[T]) begin(pieces int) []piece[T] {
	if n := cap(o.spare); n/2 < pieces && pieces <= n {
		line := o.spare
		o.spare = nil
		return line
	}
	return make([]piece[T], 0, pieces)
}

// shed notes that a lane's line has become lighter.
func (o *outlet[T]) shed(l *lane[T], gone load) {
	l.line.load.sub(gone)
	o.queued.sub(gone)
	if !l.line.busy {
		o.ready.sub(gone)
	}
}

// empty drops all of a lane's line.
func (o *outlet[T]) empty(l *lane[T]) {
	if len(l.line.queue) > 0 {
		o.drop(l, len(l.line.queue))
		o.makeRoom()
	}
}

func (o *outlet[T]) makeRoom() {
	if o.full {
		o.full, o.urgent = false, false
		close(o.room)
		o.room = make(chan struct{})
	}
}

// look finds out whether a batch may be taken of a lane.
func (o *outlet[T]) look(l *lane[T]) {
	busy := slices.ContainsFunc(l.line.flying, func(b *batch[T]) bool { return b.held == nil })
	switch {
	case busy && !l.line.busy:
		o.ready.sub(l.line.load)
	case !busy && l.line.busy:
		o.ready.add(l.line.load)
	}
	l.line.busy = busy
}

// leave has lanes leave b that have nothing in it any more.
func (o *outlet[T]) leave(b *batch[T]) {
	o.mu.Lock()
	b.lanes = slices.DeleteFunc(b.lanes, func(l *lane[T]) bool {
		if slices.Contains(b.of, l) {
			return false
		}
		l.line.flying = slices.DeleteFunc(l.line.flying, func(f *batch[T]) bool { return f == b })
		o.look(l)
		return true
	})
	o.makeRoom()
	o.mu.Unlock()
	signal(o.kick)
}

// landed gives up what b occupied.
func (o *outlet[T]) landed(b *batch[T]) {
	o.mu.Lock()
	for _, l := range b.lanes {
		l.line.flying = slices.DeleteFunc(l.line.flying, func(f *batch[T]) bool { return f == b })
		o.look(l)
	}
	delete(o.flying, b)
	if b.held == nil {
		o.writers++
	}
	close(b.landed)
	o.makeRoom()
	o.mu.Unlock()
	signal(o.kick)
}

// hold sets b aside for the reason why: others may have its writer, and be taken of its lanes.
func (o *outlet[T]) hold(b *batch[T], why error) {
	o.mu.Lock()
	if b.held == nil {
		o.writers++
	}
	b.held = why
	for _, l := range b.lanes {
		o.look(l)
	}
	o.mu.Unlock()
	signal(o.kick)
}

// ahead is a batch that is held aside and has to be written before b, and why it is.
func (o *outlet[T]) ahead(b *batch[T]) (held *batch[T], why error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b.behind = slices.DeleteFunc(b.behind, func(h *batch[T]) bool { return isClosed(h.landed) })
	if len(b.behind) == 0 {
		return nil, nil
	}
	return b.behind[0], b.behind[0].held
}

// handBackLate hands back what a lane has queued that is behind a message that was handed back.
func (o *outlet[T]) handBackLate(l *lane[T]) {
	var gone load
	l.line.queue = slices.DeleteFunc(l.line.queue, func(p piece[T]) bool {
		c := p.mark.claim
		if !c.isBehindReturned(p.mark.n) {
			return false
		}
		c.handBack(p.mark.n)
		gone.add(load{1, p.size})
		return true
	})
	o.shed(l, gone)
	o.makeRoom()
}

// handBackBehind hands back what draining claims have queued where it cannot be written while b waits.
func (o *outlet[T]) handBackBehind(b *batch[T]) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for l := range o.lanes {
		if len(l.line.queue) == 0 || !l.claim.draining() || (o.writers > 0 && !slices.Contains(l.line.flying, b)) {
			continue
		}
		for _, p := range l.line.queue {
			p.mark.claim.handBack(p.mark.n)
		}
		o.empty(l)
	}
}
