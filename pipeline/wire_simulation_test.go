package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/testkit"
)

const wireMessages = 40 // Of each partition.

// wire is one pipeline between a Kafka and a ClickHouse that speak their real protocols, with faults in them, restarts,
// rebalances, and crashes of the pipeline, after which a new one begins.
type wire struct {
	t     *testing.T
	dice  *rand.Rand
	began time.Time
	kit   *testkit.Network
	kafka *testkit.KafkaServer
	ch    *testkit.ClickHouseServer
	cfg   pipeline.Config

	mu     sync.Mutex
	log    []string
	ended  map[uint64]bool // Acknowledged by ClickHouse, or by the dead-letter topic for good.
	posted map[uint64]bool // A letter of an open circuit is acknowledged.
	tally
}

// member is a pipeline of one life.
type member struct {
	*pipeline.Pipeline
	circuit *breaker.Breaker
	cancel  context.CancelFunc
	done    chan error
	release func()

	mu    sync.Mutex
	dead  bool
	conns []net.Conn
}

func simulateWire(t *testing.T, seed uint64) tally {
	t.Helper()
	goroutines := inBubble()
	w := &wire{t: t, dice: rand.New(rand.NewPCG(seed, 1)), began: time.Now(), kit: new(testkit.Network), ended: make(map[uint64]bool), posted: make(map[uint64]bool)}
	defer w.dump()
	var err error
	if w.kafka, err = testkit.StartKafka(testkit.KafkaConfig{Network: w.kit, Topics: map[string]int{"orders": simPartitions, "orders.dlq": 2}}); err != nil {
		t.Fatal(err)
	}
	if w.ch, err = testkit.StartClickHouse(testkit.ClickHouseConfig{Network: w.kit, Tables: []string{ordersTable}}); err != nil {
		t.Fatal(err)
	}
	w.cfg = pipeline.Config{
		DeadLetterAfter: []time.Duration{0, -1, 3 * time.Second}[w.dice.IntN(3)],
		Order:           []pipeline.Order{pipeline.ByPartition, pipeline.ByKey, pipeline.Unordered}[w.dice.IntN(3)],
		Lanes:           1 + w.dice.IntN(4),
		Batch:           pipeline.BatchConfig{Count: 1 + w.dice.IntN(20), Delay: time.Duration(1+w.dice.IntN(200)) * time.Millisecond, Writers: 1 + w.dice.IntN(3)},
		DrainTimeout:    5 * time.Second,
		Logger:          quiet(),
		OnEvent: func(e pipeline.Event) {
			w.note("%s %s/%d %d %s %s %s %v", e.Kind, e.Topic, e.Partition, e.Offset, e.Place, e.Why, e.Reason, e.Err)
		},
	}
	m := w.storm()
	w.until(m, "everything is settled", func() bool {
		got := w.kafka.Committed("orders", "orders")
		for p := range simPartitions {
			if got[p] != wireMessages {
				return false
			}
		}
		return w.lost() == 0
	})
	m.cancel()
	if err := <-m.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	m.release()
	w.check()
	w.ch.Close()
	w.kafka.Close()
	time.Sleep(time.Minute) // For what the servers leave behind.
	synctest.Wait()
	if w.leaked = max(0, inBubble()-goroutines); w.leaked > 0 {
		t.Errorf("%d goroutines more after Run than before", w.leaked)
	}
	return w.tally
}

func (w *wire) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf("%12v ", time.Since(w.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

func (w *wire) dump() {
	if w.t.Failed() {
		w.t.Logf("what happened:\n%s", strings.Join(w.log, "\n"))
	}
}

// join starts a pipeline.
func (w *wire) join() *member {
	m := &member{done: make(chan error, 1)}
	guard := clickhousex.BreakerConfig("clickhouse")
	guard.MaxFailures, guard.SuccessThreshold, guard.Timeout = 2, 1, 5*time.Second
	var err error
	must := func() {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	m.circuit, err = breaker.New(guard)
	must()
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		return m.dial(ctx, w.kit, network, addr)
	}
	db, err := clickhousex.Open(&clickhouse.Options{
		Addr: []string{w.ch.Addr()}, DialContext: func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, "tcp", addr) },
	}, clickhousex.Config{Breaker: m.circuit, Logger: quiet()})
	must()
	store, err := clickhousex.NewInserter[orderRow](db, "orders", clickhousex.InserterConfig{})
	must()
	cluster := kafkax.Cluster{Brokers: w.kafka.Addrs(), Dial: dial}
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: "orders", Topics: []string{"orders"}, DrainTimeout: 3 * time.Second, Logger: quiet()})
	must()
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{Timeout: 2 * time.Second})
	must()
	dead, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: "orders.dlq"})
	must()
	cfg := w.cfg
	cfg.DeadLetters = wireLetters{w, dead}
	stage := pipeline.Map("row", func(ctx context.Context, msg holdfast.Message) (orderRow, error) {
		id, err := pipeline.JSON[uint64](ctx, msg)
		if err == nil && id%11 == 3 {
			return orderRow{}, holdfast.Permanent(errAway)
		}
		return orderRow{id}, err
	}, pipeline.StageConfig{})
	m.Pipeline, err = pipeline.New(wireSource{w, consumer}, stage, wireSink{store, w}, cfg)
	must()
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() { m.done <- m.Run(ctx) }()
	m.release = func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = producer.Close(closing)
		_ = db.Close()
	}
	return m
}

