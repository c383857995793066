package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/testkit"
)

const ordersTable = "CREATE TABLE orders (id UInt64) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"

type orderRow struct {
	ID uint64 `ch:"id"`
}

// plant is a Kafka, a ClickHouse and a pipeline between them, in one bubble.
type plant struct {
	t       *testing.T
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	kafka   *testkit.KafkaServer
	ch      *testkit.ClickHouseServer
	circuit *breaker.Breaker
	*pipeline.Pipeline

	cancel context.CancelFunc
	done   chan error
}

func newPlant(t *testing.T, topics map[string]int, cfg pipeline.Config, tables ...string) *plant {
	t.Helper()
	kit := new(testkit.Network)
	pl := &plant{
		t:     t,
		dial:  kit.Dial,
		kafka: testkit.Kafka(t, testkit.KafkaConfig{Network: kit, Topics: topics}),
		ch:    testkit.ClickHouse(t, testkit.ClickHouseConfig{Network: kit, Tables: tables}),
		done:  make(chan error, 1),
	}
	guard := clickhousex.BreakerConfig("clickhouse")
	guard.MaxFailures, guard.SuccessThreshold, guard.Timeout = 1, 1, time.Minute
	var err error
	if pl.circuit, err = breaker.New(guard); err != nil {
		t.Fatal(err)
	}
	db, err := clickhousex.Open(&clickhouse.Options{Addr: []string{pl.ch.Addr()}, DialContext: pl.ch.Dial}, clickhousex.Config{Breaker: pl.circuit, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	store, err := clickhousex.NewInserter[orderRow](db, "orders", clickhousex.InserterConfig{})
	if err != nil {
		t.Fatal(err)
	}
	cluster := kafkax.Cluster{Brokers: pl.kafka.Addrs(), Dial: kit.Dial}
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: "orders", Topics: []string{"orders"}, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = producer.Close(context.Background()) })
	dead, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: "orders.dlq", Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	toRow := pipeline.Map("row", func(_ context.Context, id uint64) (orderRow, error) { return orderRow{id}, nil }, pipeline.StageConfig{})
	cfg.DeadLetters, cfg.Logger = dead, quiet()
	if pl.Pipeline, err = pipeline.New(consumer, pipeline.Then(pipeline.Map("decode", pipeline.JSON[uint64], pipeline.StageConfig{}), toRow), store, cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	pl.cancel = cancel
	go func() {
		defer close(pl.done)
		pl.done <- pl.Run(ctx)
	}()
	t.Cleanup(pl.stop)
	return pl
}

// orders produces the orders from first up to but not including next.
func (pl *plant) orders(first, next int) {
	pl.t.Helper()
	for id := first; id < next; id++ {
		if err := pl.kafka.Produce(pl.t.Context(), holdfast.Message{Topic: "orders", Value: fmt.Append(nil, id)}); err != nil {
			pl.t.Fatal(err)
		}
	}
}

// letters gives the orders about which there is a letter.
func (pl *plant) letters() []int64 {
	pl.t.Helper()
	records, err := pl.kafka.Messages(pl.t.Context(), "orders.dlq")
	if err != nil {
		pl.t.Fatal(err)
	}
	offsets := []int64{}
	for _, r := range records {
		l, err := dlq.Decode(r)
		if err != nil {
			pl.t.Fatal(err)
		}
		offsets = append(offsets, l.Message.Offset)
	}
	return offsets
}

func (pl *plant) committed() int64 { return pl.kafka.Committed("orders", "orders")[0] }

// until waits, in the bubble's time, for a condition.
func (pl *plant) until(what string, holds func() bool) {
	pl.t.Helper()
	for range 36_000 {
		if holds() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	pl.t.Fatalf("an hour has passed, and not %s; health %+v, stats %+v", what, pl.Health(), pl.Stats())
}

func (pl *plant) stop() {
	pl.t.Helper()
	pl.cancel()
	if err := <-pl.done; err != nil {
		pl.t.Errorf("Run returned %v", err)
	}
}

// Rule 6, with real protocols: the acknowledgement of an insert is lost while the circuit opens. There is no letter for
// any of its rows, there are letters for what came after it, and in the end every row is stored once.
func TestLostAckWhileCircuitOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlant(t, map[string]int{"orders": 1, "orders.dlq": 1}, pipeline.Config{}, ordersTable)
		pl.ch.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true})
		pl.orders(0, 100)
		pl.until("open", pl.circuit.IsOpen)
		pl.orders(100, 200)
		pl.until("dead-lettered", func() bool { return len(pl.letters()) > 0 })
		time.Sleep(10 * time.Second)
		for _, offset := range pl.letters() {
			if offset < 100 {
				t.Errorf("a letter about offset %d, whose row is stored", offset)
			}
		}
		if n := len(pl.letters()); n != 100 {
			t.Errorf("%d letters, want 100", n)
		}
		if got := pl.committed(); got > 0 {
			t.Errorf("committed %d while the fate of offset 0 was not known", got)
		}
		pl.until("all stored", func() bool { return pl.ch.Count("orders") >= 200 && pl.Stats().Redriven == 100 })
		pl.stop()
		if n := pl.ch.Count("orders"); n != 200 {
			t.Errorf("%d rows, want 200", n)
		}
		if got := pl.committed(); got != 200 {
			t.Errorf("committed %d, want 200", got)
		}
	})
}

