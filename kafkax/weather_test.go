package kafkax_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// logbook counts what is logged, by message.
type logbook struct {
	slog.Handler
	mu   sync.Mutex
	said []string
}

func newLogbook(t *testing.T) *logbook {
	return &logbook{Handler: slog.NewTextHandler(t.Output(), nil)}
}

func (l *logbook) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	l.said = append(l.said, r.Message)
	l.mu.Unlock()
	return l.Handler.Handle(ctx, r)
}

func (l *logbook) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l *logbook) count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, m := range l.said {
		if m == message {
			n++
		}
	}
	return n
}

func hangingDial(ctx context.Context, _, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func muteDial(context.Context, string, string) (net.Conn, error) {
	conn, _ := net.Pipe()
	return conn, nil
}

func TestUnreachableBroker(t *testing.T) {
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"refused": new(testkit.Network).Dial, "dial hangs": hangingDial, "broker never answers": muteDial,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := kafkax.Cluster{Brokers: []string{"one.example:9092", "two.example:9093"}, Dial: dial}
				began := time.Now()
				err := <-start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle).done
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("took %v", took)
				}
				var unreachable *kafkax.UnreachableError
				if !errors.As(err, &unreachable) || !slices.Equal(unreachable.Brokers, cluster.Brokers) {
					t.Fatalf("got %v", err)
				}
				for _, word := range []string{"one.example:9092", "two.example:9093", "metadata"} {
					if !strings.Contains(err.Error(), word) {
						t.Errorf("the error does not name %q: %v", word, err)
					}
				}
			})
		})
	}
}

// TestCoordinatorMoves gives the group to one broker after another, in a moment of rest, while messages are read, when
// the group is to be joined again, and just before the end. The new coordinator is found each time, so that the group
// stays as it was, what was read is committed, and nothing is read twice.
func TestCoordinatorMoves(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 3}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		move := func() {
			if err := server.MoveCoordinator("group"); err != nil {
				t.Fatal(err)
			}
			for _, api := range []testkit.API{testkit.APIHeartbeat, testkit.APIOffsetCommit, testkit.APIOffsetFetch} {
				server.Inject(testkit.Fault{API: api, Code: int16(kafka.NotCoordinatorForGroup)}) // As if it had been on its way.
			}
		}
		var seen ledger
		r := start(t, cluster, brisk(), seen.handle)
		until(t, "joined", func() bool { return r.claims() == 3 })
		for round := range 10 {
			move()
			for range 10 {
				fill(t, server, "orders", 3, 10)
				time.Sleep(300 * time.Millisecond)
			}
			move()
			time.Sleep(20 * time.Second) // Longer than a session.
			until(t, "committed", func() bool {
				for _, next := range server.Committed("group", "orders") {
					if next != int64(100*(round+1)) {
						return false
					}
				}
				return true
			})
		}
		if g := r.group(); g.Generations != 1 || g.CommitsFenced != 0 {
			t.Errorf("%d generations, %d commits fenced", g.Generations, g.CommitsFenced)
		}
		if err := server.Rebalance("group"); err != nil {
			t.Fatal(err)
		}
		move()
		until(t, "joined again", func() bool { return r.group().Generations == 2 && r.claims() == 3 })
		fill(t, server, "orders", 3, 10)
		until(t, "read", func() bool { return seen.distinct() == 3030 })
		move()
		began := time.Now()
		r.stop(t)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v to end", took)
		}
		for p, next := range server.Committed("group", "orders") {
			if next != 1010 {
				t.Errorf("partition %d: committed %d, want 1010", p, next)
			}
		}
		for message, n := range seen.seen {
			if n != 1 {
				t.Errorf("message %s was read %d times", message, n)
			}
		}
		checkCommits(t, server)
		if n := server.Members("group"); n != 0 {
			t.Errorf("%d members left in the group", n)
		}
	})
}

