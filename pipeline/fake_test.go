package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/pipeline"
)

// broker is a Kafka of one topic that keeps its log, and the group's offsets with the rules of section "commit".
type broker struct {
	t *testing.T

	mu         sync.Mutex
	partitions []*partition
	handed     int // Messages handed out so far.
	changed    chan struct{}
}

type partition struct {
	topic     string
	number    int
	log       []holdfast.Message
	committed int64
	claim     *claim // The owner of the moment.
}

func newBroker(t *testing.T, topic string, partitions int) *broker {
	b := &broker{t: t, changed: make(chan struct{})}
	for p := range partitions {
		b.partitions = append(b.partitions, &partition{topic: topic, number: p})
	}
	return b
}

// produce appends a message and returns its offset.
func (b *broker) produce(p int, value string) int64 { return b.produceKeyed(p, "", value) }

// produceKeyed appends a message with a key; the empty key is none.
func (b *broker) produceKeyed(p int, key, value string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	part := b.partitions[p]
	m := holdfast.Message{Topic: part.topic, Partition: p, Offset: int64(len(part.log)), Value: []byte(value)}
	if key != "" {
		m.Key = []byte(key)
	}
	part.log = append(part.log, m)
	b.wake()
	return m.Offset
}

func (b *broker) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *broker) committed(p int) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.partitions[p].committed
}

// fetched is how many messages have been handed out.
func (b *broker) fetched() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.handed
}

// Consume claims every partition until ctx ends. revoke ends one claim, and the partition is claimed anew.
func (b *broker) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	var claims sync.WaitGroup
	errs := make([]error, len(b.partitions))
	for i, part := range b.partitions {
		claims.Go(func() {
			for ctx.Err() == nil && errs[i] == nil {
				errs[i] = b.own(ctx, part, handle)
			}
		})
	}
	claims.Wait()
	return errors.Join(errs...)
}

func (b *broker) own(ctx context.Context, part *partition, handle func(context.Context, holdfast.Claim) error) error {
	held, lose := context.WithCancelCause(context.WithoutCancel(ctx))
	defer lose(nil)
	b.mu.Lock()
	c := &claim{broker: b, part: part, start: part.committed, position: part.committed, revoked: make(chan struct{}), lose: lose}
	part.claim = c
	b.mu.Unlock()
	defer context.AfterFunc(ctx, c.revoke)()
	err := handle(held, c)
	b.mu.Lock()
	defer b.mu.Unlock()
	c.over = true
	return err
}

// once is a broker whose partitions, once revoked, go to another member.
type once struct{ *broker }

func (o once) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	var claims sync.WaitGroup
	errs := make([]error, len(o.partitions))
	for i, part := range o.partitions {
		claims.Go(func() { errs[i] = o.own(ctx, part, handle) })
	}
	claims.Wait()
	<-ctx.Done()
	return errors.Join(errs...)
}

// owner is the claim that owns a partition now.
func (b *broker) owner(p int) *claim {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.partitions[p].claim
}

type claim struct {
	broker   *broker
	part     *partition
	start    int64
	position int64
	revoked  chan struct{}
	once     sync.Once
	lose     context.CancelCauseFunc
	over     bool
}

func (c *claim) revoke()                    { c.once.Do(func() { close(c.revoked) }) }
func (c *claim) Partition() (string, int)   { return c.part.topic, c.part.number }
func (c *claim) Committed() (int64, string) { return c.start, "" }
func (c *claim) Revoked() <-chan struct{}   { return c.revoked }

func (c *claim) End() int64 {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	return int64(len(c.part.log))
}

func (c *claim) Fetch(ctx context.Context) ([]holdfast.Message, error) {
	for {
		c.broker.mu.Lock()
		changed := c.broker.changed
		messages := c.part.log[c.position:min(c.position+10, int64(len(c.part.log)))]
		c.position += int64(len(messages))
		c.broker.handed += len(messages)
		c.broker.mu.Unlock()
		if len(messages) > 0 {
			return slices.Clone(messages), nil
		}
		select {
		case <-changed:
		case <-c.revoked:
			return nil, holdfast.ErrRevoked
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Commit checks what every commit has to keep: the owner commits, forwards, and no further than it has fetched.
func (c *claim) Commit(next int64) {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	switch {
	case c.over:
		c.broker.t.Errorf("%s/%d: commit of %d after the claim was given up", c.part.topic, c.part.number, next)
	case next < c.part.committed:
		c.broker.t.Errorf("%s/%d: commit goes back from %d to %d", c.part.topic, c.part.number, c.part.committed, next)
	case next > c.position:
		c.broker.t.Errorf("%s/%d: commit of %d, fetched up to %d", c.part.topic, c.part.number, next, c.position)
	}
	c.part.committed = next
	c.broker.wake()
}

func (c *claim) CommitSync(_ context.Context, next int64, _ string) error {
	c.Commit(next)
	return nil
}

// cluster is a broker whose group can also read the dead-letter topic, as a *kafkax.Consumer can.
type cluster struct {
	*broker
	letters *broker
}

func (c cluster) Group() string { return "orders" }

func (c cluster) ConsumeAs(ctx context.Context, group string, topics []string, handle func(context.Context, holdfast.Claim) error) error {
	if group != "orders.redrive" || !slices.Equal(topics, []string{"orders.dlq"}) {
		return fmt.Errorf("asked for group %s and topics %v", group, topics)
	}
	return c.letters.Consume(ctx, handle)
}

// mustGiveUp revokes a partition's claim, which has to be given up at once.
func (b *broker) mustGiveUp(p int) {
	b.t.Helper()
	before := b.owner(p)
	before.revoke()
	synctest.Wait()
	if b.owner(p) == before {
		b.t.Errorf("partition %d is not given up", p)
	}
}

// letterBox takes letters into memory, and into a broker's log if it has one.
type letterBox struct {
	into *broker

	mu      sync.Mutex
	letters []dlq.Letter
	away    error
	tries   int
}

func (b *letterBox) Topic() string { return "orders.dlq" }

func (b *letterBox) Write(_ context.Context, letters ...dlq.Letter) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries++
	if b.away != nil {
		return b.away
	}
	b.letters = append(b.letters, letters...)
	if b.into != nil {
		b.into.mu.Lock()
		defer b.into.mu.Unlock()
		part := b.into.partitions[0]
		for _, l := range letters {
			m := dlq.Encode(l)
			m.Topic, m.Offset = part.topic, int64(len(part.log))
			part.log = append(part.log, m)
		}
		b.into.wake()
	}
	return nil
}

func (b *letterBox) setAway(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = err
}

// attempts is how often somebody has tried to write letters.
func (b *letterBox) attempts() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tries
}

// of gives the offsets of the letters with a reason, in the order they were written.
func (b *letterBox) of(reason dlq.Reason) []int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	offsets := []int64{}
	for _, l := range b.letters {
		if l.Reason == reason {
			offsets = append(offsets, l.Message.Offset)
		}
	}
	return offsets
}

