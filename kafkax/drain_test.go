package kafkax_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestLongDrainKeepsMembership drains for longer than the session timeout. kafka-go's heartbeats stop when a rebalance
// is noticed, so without others the member would be evicted and its last commit refused.
func TestLongDrainKeepsMembership(t *testing.T) {
	for _, group := range []string{"a", "b", "c", "d"} { // With one of three brokers to begin with, some group is another's.
		t.Run(group, func(t *testing.T) {
			virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
				fill(t, server, "orders", 1, 10)
				cluster.Brokers = cluster.Brokers[:1]
				cfg := kafkax.ConsumerConfig{Group: group, SessionTimeout: 6 * time.Second, HeartbeatInterval: 2 * time.Second}
				began := make(chan int64, 10)
				handle := func(ctx context.Context, c holdfast.Claim) error {
					next, _ := c.Committed()
					began <- next
					<-c.Revoked()
					if next == 0 {
						time.Sleep(15 * time.Second)
						c.Commit(7)
					}
					if ctx.Err() != nil {
						t.Errorf("drain ended early: %v", context.Cause(ctx))
					}
					return nil
				}
				first := start(t, cluster, cfg, handle)
				<-began
				second := start(t, cluster, cfg, handle)
				if next := <-began; next != 7 {
					t.Errorf("the next owner begins at %d, want 7", next)
				}
				stats := first.consumer.Stats().Groups[0]
				if stats.DrainTimeouts != 0 || stats.CommitsFenced != 0 || stats.LastDrain < 15*time.Second || stats.LastDrain > 16*time.Second {
					t.Errorf("stats of the one that drained: %+v", stats)
				}
				first.stop(t)
				second.stop(t)
			})
		})
	}
}

func TestDrainTimeout(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		joined, cause, took := make(chan struct{}), make(chan error, 1), make(chan time.Duration, 1)
		r := start(t, cluster, kafkax.ConsumerConfig{DrainTimeout: 5 * time.Second}, func(ctx context.Context, c holdfast.Claim) error {
			close(joined)
			<-c.Revoked()
			began := time.Now()
			<-ctx.Done()
			took <- time.Since(began)
			cause <- context.Cause(ctx)
			c.Commit(3) // What was finished by now counts.
			return ctx.Err()
		})
		fill(t, server, "orders", 1, 10)
		<-joined
		r.cancel()
		if err := <-cause; !errors.Is(err, kafkax.ErrDrainTimeout) {
			t.Errorf("cause: got %v, want ErrDrainTimeout", err)
		}
		if d := <-took; d != 5*time.Second {
			t.Errorf("the context ended after %v, want 5s", d)
		}
		if err := <-r.done; !errors.Is(err, kafkax.ErrDrainTimeout) {
			t.Errorf("Consume: got %v, want ErrDrainTimeout", err)
		}
		if offset := server.Committed("group", "orders")[0]; offset != 3 {
			t.Errorf("committed %d, want 3", offset)
		}
		if stats := r.consumer.Stats().Groups[0]; stats.DrainTimeouts != 1 {
			t.Errorf("stats: %+v", stats)
		}
	})
}

// TestFetchAfterRevoke has messages waiting when the claim is revoked: they must not be handed out.
func TestFetchAfterRevoke(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		for range 10 { // Each is a batch.
			fill(t, server, "orders", 1, 10)
		}
		fetched := make(chan struct{})
		r := start(t, cluster, kafkax.ConsumerConfig{FetchBytes: 256}, func(ctx context.Context, c holdfast.Claim) error {
			if _, err := c.Fetch(ctx); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second) // The next answer is there.
			close(fetched)
			<-c.Revoked()
			if messages, err := c.Fetch(ctx); !errors.Is(err, holdfast.ErrRevoked) || messages != nil {
				t.Errorf("Fetch after the revoke: %d messages, %v", len(messages), err)
			}
			return nil
		})
		<-fetched
		r.stop(t)
	})
}

func TestFetchEndsWithContext(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
			short, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			if _, err := c.Fetch(short); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Fetch: got %v, want its context's error", err)
			}
			fill(t, server, "orders", 1, 10)
			return seen.handle(ctx, c)
		})
		until(t, "all read", func() bool { return seen.distinct() == 10 })
		r.stop(t)
	})
}