// A table that is not there holds the pipeline, says so, dead-letters nothing, and is no fault of the circuit's.
func TestMissingTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlant(t, map[string]int{"orders": 1, "orders.dlq": 1}, pipeline.Config{})
		pl.orders(0, 10)
		pl.until("degraded", func() bool { return pl.Health().Degraded() })
		time.Sleep(10 * time.Minute)
		h := pl.Health()
		if !strings.Contains(fmt.Sprint(h.Troubles), "orders") || !h.Live || !h.Ready {
			t.Errorf("health %+v does not name the table", h)
		}
		if pl.circuit.State() != breaker.Closed || len(pl.letters()) != 0 {
			t.Errorf("circuit %v, %d letters", pl.circuit.State(), len(pl.letters()))
		}
		if err := pl.ch.CreateTable(ordersTable); err != nil {
			t.Fatal(err)
		}
		pl.until("stored", func() bool { return pl.ch.Count("orders") == 10 })
		pl.until("healthy", func() bool { return !pl.Health().Degraded() })
		pl.stop()
	})
}

// A topic that is not there is waited for.
func TestMissingTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlant(t, nil, pipeline.Config{}, ordersTable)
		time.Sleep(time.Minute)
		for topic, partitions := range map[string]int{"orders": 1, "orders.dlq": 1} {
			if err := pl.kafka.CreateTopic(topic, partitions); err != nil {
				t.Fatal(err)
			}
		}
		pl.orders(0, 10)
		pl.until("stored", func() bool { return pl.ch.Count("orders") == 10 })
		pl.stop()
	})
}

// A transaction's marker is no message, and no lag either.
func TestTransactionMarkerIsNoLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlant(t, map[string]int{"orders": 1, "orders.dlq": 1}, pipeline.Config{}, ordersTable)
		writer, err := kgo.NewClient(kgo.SeedBrokers(pl.kafka.Addrs()...), kgo.Dialer(pl.dial), kgo.TransactionalID("t"))
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		if err := writer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := writer.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("1")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := writer.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
		pl.until("stored", func() bool { return pl.ch.Count("orders") == 1 })
		pl.until("without lag", func() bool { return pl.Stats().Partitions[0].Lag == 0 })
		pl.stop()
	})
}

// Both servers go away and come back, the pipeline stays.
func TestServersRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlant(t, map[string]int{"orders": 4, "orders.dlq": 2}, pipeline.Config{DeadLetterAfter: -1}, ordersTable)
		pl.orders(0, 50)
		pl.until("stored", func() bool { return pl.ch.Count("orders") == 50 })
		pl.ch.Stop()
		pl.orders(50, 100)
		time.Sleep(5 * time.Minute)
		pl.kafka.Stop()
		time.Sleep(5 * time.Minute)
		if err := errors.Join(pl.kafka.Start(), pl.ch.Start()); err != nil {
			t.Fatal(err)
		}
		pl.orders(100, 150)
		pl.until("stored", func() bool { return pl.ch.Count("orders") >= 150 })
		pl.stop()
		ids := make(map[any]int)
		for _, id := range pl.ch.Values("orders", "id") {
			ids[id]++
		}
		if len(ids) != 150 || len(pl.letters()) != 0 {
			t.Errorf("%d ids stored, %d letters", len(ids), len(pl.letters()))
		}
	})
}

func TestUnreachableServersAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit := new(testkit.Network)
		began := time.Now()
		_, err := clickhousex.Open(&clickhouse.Options{
			Addr:        []string{"ch.example:9000"},
			DialContext: func(ctx context.Context, addr string) (net.Conn, error) { return kit.Dial(ctx, "tcp", addr) },
		}, clickhousex.Config{Logger: quiet()})
		if err == nil || !strings.Contains(err.Error(), "ch.example:9000") {
			t.Errorf("ClickHouse: %v", err)
		}
		consumer, err := kafkax.NewConsumer(kafkax.Cluster{Brokers: []string{"kafka.example:9092"}, Dial: kit.Dial},
			kafkax.ConsumerConfig{Group: "orders", Topics: []string{"orders"}, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		p, err := pipeline.New(consumer, number(), newStore(t), pipeline.Config{Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "kafka.example:9092") {
			t.Errorf("Kafka: %v", err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("both took %v, want 10 s each at the most", took)
		}
	})
}

// Two members share a topic; one leaves and comes back. Every order is stored, and no commit goes back.
func TestRebalance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlant(t, map[string]int{"orders": 4, "orders.dlq": 2}, pipeline.Config{Batch: pipeline.BatchConfig{Count: 7, Delay: 50 * time.Millisecond}}, ordersTable)
		for round := range 10 {
			for p := range 4 {
				for i := range 10 {
					id := round*40 + p*10 + i
					if err := pl.kafka.Produce(t.Context(), holdfast.Message{Topic: "orders", Partition: p, Value: fmt.Append(nil, id)}); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(time.Duration(round) * 20 * time.Millisecond)
			pl.until("rebalancing", func() bool { return pl.kafka.Rebalance("orders") == nil })
		}
		pl.until("stored", func() bool { return pl.ch.Count("orders") >= 400 })
		pl.stop()
		ids := make(map[any]int)
		for _, id := range pl.ch.Values("orders", "id") {
			ids[id]++
		}
		if len(ids) != 400 {
			t.Errorf("%d ids stored, want 400", len(ids))
		}
		last := make(map[int]int64)
		for _, c := range pl.kafka.Commits() {
			if c.Topic == "orders" && c.Code == 0 {
				if c.Offset < last[c.Partition] {
					t.Errorf("partition %d: commit goes back from %d to %d", c.Partition, last[c.Partition], c.Offset)
				}
				last[c.Partition] = c.Offset
			}
		}
		if !slices.Equal([]int64{last[0], last[1], last[2], last[3]}, []int64{100, 100, 100, 100}) {
			t.Errorf("last commits %v", last)
		}
	})
}
