package kafkax

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

// everyClock is after how many messages of a batch the clock is looked at, once there are as many. Looking each time would
// be a tenth of the work.
const everyClock = 32

// writer writes to one partition, one batch after the other. What comes while a batch is on its way gathers in the next
// ones. It runs in a goroutine as long as there is something to write.
type writer struct {
	producer *Producer
	route    *route
	at       place

	mu      sync.Mutex
	closed  bool
	running bool
	queue   []*batch // The last one gathers.
	now     int64    // For messages without a time, in milliseconds since 1970.

	// Of the goroutine: who it is to the broker, and the sequence number of the next message. It moves on with an
	// acknowledgement, and starts again with the next identity when a batch's fate is unknown.
	identity identity
	sequence int32
}

func newWriter(r *route, partition int) *writer {
	return &writer{
		producer: r.producer, route: r, at: place{r.topic, partition}, closed: r.producer.open.Err() != nil,
		identity: r.producer.identities.last(),
	}
}

// add puts messages into the queue: those that entries are of, by their index. It returns false when it is closed, or its
// route is forgotten.
func (w *writer) add(messages []holdfast.Message, entries []entry) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || !w.running && !w.route.enter() {
		return false
	}
	for _, e := range entries {
		n := len(w.queue)
		if n == 0 || w.queue[n-1].Size()+e.size > w.producer.cfg.BatchBytes || w.queue[n-1].drained != e.drained {
			w.queue = append(w.queue, w.producer.newBatch(w.at))
			n++
		}
		b := w.queue[n-1]
		if b.Len() < everyClock || b.Len()%everyClock == 0 {
			w.now = time.Now().UnixMilli()
		}
		b.add(&messages[e.index], e, w.now)
	}
	if !w.running {
		w.running = true
		w.producer.work.Go(w.run)
	}
	return true
}

// close refuses later messages.
func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
}

func (w *writer) run() {
	for b := w.next(); b != nil; b = w.next() {
		b = w.admit(b)
		if b.Len() > 0 && w.divert(b) {
			w.write(b)
		}
		w.producer.release(b)
		w.route.age()
	}
}

func (w *writer) next() *batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.running = false
		w.route.leave()
		return nil
	}
	b := w.queue[0]
	w.queue[0] = nil
	w.queue = w.queue[1:]
	return b
}

// admit leaves out of a batch what must not be sent any more.
func (w *writer) admit(b *batch) *batch {
	dropped := make(map[int]bool)
	for i := range b.entries {
		o, ok := b.entries[i].claim(w.at)
		if o != nil {
			w.producer.settle(&b.entries[i], o)
		}
		if !ok {
			dropped[i] = true
		}
	}
	if len(dropped) == 0 {
		return b
	}
	return w.without(b, dropped)
}

// without is the batch without some of its messages.
func (w *writer) without(b *batch, left map[int]bool) *batch {
	defer w.producer.release(b)
	return b.pick(func(i int) bool { return !left[i] })
}

// write writes a batch and tells its callers. A batch that is refused for what is in it is halved until those at fault
// stand alone, unless it may be written already.
func (w *writer) write(b *batch) {
	err := w.deliver(b)
	switch {
	case err == nil:
		w.settle(b, nil)
	case w.producer.spools(err) && !b.drained:
		w.spool(b)
	case w.producer.spools(err): // What is behind it is not barred, it goes to the spool.
		w.settle(b, &outcome{at: w.at, err: err, ambiguous: b.uncertain})
	case b.uncertain:
		w.fail(b, &outcome{at: w.at, err: err, ambiguous: true, hold: holdfast.IsHold(err)})
	case !holdfast.IsPermanent(err):
		w.fail(b, failedAt(w.at, err))
	case b.Len() == 1:
		w.settle(b, failedAt(w.at, err))
	default:
		half := b.Len() / 2
		w.putBack(b.pick(func(i int) bool { return i < half }), b.pick(func(i int) bool { return i >= half }))
	}
}

// fail settles a batch that failed, and all that is queued behind it: that must not overtake it. What comes after a
// caller has been told is not concerned.
func (w *writer) fail(b *batch, o *outcome) {
	w.mu.Lock()
	queue := w.queue
	w.queue = nil
	w.mu.Unlock()
	w.settle(b, o)
	behind := barred(w.at, o.err)
	for _, b := range queue {
		w.settle(b, behind)
		w.producer.release(b)
	}
}

