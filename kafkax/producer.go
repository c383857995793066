package kafkax

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

// closeGrace is how long Close waits, when its context has ended, for what it has cut off to be settled.
const closeGrace = time.Second

// Producer writes messages and says of each when all in-sync replicas have it, or what became of it instead. It may be
// used from many goroutines at once.
//
// It is idempotent: an attempt whose answer is lost is repeated with the same sequence numbers, by which the broker tells
// that it has the messages already. That holds as long as the broker remembers the producer (producer.id.expiration.ms, a
// day by default) and this Producer lives: what is produced once more after an error that is Ambiguous, or by the next
// process, may be there twice.
type Producer struct {
	cfg        ProducerConfig
	net        *network
	buffer     buffer
	identities identities
	counts     producerCounts
	batches    sync.Pool     // Of *batch.
	turn       atomic.Uint64 // Spreads messages without key.
	links      sync.Map      // By address, *link.
	routes     sync.Map      // By topic, *route.

	sweeping   sync.Mutex
	remembered int // Routes.
	sweepAt    int // As many.

	outbox  *outbox // Nil without a spool.
	open    context.Context
	close   context.CancelFunc
	work    sync.WaitGroup // Writers that run, and who drains the spool.
	serving sync.WaitGroup // What lives as long as the connections.

	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup

	ended  chan struct{} // Closed when Close has ended.
	ending error         // What it returned.
}

