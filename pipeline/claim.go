package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/internal/mutant"
)

// claim is one partition in the pipeline's hands: what of it is in flight, and what is settled.
type claim struct {
	engine    *engine
	source    holdfast.Claim
	topic     string
	partition int
	home      bool          // Its messages are letters on their way home.
	patience  time.Duration // How long a message waits for an open circuit; negative: as long as it takes.
	spanned   int64         // Where the next span begins. The outlet's, under its lock.

	open    context.Context // For waiting only: ends when the drain begins.
	closing <-chan struct{} // Closed when the drain begins: nothing new is started after it.
	ended   <-chan struct{} // Closed when the claim is lost, or its time to drain is spent.

	// full says that its goroutine waits because as much is in flight as may be.
	full atomic.Bool

	// returned is the first message that was handed back, and one more for none to be 0.
	returned atomic.Int64

	mu       sync.Mutex
	walks    []*walk // Its lanes.
	tracker  tracker
	behind   behind
	released bool
	next     int64
	dead     []grave       // Letters that are to be written, see undertake.
	writing  []grave       // Letters that are being written.
	stuck    bool          // They cannot be.
	buried   bool          // Nobody writes them any more.
	changed  chan struct{} // Holds a token when the claim's goroutine has something to look at.
	mourn    chan struct{} // Holds a token when undertake has.
}

// endsLoops says whether a claim's letters that fail again and again are parked some day.
func endsLoops(c holdfast.Claim) bool {
	letters, ok := c.(interface{ EndsLoops() bool })
	return ok && letters.EndsLoops()
}

// serve runs one claim from its first message to its drain.
func serve[T any](ctx context.Context, e *engine, source holdfast.Claim, run call[holdfast.Message, T], o *outlet[T], home bool) error {
	open, closeDown := context.WithCancel(ctx)
	defer closeDown()
	c := newClaim(ctx, open, e, source, o.patience, home)
	if topic := deadLetterTopic(e.cfg); !home && topic != "" && c.topic == topic && !endsLoops(source) {
		return fmt.Errorf("pipeline: %s is the topic that letters go to: a pipeline that fed on its own letters would not end; redrive them with a dlq.Source that has Parking", topic)
	}
	e.claims.add(c)
	defer e.claims.remove(c)
	defer e.troubles.clearPlace(c.String())

	drained := make(chan struct{})
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer close(drained)
	helpers.Go(func() {
		select {
		case <-source.Revoked():
			closeDown()
		case <-open.Done():
		}
	})
	helpers.Go(func() { c.undertake(ctx, drained) })

	ls := openLanes(ctx, c, run, o)
	e.tell(Event{Kind: Claimed, Topic: c.topic, Partition: c.partition, Offset: c.next})
	var err error
	var in intake
	outlast(func() { err = consume(ctx, c, ls, o, &in) })
	closeDown()
	ls.close(ctx)
	left := c.drain(ctx, o.flush)
	o.close(ls.all)
	e.tell(Event{Kind: Released, Topic: c.topic, Partition: c.partition, Offset: c.next, Err: left})
	if errors.Is(err, holdfast.ErrRevoked) || errors.Is(err, errStopped) || ctx.Err() != nil {
		err = nil
	}
	return errors.Join(left, err)
}

// intake is what is fetched of a claim and not taken to a lane yet.
type intake struct {
	messages []holdfast.Message
	fetched  int64
	fetch    *fetch
}

// consume fetches messages and takes them to their lanes until the claim's drain begins. What is between the two is kept in
// in, so that consume can begin anew when a stage has ended the goroutine.
func consume[T any](ctx context.Context, c *claim, ls *lanes[T], o *outlet[T], in *intake) error {
	for {
		for len(in.messages) > 0 {
			m := &in.messages[0]
			n, ok := c.tryTake(m.ClaimOffset(), in.fetched)
			if !ok {
				if err := ls.idle(ctx); err != nil {
					return err
				}
				signal(o.kick) // What is full is not waited with.
				var err error
				if n, err = c.take(m.ClaimOffset(), in.fetched); err != nil {
					return err
				}
			}
			in.messages = in.messages[1:]
			if err := ls.take(ctx, flight{message: m, n: n, fetch: in.fetch}); err != nil {
				return err
			}
		}
		if err := ls.idle(ctx); err != nil {
			return err
		}
		if c.home && o.gate.isOpen() {
			select {
			case <-o.gate.ready():
			case <-c.closing:
				return errStopped
			}
		}
		in.messages = nil
		c.fetching(true)
		messages, err := c.source.Fetch(ctx)
		c.fetching(false)
		if err != nil {
			return err
		}
		size := 0
		for i := range messages {
			size += sizeOf(&messages[i])
		}
		*in = intake{messages: messages, fetched: c.engine.now(), fetch: &fetch{}}
		in.fetch.uncharged.Store(int64(size))
	}
}

// behind is since when nothing has been fetched though there is something to fetch, as far as anybody has looked.
type behind struct {
	fetching bool
	since    int64 // 0: it is not so.
	settled  int64 // How far the source was then, which may pass over messages.
}

// fetching notes that a Fetch begins or has ended.
func (c *claim) fetching(begins bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behind = behind{fetching: begins}
}

// look notes how far the source is, and says for how long it has not gone on.
func (b *behind) look(now, settled, lag int64) time.Duration {
	switch {
	case !b.fetching || lag <= 0:
		return 0
	case b.since == 0 || b.settled != settled:
		b.since, b.settled = now, settled
	}
	return time.Duration(now - b.since)
}

