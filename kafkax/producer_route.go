package kafkax

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	metadataapi "github.com/segmentio/kafka-go/protocol/metadata"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/retry"
)

const (
	// lookUpPatience is for how long new attempts to find a topic begin. One attempt can take as long as a dial.
	lookUpPatience = 4 * time.Second

	// layoutAge is after how long a topic is looked up again although nothing was wrong with what is known of it: it may
	// have got more partitions.
	layoutAge = time.Minute

	// keptRoutes is how many topics a Producer remembers before it looks for such as it may forget.
	keptRoutes = 1000
)

// route is what a Producer knows of a topic, and how it writes to it.
type route struct {
	producer *Producer
	topic    string
	turn     chan struct{} // A token for who asks a broker.
	known    atomic.Pointer[topicLayout]
	old      atomic.Bool  // What is known should be asked for again. Set by writers, who look at the clock once a batch.
	running  atomic.Int32 // Writers that run; far below 0 when the route is forgotten.

	mu      sync.Mutex
	writers map[int]*writer
}

// topicLayout is a topic as a broker has described it.
type topicLayout struct {
	route   *route
	asked   time.Time
	ids     []int // 0 to the last.
	writers []*writer
	leaders []string // Empty where there is none.
}

// route is made for any topic that may be there, whether it is or not.
func (p *Producer) route(topic string) (*route, error) {
	if r, ok := p.routes.Load(topic); ok {
		return r.(*route), nil
	}
	if err := checkTopicName(topic); err != nil {
		return nil, err
	}
	r, found := p.routes.LoadOrStore(topic, &route{
		producer: p, topic: topic, turn: make(chan struct{}, 1), writers: make(map[int]*writer),
	})
	if !found {
		p.sweep()
	}
	return r.(*route), nil
}

// sweep forgets topics that are not there, or that nobody has written to for a while, whenever there are twice as many as
// it left. So what is remembered grows with the topics in use, and not with those that ever were.
func (p *Producer) sweep() {
	p.sweeping.Lock()
	defer p.sweeping.Unlock()
	p.remembered++
	if p.remembered < p.sweepAt {
		return
	}
	p.remembered = 0
	for _, r := range p.routes.Range {
		if !r.(*route).forget() {
			p.remembered++
		}
	}
	p.sweepAt = max(2*p.remembered, keptRoutes)
}

// forget gives the route up if nobody will miss it. Who has still found it is turned away by its writers, see enter.
func (r *route) forget() bool {
	r.mu.Lock() // Whoever is turned away comes back here, and waits until there is room for another route.
	defer r.mu.Unlock()
	known := r.known.Load()
	if known != nil && time.Since(known.asked) < 2*layoutAge || !r.running.CompareAndSwap(0, math.MinInt32) {
		return false
	}
	if known != nil {
		r.producer.identities.spend()
	}
	r.producer.routes.Delete(r.topic)
	return true
}

// enter says whether a writer may run, until it calls leave. It may not when the route is forgotten.
func (r *route) enter() bool { return r.running.Add(1) > 0 }

func (r *route) leave() { r.running.Add(-1) }

// writer is made for any partition, whether there is one or not.
func (r *route) writer(partition int) *writer {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.writers[partition]
	if !ok {
		w = newWriter(r, partition)
		r.writers[partition] = w
	}
	return w
}

// close refuses later messages. The producer is closing already, so new writers do the same.
func (r *route) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.writers {
		w.close()
	}
}

// layout is what is known, or looks the topic up behind the circuit. What is known already is no call that the circuit
// should count, or it would hear of a success between any two failures.
func (r *route) layout(ctx context.Context) (*topicLayout, error) {
	p := r.producer
	known := r.known.Load()
	if known != nil && (!r.old.Load() || p.cfg.Breaker.IsOpen()) {
		return known, nil
	}
	ctx, end, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if known != nil {
		if fresh, err := r.refresh(ctx, known); err == nil {
			return fresh, nil
		}
		return known, nil
	}
	policy := p.cfg.Retry
	policy.MaxElapsed = lookUpPatience
	if p.cfg.Retry.MaxElapsed != 0 {
		policy.MaxElapsed = min(p.cfg.Retry.MaxElapsed, lookUpPatience)
	}
	return retry.DoValueThrough(ctx, p.cfg.Breaker, policy, func(ctx context.Context) (*topicLayout, error) {
		l, err := r.refresh(ctx, r.known.Load())
		if errors.Is(err, kafka.UnknownTopicOrPartition) {
			return nil, holdfast.Hold(err)
		}
		if err != nil {
			err, _ = judge(err)
		}
		return l, err
	})
}

// age notes when what is known has become old.
func (r *route) age() {
	if l := r.known.Load(); l != nil && time.Since(l.asked) >= layoutAge {
		r.old.Store(true)
	}
}

// leader says where the leader of a partition is, as far as known.
func (r *route) leader(ctx context.Context, partition int) (addr string, err error) {
	l := r.known.Load()
	if l == nil || partition >= len(l.leaders) || l.leaders[partition] == "" {
		if l, err = r.refresh(ctx, l); err != nil {
			return "", &unsentError{err}
		}
	}
	switch {
	case partition >= len(l.leaders):
		return "", &unsentError{kafka.UnknownTopicOrPartition}
	case l.leaders[partition] == "":
		return "", &unsentError{kafka.LeaderNotAvailable}
	}
	return l.leaders[partition], nil
}

// refresh asks a broker, unless somebody else has done so since stale was known.
func (r *route) refresh(ctx context.Context, stale *topicLayout) (*topicLayout, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l := r.known.Load(); l != stale {
		return l, nil
	}
	asked := time.Now()
	answer, err := r.producer.net.layout(ctx, r.topic)
	if err != nil {
		return nil, fmt.Errorf("%w (asked of %s)", err, strings.Join(r.producer.net.cluster.Brokers, ", "))
	}
	l, err := r.read(answer)
	if err != nil {
		return nil, err
	}
	l.asked = asked
	r.known.Store(l)
	r.old.Store(false)
	return l, nil
}

func (r *route) read(answer layout) (*topicLayout, error) {
	t, ok := find(answer.Topics, func(t metadataapi.ResponseTopic) bool { return t.Name == r.topic })
	switch {
	case !ok:
		return nil, kafka.UnknownTopicOrPartition
	case t.ErrorCode != 0:
		return nil, kafka.Error(t.ErrorCode)
	case len(t.Partitions) == 0:
		return nil, kafka.UnknownTopicOrPartition
	}
	l := &topicLayout{route: r, leaders: make([]string, len(t.Partitions))}
	for i := range t.Partitions {
		l.ids = append(l.ids, i)
		l.writers = append(l.writers, r.writer(i))
	}
	for _, p := range t.Partitions {
		i := slices.IndexFunc(answer.Brokers, func(b metadataapi.ResponseBroker) bool { return b.NodeID == p.LeaderID })
		if i >= 0 && int(p.PartitionIndex) < len(l.leaders) && p.PartitionIndex >= 0 {
			b := answer.Brokers[i]
			l.leaders[p.PartitionIndex] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
		}
	}
	return l, nil
}
