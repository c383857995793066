package kafkax_test

import (
	"context"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// brisk has a session that ends when three heartbeats in a row are lost.
func brisk() kafkax.ConsumerConfig {
	return kafkax.ConsumerConfig{SessionTimeout: 6 * time.Second, HeartbeatInterval: 2 * time.Second}
}

// TestOneLostHeartbeat has nothing happen: the session lives on.
func TestOneLostHeartbeat(t *testing.T) {
	for name, fault := range map[string]testkit.Fault{
		"connection cut": {Cut: true}, "hangs": {Hang: true}, "loading": {Code: int16(kafka.GroupLoadInProgress)},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
				fill(t, server, "orders", 1, 10)
				var seen ledger
				r := start(t, cluster, brisk(), seen.handle)
				until(t, "all read", func() bool { return seen.distinct() == 10 })
				fault.API = testkit.APIHeartbeat
				defer server.Inject(fault)()
				time.Sleep(30 * time.Second)
				if n := r.consumer.Stats().Groups[0].Generations; n != 1 {
					t.Errorf("%d generations, want 1", n)
				}
				r.stop(t)
			})
		})
	}
}

// TestLostHeartbeatInDrain has one heartbeat hang while a handler drains for longer than the session lives.
func TestLostHeartbeatInDrain(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 10)
		joined, causes := make(chan struct{}, 10), make(chan error, 10)
		r := start(t, cluster, brisk(), func(ctx context.Context, c holdfast.Claim) error {
			joined <- struct{}{}
			<-c.Revoked()
			defer server.Inject(testkit.Fault{API: testkit.APIHeartbeat, Hang: true, Nth: 2})()
			select {
			case <-ctx.Done():
			case <-time.After(15 * time.Second):
			}
			causes <- context.Cause(ctx)
			c.Commit(5)
			return nil
		})
		<-joined
		if err := server.Rebalance("group"); err != nil {
			t.Fatal(err)
		}
		if cause := <-causes; cause != nil {
			t.Errorf("the handler's context ended: %v", cause)
		}
		<-joined
		if got := committed(server); got != 5 {
			t.Errorf("committed %d, want 5", got)
		}
		r.stop(t)
	})
}

// TestRebalanceBeforeTheFirstFetch has the group wait for a member that cannot read its offsets yet.
func TestRebalanceBeforeTheFirstFetch(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		remove := server.Inject(testkit.Fault{API: testkit.APIListOffsets, Topic: "orders", Code: int16(kafka.LeaderNotAvailable), Times: -1})
		fill(t, server, "orders", 1, 10)
		var seen ledger
		r := start(t, cluster, brisk(), seen.handle)
		time.Sleep(21 * time.Second) // Longer than the session lives, and between two heartbeats.
		began := time.Now()
		if err := server.Rebalance("group"); err != nil {
			t.Fatal(err)
		}
		until(t, "joined again", func() bool { return r.consumer.Stats().Groups[0].Generations == 2 })
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the group was held up for %v", took)
		}
		remove()
		until(t, "all read", func() bool { return seen.distinct() == 10 })
		r.stop(t)
	})
}
