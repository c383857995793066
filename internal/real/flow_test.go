package real_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

const (
	partitions     = 4
	sessionTimeout = 6 * time.Second // The least that Kafka allows by default.
	patience       = 90 * time.Second
)

// flow is one test's: topics, a table, a group, and a stream of orders that goes on until the test ends it.
type flow struct {
	t       *testing.T
	servers *testkit.RealServers
	plan    plan
	db      driver.Conn
	watcher *watcher

	produced int // Orders that the broker has acknowledged. To be read after produce has ended.
	stop     context.CancelFunc
	done     sync.WaitGroup
}

// newFlow makes topics and table, and lets orders come in. slow is for how long an insert takes, twice: before and after
// its rows are stored.
func newFlow(t *testing.T, slow time.Duration) *flow {
	t.Helper()
	servers := testkit.Servers(t)
	name := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "_")) + time.Now().UTC().Format("_20060102_150405")
	f := &flow{t: t, servers: servers, plan: plan{
		Brokers: servers.Brokers, ClickHouse: servers.ClickHouse,
		Group: name, Topic: name, DeadLetters: name + ".dlq", Table: name,
	}}
	f.makeTopics()
	f.makeTable(slow)
	f.watcher = watch(t, f.plan)
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	f.done.Go(func() { f.produce(ctx) })
	t.Cleanup(func() {
		stop()
		f.done.Wait()
	})
	return f
}

func (f *flow) makeTopics() {
	f.t.Helper()
	transport := new(kafka.Transport) // The default one may have connections to a broker that an earlier test has killed.
	defer transport.CloseIdleConnections()
	client := &kafka.Client{Addr: kafka.TCP(f.plan.Brokers...), Timeout: 20 * time.Second, Transport: transport}
	replicas := min(len(f.plan.Brokers), 3)
	response, err := client.CreateTopics(f.t.Context(), &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{
		{Topic: f.plan.Topic, NumPartitions: partitions, ReplicationFactor: replicas},
		{Topic: f.plan.DeadLetters, NumPartitions: partitions, ReplicationFactor: replicas},
	}})
	if err != nil {
		f.t.Fatal(err)
	}
	for topic, err := range response.Errors {
		if err != nil {
			f.t.Fatalf("creating topic %s: %v", topic, err)
		}
	}
}

func (f *flow) makeTable(slow time.Duration) {
	f.t.Helper()
	var err error
	if f.db, err = clickhouse.Open(&clickhouse.Options{Addr: []string{f.plan.ClickHouse}, DialTimeout: askTimeout, ReadTimeout: askTimeout}); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = f.db.Close() })
	columns := "id UInt64, cents Int64"
	if slow > 0 {
		columns += fmt.Sprintf(", pause UInt8 DEFAULT sleep(%g)", slow.Seconds())
	}
	ddl := fmt.Sprintf("CREATE TABLE %s (%s) ENGINE = MergeTree ORDER BY id", f.plan.Table, columns)
	if f.exec(ddl+" SETTINGS non_replicated_deduplication_window = 1000") != nil { // A server too old for it.
		if err := f.exec(ddl); err != nil {
			f.t.Fatal(err)
		}
	}
	if slow > 0 { // A view is written after the table, and before the acknowledgement.
		if err := f.exec(fmt.Sprintf("CREATE MATERIALIZED VIEW %s_slow ENGINE = Null AS SELECT id, sleep(%g) AS pause FROM %[1]s",
			f.plan.Table, slow.Seconds())); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *flow) exec(query string) error {
	ctx, cancel := context.WithTimeout(f.t.Context(), askTimeout)
	defer cancel()
	return f.db.Exec(ctx, query)
}

// produce lets about a thousand orders a second come in, one in five hundred of them poison, until ctx ends. What the
// broker does not acknowledge is produced again.
func (f *flow) produce(ctx context.Context) {
	producer, err := kafkax.NewProducer(kafkax.Cluster{Brokers: f.plan.Brokers}, kafkax.ProducerConfig{})
	if err != nil {
		f.t.Error(err)
		return
	}
	defer closeProducer(producer)
	const chunk = 100
	for tick := time.Tick(chunk * time.Second / 1000); ; <-tick {
		messages := make([]holdfast.Message, chunk)
		for i := range messages {
			messages[i] = f.message(f.produced + i)
		}
		for producer.Produce(context.WithoutCancel(ctx), messages...) != nil {
			if ctx.Err() != nil {
				return
			}
			<-tick
		}
		f.produced += chunk
		if ctx.Err() != nil {
			return
		}
	}
}