// NewProducer checks the configuration and returns a Producer. It does not connect before the first message.
func NewProducer(cluster Cluster, cfg ProducerConfig) (*Producer, error) {
	if err := errors.Join(cluster.Validate(), cfg.Validate()); err != nil {
		return nil, err
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Producer{cfg: cfg, net: newNetwork(cluster.withDefaults(), cfg.Timeout), buffer: buffer{limit: int64(cfg.MaxBufferedBytes)}}
	p.identities = identities{producer: p, turn: make(chan struct{}, 1)}
	p.sweepAt = keptRoutes
	p.ended = make(chan struct{})
	p.open, p.close = context.WithCancel(context.Background())
	if cfg.Spool != nil {
		p.outbox = newOutbox(p)
		p.work.Go(func() { p.outbox.run(p.open) })
	}
	return p, nil
}

// Produce writes each message to its Topic and returns when all are acknowledged by all in-sync replicas. A message with
// a key goes to the partition where the Java client would put it (murmur2), others are spread. Those of one call for one
// partition are written in their order. A failed message keeps the later ones of its partition from being written,
// unless it is its own fault.
//
// The error is a *ProduceError that names the messages which failed; all others are written. When ctx ends, what is on
// its way may be written, and is reported so; what is not will not be. No message is no error. The messages' bytes are
// free to be changed when Produce has returned.
func (p *Producer) Produce(ctx context.Context, messages ...holdfast.Message) error {
	c := newCall(messages)
	p.send(ctx, c, p.choose, false)
	return c.wait(ctx)
}

// ProduceTo is Produce to one partition of one topic, whatever the messages' own Topic says.
func (p *Producer) ProduceTo(ctx context.Context, topic string, partition int, messages ...holdfast.Message) error {
	c := newCall(messages)
	r, err := p.route(topic)
	if partition < 0 || partition > math.MaxInt32 {
		err = holdfast.Permanent(fmt.Errorf("partition must be 0 to %d, got %d", math.MaxInt32, partition))
	}
	if err != nil {
		o := failedAt(place{topic, partition}, err)
		for i := range messages {
			c.settle(i, o)
		}
		return c.wait(ctx)
	}
	entries := make([]entry, len(messages))
	for i := range messages {
		entries[i] = entry{call: c, index: i, size: messageSize(&messages[i]), asked: true}
	}
	p.enqueue(ctx, r.writer(partition), messages, entries)
	return c.wait(ctx)
}

// ProduceAsync takes a message to be written and returns; done is called once it is settled, with nil when all in-sync
// replicas have it, else with a *ProduceError. When the message is not taken, ProduceAsync returns why, and done is
// never called. The message's bytes are free to be changed when it has returned.
//
// Messages for one partition are written, and done is called for them, in the order in which they were taken. A message
// that fails takes those with it that wait behind it, unless it is its own fault. Calls of done for one partition come one
// after the other from a goroutine that writes nothing more to this partition meanwhile: done must not block. It must
// not produce, unless ProducerConfig.FailWhenFull is set and the message goes through ProduceAsync, and not call Close,
// which would wait for it. One that panics is logged.
//
// It waits for room in the buffer (see ProducerConfig.MaxBufferedBytes), and for a broker to tell about a topic that is
// not known yet, until ctx ends. A message that has not been sent when ctx ends will not be.
func (p *Producer) ProduceAsync(ctx context.Context, message holdfast.Message, done func(error)) error {
	if done == nil {
		return errors.New("kafkax: ProduceAsync needs a function to call, got nil")
	}
	known, err := p.layout(ctx, message.Topic)
	if err != nil {
		if p.spools(err) {
			return p.strandAsync(ctx, message, done)
		}
		return fmt.Errorf("kafkax: produce to %s: %w", message.Topic, err)
	}
	w := known.writers[p.choose(&message, known.ids)]
	e := entry{ctx: ctx, done: done, size: messageSize(&message)}
	if err := p.take(ctx, w, []holdfast.Message{message}, []entry{e}); err != nil {
		return fmt.Errorf("kafkax: produce %d bytes to %s/%d: %w", e.size, w.at.topic, w.at.partition, err)
	}
	return nil
}

// send partitions the messages of a call and hands them to their writers.
func (p *Producer) send(ctx context.Context, c *call, choose func(m *holdfast.Message, ids []int) int, drained bool) {
	type found struct {
		layout *topicLayout
		err    error
	}
	var (
		runs     = make(map[*writer][]entry)
		stranded []int
		topics   = make(map[string]found) // What was found for a message holds for the later ones, which must not overtake it.
		topic    found
	)
	for i := range c.messages {
		m := &c.messages[i]
		if i == 0 || m.Topic != c.messages[i-1].Topic {
			var asked bool
			if topic, asked = topics[m.Topic]; !asked {
				topic.layout, topic.err = p.layout(ctx, m.Topic)
				topics[m.Topic] = topic
			}
		}
		switch {
		case topic.err == nil:
			w := topic.layout.route.writer(choose(m, topic.layout.ids))
			runs[w] = append(runs[w], entry{call: c, index: i, size: messageSize(m), drained: drained})
		case !drained && p.spools(topic.err):
			stranded = append(stranded, i)
		default:
			c.settle(i, failedAt(place{m.Topic, -1}, topic.err))
		}
	}
	p.strand(ctx, c, stranded)
	for w, entries := range runs {
		p.enqueue(ctx, w, c.messages, entries)
	}
}

// enqueue hands the messages of a call to their partition, as there is room for them.
func (p *Producer) enqueue(ctx context.Context, w *writer, messages []holdfast.Message, entries []entry) {
	for len(entries) > 0 {
		n, size, held := 1, entries[0].size, cost(entries[:1])
		for n < len(entries) && size+entries[n].size <= p.cfg.BatchBytes {
			if held += cost(entries[n : n+1]); held > p.cfg.MaxBufferedBytes {
				break
			}
			size += entries[n].size
			n++
		}
		err := p.take(ctx, w, messages, entries[:n])
		if err != nil {
			o := failedAt(w.at, err)
			for i := range entries[:n] {
				p.settle(&entries[i], o)
			}
		}
		entries = entries[n:]
	}
}

// take takes messages over and hands them to their partition, when there is room for them.
func (p *Producer) take(ctx context.Context, w *writer, messages []holdfast.Message, entries []entry) error {
	size := cost(entries)
	if err := p.reserve(ctx, size); err != nil {
		return err
	}
	for !w.add(messages, entries) {
		r, err := p.route(w.at.topic)
		if p.open.Err() != nil {
			err = ErrProducerClosed
		}
		if err != nil {
			p.buffer.give(size)
			return err
		}
		w = r.writer(w.at.partition) // The old one's route was forgotten.
	}
	return nil
}

// reserve takes room for messages of that many bytes.
func (p *Producer) reserve(ctx context.Context, size int) error {
	if size > p.cfg.MaxBufferedBytes {
		return holdfast.Permanent(fmt.Errorf("%w: %d bytes, ProducerConfig.MaxBufferedBytes is %d",
			kafka.MessageSizeTooLarge, size, p.cfg.MaxBufferedBytes))
	}
	return p.buffer.take(ctx, size, !p.cfg.FailWhenFull)
}

// layout is what is known of a topic.
func (p *Producer) layout(ctx context.Context, topic string) (*topicLayout, error) {
	r, err := p.route(topic)
	if err != nil {
		return nil, err
	}
	return r.layout(ctx)
}

// choose picks a partition by a message's key.
func (p *Producer) choose(m *holdfast.Message, ids []int) int {
	if m.Key == nil {
		return ids[p.turn.Add(1)%uint64(len(ids))]
	}
	return kafka.Murmur2Balancer{Consistent: true}.Balance(kafka.Message{Key: m.Key}, ids...)
}

// Partitions says how many partitions a topic has. A topic that does not exist is an error, which is
// kafka.UnknownTopicOrPartition.
func (p *Producer) Partitions(ctx context.Context, topic string) (int, error) {
	l, err := p.layout(ctx, topic)
	if err != nil {
		return 0, fmt.Errorf("kafkax: partitions of %s: %w", topic, err)
	}
	return len(l.ids), nil
}

// DescribeTopic says how many partitions a topic has, and its configuration by Kafka's names, as Admin.DescribeTopic
// does. It asks once, without the circuit.
func (p *Producer) DescribeTopic(ctx context.Context, topic string) (partitions int, config map[string]string, err error) {
	ctx, end, err := p.begin(ctx)
	if err != nil {
		return 0, nil, err
	}
	defer end()
	if partitions, config, err = p.net.describeTopic(ctx, topic); err != nil {
		return 0, nil, fmt.Errorf("kafkax: describe topic %s: %w", topic, err)
	}
	return partitions, config, nil
}

// IsOpen says whether the circuit rejects what is produced now.
func (p *Producer) IsOpen() bool { return p.cfg.Breaker.IsOpen() }

// rejection is what an open circuit says.
func (p *Producer) rejection() error {
	if !p.cfg.Breaker.IsOpen() {
		return nil
	}
	s := p.cfg.Breaker.Stats()
	return &breaker.OpenError{Name: s.Name, State: s.State, RetryAfter: s.TimeUntilHalfOpen}
}

// WaitUntilReady waits until the circuit admits a call, or ctx ends.
func (p *Producer) WaitUntilReady(ctx context.Context) error {
	return p.cfg.Breaker.WaitUntilReady(ctx)
}

// Close writes what has been taken and closes all connections. New messages fail with ErrProducerClosed. When ctx ends
// first, what is left is cut off, each message is settled with an error that says whether it may have been written, and
// Close returns a *CloseError.
//
// Nothing of the Producer outlives Close but what waits for the caller's own code: functions given to ProduceAsync, the
// spool, listeners of the circuit, Cluster.Dial. If that has not returned a second after ctx has ended, Close does, and
// CloseError.Running says so. Closing again waits for the first Close, within its own ctx, and returns the same.
func (p *Producer) Close(ctx context.Context) error {
	p.mu.Lock()
	again := p.closed
	p.closed = true
	p.mu.Unlock()
	if !again {
		p.ending = p.end(ctx)
		close(p.ended)
		return p.ending
	}
	select {
	case <-p.ended:
		return p.ending
	case <-ctx.Done():
		return fmt.Errorf("kafkax: close producer: another Close is still waiting: %w", context.Cause(ctx))
	}
}

// end is the first Close.
func (p *Producer) end(ctx context.Context) error {
	p.close()
	p.buffer.close()
	for _, r := range p.routes.Range {
		r.(*route).close()
	}
	before := p.Stats()
	idle, gone := make(chan struct{}), make(chan struct{})
	go func() {
		p.calls.Wait()
		p.work.Wait()
		close(idle)
	}()
	var left CloseError
	select {
	case <-idle:
	case <-ctx.Done():
		left.Err = context.Cause(ctx)
	}
	go func() {
		p.net.close() // Without a network every attempt fails soon.
		<-idle
		p.serving.Wait()
		close(gone)
	}()
	if left.Running = !within(ctx, closeGrace, gone); left.Running {
		left.Err = context.Cause(ctx)
	}
	after := p.Stats()
	left.NotWritten, left.Ambiguous = int(after.NotWritten-before.NotWritten), int(after.Ambiguous-before.Ambiguous)
	left.Spool = after.Spool
	if left == (CloseError{Err: left.Err}) {
		return nil // All was well just as ctx ended.
	}
	return &left
}

// within waits for done until ctx has ended and the grace after it, and says whether it came.
func within(ctx context.Context, grace time.Duration, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-ctx.Done():
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// begin admits a call, until it says end. The call's context ends with the network.
func (p *Producer) begin(ctx context.Context) (_ context.Context, end func(), _ error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrProducerClosed
	}
	p.calls.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.net.life, func() { cancel(ErrProducerClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		p.calls.Done()
	}, nil
}
