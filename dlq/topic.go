package dlq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

// largeRecord is from where on a record may be too large for its topic: a sixteenth of what a broker takes by default.
const largeRecord = 64 << 10

var errNoPartitions = errors.New("it has no partitions")

// Producer is what a Topic needs of Kafka; *kafkax.Producer is one. It is used by several goroutines at once.
type Producer interface {
	// Partitions tells how many partitions a topic has.
	Partitions(ctx context.Context, topic string) (int, error)

	// ProduceTo returns nil when all messages are acknowledged by all in-sync replicas, in the order given. An error may
	// name by a method Indexes() []int which messages are not; the others are.
	ProduceTo(ctx context.Context, topic string, partition int, messages ...holdfast.Message) error
}

// keyProducer is a Producer that places messages by their key, with the same errors. A Topic needs it for SameKey.
type keyProducer interface {
	Produce(ctx context.Context, messages ...holdfast.Message) error
}

// Placement is which partition a letter goes to.
type Placement int

// The placements.
const (
	// SamePartition puts letters of one partition into one, the original's number modulo how many there are. What was
	// ordered by partition stays ordered, and so by key.
	SamePartition Placement = iota

	// SameKey puts a letter where the producer puts its key, for readers that count on it. Letters without a key go as
	// with SamePartition.
	SameKey
)

// TopicConfig is how a Topic writes. The zero value is good but for Topic.
type TopicConfig struct {
	Topic string // Required. It must exist; give it as many partitions as the topics whose letters it takes.

	// Placement is which partition a letter goes to. By default the number of its first partition decides.
	Placement Placement

	// Breaker guards the topic. Nil means a circuit of its own named "dlq.TOPIC", which opens after 5 failures in a row,
	// for 10 s at first.
	Breaker *breaker.Breaker

	// Spool, if set, takes letters while Kafka does not. It must be the topic's alone. Then Write returns nil for what is
	// durable on this machine's disk and nowhere else: if the machine is lost before Kafka is back, so are these letters.
	Spool *Spool

	// Formats are other frameworks whose headers are written, too: Connect, Spring.
	Formats []Format

	// App, AppVersion and ClientID are written into letters that do not have them. The host's name always is.
	App, AppVersion, ClientID string

	// Logger gets state changes and Check's warnings. Nil means slog.Default().
	Logger *slog.Logger
}

// Validate names every field that cannot be.
func (c TopicConfig) Validate() error {
	var errs []error
	if c.Topic == "" {
		errs = append(errs, errors.New("dlq: TopicConfig.Topic must name a topic, got \"\""))
	}
	if c.Placement != SamePartition && c.Placement != SameKey {
		errs = append(errs, fmt.Errorf("dlq: TopicConfig.Placement must be SamePartition or SameKey, got %d", c.Placement))
	}
	for i, f := range c.Formats {
		if f != Connect && f != Spring {
			errs = append(errs, fmt.Errorf("dlq: TopicConfig.Formats[%d] must be %q or %q, got %q", i, Connect, Spring, f))
		}
	}
	return errors.Join(errs...)
}

func (c TopicConfig) withDefaults() (TopicConfig, error) {
	c.Logger = cmp.Or(c.Logger, slog.Default())
	c.Formats = slices.Clone(c.Formats)
	if c.Breaker != nil {
		return c, nil
	}
	var err error
	c.Breaker, err = breaker.New(breaker.Config{
		Name: "dlq." + c.Topic, MaxFailures: 5, Timeout: 10 * time.Second, SuccessThreshold: 1, ProbeTimeout: 30 * time.Second,
	})
	return c, err
}

// Topic writes letters to a Kafka topic. It is safe for concurrent use.
type Topic struct {
	producer Producer
	cfg      TopicConfig
	host     string

	spooling atomic.Bool     // Letters lie in the spool.
	wake     chan struct{}   // There is something in the spool.
	life     context.Context // Of the draining, until Close.
	end      context.CancelFunc
	ended    chan struct{}
}

