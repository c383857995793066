package kafkax_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

const wentElsewhere = "offset out of range, going on elsewhere"

// TestOutOfRangeAtTheStart has a group's offset before and behind what the log holds.
func TestOutOfRangeAtTheStart(t *testing.T) {
	for name, test := range map[string]struct {
		policy     kafkax.OutOfRange
		stored     int64
		begins     int64
		passedOver uint64
	}{
		"deleted, earliest": {kafkax.OutOfRangeEarliest, 10, 50, 40},
		"deleted, latest":   {kafkax.OutOfRangeLatest, 10, 100, 90},
		"shrunk, earliest":  {kafkax.OutOfRangeEarliest, 1000, 50, 0},
		"shrunk, latest":    {kafkax.OutOfRangeLatest, 1000, 100, 0},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
				fill(t, server, "orders", 1, 100)
				r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
					return c.CommitSync(ctx, test.stored, "old")
				})
				until(t, "the commit", func() bool { return committed(server) == test.stored })
				r.stop(t)
				if err := server.DeleteRecords("orders", 0, 50); err != nil {
					t.Fatal(err)
				}
				// The commit of the new place is lost, and then its answer. What is read back meanwhile must not stay.
				defer server.Inject(testkit.Fault{API: testkit.APIOffsetCommit, Cut: true})()
				defer server.Inject(testkit.Fault{API: testkit.APIOffsetCommit, Nth: 2, LoseAck: true})()
				book := newLogbook(t)
				var seen ledger
				cfg := kafkax.ConsumerConfig{OutOfRange: test.policy, Logger: slog.New(book)}
				r = start(t, cluster, cfg, func(ctx context.Context, c holdfast.Claim) error {
					if next, metadata := c.Committed(); next != test.begins || metadata != "" {
						t.Errorf("began at %d %q, want %d", next, metadata, test.begins)
					}
					if got := committed(server); got != test.begins {
						t.Errorf("the group's offset is %d as the claim begins, want %d", got, test.begins)
					}
					return seen.handle(ctx, c)
				})
				until(t, "joined", func() bool { return r.claims() == 1 })
				fill(t, server, "orders", 1, 10)
				until(t, "all committed", func() bool { return committed(server) == 110 })
				r.stop(t)
				if got, want := seen.distinct(), 110-int(test.begins); got != want {
					t.Errorf("read %d messages, want %d", got, want)
				}
				g := r.group()
				if g.OutOfRange != 1 || g.PassedOver != test.passedOver || book.count(wentElsewhere) != 1 {
					t.Errorf("told %d times, counted %d, %d passed over, want 1, 1, %d", book.count(wentElsewhere), g.OutOfRange, g.PassedOver, test.passedOver)
				}
			})
		})
	}
}

// TestOutOfRangeMeanwhile deletes what a claim has not read yet. The claim stays.
func TestOutOfRangeMeanwhile(t *testing.T) {
	for policy, begins := range map[kafkax.OutOfRange]int64{kafkax.OutOfRangeEarliest: 150, kafkax.OutOfRangeLatest: 200} {
		virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
			for range 20 { // Each is a batch.
				fill(t, server, "orders", 1, 10)
			}
			var offsets []int64
			cfg := kafkax.ConsumerConfig{OutOfRange: policy, FetchBytes: 200}
			r := start(t, cluster, cfg, func(ctx context.Context, c holdfast.Claim) error {
				for {
					messages, err := c.Fetch(ctx)
					if err != nil {
						return err
					}
					if len(offsets) == 0 {
						time.Sleep(time.Second) // For what is fetched ahead.
						if err := server.DeleteRecords("orders", 0, 150); err != nil {
							t.Error(err)
						}
					}
					for _, m := range messages {
						offsets = append(offsets, m.Offset)
					}
					c.Commit(offsets[len(offsets)-1] + 1)
				}
			})
			until(t, "deletion", func() bool { return r.group().OutOfRange == 1 })
			fill(t, server, "orders", 1, 10)
			until(t, "all committed", func() bool { return committed(server) == 210 })
			r.stop(t)
			next, jumps := int64(0), 0
			for _, offset := range offsets {
				if offset != next {
					jumps++
					if offset != begins {
						t.Errorf("policy %d: from %d to %d, want %d", policy, next, offset, begins)
					}
				}
				next = offset + 1
			}
			if g := r.group(); jumps != 1 || g.Generations != 1 || g.PassedOver == 0 {
				t.Errorf("policy %d: %d jumps, %+v", policy, jumps, g)
			}
		})
	}
}