func TestBrokersRestart(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 3}, Brokers: 2}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		book := newLogbook(t)
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{Logger: slog.New(book)}, seen.handle)
		fill(t, server, "orders", 3, 100)
		until(t, "all read", func() bool { return seen.distinct() == 300 })
		for range 3 {
			server.Stop()
			before := seen.distinct()
			fill(t, server, "orders", 3, 100)
			time.Sleep(45 * time.Second) // Longer than the session timeout.
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			back := time.Now()
			until(t, "all read", func() bool { return seen.distinct() == before+300 })
			if took := time.Since(back); took > 5*time.Second {
				t.Errorf("took %v to come back", took)
			}
		}
		r.stop(t)
		checkCommits(t, server)
		// Whether the member has to join again depends on whose timer ends first.
		joins, fetches := book.count("cannot join the group, trying again"), book.count("fetch failed, trying again")
		if joins > 6 || fetches == 0 || fetches > 18 {
			t.Errorf("3 outages were logged by %d lines about the group and %d about its 3 partitions", joins, fetches)
		}
	})
}

func TestOutageAtTheEnd(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 10)
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
			defer c.Commit(10)
			return seen.handle(ctx, c)
		})
		until(t, "all read", func() bool { return seen.distinct() == 10 })
		server.Stop()
		began := time.Now()
		r.stop(t)
		if took := time.Since(began); took > 40*time.Second {
			t.Errorf("Consume took %v to end without brokers", took)
		}
	})
}

func TestLeaderMoves(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}, Brokers: 3}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{}, seen.handle)
		for i := range 6 {
			if err := server.MoveLeader("orders", 0, i%3); err != nil {
				t.Fatal(err)
			}
			moved := time.Now()
			fill(t, server, "orders", 1, 10)
			until(t, "all read", func() bool { return seen.distinct() == 10*(i+1) })
			if took := time.Since(moved); took > 4*time.Second {
				t.Errorf("a moved leader was found after %v", took)
			}
		}
		r.stop(t)
		if n := r.consumer.Stats().Groups[0].Generations; n != 1 {
			t.Errorf("%d generations, want 1", n)
		}
	})
}

func TestMissingTopic(t *testing.T) {
	for name, topics := range map[string][]string{"all": {"late"}, "one of two": {"late", "orders"}} {
		t.Run(name, func(t *testing.T) {
			virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
				book := newLogbook(t)
				var seen ledger
				r := start(t, cluster, kafkax.ConsumerConfig{Topics: topics, Logger: slog.New(book)}, func(ctx context.Context, c holdfast.Claim) error {
					for {
						messages, err := c.Fetch(ctx)
						if err != nil {
							return err
						}
						for i := range messages { // Values are the same in all topics.
							messages[i].Value = []byte(messages[i].Topic + "/" + string(messages[i].Value))
						}
						seen.note(messages)
						c.Commit(messages[len(messages)-1].Offset + 1)
					}
				})
				want := 0
				if len(topics) > 1 {
					fill(t, server, "orders", 1, 10)
					want = 10
					until(t, "the other topic's messages", func() bool { return seen.distinct() == want })
				}
				time.Sleep(time.Minute)
				if n := book.count("topic does not exist, waiting for it"); n != 1 {
					t.Errorf("said %d times that the topic does not exist, want once", n)
				}
				if n := server.Requests(testkit.APIJoinGroup); n > 2 {
					t.Errorf("%d joins while waiting", n)
				}
				if err := server.CreateTopic("late", 2); err != nil {
					t.Fatal(err)
				}
				created := time.Now()
				fill(t, server, "late", 2, 100)
				until(t, "its messages", func() bool { return seen.distinct() == want+200 })
				if took := time.Since(created); took > 5*time.Second {
					t.Errorf("found after %v", took)
				}
				r.stop(t)
			})
		})
	}
}

func TestPartitionGrowth(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		first := start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle)
		second := start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle)
		until(t, "joined", func() bool { return first.claims()+second.claims() == 1 && server.Members("group") == 2 })
		if err := server.AddPartitions("orders", 3); err != nil {
			t.Fatal(err)
		}
		until(t, "all claimed", func() bool { return first.claims() == 2 && second.claims() == 2 })
		time.Sleep(time.Minute)
		if n := first.consumer.Stats().Groups[0].Generations; n > 4 {
			t.Errorf("%d generations", n)
		}
		first.stop(t)
		second.stop(t)
	})
}

