package kafkax_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// prefetched is what waits for all handlers together.
func prefetched(r *running) (sum int) {
	for _, g := range r.consumer.Stats().Groups {
		for _, p := range g.Partitions {
			sum += int(p.Prefetched)
		}
	}
	return sum
}

// TestPrefetchIsShared has all handlers rest in the middle of an answer, and every other one for long: the member's bound
// holds, the other partitions are read to their end meanwhile, and these in the end.
func TestPrefetchIsShared(t *testing.T) {
	const partitions, each, bound = 24, 1000, 240_000 // So that a share is below what a partition has.
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": partitions}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		for range 10 { // Each is a batch, of some 1,500 B.
			fill(t, server, "orders", partitions, each/10)
		}
		var seen ledger
		rest := func(ctx context.Context, c holdfast.Claim, d time.Duration) {
			messages, err := c.Fetch(ctx)
			if err != nil {
				t.Error(err)
			}
			seen.note(messages)
			time.Sleep(d)
		}
		cfg := kafkax.ConsumerConfig{PrefetchBytes: bound, FetchMessages: 10, MaxWait: 10 * time.Second}
		r := start(t, cluster, cfg, func(ctx context.Context, c holdfast.Claim) error {
			rest(ctx, c, 20*time.Second)
			if _, p := c.Partition(); p%2 == 0 {
				rest(ctx, c, time.Minute)
			}
			return seen.handle(ctx, c)
		})
		time.Sleep(15 * time.Second)
		if n := prefetched(r); n < bound/2 || n > bound {
			t.Errorf("%d bytes prefetched, want most of %d", n, bound)
		}
		time.Sleep(30 * time.Second)
		if n, want := seen.distinct(), partitions/2*(each+20); n != want {
			t.Errorf("%d messages read while half of the partitions rested, want %d", n, want)
		}
		until(t, "all read", func() bool { return seen.distinct() == partitions*each })
		if n := r.consumer.Stats().Groups[0].Generations; n != 1 {
			t.Errorf("%d generations, want 1", n)
		}
		r.stop(t)
	})
}

// TestPrefetchOfManyPartitions has a member with 1,000 partitions, all of whose handlers rest: what is fetched ahead stays
// within the bound, and everything is read in the end. Not each of them asks where its leader is, or has a connection
// beside the one that it is fetched over.
func TestPrefetchOfManyPartitions(t *testing.T) {
	const partitions, each, bound = 1000, 12, 4 << 20
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": partitions}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		for i := range each { // Each is a batch, of some 500 B.
			messages := make([]holdfast.Message, partitions)
			for p := range messages {
				messages[p] = holdfast.Message{Topic: "orders", Partition: p, Value: fmt.Appendf(nil, "%d/%d %0400d", p, i, 0)}
			}
			if err := server.Produce(t.Context(), messages...); err != nil {
				t.Fatal(err)
			}
		}
		var dialled atomic.Int64
		well := cluster.Dial
		cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialled.Add(1)
			return well(ctx, network, addr)
		}
		var seen ledger
		cfg := kafkax.ConsumerConfig{PrefetchBytes: bound, FetchMessages: 1, MaxWait: 10 * time.Second}
		r := start(t, cluster, cfg, func(ctx context.Context, c holdfast.Claim) error {
			messages, err := c.Fetch(ctx)
			if err != nil {
				return err
			}
			seen.note(messages)
			time.Sleep(time.Minute)
			return seen.handle(ctx, c)
		})
		time.Sleep(30 * time.Second)
		if n := prefetched(r); r.claims() != partitions || n < bound/3 || n > bound {
			t.Errorf("%d partitions claimed, %d bytes prefetched, want a large part of %d", r.claims(), n, bound)
		}
		if n := server.Requests(testkit.APIMetadata); n > partitions/4 {
			t.Errorf("%d metadata requests", n)
		}
		if n := dialled.Load(); n > partitions+partitions/4 {
			t.Errorf("%d connections", n)
		}
		until(t, "all read", func() bool { return seen.distinct() == partitions*each })
		if n := r.group().Generations; n != 1 {
			t.Errorf("%d generations, want 1", n)
		}
		r.stop(t)
	})
}

// TestLargeBatchWaits has batches that are larger than a partition's share: they are fetched only once they are asked for.
func TestLargeBatchWaits(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		for range 3 { // Each is a batch, of some 10 kB.
			fill(t, server, "orders", 1, 1000)
		}
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{PrefetchBytes: 8000, MaxWait: time.Minute}, func(ctx context.Context, c holdfast.Claim) error {
			time.Sleep(time.Minute)
			messages, err := c.Fetch(ctx)
			if err != nil || len(messages) != 200 {
				t.Errorf("fetched %d messages, %v", len(messages), err)
			}
			seen.note(messages)
			time.Sleep(time.Minute)
			return seen.handle(ctx, c)
		})
		until(t, "joined", func() bool { return r.claims() == 1 })
		time.Sleep(time.Minute / 2)
		if n := prefetched(r); n != 0 {
			t.Errorf("%d bytes prefetched of a batch that nobody has asked for", n)
		}
		time.Sleep(time.Minute)
		if n := prefetched(r); n < 10_000 || n > 20_000 {
			t.Errorf("%d bytes prefetched, want the one batch that was asked for", n)
		}
		time.Sleep(time.Minute)
		until(t, "all read", func() bool { return seen.distinct() == 3000 })
		r.stop(t)
	})
}

