package kafkax_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestDeletedTopic deletes one of two topics. The other one goes on, through rebalances, and the group does not have it
// created anew.
func TestDeletedTopic(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1, "gone": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		book := newLogbook(t)
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{Topics: []string{"orders", "gone"}, Logger: slog.New(book)}, seen.handle)
		until(t, "joined", func() bool { return r.claims() == 2 })
		if err := server.DeleteTopic("gone"); err != nil {
			t.Fatal(err)
		}
		until(t, "let go of", func() bool { return r.claims() == 1 })
		if err := server.Rebalance("group"); err != nil {
			t.Fatal(err)
		}
		until(t, "joined again", func() bool { return r.consumer.Stats().Groups[0].Generations == 3 && r.claims() == 1 })
		fill(t, server, "orders", 1, 10)
		until(t, "the other's messages", func() bool { return seen.distinct() == 10 })
		time.Sleep(time.Minute)
		if n := book.count("topic is gone, waiting for another of its name"); n != 1 {
			t.Errorf("said %d times that the topic is gone, want once", n)
		}
		if n := r.consumer.Stats().Groups[0].Generations; n != 3 {
			t.Errorf("%d generations, want 3", n)
		}
		r.stop(t)
	})
}

// TestRecreatedTopic has a topic come back under its name and grow past where the group was. Its messages are others.
func TestRecreatedTopic(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		var old, anew ledger
		r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
			seen := &anew
			if old.distinct() == 0 {
				seen = &old
			}
			return seen.handle(ctx, c)
		})
		fill(t, server, "orders", 1, 10)
		until(t, "all read", func() bool { return old.distinct() == 10 })
		if err := server.DeleteTopic("orders"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if err := server.CreateTopic("orders", 1); err != nil {
			t.Fatal(err)
		}
		fill(t, server, "orders", 1, 50)
		until(t, "the new one's messages", func() bool { return anew.distinct() == 50 })
		r.stop(t)
	})
}

// TestShrunkTopic has a topic come back with fewer partitions, which grow again.
func TestShrunkTopic(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 4}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		r := start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle)
		until(t, "joined", func() bool { return r.claims() == 4 })
		if err := server.DeleteTopic("orders"); err != nil {
			t.Fatal(err)
		}
		if err := server.CreateTopic("orders", 1); err != nil {
			t.Fatal(err)
		}
		until(t, "shrunk", func() bool { return r.claims() == 1 })
		if err := server.AddPartitions("orders", 2); err != nil {
			t.Fatal(err)
		}
		until(t, "grown", func() bool { return r.claims() == 3 })
		r.stop(t)
	})
}

// TestDeletedTopicDrain has work of a deleted topic to commit on the way out. It must not hold up the end, nor the
// other topic's commit.
func TestDeletedTopicDrain(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1, "gone": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 10)
		r := start(t, cluster, kafkax.ConsumerConfig{Topics: []string{"orders", "gone"}}, func(_ context.Context, c holdfast.Claim) error {
			<-c.Revoked()
			c.Commit(5)
			return nil
		})
		until(t, "joined", func() bool { return r.claims() == 2 })
		if err := server.DeleteTopic("gone"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		r.stop(t)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %v to end", took)
		}
		if got := committed(server); got != 5 {
			t.Errorf("committed %d, want 5", got)
		}
	})
}

// TestLeaderlessPartition has one partition without a leader. The other one is read meanwhile.
func TestLeaderlessPartition(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 2}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 2, 10)
		remove := server.Inject(testkit.Fault{
			API: testkit.APIListOffsets, Topic: "orders", Partitions: []int{1}, Code: int16(kafka.LeaderNotAvailable), Times: -1,
		})
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{}, seen.handle)
		until(t, "the well one's messages", func() bool { return seen.distinct() == 10 })
		remove()
		until(t, "the other one's messages", func() bool { return seen.distinct() == 20 })
		r.stop(t)
	})
}

// lateConn has brokers hide, for as long as late says, that a topic has more than one partition from kafka-go, when it
// asks what there is to assign. Our own requests are of another version.
type lateConn struct {
	net.Conn
	late   *atomic.Bool
	answer bytes.Buffer // What is read of.
	asked  sync.Map     // The correlation ids of such requests.
}

const assignVersion = 6

func (c *lateConn) Write(b []byte) (int, error) {
	if len(b) >= 12 && binary.BigEndian.Uint16(b[4:]) == uint16(protocol.Metadata) && binary.BigEndian.Uint16(b[6:]) == assignVersion {
		c.asked.Store(binary.BigEndian.Uint32(b[8:]), true)
	}
	return c.Conn.Write(b)
}

func (c *lateConn) Read(b []byte) (int, error) {
	if c.answer.Len() == 0 {
		head := make([]byte, 8)
		if _, err := io.ReadFull(c.Conn, head); err != nil {
			return 0, err
		}
		c.answer.Write(head)
		if _, err := io.CopyN(&c.answer, c.Conn, int64(binary.BigEndian.Uint32(head))-4); err != nil {
			return 0, err
		}
		if _, ok := c.asked.LoadAndDelete(binary.BigEndian.Uint32(head[4:])); ok && c.late.Load() {
			id, m, err := protocol.ReadResponse(&c.answer, protocol.Metadata, assignVersion)
			if err != nil {
				return 0, err
			}
			m.(*metadata.Response).Topics[0].Partitions = m.(*metadata.Response).Topics[0].Partitions[:1]
			if err := protocol.WriteResponse(&c.answer, assignVersion, id, m); err != nil {
				return 0, err
			}
		}
	}
	return c.answer.Read(b)
}