// TestOutOfRangeFails deletes what a claim has not fetched yet, and some of what it has: that is handed out before Consume
// ends, as nobody could read it again.
func TestOutOfRangeFails(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		for range 20 { // Each is a batch.
			fill(t, server, "orders", 1, 10)
		}
		var next int64
		r := start(t, cluster, kafkax.ConsumerConfig{FetchBytes: 200, FetchMessages: 3}, func(ctx context.Context, c holdfast.Claim) error {
			for {
				messages, err := c.Fetch(ctx)
				if err != nil {
					return err
				}
				if next == 0 {
					time.Sleep(time.Second) // For what is fetched ahead.
					if err := server.DeleteRecords("orders", 0, 150); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(time.Second)
				next = messages[len(messages)-1].Offset + 1
				c.Commit(next)
			}
		})
		outside, ok := errors.AsType[*kafkax.OffsetOutOfRangeError](<-r.done)
		if !ok || next <= 10 || outside.Offset != next || committed(server) != next {
			t.Errorf("got %+v, want the offset behind all that was fetched, %d, of which %d is committed", outside, next, committed(server))
		}
	})
}

// TestShrunkLog has a log lose its end under a claim: another topic of its name, that nobody has noticed.
func TestShrunkLog(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 100)
		var seen, anew ledger
		generations := 0
		r := start(t, cluster, kafkax.ConsumerConfig{OutOfRange: kafkax.OutOfRangeEarliest}, func(ctx context.Context, c holdfast.Claim) error {
			if generations++; generations > 1 {
				return anew.handle(ctx, c)
			}
			return seen.handle(ctx, c)
		})
		until(t, "all read and committed", func() bool { return seen.distinct() == 100 && committed(server) == 100 })
		if err := server.DeleteTopic("orders"); err != nil {
			t.Fatal(err)
		}
		if err := server.CreateTopic("orders", 1); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			if err := server.Produce(t.Context(), holdfast.Message{Topic: "orders", Value: fmt.Append(nil, "new", i)}); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "the new one's messages", func() bool { return anew.distinct() == 5 && committed(server) == 5 })
		r.stop(t)
	})
}

// TestShrunkLogIsSettledAnew has what a group has committed come round again, with the marker of a transaction behind it:
// it says nothing of the messages that are there now.
func TestShrunkLogIsSettledAnew(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
			return c.CommitSync(ctx, 3, "")
		})
		until(t, "the commit", func() bool { return committed(server) == 3 })
		r.stop(t)

		var fetched atomic.Int64
		r = start(t, cluster, kafkax.ConsumerConfig{OutOfRange: kafkax.OutOfRangeEarliest}, func(ctx context.Context, c holdfast.Claim) error {
			for {
				messages, err := c.Fetch(ctx)
				if err != nil {
					return err
				}
				fetched.Add(int64(len(messages)))
			}
		})
		until(t, "joined", func() bool { return r.claims() == 1 })
		writer, err := kgo.NewClient(kgo.SeedBrokers(cluster.Brokers...), kgo.Dialer(cluster.Dial), kgo.TransactionalID("t"))
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		if err := writer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := writer.ProduceSync(t.Context(), &kgo.Record{Topic: "orders"}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "all fetched", func() bool { return fetched.Load() == 3 })
		if err := writer.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
		until(t, "the marker", func() bool { return r.group().Partitions[0].Position == 4 })
		r.stop(t)
		if got := committed(server); got != 0 {
			t.Errorf("the group's offset is %d, want 0: nothing was settled", got)
		}
	})
}