func TestRefusedAtTheStart(t *testing.T) {
	for name, fault := range map[string]testkit.Fault{
		"group denied": {API: testkit.APIJoinGroup, Code: int16(kafka.GroupAuthorizationFailed), Times: -1},
		"topic denied": {API: testkit.APIMetadata, Topic: "orders", Code: int16(kafka.TopicAuthorizationFailed), Times: -1},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
				server.Inject(fault)
				err := <-start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle).done
				if !errors.Is(err, kafka.Error(fault.Code)) {
					t.Errorf("Consume: got %v, want %v", err, kafka.Error(fault.Code))
				}
			})
		})
	}
}

// TestRefusedLater takes the group away from a member, which learns of it at the next rebalance.
func TestRefusedLater(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 10)
		r := start(t, cluster, kafkax.ConsumerConfig{CommitInterval: time.Minute}, new(ledger).handle)
		until(t, "joined", func() bool { return r.claims() == 1 })
		remove := server.Inject(testkit.Fault{API: testkit.APIJoinGroup, Code: int16(kafka.GroupAuthorizationFailed), Times: -1})
		defer remove()
		server.Inject(testkit.Fault{API: testkit.APIHeartbeat, Code: int16(kafka.RebalanceInProgress)})
		select {
		case err := <-r.done:
			if !errors.Is(err, kafka.GroupAuthorizationFailed) {
				t.Errorf("Consume: got %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("Consume goes on")
			r.stop(t)
		}
		if got := committed(server); got != 10 {
			t.Errorf("committed %d, want what was handled", got)
		}
	})
}

func TestConsumeAs(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1, "letters": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "letters", 1, 10)
		r := start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle)
		until(t, "joined", func() bool { return r.claims() == 1 })
		if err := r.consumer.Consume(t.Context(), new(ledger).handle); err == nil || !strings.Contains(err.Error(), `"group" already`) {
			t.Errorf("a second Consume: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		var seen ledger
		go func() { done <- r.consumer.ConsumeAs(ctx, "group.redrive", []string{"letters"}, seen.handle) }()
		until(t, "letters read", func() bool { return seen.distinct() == 10 })
		groups := r.consumer.Stats().Groups
		if len(groups) != 2 || groups[0].Group != "group" || groups[1].Group != "group.redrive" || groups[1].Partitions[0].Topic != "letters" {
			t.Errorf("stats: %+v", groups)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		r.stop(t)
		if got := server.Committed("group.redrive", "letters")[0]; got != 10 {
			t.Errorf("committed %d, want 10", got)
		}
	})
}

func TestStatsWhileReading(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		for range 10 { // Each is a batch.
			fill(t, server, "orders", 1, 10)
		}
		r := start(t, cluster, kafkax.ConsumerConfig{FetchBytes: 512}, func(ctx context.Context, c holdfast.Claim) error {
			if _, err := c.Fetch(ctx); err != nil {
				t.Error(err)
			}
			if end := c.End(); end != 100 {
				t.Errorf("End is %d, want 100", end)
			}
			c.Commit(1)
			<-c.Revoked()
			return nil
		})
		until(t, "commit", func() bool { return committed(server) == 1 })
		time.Sleep(time.Second)
		g := r.consumer.Stats().Groups[0]
		if g.Member == "" || g.Generation == 0 || len(g.Partitions) != 1 {
			t.Fatalf("stats: %+v", g)
		}
		if p := g.Partitions[0]; p.Topic != "orders" || p.Commits != 1 || p.Committed != 1 || p.End != 100 || p.Lag != 99 || p.Position < 1 || p.Prefetched <= 0 {
			t.Errorf("stats: %+v", p)
		}
		r.stop(t)
	})
}

