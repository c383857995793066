package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

// letterBatch is how many of a claim's letters are written together at the most.
const letterBatch = 500

// claim is one partition in the pipeline's hands: what of it is in flight, and what is settled.
type claim struct {
	engine    *engine
	source    holdfast.Claim
	topic     string
	partition int
	home      bool          // Its messages are letters on their way home.
	patience  time.Duration // How long a message waits for an open circuit; negative: as long as it takes.

	spanned int64 // Where the next span begins. The lane's.

	closeOnce sync.Once
	closing   chan struct{} // Closed when the drain begins: nothing new is started after it.

	mu       sync.Mutex
	tracker  tracker
	released bool
	next     int64
	changed  chan struct{} // Holds a token when something was settled or handed back.
}

// serve runs one claim from its first message to its drain.
func serve[T any](ctx context.Context, e *engine, source holdfast.Claim, run call[holdfast.Message, T], l *lane[T], home bool) error {
	c := newClaim(e, source, l.patience, home)
	e.claims.add(c)
	defer e.claims.remove(c)
	defer e.troubles.clearPlace(c.String())

	var watch sync.WaitGroup
	defer watch.Wait()
	defer c.close()
	watch.Go(func() {
		select {
		case <-source.Revoked():
		case <-ctx.Done():
		case <-c.closing:
		}
		c.close()
	})

	err := consume(ctx, c, run, l)
	c.close()
	if left := c.drain(ctx, l.flush); left != nil {
		return left
	}
	if errors.Is(err, holdfast.ErrRevoked) || errors.Is(err, errStopped) || ctx.Err() != nil {
		return nil
	}
	return err
}

func newClaim(e *engine, source holdfast.Claim, patience time.Duration, home bool) *claim {
	c := &claim{
		engine: e, source: source, patience: patience, home: home,
		closing: make(chan struct{}), changed: make(chan struct{}, 1),
	}
	c.topic, c.partition = source.Partition()
	c.next, _ = source.Committed()
	c.spanned = c.next
	return c
}

// consume fetches and runs messages until the claim's drain begins.
func consume[T any](ctx context.Context, c *claim, run call[holdfast.Message, T], l *lane[T]) error {
	for {
		if c.home {
			if err := c.waitFor(ctx, l.circuit, 0); err != nil {
				return err
			}
		}
		messages, err := c.source.Fetch(ctx)
		if err != nil {
			return err
		}
		if err := process(ctx, c, messages, run, l); err != nil {
			return err
		}
	}
}

// process takes messages through the stages and hands the values to the lane. Letters are written together, at the
// latest when the messages are through.
func process[T any](ctx context.Context, c *claim, messages []holdfast.Message, run call[holdfast.Message, T], l *lane[T]) error {
	var dead []grave
	fetched := c.engine.now()
	for i := range messages {
		if c.draining() {
			handBack(dead)
			return errStopped
		}
		m := &messages[i]
		n := c.track(m.ClaimOffset(), fetched)
		out, err := through(ctx, c, *m, run)
		var f *failure
		switch {
		case err == nil:
			err = deliver(c, m, n, out, l)
		case errors.Is(err, holdfast.ErrSkip):
			c.engine.counts.skipped.Add(1)
			c.settle(n)
			err = nil
		case errors.As(err, &f):
			dead = append(dead, grave{mark{c, n}, c.engine.letter(m, f), 1})
			err = nil
		}
		if err != nil {
			c.handBack(n)
			handBack(dead)
			return errStopped
		}
		if len(dead) == letterBatch || i == len(messages)-1 {
			if left := c.engine.bury(ctx, dead, c.String()+" dead letters", c.pause); len(left) > 0 {
				handBack(left)
				return errStopped
			}
			dead = dead[:0]
		}
	}
	return nil
}

// through takes one message through the stages, with the context that the program makes for it.
func through[T any](ctx context.Context, c *claim, m holdfast.Message, run call[holdfast.Message, T]) (values[T], error) {
	if c.engine.cfg.Context == nil {
		return run(ctx, c, m)
	}
	traced, err := c.engine.context(ctx, m)
	if err != nil {
		return values[T]{}, err
	}
	return run(traced, c, m)
}