func (f *flow) message(id int) holdfast.Message {
	quantity, end := 1+id%7, "}"
	switch id % 1000 {
	case 250:
		quantity = 0
	case 750:
		end = ""
	}
	value := fmt.Sprintf(`{"id":%d,"quantity":%d%s`, id, quantity, end)
	return holdfast.Message{Topic: f.plan.Topic, Key: []byte(strconv.Itoa(id)), Value: []byte(value)}
}

// poison tells whether the order cannot be stored.
func poison(id int) bool { return id%1000 == 250 || id%1000 == 750 }

func (f *flow) member(name string) *member { return startMember(f.t, name, f.plan) }

// until waits for a condition.
func (f *flow) until(what string, holds func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s := f.watcher.sight()
			f.watcher.verdict()
			f.t.Fatalf("not %s in %v: %d orders stored, %d letters, committed %v of %v", what, patience, len(s.stored), s.letters, s.committed, s.ends)
		}
	}
}

// moves waits until n more orders are stored.
func (f *flow) moves(n int) {
	f.t.Helper()
	before := len(f.watcher.sight().stored)
	f.until("moving", func() bool { return len(f.watcher.sight().stored) >= before+n })
}

// everywhere waits until commits have moved in every partition.
func (f *flow) everywhere() {
	f.t.Helper()
	before := f.watcher.sight().committed
	f.until("moving in every partition", func() bool {
		now := f.watcher.sight().committed
		for p := range int32(partitions) {
			if at := (place{f.plan.Topic, p}); now[at] <= before[at] {
				return false
			}
		}
		return true
	})
}

// grouped waits until the group is at rest with so many members.
func (f *flow) grouped(n int) {
	f.t.Helper()
	f.until(fmt.Sprintf("a group of %d", n), func() bool {
		members, stable, err := f.watcher.members(f.t.Context())
		return err == nil && stable && members == n
	})
}

// inserting waits until ClickHouse is at work on an insert.
func (f *flow) inserting() {
	f.t.Helper()
	f.until("inserting", func() bool {
		ctx, cancel := context.WithTimeout(f.t.Context(), askTimeout)
		defer cancel()
		var n uint64
		err := f.db.QueryRow(ctx, "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO%"+f.plan.Table+"%'").Scan(&n)
		return err == nil && n > 0
	})
}

// must ends the test when the servers could not be handled.
func (f *flow) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// settle ends the stream, waits until every order has come to where it belongs, drains the members, and checks
// everything that was seen.
func (f *flow) settle(members ...*member) {
	f.t.Helper()
	f.stop()
	f.done.Wait()
	f.until("everything settled", func() bool {
		for _, m := range members {
			m.alive()
		}
		return f.missing(f.watcher.sight()) == nil
	})
	for _, m := range members {
		m.drain()
	}
	f.until("everything committed", func() bool {
		s := f.watcher.sight()
		for p := range int32(partitions) {
			if at := (place{f.plan.Topic, p}); s.committed[at] != s.ends[at] {
				return false
			}
		}
		return true
	})
	looks := f.watcher.sight().looks
	f.until("watched to the end", func() bool { return f.watcher.sight().looks > looks+1 })
	s := f.watcher.sight()
	if err := f.missing(s); err != nil {
		f.t.Error(err)
	}
	f.watcher.verdict()
	rows := 0
	for _, n := range s.stored {
		rows += n
	}
	f.t.Logf("produced=%d stored=%d letters=%d duplicated=%d looks=%d", f.produced, len(s.stored), s.letters, rows-len(s.stored), s.looks)
}

// missing tells which orders are not where they belong: poison in the dead-letter queue, all others in ClickHouse.
func (f *flow) missing(s sight) error {
	var errs []error
	for id := range f.produced {
		switch {
		case len(errs) > 5:
			return errors.Join(errs...)
		case poison(id) && !s.dead[uint64(id)]:
			errs = append(errs, fmt.Errorf("order %d, which is poison, has no letter", id))
		case !poison(id) && s.stored[uint64(id)] == 0:
			errs = append(errs, fmt.Errorf("order %d is not stored", id))
		}
	}
	return errors.Join(errs...)
}
