package kafkax

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

// Spool keeps messages on local disk while Kafka is away. *dlq.Spool is one. A message's Partition is the one that was
// asked for, or -1 where its key decides.
type Spool interface {
	// Append returns nil once the messages are durable, in their order. Otherwise none of them is, unless the error is
	// holdfast.Ambiguous.
	Append(ctx context.Context, messages ...holdfast.Message) error

	// Holds says whether there is a message that m must go behind: one of its topic with the same key, or for the
	// partition that m asks for. It is true without a gap from when Append has returned until Drain has removed it.
	Holds(m *holdfast.Message) bool

	// Drain gives send all that is there, oldest first, and removes what was sent. With a *holdfast.BatchError from send
	// the items that it names stay, and so do later ones that must not overtake them; with any other error all do. It
	// returns nil when nothing is left.
	Drain(ctx context.Context, send func(context.Context, []holdfast.Message) error) error
}

// outbox is a Producer's use of its spool.
type outbox struct {
	producer *Producer
	spool    Spool
	kick     chan struct{} // Something was put in.
	filled   atomic.Bool   // There may be something in the spool.

	mu      sync.Mutex
	changes uint64   // Counts the begin and the end of each Append.
	writing int      // Appends in progress.
	news    []func() // To be called, or being so: somebody is at it as long as there are any.
}

func newOutbox(p *Producer) *outbox {
	o := &outbox{producer: p, spool: p.cfg.Spool, kick: make(chan struct{}, 1)}
	o.filled.Store(true) // Perhaps by an earlier process.
	return o
}

// keep puts messages into the spool. What has been taken is kept, whether its caller waits or not.
func (o *outbox) keep(ctx context.Context, messages []holdfast.Message) error {
	ctx = context.WithoutCancel(ctx)
	o.change(1)
	defer o.wake() // Even when it failed: something may be there, and somebody has to see that nothing is.
	defer o.change(-1)
	if !o.filled.Swap(true) {
		o.producer.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "circuit open, messages go to the spool")
	}
	if err := o.spool.Append(ctx, messages...); err != nil {
		return fmt.Errorf("kafkax: spool: %w", err)
	}
	o.producer.counts.spooled.Add(uint64(len(messages)))
	return nil
}

func (o *outbox) change(writing int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.changes++
	o.writing += writing
}

// wake has the spool drained once more.
func (o *outbox) wake() {
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// holds says whether a message must go behind what is in the spool.
func (o *outbox) holds(m *holdfast.Message) bool { return o.filled.Load() && o.spool.Holds(m) }

// run drains the spool whenever the circuit lets it, until waiting ends.
func (o *outbox) run(waiting context.Context) {
	var t trouble
	log := o.producer.cfg.Logger
	for o.producer.WaitUntilReady(waiting) == nil {
		err := o.drain(o.producer.net.life) //nolint:contextcheck // What is on its way when waiting ends is still written.
		if waiting.Err() != nil {
			return
		}
		if err != nil {
			if t.failed() && !errors.Is(err, breaker.ErrCircuitOpen) { // That has been said.
				log.LogAttrs(waiting, slog.LevelWarn, "spool not drained, trying again", slog.Any("err", err))
			}
			if !t.wait(waiting) {
				return
			}
			continue
		}
		t.over()
		select {
		case <-o.kick:
		case <-waiting.Done():
			return
		}
	}
}

func (o *outbox) drain(ctx context.Context) error {
	o.mu.Lock()
	before := o.changes
	o.mu.Unlock()
	if err := o.spool.Drain(ctx, o.send); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changes == before && o.writing == 0 && o.filled.Swap(false) {
		o.producer.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "spool is empty")
	}
	return nil
}

// send writes messages of the spool.
func (o *outbox) send(ctx context.Context, messages []holdfast.Message) error {
	p := o.producer
	if p.open.Err() != nil {
		return ErrProducerClosed // What has not begun stays where it is.
	}
	c := newCall(messages)
	p.send(ctx, c, func(m *holdfast.Message, ids []int) int {
		if m.Partition >= 0 {
			return m.Partition
		}
		return p.choose(m, ids)
	}, true)
	err := c.wait(ctx)
	failed, ok := errors.AsType[*ProduceError](err)
	if !ok {
		p.counts.drained.Add(uint64(len(messages)))
		return err
	}
	refused := &holdfast.BatchError{Items: make(map[int]error)}
	for _, f := range failed.Failures {
		for _, i := range f.Indexes {
			refused.Items[i] = f.alone()
		}
	}
	p.counts.drained.Add(uint64(len(messages) - len(refused.Items)))
	return refused
}

