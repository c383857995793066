package kafkax_test

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// virtual runs test in a bubble, with a cluster in it: time moves when everybody waits.
func virtual(t *testing.T, cfg testkit.KafkaConfig, test func(*testing.T, *testkit.KafkaServer, kafkax.Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.Network = new(testkit.Network)
		cfg.Brokers = 3 // So that a request to the wrong one shows.
		server, err := testkit.StartKafka(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		test(t, server, kafkax.Cluster{Brokers: server.Addrs(), Dial: cfg.Network.Dial})
	})
}

// fill writes n messages to every partition. Their values say where they are.
func fill(t *testing.T, server *testkit.KafkaServer, topic string, partitions, n int) {
	t.Helper()
	var messages []holdfast.Message
	begin := server.Ends(topic)
	for p := range partitions {
		for i := range n {
			value := fmt.Sprintf("%d/%d", p, begin[p]+int64(i))
			messages = append(messages, holdfast.Message{Topic: topic, Partition: p, Value: []byte(value)})
		}
	}
	if err := server.Produce(t.Context(), messages...); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition, a minute at most.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 6000 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: not within a minute", what)
}

// ledger notes which messages handlers have seen.
type ledger struct {
	mu   sync.Mutex
	seen map[string]int
}

func (l *ledger) note(messages []holdfast.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = make(map[string]int)
	}
	for _, m := range messages {
		l.seen[string(m.Value)]++
	}
}

func (l *ledger) distinct() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.seen)
}

// handle commits whatever it has fetched and noted.
func (l *ledger) handle(ctx context.Context, c holdfast.Claim) error {
	for {
		messages, err := c.Fetch(ctx)
		if err != nil {
			return err
		}
		l.note(messages)
		c.Commit(messages[len(messages)-1].Offset + 1)
	}
}

// running is a Consume in the background.
type running struct {
	consumer *kafkax.Consumer
	cancel   context.CancelFunc
	done     chan error
}

func start(t *testing.T, cluster kafkax.Cluster, cfg kafkax.ConsumerConfig, handle func(context.Context, holdfast.Claim) error) *running {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if cfg.Group == "" {
		cfg.Group = "group"
	}
	if cfg.Topics == nil {
		cfg.Topics = []string{"orders"}
	}
	consumer, err := kafkax.NewConsumer(cluster, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{consumer: consumer, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- consumer.Consume(ctx, handle) }()
	return r
}

func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.done; err != nil {
		t.Errorf("Consume: %v", err)
	}
}

// group is what the consumer says of its only group.
func (r *running) group() kafkax.GroupStats {
	for _, g := range r.consumer.Stats().Groups {
		return g
	}
	return kafkax.GroupStats{} // It has not begun.
}

func (r *running) claims() int {
	n := 0
	for _, g := range r.consumer.Stats().Groups {
		n += len(g.Partitions)
	}
	return n
}

// checkCommits fails when a partition's committed offset has ever gone back.
func checkCommits(t *testing.T, server *testkit.KafkaServer) {
	t.Helper()
	last := make(map[string]int64)
	for _, c := range server.Commits() {
		at := c.Group + "/" + c.Topic + "/" + strconv.Itoa(c.Partition)
		if c.Code == 0 && c.Offset < last[at] {
			t.Errorf("offset of %s went back from %d to %d", at, last[at], c.Offset)
		}
		if c.Code == 0 {
			last[at] = c.Offset
		}
	}
}

func TestConsumeAndCommit(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 3}, Brokers: 2}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 3, 100)
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{}, seen.handle)
		until(t, "all read", func() bool { return seen.distinct() == 300 })
		fill(t, server, "orders", 3, 50)
		until(t, "all read", func() bool { return seen.distinct() == 450 })
		began := time.Now()
		r.stop(t)
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("an idle Consume took %v to end", took)
		}
		for p, offset := range server.Committed("group", "orders") {
			if offset != 150 {
				t.Errorf("partition %d: committed %d, want 150", p, offset)
			}
		}
		checkCommits(t, server)
		if n := server.Members("group"); n != 0 {
			t.Errorf("%d members left in the group", n)
		}
		if n := server.Requests(testkit.APIJoinGroup); n != 1 {
			t.Errorf("%d joins, want 1: it joined again on its way out", n)
		}
		if g := r.consumer.Stats().Groups[0]; g.Commits == 0 || g.Generations != 1 || len(g.Partitions) != 0 || g.LateCompletions != 0 {
			t.Errorf("stats after the end: %+v", g)
		}
	})
}

func TestRebalanceLosesNothing(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 4}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 4, 500)
		var seen ledger
		slow := func(ctx context.Context, c holdfast.Claim) error {
			for {
				messages, err := c.Fetch(ctx)
				if err != nil {
					return err
				}
				time.Sleep(20 * time.Millisecond)
				seen.note(messages)
				c.Commit(messages[len(messages)-1].Offset + 1)
			}
		}
		cfg := kafkax.ConsumerConfig{FetchBytes: 512}
		first := start(t, cluster, cfg, slow)
		until(t, "first joined", func() bool { return first.claims() == 4 })
		second := start(t, cluster, cfg, slow)
		until(t, "shared", func() bool { return first.claims() == 2 && second.claims() == 2 })
		fill(t, server, "orders", 4, 500)
		if err := server.Rebalance("group"); err != nil {
			t.Fatal(err)
		}
		until(t, "all read", func() bool { return seen.distinct() == 4000 })
		first.stop(t)
		until(t, "second has all", func() bool { return second.claims() == 4 })
		fill(t, server, "orders", 4, 10)
		until(t, "rest read", func() bool { return seen.distinct() == 4040 })
		second.stop(t)
		for p, offset := range server.Committed("group", "orders") {
			if offset != 1010 {
				t.Errorf("partition %d: committed %d, want 1010", p, offset)
			}
		}
		checkCommits(t, server)
	})
}