// TestLateLeader has the member that assigns the partitions be told of new ones last, when nothing else changes any more.
func TestLateLeader(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		well := cluster.Dial
		var late atomic.Bool
		late.Store(true)
		cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := well(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &lateConn{Conn: conn, late: &late}, nil
		}
		first := start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle)
		until(t, "joined", func() bool { return first.claims() == 1 })
		second := start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle)
		until(t, "joined", func() bool { return server.Members("group") == 2 && first.claims()+second.claims() == 1 })
		if err := server.AddPartitions("orders", 3); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // Both have seen it by then.
		late.Store(false)
		until(t, "all claimed", func() bool { return first.claims() == 2 && second.claims() == 2 })
		time.Sleep(time.Minute)
		settled := first.group().Generations
		time.Sleep(time.Minute)
		if n := first.group().Generations; n != settled {
			t.Errorf("%d more generations", n-settled)
		}
		first.stop(t)
		second.stop(t)
	})
}

// TestBrokersDisagree has the brokers disagree for long on how many partitions a topic has: the group does not join again
// and again all the time, and has all soon after they agree. Changes after a time of rest are seen at once.
func TestBrokersDisagree(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		well := cluster.Dial
		var late atomic.Bool
		late.Store(true)
		cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := well(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &lateConn{Conn: conn, late: &late}, nil
		}
		r := start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle)
		until(t, "joined", func() bool { return r.claims() == 1 })
		if err := server.AddPartitions("orders", 1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		if n := r.group().Generations; n < 20 || n > 50 {
			t.Errorf("%d generations in 20 minutes, want some 40", n)
		}
		late.Store(false)
		until(t, "all claimed", func() bool { return r.claims() == 2 })
		time.Sleep(5 * time.Minute)
		for claims := 3; claims <= 4; claims++ {
			if err := server.AddPartitions("orders", 1); err != nil {
				t.Fatal(err)
			}
			added := time.Now()
			until(t, "the new one claimed", func() bool { return r.claims() == claims })
			if took := time.Since(added); took > 3*time.Second {
				t.Errorf("it took %v to claim partition %d", took, claims)
			}
		}
		r.stop(t)
	})
}

// TestFetchDenied ends Consume: no message would ever come.
func TestFetchDenied(t *testing.T) {
	for name, api := range map[string]testkit.API{"messages": testkit.APIFetch, "their range": testkit.APIListOffsets} {
		t.Run(name, func(t *testing.T) {
			virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
				fill(t, server, "orders", 1, 10)
				server.Inject(testkit.Fault{API: api, Topic: "orders", Code: int16(kafka.TopicAuthorizationFailed), Times: -1})
				r := start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle)
				if err := <-r.done; !errors.Is(err, kafka.TopicAuthorizationFailed) {
					t.Errorf("Consume: got %v", err)
				}
			})
		})
	}
}

// TestInflation has a batch that takes little on the wire and much in memory.
func TestInflation(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		p, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{Compression: kafka.Zstd, BatchBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // Each is a batch.
			if err := p.Produce(t.Context(), holdfast.Message{Topic: "orders", Value: make([]byte, 900_000)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		cfg := kafkax.ConsumerConfig{FetchBytes: 100_000, BatchBytes: 1_000_000}
		r := start(t, cluster, cfg, func(ctx context.Context, c holdfast.Claim) error {
			for next := range int64(3) {
				if messages, err := c.Fetch(ctx); err != nil || len(messages) != 1 || messages[0].Offset != next {
					t.Errorf("fetched %d messages, %v", len(messages), err)
				}
			}
			c.Commit(3)
			<-c.Revoked()
			return nil
		})
		until(t, "committed", func() bool { return committed(server) == 3 })
		r.stop(t)

		cfg.Group, cfg.BatchBytes = "other", 800_000
		if err := <-start(t, cluster, cfg, new(ledger).handle).done; !errors.Is(err, kafkax.ErrLargeBatch) || !strings.Contains(err.Error(), "orders/0") {
			t.Errorf("Consume: got %v", err)
		}
	})
}

// TestLargerThanBatchBytes has a batch that is too large as it comes.
func TestLargerThanBatchBytes(t *testing.T) {
	virtual(t, testkit.KafkaConfig{}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		if err := server.CreateTopicWith("orders", 1, map[string]string{"max.message.bytes": "4000000"}); err != nil {
			t.Fatal(err)
		}
		fill(t, server, "orders", 1, 10)
		if err := server.Produce(t.Context(), holdfast.Message{Topic: "orders", Value: make([]byte, 2_000_000)}); err != nil {
			t.Fatal(err)
		}
		var seen ledger
		cfg := kafkax.ConsumerConfig{FetchBytes: 100_000, BatchBytes: 100_000}
		r := start(t, cluster, cfg, seen.handle)
		select {
		case err := <-r.done:
			if !errors.Is(err, kafkax.ErrLargeBatch) || !strings.Contains(err.Error(), "orders/0") {
				t.Errorf("Consume: got %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("Consume goes on")
			r.stop(t)
		}
		if n := seen.distinct(); n != 10 || committed(server) != 10 {
			t.Errorf("%d messages read, %d committed, want the 10 before it", n, committed(server))
		}
	})
}