func newClaim(ctx, open context.Context, e *engine, source holdfast.Claim, patience time.Duration, home bool) *claim {
	c := &claim{
		engine: e, source: source, patience: patience, home: home,
		open: open, closing: open.Done(), ended: ctx.Done(),
		changed: make(chan struct{}, 1), mourn: make(chan struct{}, 1),
	}
	c.topic, c.partition = source.Partition()
	c.next, _ = source.Committed()
	c.spanned = c.next
	return c
}

// String is the claim's partition, for logs and health.
func (c *claim) String() string { return c.topic + "/" + strconv.Itoa(c.partition) }

// take notes a message in flight and returns its number. It waits while too many are, or while letters cannot be written.
func (c *claim) take(offset, fetched int64) (n int, err error) {
	for {
		if n, ok := c.tryTake(offset, fetched); ok {
			return n, nil
		}
		select {
		case <-c.changed:
		case <-c.closing:
			return 0, errStopped
		}
	}
}

func (c *claim) tryTake(offset, fetched int64) (n int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	full := c.tracker.span() >= c.engine.cfg.MaxInFlight && !mutant.Is("8 a partition has messages in flight without bound")
	if full != c.full.Load() {
		c.full.Store(full)
	}
	if full || c.stuck || len(c.dead) >= letterBatch {
		return 0, false
	}
	if mutant.Is("2 a message is committed when it is fetched") {
		c.source.Commit(offset + 1)
	}
	return c.tracker.add(offset, fetched), true
}

// fetchedAt is when message n was fetched.
func (c *claim) fetchedAt(n int) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tracker.fetchedAt(n)
}

// expect notes that message n has become several values.
func (c *claim) expect(n, values int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tracker.expect(n, values)
}

// settle settles a value of each of its messages, and commits as far as all are settled. After the claim is released it
// does nothing.
func (c *claim) settle(marks ...mark) {
	c.mu.Lock()
	if c.released && !mutant.Is("3 a claim that is released goes on committing") {
		c.mu.Unlock()
		c.engine.counts.late.Add(uint64(len(marks)))
		return
	}
	moved := false
	for _, m := range marks {
		if mutant.Is("2 a message is committed before those that came earlier") {
			c.next, moved = max(c.next, c.tracker.slot(m.n).offset+1), true
		}
		if next, ok := c.tracker.settle(m.n); ok {
			c.next, moved = next, true
		}
	}
	if moved {
		// Under the lock, so that nothing is committed after release. Commit only notes the offset.
		c.source.Commit(c.next)
	}
	c.mu.Unlock()
	signal(c.changed)
}

// handBack gives a message in flight up: whoever owns the partition next reads it again.
func (c *claim) handBack(n int) {
	if mutant.Is("1 what waits is settled at the drain instead of handed back") {
		c.settle(mark{c, n})
		return
	}
	c.mu.Lock()
	c.giveUp(n)
	c.mu.Unlock()
	signal(c.changed)
}

// giveUp is handBack with the lock held.
func (c *claim) giveUp(n int) {
	if !isClosed(c.ended) { // What is in flight when the time is over is left, and told of.
		c.tracker.handBack(n)
	}
	if first := c.returned.Load(); first == 0 || int64(n) < first-1 {
		c.returned.Store(int64(n) + 1)
	}
}

// isBehindReturned tells whether a message before n was handed back. Written now, n would overtake it, and be written again
// by the next owner, who begins with that one.
func (c *claim) isBehindReturned(n int) bool {
	first := c.returned.Load()
	return first > 0 && int64(n) >= first && !mutant.Is("9 what is behind a message that is handed back is written")
}

// draining tells whether the claim's drain has begun.
func (c *claim) draining() bool { return isClosed(c.closing) }

// gone tells whether the claim is released.
func (c *claim) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.released
}

// drain waits until everything in flight is settled or handed back, or ctx ends; then the claim is released. What was
// left in flight is returned as a *LeftError.
func (c *claim) drain(ctx context.Context, flush func()) error {
	flush()
	for ctx.Err() == nil && c.inFlight() > 0 {
		select {
		case <-c.changed:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.released = true
	if left := c.tracker.inFlight(); left > 0 {
		return &LeftError{Topic: c.topic, Partition: c.partition, Messages: left, Offset: c.next, Cause: context.Cause(ctx)}
	}
	return nil
}

func (c *claim) inFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tracker.inFlight()
}

// pause waits for d. It returns errStopped when the claim's drain begins first.
func (c *claim) pause(d time.Duration) error {
	sleep(c.open, d, nil, nil)
	if c.draining() {
		return errStopped
	}
	return nil
}

// signal leaves a token, if there is none.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// LeftError says what was still in flight of a partition when the time to drain it was over. It is not committed and
// will be processed again.
type LeftError struct {
	Topic     string
	Partition int
	Messages  int   // Fetched and not settled.
	Offset    int64 // Where the next owner goes on.
	Cause     error // With which the claim's context ended.
}

// Error names the partition, and what was left from where on.
func (e *LeftError) Error() string {
	return fmt.Sprintf("pipeline: %s/%d: %d messages were still in flight when the drain ended, from offset %d on they will be processed again: %v",
		e.Topic, e.Partition, e.Messages, e.Offset, e.Cause)
}

// Unwrap gives Cause.
func (e *LeftError) Unwrap() error { return e.Cause }

// mark is a message in flight.
type mark struct {
	claim *claim
	n     int
}
