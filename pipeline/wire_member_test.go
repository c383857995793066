package pipeline_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

// maxMembers is how many pipelines there may be in the group.
const maxMembers = 3

// member is a process with a pipeline, from its start to its end.
type member struct {
	*pipeline.Pipeline
	w      *wire
	number int
	sink   *breaker.Breaker
	stage  *breaker.Breaker
	cancel context.CancelFunc
	done   chan error
	close  func()
	says   *testimony

	died  chan struct{}
	dying sync.Once

	mu    sync.Mutex
	doom  *doom
	away  time.Time // Until then, nothing that it says arrives anywhere.
	conns map[*tap]struct{}
}

// doom is what a member dies of: the n-th request of a kind, unsent, or sent and not heard the answer of.
type doom struct {
	api    testkit.API // Or "insert", for whatever is written to ClickHouse.
	nth    int
	served bool
}

func (m *member) String() string { return fmt.Sprintf("member %d", m.number) }

// join starts a member.
func (w *wire) join() {
	w.joined++
	m := &member{w: w, number: w.joined, done: make(chan error, 1), died: make(chan struct{}), conns: make(map[*tap]struct{})}
	m.says = &testimony{m: m, groups: make(map[string]*groupTestimony)}
	var err error
	must := func() {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	guard := clickhousex.BreakerConfig("clickhouse")
	guard.MaxFailures, guard.SuccessThreshold, guard.Timeout = 2, 1, 5*time.Second
	m.sink, err = breaker.New(guard)
	must()
	m.stage, err = breaker.New(breaker.Config{Name: "stage", MaxFailures: 3, SuccessThreshold: 1, Timeout: 3 * time.Second})
	must()
	db := m.open()
	store, err := clickhousex.NewInserter[wireRow](db, "orders", w.plan.inserter)
	must()
	cluster := kafkax.Cluster{Brokers: w.kafka.Addrs(), Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return m.dial(ctx, network, addr, nil)
	}}
	log := slog.New(slog.NewTextHandler(w, nil)).With("process", m.number)
	reading := w.plan.consumer
	reading.Logger = log
	consumer, err := kafkax.NewConsumer(cluster, reading)
	must()
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{Timeout: 2 * time.Second, Logger: quiet()})
	must()
	dead, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: "orders.dlq", Logger: quiet()})
	must()
	cfg := w.plan.pipeline
	cfg.DeadLetters, cfg.OnEvent, cfg.Logger = wireLetters{w, dead}, w.event, quiet()
	work := pipeline.Map("work", w.work, pipeline.StageConfig{Breaker: m.stage, Timeout: 2 * time.Second, Retry: retry.Policy{Delay: 50 * time.Millisecond}})
	m.Pipeline, err = pipeline.New(wireSource{w, consumer}, work, wireSink{store, w}, cfg)
	must()
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	go func() { m.done <- m.Run(ctx) }()
	m.close = func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = producer.Close(closing)
		_ = db.Close()
	}
	w.members = append(w.members, m)
	w.note("%v joins", m)
}

// open connects to ClickHouse. A process that starts while it is away is started again until it is there.
func (m *member) open() *clickhousex.Conn {
	for {
		db, err := clickhousex.Open(&clickhouse.Options{
			Addr:        []string{m.w.ch.Addr()},
			DialContext: func(ctx context.Context, addr string) (net.Conn, error) { return m.dial(ctx, "tcp", addr, m.w.ch.Dial) },
		}, clickhousex.Config{Breaker: m.sink, Logger: quiet()})
		if err == nil {
			return db
		}
		m.w.note("%v: %v", m, err)
		time.Sleep(time.Second)
	}
}

func (m *member) dial(ctx context.Context, network, addr string, store func(context.Context, string) (net.Conn, error)) (net.Conn, error) {
	if m.isDead() {
		return nil, errCrashed
	}
	if left := m.cutOff(); left > 0 {
		select {
		case <-time.After(left):
		case <-m.died:
			return nil, errCrashed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	var conn net.Conn
	var err error
	if store != nil {
		if conn, err = store(ctx, addr); err != nil {
			m.w.refused.Add(1)
		}
	} else {
		conn, err = m.w.kit.Dial(ctx, network, addr)
	}
	if err != nil {
		return nil, err
	}
	t := &tap{Conn: conn, m: m, store: store != nil, closed: make(chan struct{}), asked: make(map[int32]kmsg.Request)}
	m.mu.Lock()
	m.conns[t] = struct{}{}
	m.mu.Unlock()
	if m.isDead() {
		_ = t.Close()
	}
	return t, nil
}

func (m *member) forget(t *tap) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, t)
}

func (m *member) connections() (conns []*tap) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for t := range m.conns {
		conns = append(conns, t)
	}
	return conns
}

// strikes counts a request of a kind, and gives what the member is to die of, if it is this one.
func (m *member) strikes(kind string) *doom {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.doom == nil || string(m.doom.api) != kind {
		return nil
	}
	if m.doom.nth--; m.doom.nth > 0 {
		return nil
	}
	d := m.doom
	m.doom = nil
	return d
}

func (m *member) setDoom(d doom) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doom = &d
}

func (m *member) setAway(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = time.Now().Add(d)
}

// cutOff is for how much longer nothing that it says arrives.
func (m *member) cutOff() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Until(m.away)
}

func (m *member) isDead() bool {
	select {
	case <-m.died:
		return true
	default:
		return false
	}
}

// die cuts everything that the member holds on to: from here on, nothing that it does reaches anybody.
func (m *member) die() {
	m.dying.Do(func() {
		close(m.died)
		for _, t := range m.connections() {
			_ = t.Close()
		}
	})
}

// take takes a member off the list.
func (w *wire) take(i int) *member {
	m := w.members[i]
	w.members = append(w.members[:i:i], w.members[i+1:]...)
	return m
}

// leave has a member drain and leave, and returns what its Run returned.
func (w *wire) leave(m *member) error {
	m.cancel()
	err := <-m.done
	m.close()
	time.Sleep(time.Second) // What is closed in the background.
	for _, t := range m.connections() {
		w.leaked++
		w.t.Errorf("%v has left, and its connection to %v is open", m, t.RemoteAddr())
	}
	w.note("%v has left: %v", m, err)
	return err
}

// crash ends a member at the request that it is doomed to die at, or else after a while: without a drain, without a word.
func (w *wire) crash(m *member, d doom) {
	m.setDoom(d)
	select {
	case <-m.died:
	case <-time.After(3 * time.Second):
		m.die()
	}
	w.note("%v is dead", m)
	m.cancel() // What is left of it can reach nobody.
	w.note("%v has ended: %v", m, <-m.done)
	m.close()
}

// wireSource numbers the claims.
type wireSource struct {
	w *wire
	*kafkax.Consumer
}

func (s wireSource) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return s.Consumer.Consume(ctx, func(ctx context.Context, c holdfast.Claim) error {
		number := strconv.Itoa(s.w.newLife())
		return unlessLeft(handle(ctx, &numberedClaim{Claim: c, t: s.w.t, number: number, bound: int64(s.w.plan.pipeline.MaxInFlight)}))
	})
}