func (m *member) dial(ctx context.Context, kit *testkit.Network, network, addr string) (net.Conn, error) {
	m.mu.Lock()
	dead := m.dead
	m.mu.Unlock()
	if dead {
		return nil, errors.New("crashed")
	}
	conn, err := kit.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns = append(m.conns, conn)
	return conn, nil
}

// crash cuts everything the pipeline holds on to: nothing that it does from here on reaches anybody.
func (w *wire) crash(m *member) {
	m.mu.Lock()
	m.dead = true
	for _, c := range m.conns {
		_ = c.Close()
	}
	m.mu.Unlock()
	m.cancel()
	w.note("crashed: %v", <-m.done)
	m.release()
}

// storm produces while things fail, and leaves a pipeline that nothing hinders.
func (w *wire) storm() *member {
	m := w.join()
	var removes []func()
	for i := range wireMessages {
		for p := range simPartitions {
			id := p*wireMessages + i
			if err := w.kafka.Produce(context.Background(), holdfast.Message{Topic: "orders", Partition: p, Key: fmt.Append(nil, i%5), Value: fmt.Append(nil, id)}); err != nil {
				w.t.Fatal(err)
			}
		}
		time.Sleep(time.Duration(w.dice.IntN(400)) * time.Millisecond)
		if remove := w.fault(); remove != nil {
			removes = append(removes, remove)
		}
		switch w.dice.IntN(30) {
		case 0:
			w.note("crash")
			w.crash(m)
			m = w.join()
		case 1:
			w.note("rebalance")
			_ = w.kafka.Rebalance("orders") // It may be about to, anyhow.
		case 2:
			w.note("circuit forced open")
			m.circuit.ForceOpen()
		case 3, 4:
			m.circuit.Reset()
		case 5:
			w.note("ClickHouse restarts")
			w.ch.Stop()
			time.Sleep(time.Duration(w.dice.IntN(5)) * time.Second)
			if err := w.ch.Start(); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	for _, remove := range removes {
		remove()
	}
	m.circuit.Reset()
	return m
}

// fault has something go wrong with a request to come, now and then.
func (w *wire) fault() (remove func()) {
	nth := 1 + w.dice.IntN(3)
	kafka := []testkit.Fault{
		{API: testkit.APIProduce, Topic: "orders.dlq", LoseAck: true},
		{API: testkit.APIProduce, Topic: "orders.dlq", Code: 7},
		{API: testkit.APIOffsetCommit, LoseAck: true},
		{API: testkit.APIOffsetCommit, Code: 14},
		{API: testkit.APIOffsetCommit, Cut: true},
		{API: testkit.APIFetch, Cut: true},
		{API: testkit.APIHeartbeat, Cut: true},
	}
	stores := []testkit.ClickHouseFault{
		{On: testkit.ClickHouseInsert, LoseAck: true},
		{On: testkit.ClickHouseInsert, Cut: true},
		{On: testkit.ClickHouseInsert, Code: 252},
		{On: testkit.ClickHousePrepare, Code: 60},
	}
	switch roll := w.dice.IntN(25); {
	case roll < len(kafka):
		f := kafka[roll]
		f.Nth = nth
		w.note("fault %+v", f)
		return w.kafka.Inject(f)
	case roll < len(kafka)+len(stores):
		f := stores[roll-len(kafka)]
		f.Nth = nth
		w.note("fault %+v", f)
		return w.ch.Inject(f)
	}
	return nil
}

func (w *wire) until(m *member, what string, holds func() bool) {
	w.t.Helper()
	for range 1200 {
		if holds() {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	w.t.Errorf("ten minutes have passed, and not: %s; health %+v, stats %+v", what, m.Health(), m.Stats())
}

// rows are the ids that ClickHouse has.
func (w *wire) rows() map[uint64]int {
	ids := make(map[uint64]int)
	for _, id := range w.ch.Values("orders", "id") {
		ids[id.(uint64)]++
	}
	return ids
}

func (w *wire) lost() int {
	rows := w.rows()
	n := 0
	for id := range uint64(simPartitions * wireMessages) {
		if rows[id] == 0 && id%11 != 3 {
			n++
		}
	}
	return n
}

// check looks at what the servers have.
func (w *wire) check() {
	letters, err := w.kafka.Messages(context.Background(), "orders.dlq")
	if err != nil {
		w.t.Fatal(err)
	}
	refused := make(map[string]bool)
	for _, r := range letters {
		if l, err := dlq.Decode(r); err == nil && l.Reason == dlq.Permanent {
			refused[string(l.Message.Value)] = true
		}
	}
	rows := w.rows()
	for id := range uint64(simPartitions * wireMessages) {
		if rows[id] == 0 && !refused[fmt.Sprint(id)] {
			w.tally.lost++
			w.t.Errorf("order %d is lost", id)
		}
	}
	last := make(map[string]int64)
	for _, c := range w.kafka.Commits() {
		at := fmt.Sprint(c.Group, c.Topic, c.Partition)
		if c.Code == 0 && c.Offset < last[at] {
			w.ahead++
			w.t.Errorf("%s is committed back from %d to %d", at, last[at], c.Offset)
		}
		if c.Code == 0 {
			last[at] = c.Offset
		}
	}
}

// settled checks a commit of the orders.
func (w *wire) settled(partition int, next int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for o := range next {
		if id := uint64(partition*wireMessages) + uint64(o); !w.ended[id] && !w.posted[id] {
			w.ahead++
			w.t.Errorf("partition %d is committed up to %d, and %d is not settled", partition, next, o)
		}
	}
}

// wireSource checks each commit.
type wireSource struct {
	w *wire
	*kafkax.Consumer
}

func (s wireSource) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return s.Consumer.Consume(ctx, func(ctx context.Context, c holdfast.Claim) error {
		return unlessLeft(handle(ctx, wireClaim{c, s.w}))
	})
}

type wireClaim struct {
	holdfast.Claim
	w *wire
}

func (c wireClaim) Commit(next int64) {
	_, partition := c.Partition()
	c.w.settled(partition, next)
	c.Claim.Commit(next)
}

// wireSink notes what ClickHouse has acknowledged.
type wireSink struct {
	*clickhousex.Inserter[orderRow]
	w *wire
}

func (s wireSink) Write(ctx context.Context, b holdfast.Batch[orderRow]) error {
	err := s.Inserter.Write(ctx, b)
	s.w.note("sink: %d items of %v: %v", len(b.Items), b.Spans, err)
	partly, ok := errors.AsType[*holdfast.BatchError](err)
	if err != nil && (!ok || holdfast.IsAmbiguous(err)) {
		return err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for i, item := range b.Items {
		if !ok || partly.Items[i] == nil {
			s.w.ended[item.Value.ID] = true
		}
	}
	return err
}

// deadTopic has a name of its own, since a field named Topic would hide the method.
type deadTopic = dlq.Topic

// wireLetters notes what the dead-letter topic has acknowledged.
type wireLetters struct {
	w *wire
	*deadTopic
}

func (l wireLetters) Write(ctx context.Context, letters ...dlq.Letter) error {
	stored := l.w.rows()
	err := l.deadTopic.Write(ctx, letters...)
	partly, ok := errors.AsType[*holdfast.BatchError](err)
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	for i, letter := range letters {
		id := uint64(letter.Message.Partition*wireMessages) + uint64(letter.Message.Offset)
		if stored[id] > 0 && letter.Redrives == 0 && !slices.ContainsFunc(l.w.log, func(line string) bool {
			return strings.HasSuffix(line, " crash") || strings.Contains(line, " released ")
		}) {
			l.w.t.Errorf("order %d is stored, and has a letter: %s, %s", id, letter.Reason, letter.Error)
		}
		if err != nil && (!ok || partly.Items[i] != nil) {
			continue
		}
		if letter.Reason == dlq.CircuitOpen {
			l.w.posted[id] = true
		} else {
			l.w.ended[id] = true
		}
	}
	return err
}