// TestFetchMessages bounds what one Fetch returns.
func TestFetchMessages(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 100)
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{FetchMessages: 30}, func(ctx context.Context, c holdfast.Claim) error {
			for _, want := range []int{30, 30, 30, 10} {
				messages, err := c.Fetch(ctx)
				if err != nil || len(messages) != want {
					t.Errorf("fetched %d messages, %v, want %d", len(messages), err, want)
				}
				seen.note(messages)
				c.Commit(messages[len(messages)-1].Offset + 1)
			}
			return seen.handle(ctx, c)
		})
		until(t, "committed", func() bool { return committed(server) == 100 })
		if n := seen.distinct(); n != 100 {
			t.Errorf("%d messages read", n)
		}
		r.stop(t)
	})
}

// garbledConn flips a bit of each answer with messages, for as long as on says.
type garbledConn struct {
	net.Conn
	on *atomic.Bool
	// Whether the last request was a Fetch.
	fetching atomic.Bool
}

func (c *garbledConn) Write(b []byte) (int, error) {
	c.fetching.Store(len(b) > 6 && binary.BigEndian.Uint16(b[4:]) == uint16(protocol.Fetch))
	return c.Conn.Write(b)
}

func (c *garbledConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 100 && c.fetching.Load() && c.on.Load() { // An answer without messages is shorter.
		b[n-1] ^= 1
	}
	return n, err
}

// TestCorruptBatch has what is fetched of a partition come with wrong checksums for a while. It is told once, shows in
// the statistics for as long as it lasts, and is tried until it is right.
func TestCorruptBatch(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		var garbled atomic.Bool
		well := cluster.Dial
		cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := well(ctx, network, addr)
			return &garbledConn{Conn: conn, on: &garbled}, err
		}
		fill(t, server, "orders", 1, 10)
		book := newLogbook(t)
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{Logger: slog.New(book)}, seen.handle)
		until(t, "all read", func() bool { return seen.distinct() == 10 })
		if p := r.group().Partitions[0]; p.FetchError != nil || p.FetchesFailed != 0 {
			t.Errorf("at first: %+v", p)
		}
		garbled.Store(true)
		fill(t, server, "orders", 1, 10)
		time.Sleep(time.Minute)
		p := r.group().Partitions[0]
		var batch *kafkax.RecordBatchError
		if !errors.As(p.FetchError, &batch) || !errors.Is(p.FetchError, kafkax.ErrCorruptBatch) || batch.Topic != "orders" || batch.Offset != 10 {
			t.Errorf("FetchError = %v", p.FetchError)
		}
		if p.FetchesFailed < 20 || p.Lag != 10 || p.Position != 10 {
			t.Errorf("after a minute: %+v", p)
		}
		if n := book.count("fetch failed, trying again"); n != 1 {
			t.Errorf("told %d times", n)
		}
		garbled.Store(false)
		until(t, "all read", func() bool { return seen.distinct() == 20 })
		if now := r.group().Partitions[0]; now.FetchError != nil || now.FetchesFailed < p.FetchesFailed {
			t.Errorf("in the end: %+v", now)
		}
		r.stop(t)
	})
}

// TestFetchCircuit cuts every fetch until the circuit opens. Nothing is fetched then, and the membership is kept. What a
// broker answers, such as that another leads, is no failure of the circuit.
func TestFetchCircuit(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 100)
		circuit, err := breaker.New(breaker.Config{Name: "kafka", MaxFailures: 3, Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		leads := server.Inject(testkit.Fault{API: testkit.APIFetch, Code: int16(kafka.NotLeaderForPartition), Times: -1})
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{Breaker: circuit}, seen.handle)
		until(t, "told so five times", func() bool { return circuit.Stats().Totals.Successes == 5 })
		remove := server.Inject(testkit.Fault{API: testkit.APIFetch, Cut: true, Times: -1})
		leads()
		until(t, "the circuit is open", circuit.IsOpen)
		if n := circuit.Stats().Totals; n.Failures != 3 || n.Successes != 5 {
			t.Errorf("counted %+v, want 3 failures after 5 answers", n)
		}
		fetches, heartbeats := server.Requests(testkit.APIFetch), server.Requests(testkit.APIHeartbeat)
		time.Sleep(50 * time.Second)
		if n := server.Requests(testkit.APIFetch) - fetches; n != 0 {
			t.Errorf("%d fetches through an open circuit", n)
		}
		if n := server.Requests(testkit.APIHeartbeat) - heartbeats; n < 16 {
			t.Errorf("%d heartbeats in 50 s", n)
		}
		remove()
		until(t, "committed", func() bool { return committed(server) == 100 })
		if g := r.group(); g.Generations != 1 || seen.distinct() != 100 {
			t.Errorf("%d messages read, stats: %+v", seen.distinct(), g)
		}
		r.stop(t)
	})
}
