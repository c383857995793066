package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

// rejectionsTogether is how long letters of messages that a stage's circuit rejected may wait for each other.
const rejectionsTogether = time.Second

// passage takes the messages of one fetch through the stages.
type passage[T any] struct {
	claim *claim
	run   call[holdfast.Message, T]
	lane  *lane[T]

	// uncharged is the size of the fetch, until an item is charged with it: one message that is kept keeps all of the
	// fetch in memory.
	uncharged int

	// rejected are messages that a stage's open circuit is to dead-letter. They are written together, before anything
	// that came later is delivered.
	rejected []flight
	since    time.Time
	again    bool // They are being tried again.
}

// flight is a message on its way through the stages, and its letter if it has come to that.
type flight struct {
	message *holdfast.Message
	n       int
	letter  dlq.Letter
}

// consume fetches and processes messages until the claim's drain begins.
func consume[T any](ctx context.Context, c *claim, run call[holdfast.Message, T], l *lane[T]) error {
	for {
		if c.home && l.gate.isOpen() {
			select {
			case <-l.gate.ready():
			case <-c.closing:
				return errStopped
			}
		}
		messages, err := c.source.Fetch(ctx)
		if err != nil {
			return err
		}
		p := &passage[T]{claim: c, run: run, lane: l}
		if err := p.process(ctx, messages); err != nil {
			return err
		}
	}
}

func (p *passage[T]) process(ctx context.Context, messages []holdfast.Message) error {
	fetched := p.claim.engine.now()
	for i := range messages {
		p.uncharged += sizeOf(&messages[i])
	}
	for i := range messages {
		n, err := p.claim.take(messages[i].ClaimOffset(), fetched)
		if err == nil {
			err = p.through(ctx, flight{message: &messages[i], n: n})
		}
		if err != nil {
			p.handBack(p.rejected)
			return err
		}
	}
	return p.buryRejected(ctx)
}

// through takes one message through the stages and settles it, hands it on, or keeps it among the rejected. It returns
// errStopped when the claim is drained first; the message is then handed back.
func (p *passage[T]) through(ctx context.Context, f flight) error {
	c := p.claim
	if c.draining() {
		c.handBack(f.n)
		return errStopped
	}
	out, err := p.runStages(ctx, *f.message)
	var failed *failure
	if errors.As(err, &failed) {
		f.letter = c.engine.letter(f.message, failed)
	}
	if failed != nil && failed.reason == dlq.CircuitOpen {
		return p.reject(ctx, f)
	}
	if err := p.buryRejected(ctx); err != nil {
		c.handBack(f.n)
		return err
	}
	switch {
	case err == nil:
		return p.deliver(f, out)
	case errors.Is(err, holdfast.ErrSkip):
		p.skip(f)
		return nil
	case failed != nil:
		c.bury(grave{mark: mark{claim: c, n: f.n}, letter: f.letter, values: 1})
		return nil //nolint:nilerr // The letter tells of it.
	}
	c.handBack(f.n)
	return errStopped
}

// reject puts a message among the rejected, and writes their letters when there are many or the first has waited long.
func (p *passage[T]) reject(ctx context.Context, f flight) error {
	if len(p.rejected) == 0 {
		p.since = time.Now()
	}
	p.rejected = append(p.rejected, f)
	e := p.claim.engine
	many := len(p.rejected) >= min(e.limit.Burst(), e.cfg.MaxInFlight) || time.Since(p.since) >= rejectionsTogether
	if p.again || !many {
		return nil
	}
	return p.buryRejected(ctx)
}

// runStages runs the stages with the context that the program makes for the message.
func (p *passage[T]) runStages(ctx context.Context, m holdfast.Message) (values[T], error) {
	if p.claim.engine.cfg.Context == nil {
		return p.run(ctx, p.claim, m)
	}
	traced, err := p.claim.engine.context(ctx, m)
	if err != nil {
		return values[T]{}, err
	}
	return p.run(traced, p.claim, m)
}

// deliver hands the values that the stages made of a message to the lane.
func (p *passage[T]) deliver(f flight, out values[T]) error {
	if !out.several {
		return p.add(f, 0, out.one)
	}
	if len(out.many) == 0 {
		p.skip(f)
		return nil
	}
	p.claim.expect(f.n, len(out.many))
	for i, v := range out.many {
		if err := p.add(f, i, v); err != nil {
			return err
		}
	}
	return nil
}

func (p *passage[T]) add(f flight, index int, v T) error {
	size := p.uncharged
	p.uncharged = 0
	err := p.lane.add(holdfast.Item[T]{Source: f.message, Index: index, Value: v}, mark{claim: p.claim, n: f.n}, size)
	if err != nil {
		p.claim.handBack(f.n)
	}
	return err
}

func (p *passage[T]) skip(f flight) {
	p.claim.engine.counts.skipped.Add(1)
	p.claim.settle(f.n)
}

// buryRejected writes the letters of the rejected messages. When that fails, they are tried again from the start: the
// circuit may have closed meanwhile. It returns errStopped when the claim is drained first.
func (p *passage[T]) buryRejected(ctx context.Context) error {
	if len(p.rejected) == 0 {
		return nil
	}
	c := p.claim
	place := c.String() + " dead letters of an open circuit"
	defer c.engine.troubles.clear(place)
	for tries := 1; len(p.rejected) > 0; tries++ {
		err := p.writeRejected(ctx)
		if err == nil {
			return nil
		}
		c.engine.troubles.set(place, "cannot be written", err)
		again := p.rejected
		p.rejected = nil
		if err := c.pause(backoff(tries, err)); err != nil {
			p.handBack(again)
			return err
		}
		if err := p.tryAgain(ctx, again); err != nil {
			return err
		}
	}
	return nil
}

func (p *passage[T]) tryAgain(ctx context.Context, flights []flight) error {
	defer func(was bool) { p.again = was }(p.again)
	p.again = true
	for i, f := range flights {
		if err := p.through(ctx, f); err != nil {
			p.handBack(flights[i+1:])
			return err
		}
	}
	return nil
}

// writeRejected writes letters until all are written or one try has failed, no faster than the configured rate.
func (p *passage[T]) writeRejected(ctx context.Context) error {
	c := p.claim
	for len(p.rejected) > 0 {
		n := min(len(p.rejected), c.engine.limit.Burst())
		delay, cancel := c.engine.limit.reserve(n)
		if delay > 0 {
			if err := c.pause(delay); err != nil {
				cancel()
				return err
			}
		}
		graves := make([]grave, n)
		for i, f := range p.rejected[:n] {
			graves[i] = grave{mark: mark{claim: c, n: f.n}, letter: f.letter, values: 1}
		}
		left, err := c.engine.bury(ctx, graves)
		p.rejected = append(flightsOf(p.rejected[:n], left), p.rejected[n:]...)
		if err != nil {
			return err
		}
	}
	return nil
}

// flightsOf picks the flights whose graves are left.
func flightsOf(flights []flight, left []grave) []flight {
	var picked []flight
	for _, f := range flights {
		if len(left) > 0 && left[0].n == f.n {
			picked, left = append(picked, f), left[1:]
		}
	}
	return picked
}

func (p *passage[T]) handBack(flights []flight) {
	for _, f := range flights {
		p.claim.handBack(f.n)
	}
}