func (b *letterBox) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.letters)
}

// boxFunc is a dead-letter queue.
type boxFunc func(context.Context, ...dlq.Letter) error

func (f boxFunc) Write(ctx context.Context, letters ...dlq.Letter) error { return f(ctx, letters...) }

func newBreaker(t *testing.T, name string) *breaker.Breaker {
	t.Helper()
	b, err := breaker.New(breaker.Config{Name: name, MaxFailures: 1, SuccessThreshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// store is a sink with a circuit inside. What it does with a batch is scripted.
type store struct {
	breaker *breaker.Breaker

	mu     sync.Mutex
	script func(n int, b holdfast.Batch[int]) error // n counts the calls that reached the store, from 1.
	calls  int
	rows   []int
}

func newStore(t *testing.T) *store {
	t.Helper()
	return &store{breaker: newBreaker(t, "store")}
}

func (s *store) IsOpen() bool                             { return s.breaker.IsOpen() }
func (s *store) WaitUntilReady(ctx context.Context) error { return s.breaker.WaitUntilReady(ctx) }

func (s *store) Write(ctx context.Context, b holdfast.Batch[int]) error {
	return s.breaker.Execute(ctx, func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls++
		var err error
		if s.script != nil {
			err = s.script(s.calls, b)
		}
		var refused *holdfast.BatchError
		switch {
		case err == nil:
			s.keep(b, nil)
		case errors.As(err, &refused):
			s.keep(b, refused.Items)
		}
		return err
	})
}

// keep stores a batch's items but those left out. The script calls it for what is stored although it fails.
func (s *store) keep(b holdfast.Batch[int], without map[int]error) {
	for i, item := range b.Items {
		if without[i] == nil {
			s.rows = append(s.rows, item.Value)
		}
	}
}

func (s *store) do(script func(n int, b holdfast.Batch[int]) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
}

// refuse has the store refuse some values.
func (s *store) refuse(why error, values ...int) {
	s.do(func(_ int, b holdfast.Batch[int]) error {
		refused := make(map[int]error)
		for i, item := range b.Items {
			if slices.Contains(values, item.Value) {
				refused[i] = why
			}
		}
		return &holdfast.BatchError{Items: refused}
	})
}

// count is how many calls reached the store.
func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *store) stored() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.rows)
}

// scripted is a store of which only the circuit is asked.
type scripted struct {
	*store
	write func(context.Context, holdfast.Batch[int]) error
}

func (s *scripted) Write(ctx context.Context, b holdfast.Batch[int]) error { return s.write(ctx, b) }

// running is a pipeline that runs until stop.
type running struct {
	*pipeline.Pipeline
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, src pipeline.Source, sink pipeline.Sink[int], cfg pipeline.Config) *running {
	t.Helper()
	return startWith(t, src, number(), sink, cfg)
}

func startWith(t *testing.T, src pipeline.Source, stage pipeline.Stage[holdfast.Message, int], sink pipeline.Sink[int], cfg pipeline.Config) *running {
	t.Helper()
	p, err := pipeline.New(src, stage, sink, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{Pipeline: p, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- p.Run(ctx) }()
	return r
}

func (r *running) stop() error {
	r.cancel()
	return <-r.done
}

func (r *running) mustStop(t *testing.T) {
	t.Helper()
	if err := r.stop(); err != nil {
		t.Errorf("Run returned %v, want nil after a clean drain", err)
	}
}

// number is a stage that decodes a message into the number it holds.
func number() pipeline.Stage[holdfast.Message, int] {
	return pipeline.Map("decode", pipeline.JSON[int], pipeline.StageConfig{})
}

// work decodes numbers and runs fn on them.
func work(fn func(context.Context, int) (int, error), cfg pipeline.StageConfig) pipeline.Stage[holdfast.Message, int] {
	return pipeline.Then(number(), pipeline.Map("work", fn, cfg))
}

func pass(_ context.Context, n int) (int, error) { return n, nil }

func numbers(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func sorted(n []int) []int { return slices.Sorted(slices.Values(n)) }

func places(h pipeline.Health) []string {
	found := make(map[string]struct{})
	for _, t := range h.Troubles {
		found[t.Place] = struct{}{}
	}
	return slices.Sorted(maps.Keys(found))
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