// deliver hands the values that the stages made of message n to the lane.
func deliver[T any](c *claim, m *holdfast.Message, n int, out values[T], l *lane[T]) error {
	if !out.several {
		return l.add(holdfast.Item[T]{Source: m, Value: out.one}, mark{c, n})
	}
	if len(out.many) == 0 {
		c.engine.counts.skipped.Add(1)
		c.settle(n)
		return nil
	}
	c.expect(n, len(out.many))
	for _, v := range out.many {
		if err := l.add(holdfast.Item[T]{Source: m, Value: v}, mark{c, n}); err != nil {
			return err
		}
	}
	return nil
}

// String is the claim's partition, for logs and health.
func (c *claim) String() string { return c.topic + "/" + strconv.Itoa(c.partition) }

// track notes a message in flight.
func (c *claim) track(offset, fetched int64) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tracker.add(offset, fetched)
}

// expect notes that message n has become several values.
func (c *claim) expect(n, values int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tracker.expect(n, values)
}

// settle settles a value of each of the messages, and commits as far as all are settled. After the claim is released it
// does nothing.
func (c *claim) settle(numbers ...int) {
	c.mu.Lock()
	if c.released {
		c.mu.Unlock()
		c.engine.counts.late.Add(uint64(len(numbers)))
		return
	}
	moved := false
	for _, n := range numbers {
		if next, ok := c.tracker.settle(n); ok {
			c.next, moved = next, true
		}
	}
	if moved {
		// Under the lock, so that nothing is committed after release. Commit only notes the offset.
		c.source.Commit(c.next)
	}
	c.mu.Unlock()
	c.signal()
}

// handBack gives a message in flight up: whoever owns the partition next reads it again.
func (c *claim) handBack(n int) {
	c.mu.Lock()
	c.tracker.handBack(n)
	c.mu.Unlock()
	c.signal()
}

func (c *claim) signal() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// close begins the drain.
func (c *claim) close() { c.closeOnce.Do(func() { close(c.closing) }) }

// draining tells whether the claim's drain has begun.
func (c *claim) draining() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

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
	for ctx.Err() == nil && c.outstanding() > 0 {
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

func (c *claim) outstanding() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tracker.inFlight()
}

// pause waits for d. It returns errStopped when the claim's drain begins first.
func (c *claim) pause(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.closing:
		return errStopped
	}
}

// waitFor waits until the circuit would admit a call, but no longer than limit if that is above zero. It returns
// errStopped when the claim's drain begins first.
func (c *claim) waitFor(ctx context.Context, circuit circuit, limit time.Duration) error {
	if circuit == nil {
		return nil
	}
	if limit <= 0 {
		limit = math.MaxInt64
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		select {
		case <-c.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	_ = circuit.WaitUntilReady(ctx) // Whether it is ready or the limit passed, the next attempt tells.
	if c.draining() {
		return errStopped
	}
	return nil
}

// LeftError says what was still in flight of a partition when the time to drain it was over. It is not committed and
// will be processed again.
type LeftError struct {
	Topic     string
	Partition int
	Messages  int
	Offset    int64 // Where the next owner goes on.
	Cause     error
}

func (e *LeftError) Error() string {
	return fmt.Sprintf("pipeline: %s/%d: %d messages were still in flight when the drain ended, from offset %d on they will be processed again: %v",
		e.Topic, e.Partition, e.Messages, e.Offset, e.Cause)
}

func (e *LeftError) Unwrap() error { return e.Cause }

// mark is a message in flight.
type mark struct {
	claim *claim
	n     int
}

// grave is a message in flight, the letter to be written about it, and how many of its values that settles.
type grave struct {
	mark
	letter dlq.Letter
	values int
}

// handBack hands the messages of graves back that were not closed.
func handBack(graves []grave) {
	for _, g := range graves {
		g.claim.handBack(g.n)
	}
}
