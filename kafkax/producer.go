package kafkax

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/retry"
)

// lookUpPatience is for how long new attempts to find a topic begin. One attempt can take as long as a dial.
const lookUpPatience = 4 * time.Second

// Producer writes messages and waits until all in-sync replicas have them. It may be used from many goroutines at once.
//
// It is not idempotent: an attempt whose answer is lost is repeated, and its messages may be there twice.
type Producer struct {
	cfg      ProducerConfig
	net      *network
	requests chan struct{} // A token for each request on its way.
	turn     atomic.Uint64 // Spreads messages without key.
	known    sync.Map      // Topics whose partitions have been counted.

	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup
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
	return &Producer{
		cfg:      cfg,
		net:      newNetwork(cluster.withDefaults(), cfg.Timeout),
		requests: make(chan struct{}, cfg.MaxRequests),
	}, nil
}

// Produce writes each message to its Topic and returns when all are acknowledged by all in-sync replicas. A message with
// a key goes to the partition where the Java client would put it (murmur2), others are spread. Those of one call for one
// partition are written in their order. A failed message keeps the later ones of its partition from being written,
// unless it is its own fault.
//
// The error is a *ProduceError that names the messages which failed; all others are written. When ctx ends, what is on
// its way may have been written, and is reported so. No message is no error.
//
// The messages' bytes must not be changed meanwhile, and when ctx has ended, not before ProducerConfig.Timeout has passed:
// a request that is being sent is not called back.
func (p *Producer) Produce(ctx context.Context, messages ...holdfast.Message) error {
	return p.produce(ctx, messages, func(ctx context.Context, topic string) ([]int, error) {
		n, err := p.partitions(ctx, topic)
		if err != nil {
			return nil, err
		}
		ids := make([]int, n)
		for i := range ids {
			ids[i] = i
		}
		return ids, nil
	})
}

// ProduceTo is Produce to one partition of one topic, whatever the messages' own Topic says.
func (p *Producer) ProduceTo(ctx context.Context, topic string, partition int, messages ...holdfast.Message) error {
	if partition < 0 || partition > math.MaxInt32 {
		return fmt.Errorf("kafkax: produce to %s: partition must be 0 to %d, got %d", topic, math.MaxInt32, partition)
	}
	own := make([]holdfast.Message, len(messages))
	for i, m := range messages {
		m.Topic = topic
		own[i] = m
	}
	return p.produce(ctx, own, func(context.Context, string) ([]int, error) { return []int{partition}, nil })
}

// Partitions says how many partitions a topic has. A topic that does not exist is an error, which is
// kafka.UnknownTopicOrPartition.
func (p *Producer) Partitions(ctx context.Context, topic string) (int, error) {
	ctx, end, err := p.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	n, err := p.partitions(ctx, topic)
	if err != nil {
		return 0, fmt.Errorf("kafkax: partitions of %s: %w", topic, err)
	}
	return n, nil
}

// IsOpen says whether the circuit rejects what is produced now.
func (p *Producer) IsOpen() bool { return p.cfg.Breaker.IsOpen() }

// WaitUntilReady waits until the circuit admits a call, or ctx ends.
func (p *Producer) WaitUntilReady(ctx context.Context) error {
	return p.cfg.Breaker.WaitUntilReady(ctx)
}

// Close waits for calls in progress and closes all connections. New calls fail with ErrProducerClosed. When ctx ends
// first, calls in progress are cut off, with unknown outcome, and Close returns ctx's error. Closing again does nothing.
func (p *Producer) Close(ctx context.Context) error {
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	p.mu.Unlock()
	if closed {
		return nil
	}
	idle := make(chan struct{})
	go func() {
		p.calls.Wait()
		close(idle)
	}()
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		err = fmt.Errorf("kafkax: close producer: %w", ctx.Err())
	}
	p.net.close()
	<-idle // Without a network every call fails soon.
	return err
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