// strand puts messages of a call into the spool for which there is no way to find out their partitions.
func (p *Producer) strand(ctx context.Context, c *call, indexes []int) {
	if len(indexes) == 0 {
		return
	}
	messages := make([]holdfast.Message, len(indexes))
	for n, i := range indexes {
		messages[n] = c.messages[i]
		messages[n].Partition = -1
	}
	err := p.outbox.keep(ctx, messages)
	outcomes := make(map[string]*outcome)
	for n, i := range indexes {
		topic := messages[n].Topic
		if err != nil && outcomes[topic] == nil {
			outcomes[topic] = &outcome{at: place{topic, -1}, err: err, ambiguous: holdfast.IsAmbiguous(err)}
		}
		if err != nil {
			p.counts.note(1, outcomes[topic])
		}
		c.settle(i, outcomes[topic])
	}
}

// strandAsync is strand for a message of ProduceAsync.
func (p *Producer) strandAsync(ctx context.Context, m holdfast.Message, done func(error)) error {
	_, end, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	size := messageSize(&m) + entrySize
	if err := p.reserve(ctx, size); err != nil {
		return err
	}
	m.Partition = -1
	if err := p.outbox.keep(ctx, []holdfast.Message{m}); err != nil {
		p.buffer.give(size)
		return err
	}
	p.outbox.tell(func() {
		p.announce(done, nil)
		p.buffer.give(size)
	})
	return nil
}

// tell has it called in a goroutine, after all that was told before.
func (o *outbox) tell(news func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.news = append(o.news, news)
	if len(o.news) == 1 {
		o.producer.work.Go(o.spread)
	}
}

func (o *outbox) spread() {
	for n := 0; ; {
		o.mu.Lock()
		o.news = o.news[n:]
		told := o.news
		o.mu.Unlock()
		if len(told) == 0 {
			return
		}
		for _, news := range told {
			news()
		}
		n = len(told)
	}
}

// divert says whether a batch may be written. If something of it must go behind what is in the spool, that goes there, and
// the rest becomes the next batch, which fails like all the queue if the spool refuses what it is to keep.
func (w *writer) divert(b *batch) bool {
	o := w.producer.outbox
	if o == nil || b.drained || !o.filled.Load() {
		return true
	}
	behind := make(map[int]bool)
	keys, asked := make(map[string]bool), false // Of those: a later one goes behind them, though the spool be empty by now.
	for i, m := range b.spoolable() {
		if m.Partition >= 0 && asked || keys[string(m.Key)] || o.holds(&m) {
			behind[i], keys[string(m.Key)] = true, true
			asked = asked || m.Partition >= 0
		}
	}
	if len(behind) == 0 {
		return true
	}
	later := b.pick(func(i int) bool { return behind[i] })
	defer w.producer.release(later)
	if later.Len() < b.Len() {
		w.putBack(b.pick(func(i int) bool { return !behind[i] }))
	}
	w.spool(later)
	return false
}

// spool puts a batch into the spool and tells its callers.
func (w *writer) spool(b *batch) {
	err := w.producer.outbox.keep(w.producer.net.life, b.spoolable())
	switch {
	case err != nil:
		w.fail(b, &outcome{at: w.at, err: err, ambiguous: b.uncertain || holdfast.IsAmbiguous(err)})
	case b.uncertain:
		w.producer.tell(b, &outcome{at: w.at, err: errSpooled, ambiguous: true, spooled: true})
	default:
		w.producer.tell(b, nil)
	}
}

// spoolable is a batch's messages as a Spool wants them.
func (b *batch) spoolable() []holdfast.Message {
	messages := b.Messages()
	for i := range messages {
		m := &messages[i]
		m.Topic, m.Partition, m.Offset = b.at.topic, -1, 0
		if b.entries[i].asked {
			m.Partition = b.at.partition
		}
	}
	return messages
}

// spools says whether what failed with err goes to the spool: it has met an open circuit, or opened it.
func (p *Producer) spools(err error) bool {
	if p.outbox == nil {
		return false
	}
	return errors.Is(err, breaker.ErrCircuitOpen) || p.IsOpen() && !holdfast.IsPermanent(err) && !holdfast.IsHold(err)
}