func TestHandlerError(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 2}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 2, 10)
		broken := errors.New("broken")
		drained, other := false, make(chan struct{})
		r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
			if _, partition := c.Partition(); partition == 0 {
				<-other
				return broken
			}
			close(other)
			<-c.Revoked()
			drained = true
			return nil
		})
		err := <-r.done
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "orders/0") {
			t.Errorf("Consume: got %v", err)
		}
		if !drained {
			t.Error("the other handler was not drained")
		}
		if n := server.Members("group"); n != 0 {
			t.Errorf("%d members left in the group", n)
		}
	})
}

// TestStubbornHandler has a handler that ignores all, and another member that waits for its partition.
func TestStubbornHandler(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		cfg := kafkax.ConsumerConfig{DrainTimeout: 2 * time.Second, HeartbeatInterval: time.Second}
		release, joined := make(chan struct{}), make(chan struct{})
		stubborn := start(t, cluster, cfg, func(context.Context, holdfast.Claim) error {
			close(joined)
			<-release
			return nil
		})
		<-joined
		stubborn.cancel()
		began := time.Now()
		other := start(t, cluster, cfg, new(ledger).handle)
		until(t, "the other has the partition", func() bool { return other.claims() == 1 })
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the group was held up for %v", took)
		}
		select {
		case err := <-stubborn.done:
			t.Errorf("Consume returned before its handler: %v", err)
		default:
		}
		close(release)
		if err := <-stubborn.done; !errors.Is(err, kafkax.ErrDrainTimeout) {
			t.Errorf("Consume: got %v, want ErrDrainTimeout", err)
		}
		other.stop(t)
	})
}

// TestLeaveDuringRebalance ends a member that waits for another one to drain: it must not wait for that, and must not
// stay in the group either.
func TestLeaveDuringRebalance(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 2}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		slow := start(t, cluster, kafkax.ConsumerConfig{}, func(_ context.Context, c holdfast.Claim) error {
			<-c.Revoked()
			time.Sleep(15 * time.Second)
			return nil
		})
		until(t, "joined", func() bool { return slow.claims() == 2 })
		quick := start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle)
		until(t, "both joined", func() bool { return quick.claims() == 1 && slow.claims() == 1 })
		if err := server.Rebalance("group"); err != nil {
			t.Fatal(err)
		}
		until(t, "quick has let go", func() bool { return quick.claims() == 0 })
		time.Sleep(time.Second)
		began := time.Now()
		quick.stop(t)
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("took %v to leave", took)
		}
		until(t, "slow has all", func() bool { return slow.claims() == 2 })
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("the group took %v to notice", took)
		}
		slow.stop(t)
	})
}

// TestFencedByHeartbeat has the group forget a member that drains.
func TestFencedByHeartbeat(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		joined, causes := make(chan struct{}, 10), make(chan error, 10)
		r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
			joined <- struct{}{}
			<-c.Revoked()
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Second):
			}
			causes <- context.Cause(ctx)
			return nil
		})
		<-joined
		remove := server.Inject(testkit.Fault{API: testkit.APIHeartbeat, Code: int16(kafka.UnknownMemberId), Times: -1})
		if cause := <-causes; !errors.Is(cause, kafkax.ErrFenced) || !errors.Is(cause, kafka.UnknownMemberId) {
			t.Errorf("cause: %v", cause)
		}
		remove()
		<-joined
		r.stop(t)
	})
}

// TestEarlyReturn has a handler that does not wait for the revoke. The other claim goes on.
func TestEarlyReturn(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 2}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
			if _, partition := c.Partition(); partition == 0 {
				c.Commit(2)
				return nil
			}
			return seen.handle(ctx, c)
		})
		time.Sleep(time.Minute)
		fill(t, server, "orders", 2, 10)
		until(t, "the other one's messages", func() bool { return seen.distinct() == 10 })
		until(t, "commits", func() bool { c := server.Committed("group", "orders"); return c[0] == 2 && c[1] == 10 })
		if n := r.consumer.Stats().Groups[0].Generations; n != 1 {
			t.Errorf("%d generations", n)
		}
		r.stop(t)
	})
}

// TestGoexit has a handler end its goroutine, as t.Fatal does in somebody's test.
func TestGoexit(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, _ *testkit.KafkaServer, cluster kafkax.Cluster) {
		r := start(t, cluster, kafkax.ConsumerConfig{}, func(context.Context, holdfast.Claim) error {
			runtime.Goexit()
			return nil
		})
		select {
		case err := <-r.done:
			if err == nil || !strings.Contains(err.Error(), "orders/0") {
				t.Errorf("Consume: got %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("Consume does not return")
		}
	})
}