// TestSockets does what the others do in memory on real sockets once, with TLS and every kind of authentication, and
// looks for goroutines that are left.
func TestSockets(t *testing.T) {
	certificate, pool := selfSigned(t)
	scram256, err := scram.Mechanism(scram.SHA256, "s", "secret")
	if err != nil {
		t.Fatal(err)
	}
	scram512, err := scram.Mechanism(scram.SHA512, "t", "secret")
	if err != nil {
		t.Fatal(err)
	}
	users := []testkit.KafkaUser{
		{Mechanism: "PLAIN", Name: "p", Password: "secret"},
		{Mechanism: "SCRAM-SHA-256", Name: "s", Password: "secret"},
		{Mechanism: "SCRAM-SHA-512", Name: "t", Password: "secret"},
	}
	server := testkit.Kafka(t, testkit.KafkaConfig{
		Topics: map[string]int{"orders": 2}, Users: users,
		TLS: &tls.Config{Certificates: []tls.Certificate{certificate}},
	})
	for name, cluster := range map[string]kafkax.Cluster{
		"plain":    {SASL: plain.Mechanism{Username: "p", Password: "secret"}},
		"scram256": {SASL: scram256},
		"scram512": {SASL: scram512},
	} {
		t.Run(name, func(t *testing.T) {
			fill(t, server, "orders", 2, 100)
			before := runtime.NumGoroutine()
			cluster.Brokers, cluster.TLS = server.Addrs(), &tls.Config{RootCAs: pool}
			var seen ledger
			r := start(t, cluster, kafkax.ConsumerConfig{Group: name, Start: kafkax.StartEarliest}, seen.handle)
			until(t, "all read", func() bool { return seen.distinct() >= 200 })
			producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
			if err != nil {
				t.Fatal(err)
			}
			if err := producer.Produce(t.Context(), holdfast.Message{Topic: "orders", Value: []byte(name)}); err != nil {
				t.Error(err)
			}
			had := seen.distinct()
			until(t, "the produced one", func() bool { return seen.distinct() > had || had > 200 })
			if err := producer.Close(t.Context()); err != nil {
				t.Error(err)
			}
			r.stop(t)
			until(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
		})
	}
}

func TestWrongPassword(t *testing.T) {
	cfg := testkit.KafkaConfig{Users: []testkit.KafkaUser{{Mechanism: "PLAIN", Name: "p", Password: "secret"}}}
	virtual(t, cfg, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		cluster.SASL = plain.Mechanism{Username: "p", Password: "wrong"}
		began := time.Now()
		err := <-start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle).done
		if took := time.Since(began); err == nil || took > 10*time.Second {
			t.Errorf("Consume: %v after %v", err, took)
		}
	})
}

// TestPause does not fetch for a long time: nothing more than two answers is fetched, and the membership is kept.
func TestPause(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		for range 20 { // Each is a batch.
			fill(t, server, "orders", 1, 100)
		}
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{FetchBytes: 2000}, func(ctx context.Context, c holdfast.Claim) error {
			time.Sleep(20 * time.Minute)
			return seen.handle(ctx, c)
		})
		until(t, "joined", func() bool { return r.claims() == 1 })
		time.Sleep(19 * time.Minute)
		if n := server.Requests(testkit.APIFetch); n != 2 {
			t.Errorf("%d fetches while paused, want 2", n)
		}
		if n := r.consumer.Stats().Groups[0].Partitions[0].Prefetched; n <= 0 || n > 100_000 {
			t.Errorf("%d bytes prefetched", n)
		}
		if n := server.Requests(testkit.APIHeartbeat); n < 375 || n > 381 {
			t.Errorf("%d heartbeats in 19 minutes, want one in 3 s", n)
		}
		time.Sleep(time.Minute)
		until(t, "all read", func() bool { return seen.distinct() == 2000 })
		if n := r.consumer.Stats().Groups[0].Generations; n != 1 {
			t.Errorf("%d generations, want 1", n)
		}
		r.stop(t)
	})
}