// NewTopic returns a Topic that writes through p. It does no I/O; but with a Spool, what an earlier process left there
// is written in the background from now on, until Close.
func NewTopic(p Producer, cfg TopicConfig) (*Topic, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if p == nil {
		return nil, errors.New("dlq: NewTopic needs a Producer, got nil")
	}
	if _, ok := p.(keyProducer); !ok && cfg.Placement == SameKey {
		return nil, fmt.Errorf("dlq: TopicConfig.Placement is SameKey, and %T has no method Produce to place keys", p)
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	t := &Topic{producer: p, cfg: cfg, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	t.host, _ = os.Hostname() // Without a name letters do without it.
	t.life, t.end = context.WithCancel(context.Background())
	if cfg.Spool == nil {
		close(t.ended)
		return t, nil
	}
	if cfg.Spool.Stats().Messages > 0 {
		t.spooling.Store(true)
		t.wake <- struct{}{}
	}
	go t.drain()
	return t, nil
}

// Topic is the topic's name.
func (t *Topic) Topic() string { return t.cfg.Topic }

// Close ends the writing of what is in the spool, which stays there for the next process, and waits for it to end. The
// Spool and the Producer are their owner's to close, after that. Write is not to be called any more. A Topic without a
// Spool need not be closed. Closing again does nothing.
func (t *Topic) Close() error {
	t.end()
	<-t.ended
	return nil
}

// Write returns nil when every letter is acknowledged by all in-sync replicas, or, with a Spool, is on this machine's
// disk. Letters of one partition, or of one key (TopicConfig.Placement), are written in the order given; only one below
// 64 KiB that a topic with a narrow max.message.bytes refuses may be overtaken.
//
// A letter that the topic refuses, for its size above all, is written again without what is optional: its text, class,
// code and chain of error, stack, handler, stage, circuit, attempts, host, program, and other frameworks' headers. If it
// is refused then, too, the Spool takes it, or else it stays unwritten: it is never dropped.
//
// A *holdfast.BatchError names the letters, by index, that are not known to be written; the others are. A letter
// written again after a lost acknowledgement may stand in the topic twice. When ctx ends first, letters may be written
// nevertheless.
func (t *Topic) Write(ctx context.Context, letters ...Letter) error {
	records := make([]holdfast.Message, len(letters))
	var direct, spooled []int // What is in the spool goes first, and what must not overtake it goes there, too.
	var e encoder
	for i := range letters {
		records[i] = t.record(&e, letters[i])
		if t.cfg.Spool != nil && t.cfg.Spool.Holds(&records[i]) {
			spooled = append(spooled, i)
		} else {
			direct = append(direct, i)
		}
	}
	failed := t.deliver(ctx, records, direct)
	if t.cfg.Spool != nil {
		t.spool(ctx, records, spooled, failed)
	}
	if len(failed) > 0 {
		return &holdfast.BatchError{Items: failed}
	}
	return nil
}

// record is a letter as it is written. Its partition is where it comes from, or -1 when its key decides.
func (t *Topic) record(e *encoder, l Letter) holdfast.Message {
	l.Host = cmp.Or(l.Host, t.host)
	l.App = cmp.Or(l.App, t.cfg.App)
	l.AppVersion = cmp.Or(l.AppVersion, t.cfg.AppVersion)
	l.ClientID = cmp.Or(l.ClientID, t.cfg.ClientID)
	r := e.encode(&l, t.cfg.Formats)
	r.Topic, r.Partition = t.cfg.Topic, l.Message.Partition
	if t.cfg.Placement == SameKey && r.Key != nil {
		r.Partition = -1
	}
	return r
}

// deliver writes the records with these indexes, and says which it has not written. For the circuit that is one call.
func (t *Topic) deliver(ctx context.Context, records []holdfast.Message, indexes []int) map[int]error {
	if len(indexes) == 0 {
		return make(map[int]error)
	}
	var failed map[int]error
	err := t.cfg.Breaker.Execute(ctx, func(ctx context.Context) (err error) {
		failed, err = t.deliverAll(ctx, records, indexes)
		return err
	})
	if err != nil && failed == nil { // Rejected, or without partitions.
		failed = make(map[int]error)
		for _, i := range indexes {
			failed[i] = fmt.Errorf("dlq: topic %s: %w", t.cfg.Topic, err)
		}
	}
	return failed
}

// deliverAll writes records, partition by partition side by side. Its error is the gravest of those that it names, or of
// all when it names none.
func (t *Topic) deliverAll(ctx context.Context, records []holdfast.Message, indexes []int) (failed map[int]error, gravest error) {
	partitions, err := t.producer.Partitions(ctx, t.cfg.Topic)
	if err == nil && partitions < 1 {
		err = errNoPartitions
	}
	if err != nil {
		return nil, err
	}
	runs := make(map[int][]int)
	for _, i := range indexes {
		p := max(records[i].Partition, -1)
		if p >= 0 {
			p %= partitions
		}
		runs[p] = append(runs[p], i)
	}
	failed = make(map[int]error)
	var mu sync.Mutex
	var writers sync.WaitGroup
	for p, run := range runs {
		writers.Go(func() {
			left := t.deliverTo(ctx, p, records, run)
			mu.Lock()
			defer mu.Unlock()
			for i, err := range left {
				failed[i] = err
				if gravest == nil || holdfast.IsPermanent(gravest) {
					gravest = err
				}
			}
		})
	}
	writers.Wait()
	return failed, gravest
}

// deliverTo writes records to one partition, or with -1 where their keys go. One that is large ends a request, so that it
// can be stripped, if it has to be, before those behind it are written.
func (t *Topic) deliverTo(ctx context.Context, partition int, records []holdfast.Message, indexes []int) map[int]error {
	failed := make(map[int]error)
	for len(indexes) > 0 {
		n := 1 + slices.IndexFunc(indexes, func(i int) bool { return sizeOf(&records[i]) > largeRecord })
		if n == 0 {
			n = len(indexes)
		}
		left, err := t.produceWhole(ctx, partition, records, indexes[:n])
		indexes = indexes[n:]
		if len(left) > 0 && !holdfast.IsPermanent(err) {
			left, indexes = append(left, indexes...), nil // To write those behind them would be to overtake.
		}
		for _, i := range left {
			failed[i] = fmt.Errorf("dlq: topic %s: %w", t.cfg.Topic, err)
		}
	}
	return failed
}

// produceWhole is produce, and once more for what is refused for good, without what is optional.
func (t *Topic) produceWhole(ctx context.Context, partition int, records []holdfast.Message, indexes []int) (left []int, err error) {
	left, err = t.produce(ctx, partition, records, indexes)
	if len(left) == 0 || !holdfast.IsPermanent(err) {
		return left, err
	}
	stripped := slices.Clone(records)
	for _, i := range left {
		stripped[i] = strip(records[i])
	}
	return t.produce(ctx, partition, stripped, left)
}

// produce writes the records with these indexes, and says which it has not written, and why.
func (t *Topic) produce(ctx context.Context, partition int, records []holdfast.Message, indexes []int) (left []int, err error) {
	messages := make([]holdfast.Message, len(indexes))
	for n, i := range indexes {
		messages[n] = records[i]
	}
	if partition < 0 {
		err = t.producer.(keyProducer).Produce(ctx, messages...) // NewTopic has seen to it.
	} else {
		err = t.producer.ProduceTo(ctx, t.cfg.Topic, partition, messages...)
	}
	if err == nil {
		return nil, nil
	}
	for _, n := range notWritten(err, len(indexes)) {
		left = append(left, indexes[n])
	}
	return left, err
}

// notWritten gives the indexes, of n records, that a producer's error speaks of: those that it names, or all.
func notWritten(err error, n int) []int {
	var named interface{ Indexes() []int }
	if errors.As(err, &named) {
		return slices.DeleteFunc(slices.Clone(named.Indexes()), func(i int) bool { return i < 0 || i >= n })
	}
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}