// produce partitions messages, writes the partitions side by side, and collects what failed.
func (p *Producer) produce(ctx context.Context, messages []holdfast.Message, partitions func(ctx context.Context, topic string) ([]int, error)) error {
	if len(messages) == 0 {
		return nil
	}
	ctx, end, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	failed := &ProduceError{Messages: len(messages)}
	runs := p.split(messages, func(topic string) ([]int, error) { return partitions(ctx, topic) }, failed)
	var mu sync.Mutex
	var writers sync.WaitGroup
	for at, indexes := range runs {
		writers.Go(func() {
			w := writer{producer: p, at: at, messages: messages}
			w.write(ctx, indexes)
			mu.Lock()
			defer mu.Unlock()
			failed.Failures = append(failed.Failures, w.failures...)
		})
	}
	writers.Wait()
	if len(failed.Failures) == 0 {
		return nil
	}
	failed.sort()
	return failed
}

// split finds out where each message goes. Those whose topic is not known have failed.
func (p *Producer) split(messages []holdfast.Message, partitions func(string) ([]int, error), failed *ProduceError) map[place][]int {
	type layout struct {
		ids []int
		err error
	}
	layouts := make(map[string]layout)
	runs := make(map[place][]int)
	lost := make(map[string][]int)
	for i := range messages {
		m := &messages[i]
		l, ok := layouts[m.Topic]
		if !ok {
			if m.Topic == "" {
				l.err = holdfast.Permanent(errors.New("the message names no topic"))
			} else {
				l.ids, l.err = partitions(m.Topic)
			}
			layouts[m.Topic] = l
		}
		if l.err != nil {
			lost[m.Topic] = append(lost[m.Topic], i)
			continue
		}
		at := place{m.Topic, p.choose(m.Key, l.ids)}
		runs[at] = append(runs[at], i)
	}
	for topic, indexes := range lost {
		w := writer{producer: p, at: place{topic, -1}, messages: messages}
		w.fail(indexes, layouts[topic].err, false)
		failed.Failures = append(failed.Failures, w.failures...)
	}
	return runs
}

// choose picks a partition for a key.
func (p *Producer) choose(key []byte, ids []int) int {
	if key == nil {
		return ids[p.turn.Add(1)%uint64(len(ids))]
	}
	return kafka.Murmur2Balancer{Consistent: true}.Balance(kafka.Message{Key: key}, ids...)
}

// partitions counts a topic's partitions. What is known already is no call that the circuit should count, or it would
// hear of a success between any two failures.
func (p *Producer) partitions(ctx context.Context, topic string) (int, error) {
	if _, known := p.known.Load(topic); known && !p.cfg.Breaker.IsOpen() {
		if n, err := p.lookUp(ctx, topic); err == nil {
			return n, nil
		}
	}
	policy := p.cfg.Retry
	policy.MaxElapsed = min(cmp.Or(policy.MaxElapsed, lookUpPatience), lookUpPatience)
	return retry.DoValueThrough(ctx, p.cfg.Breaker, policy, func(ctx context.Context) (int, error) {
		p.net.refresh()
		n, err := p.lookUp(ctx, topic)
		switch {
		case err == nil:
			p.known.Store(topic, struct{}{})
		case errors.Is(err, kafka.UnknownTopicOrPartition):
			err = holdfast.Hold(err) // Fresh from a broker.
		default:
			err, _ = judge(err)
		}
		return n, err
	})
}

// exists asks a broker whether there is such a partition.
func (p *Producer) exists(ctx context.Context, at place) (bool, error) {
	p.net.refresh()
	n, err := p.lookUp(ctx, at.topic)
	if errors.Is(err, kafka.UnknownTopicOrPartition) {
		return false, nil
	}
	return at.partition < n, err
}

func (p *Producer) lookUp(ctx context.Context, topic string) (int, error) {
	layout, err := p.net.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return 0, err
	}
	for _, t := range layout.Topics {
		if t.Name == topic && t.Error == nil && len(t.Partitions) > 0 {
			return len(t.Partitions), nil
		}
		if t.Name == topic && t.Error != nil {
			return 0, t.Error
		}
	}
	return 0, kafka.UnknownTopicOrPartition
}