// putBack makes batches the next ones.
func (w *writer) putBack(batches ...*batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(batches, w.queue...)
}

func (w *writer) settle(b *batch, o *outcome) {
	if o == nil || !b.drained { // What failed to leave the spool is still there.
		w.producer.counts.note(b.Len(), o)
	}
	w.producer.tell(b, o)
}

// deliver tries until a batch is acknowledged or there is no point in going on.
func (w *writer) deliver(b *batch) error {
	p := w.producer
	if err := b.Seal(b.codec); err != nil {
		return err
	}
	lost := false
	policy := p.cfg.Retry
	policy.Retryable = func(err error) bool {
		worth := p.cfg.Retry.Retryable
		return !lost && !p.IsOpen() && (worth == nil || worth(err))
	}
	try := func(ctx context.Context) error {
		permit, err := p.cfg.Breaker.Allow()
		if err != nil {
			return err
		}
		b.admitted = p.cfg.Breaker.Stats().Since
		known := w.route.known.Load()
		err = w.attempt(ctx, b)
		outcome := permit.Done
		if _, ok := errors.AsType[*companionError](err); ok || errors.Is(err, errOutdated) {
			outcome = func(err error) { permit.DoneAs(breaker.Ignore, err) }
		}
		switch {
		case err == nil, b.uncertain && errors.Is(err, kafka.DuplicateSequenceNumber): // An earlier attempt was served.
			err = nil
		case isSequenceError(err):
			// The broker does not know what was acknowledged before, so it cannot tell whether it has this batch.
			lost = b.uncertain
			w.forget()
		default:
			verdict, written := judge(err)
			b.uncertain = b.uncertain || written
			err = w.reroute(ctx, verdict, known)
		}
		outcome(err)
		return err
	}
	err := retry.Do(p.net.life, policy, func(ctx context.Context) error {
		err := try(ctx)
		for errors.Is(err, errOutdated) { // It was not sent: that was no attempt.
			err = try(ctx)
		}
		return err
	})
	switch {
	case err == nil:
		w.sequence += int32(b.Len())
	case b.uncertain:
		w.forget()
	}
	if err != nil && p.net.life.Err() != nil {
		return fmt.Errorf("%w: %w", ErrProducerClosed, err)
	}
	return err
}

// attempt sends a batch once. The same batch gets the same sequence numbers again, as long as the broker knows us.
func (w *writer) attempt(ctx context.Context, b *batch) error {
	addr, err := w.route.leader(ctx, w.at.partition)
	if err != nil {
		return err
	}
	if err := w.identify(ctx, addr, b.Len()); err != nil {
		return err
	}
	b.Stamp(w.identity.id, w.identity.epoch, w.sequence)
	err = w.producer.link(addr).send(b)
	b.tried = true
	return err
}

// reroute finds the leader anew if an attempt failed for want of it. What it finds may tell more than err.
func (w *writer) reroute(ctx context.Context, err error, known *topicLayout) error {
	if !isStale(err) || errors.Is(err, breaker.ErrCircuitOpen) || errors.Is(err, errOutdated) {
		return err
	}
	l, lookErr := w.route.refresh(ctx, known)
	switch {
	case errors.Is(lookErr, kafka.UnknownTopicOrPartition), lookErr == nil && w.at.partition >= len(l.leaders):
		return holdfast.Hold(err)
	case lookErr != nil && isUnsent(err):
		return lookErr // Without a layout, all that is known is that there is no way to the leader.
	}
	return err
}

// identify sees to it that the next n messages have sequence numbers.
func (w *writer) identify(ctx context.Context, addr string, n int) error {
	if w.producer.cfg.DisableIdempotence {
		w.identity, w.sequence = identity{id: -1, epoch: -1}, -1
		return nil
	}
	if w.sequence > math.MaxInt32-int32(n) {
		w.forget() // Kafka would begin again at 0. So do we, as somebody else.
	}
	if w.identity.number > 0 && !w.identity.spent {
		return nil
	}
	fresh, err := w.producer.identities.after(ctx, addr, w.identity.number)
	if err != nil {
		return err
	}
	w.identity, w.sequence = fresh, 0
	return nil
}

// forget gives up the identity: its sequence numbers may be taken.
func (w *writer) forget() {
	w.identity.spent = true
}
