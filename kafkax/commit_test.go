package kafkax_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// withClaim runs test as the handler of the one partition of topic orders, which has 100 messages.
func withClaim(t *testing.T, cfg kafkax.ConsumerConfig, test func(context.Context, *testkit.KafkaServer, holdfast.Claim)) kafkax.GroupStats {
	t.Helper()
	var stats kafkax.GroupStats
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}, Brokers: 3}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 100)
		done := make(chan struct{})
		r := start(t, cluster, cfg, func(ctx context.Context, c holdfast.Claim) error {
			test(ctx, server, c)
			close(done)
			<-c.Revoked()
			return nil
		})
		<-done
		r.stop(t)
		checkCommits(t, server)
		stats = r.consumer.Stats().Groups[0]
	})
	return stats
}

func committed(server *testkit.KafkaServer) int64 { return server.Committed("group", "orders")[0] }

func TestCommitsCoalesce(t *testing.T) {
	stats := withClaim(t, kafkax.ConsumerConfig{}, func(ctx context.Context, server *testkit.KafkaServer, c holdfast.Claim) {
		for next := range int64(100) {
			c.Commit(next + 1)
			c.Commit(next / 2) // Never goes back.
			time.Sleep(50 * time.Millisecond)
		}
		until(t, "last commit", func() bool { return committed(server) == 100 })
		if n := server.Requests(testkit.APIOffsetCommit); n < 5 || n > 7 {
			t.Errorf("%d commits in 5 s, want one a second", n)
		}
	})
	if stats.LateCompletions != 0 || stats.CommitsFailed != 0 {
		t.Errorf("stats: %+v", stats)
	}
}

func TestLastCommitIsFlushed(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		joined := make(chan holdfast.Claim, 1)
		r := start(t, cluster, kafkax.ConsumerConfig{CommitInterval: time.Hour}, func(_ context.Context, c holdfast.Claim) error {
			c.Commit(3)
			joined <- c
			<-c.Revoked()
			c.Commit(5)
			return nil
		})
		c := <-joined
		r.stop(t)
		if got := committed(server); got != 5 {
			t.Errorf("committed %d, want 5", got)
		}
		c.Commit(9)
		if err := c.CommitSync(t.Context(), 9, ""); err == nil {
			t.Error("CommitSync after the handler's return succeeded")
		}
		time.Sleep(time.Minute)
		if got := committed(server); got != 5 {
			t.Errorf("late commit moved the offset to %d", got)
		}
		if stats := r.consumer.Stats().Groups[0]; stats.LateCompletions != 2 {
			t.Errorf("late completions: got %d, want 2", stats.LateCompletions)
		}
	})
}

// TestLostCommitAnswer loses the answer to a commit that was done. It must be read back, and not be sent again.
func TestLostCommitAnswer(t *testing.T) {
	stats := withClaim(t, kafkax.ConsumerConfig{}, func(ctx context.Context, server *testkit.KafkaServer, c holdfast.Claim) {
		server.Inject(testkit.Fault{API: testkit.APIOffsetCommit, LoseAck: true})
		asked := server.Requests(testkit.APIOffsetFetch)
		c.Commit(10)
		until(t, "read back", func() bool { return server.Requests(testkit.APIOffsetFetch) > asked })
		time.Sleep(5 * time.Second)
		if n := server.Requests(testkit.APIOffsetCommit); n != 1 {
			t.Errorf("%d commits, want 1", n)
		}
		c.Commit(20)
		until(t, "the next commit", func() bool { return committed(server) == 20 })
	})
	if stats.CommitsFailed != 1 || stats.CommitsFenced != 0 {
		t.Errorf("stats: %+v", stats)
	}
}

// TestUndoneCommit has the coordinator refuse, or vanish, for a while: the commit is tried again.
func TestUndoneCommit(t *testing.T) {
	for name, fault := range map[string]testkit.Fault{
		"connection cut":   {Cut: true},
		"not coordinator":  {Code: int16(kafka.NotCoordinatorForGroup)},
		"loading":          {Code: int16(kafka.GroupLoadInProgress)},
		"timed out":        {Code: int16(kafka.RequestTimedOut)},
		"no such response": {Hang: true},
	} {
		t.Run(name, func(t *testing.T) {
			withClaim(t, kafkax.ConsumerConfig{}, func(ctx context.Context, server *testkit.KafkaServer, c holdfast.Claim) {
				fault.API, fault.Times = testkit.APIOffsetCommit, 3
				remove := server.Inject(fault)
				defer remove()
				c.Commit(10)
				until(t, "commit", func() bool { return committed(server) == 10 })
				if ctx.Err() != nil {
					t.Errorf("context ended: %v", context.Cause(ctx))
				}
			})
		})
	}
}

func TestFencedByCommit(t *testing.T) {
	for _, code := range []kafka.Error{kafka.IllegalGeneration, kafka.UnknownMemberId, kafka.RebalanceInProgress, kafka.FencedInstanceID} {
		t.Run(code.Title(), func(t *testing.T) {
			virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
				server.Inject(testkit.Fault{API: testkit.APIOffsetCommit, Code: int16(code)})
				begun, causes := make(chan struct{}, 10), make(chan error, 10)
				r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
					begun <- struct{}{}
					c.Commit(1)
					<-ctx.Done()
					c.Commit(2)
					causes <- context.Cause(ctx)
					return nil
				})
				<-begun
				cause := <-causes
				if !errors.Is(cause, kafkax.ErrFenced) || !errors.Is(cause, code) {
					t.Errorf("cause: got %v, want ErrFenced because of %v", cause, code)
				}
				<-begun
				if n := r.group().Generations; n != 2 {
					t.Errorf("%d generations, want 2", n)
				}
				r.cancel()
				if err := <-r.done; !errors.Is(err, kafkax.ErrDrainTimeout) { // The second one waits for its context, too.
					t.Errorf("Consume: %v", err)
				}
				if n := r.consumer.Stats().Groups[0].CommitsFenced; n != 1 {
					t.Errorf("fenced commits: %d, want 1", n)
				}
			})
		})
	}
}

func TestCommitSync(t *testing.T) {
	withClaim(t, kafkax.ConsumerConfig{CommitInterval: time.Hour}, func(ctx context.Context, server *testkit.KafkaServer, c holdfast.Claim) {
		check := func(next int64, metadata string) {
			t.Helper()
			if err := c.CommitSync(ctx, next, metadata); err != nil {
				t.Errorf("CommitSync(%d): %v", next, err)
			}
			all := server.Commits()
			if last := all[len(all)-1]; last.Offset != next || last.Metadata != metadata || last.Code != 0 {
				t.Errorf("last commit %+v, want %d %q", last, next, metadata)
			}
		}
		check(10, "a")
		check(10, "b") // The same offset, for its metadata.
		c.Commit(10)
		check(20, "")
		if err := c.CommitSync(ctx, 15, ""); err == nil || holdfast.IsAmbiguous(err) {
			t.Errorf("a commit that goes back: %v", err)
		}
		server.Inject(testkit.Fault{API: testkit.APIOffsetCommit, LoseAck: true})
		check(30, "c") // Found to be done by reading back.
		server.Inject(testkit.Fault{API: testkit.APIOffsetCommit, Cut: true})
		check(40, "d") // Found not to be done, and repeated.

		if err := c.CommitSync(ctx, 50, strings.Repeat("x", 5000)); err == nil || holdfast.IsAmbiguous(err) || !errors.Is(err, kafka.OffsetMetadataTooLarge) {
			t.Errorf("too much metadata: %v", err)
		}
		check(50, "e")

		remove := server.Inject(testkit.Fault{API: testkit.APIOffsetCommit, Hang: true, Times: -1})
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := c.CommitSync(short, 60, ""); !errors.Is(err, context.DeadlineExceeded) || !holdfast.IsAmbiguous(err) {
			t.Errorf("a commit without an answer: %v", err)
		}
		if err := c.CommitSync(short, 70, ""); !errors.Is(err, context.DeadlineExceeded) || holdfast.IsAmbiguous(err) {
			t.Errorf("a commit that was never sent: %v", err)
		}
		remove()
		check(80, "f")
	})
}

// TestCoalescedBehindSync asks for less than what was committed synchronously since, beside another partition's commit.
func TestCoalescedBehindSync(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 2}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		synced := make(chan struct{})
		r := start(t, cluster, kafkax.ConsumerConfig{CommitInterval: time.Hour}, func(ctx context.Context, c holdfast.Claim) error {
			if _, partition := c.Partition(); partition == 0 {
				c.Commit(1) // The first one goes at once.
				time.Sleep(time.Second)
				c.Commit(10)
				if err := c.CommitSync(ctx, 20, ""); err != nil {
					t.Error(err)
				}
				close(synced)
			} else {
				<-synced
				c.Commit(5)
			}
			<-c.Revoked()
			return nil
		})
		<-synced
		r.stop(t)
		if got := server.Committed("group", "orders"); got[0] != 20 || got[1] != 5 {
			t.Errorf("committed %v", got)
		}
		checkCommits(t, server)
	})
}

// TestCommittedMetadata finds in the next generation what the last one has left.
func TestCommittedMetadata(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 10)
		begins := make(chan string, 10)
		handle := func(ctx context.Context, c holdfast.Claim) error {
			next, metadata := c.Committed()
			if next == 0 {
				if err := c.CommitSync(ctx, 4, "left"); err != nil {
					t.Error(err)
				}
			} else if messages, err := c.Fetch(ctx); err != nil || messages[0].Offset != 4 {
				t.Errorf("fetched %+v, %v", messages, err)
			}
			begins <- metadata
			<-c.Revoked()
			return nil
		}
		r := start(t, cluster, kafkax.ConsumerConfig{}, handle)
		<-begins
		if err := server.Rebalance("group"); err != nil {
			t.Fatal(err)
		}
		if metadata := <-begins; metadata != "left" {
			t.Errorf("metadata %q", metadata)
		}
		r.stop(t)
	})
}

func TestStart(t *testing.T) {
	for name, test := range map[string]struct {
		start kafkax.Start
		time  time.Duration // After the first message's.
		want  int64
	}{
		"earliest":           {kafkax.StartEarliest, 0, 20},
		"latest":             {kafkax.StartLatest, 0, 100},
		"time":               {kafkax.StartAtTime, 55*time.Minute - time.Second, 55},
		"time of a message":  {kafkax.StartAtTime, 55 * time.Minute, 55},
		"time of the oldest": {kafkax.StartAtTime, time.Minute, 20},
		"time to come":       {kafkax.StartAtTime, 1000 * time.Hour, 100},
	} {
		virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
			first := time.Now()
			for i := range 100 {
				err := server.Produce(t.Context(), holdfast.Message{Topic: "orders", Time: first.Add(time.Duration(i) * time.Minute)})
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := server.DeleteRecords("orders", 0, 20); err != nil {
				t.Fatal(err)
			}
			cfg := kafkax.ConsumerConfig{Start: test.start}
			if test.start == kafkax.StartAtTime {
				cfg.StartTime = first.Add(test.time)
			}
			var begun []int64
			handle := func(ctx context.Context, c holdfast.Claim) error {
				next, _ := c.Committed()
				begun = append(begun, next)
				<-c.Revoked()
				return nil
			}
			for range 2 { // Nothing is committed by the handler, so the second run must begin where the first did.
				r := start(t, cluster, cfg, handle)
				until(t, "joined", func() bool { return r.claims() == 1 })
				r.stop(t)
				fill(t, server, "orders", 1, 10)
			}
			if len(begun) != 2 || begun[0] != test.want || begun[1] != test.want {
				t.Errorf("%s: began at %v, want %d", name, begun, test.want)
			}
		})
	}
}

// TestStartAtTimeMeanwhile has the first message that is new enough be written while the claim looks for it.
func TestStartAtTimeMeanwhile(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		since := time.Now()
		err := server.Produce(t.Context(), holdfast.Message{Topic: "orders", Value: []byte("old"), Time: since.Add(-time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		release := server.Inject(testkit.Fault{API: testkit.APIListOffsets, Nth: 2, Hang: true})
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{Start: kafkax.StartAtTime, StartTime: since}, seen.handle)
		until(t, "both asked", func() bool { return server.Requests(testkit.APIListOffsets) == 2 })
		err = server.Produce(t.Context(), holdfast.Message{Topic: "orders", Value: []byte("new"), Time: since.Add(time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		release()
		until(t, "committed", func() bool { return committed(server) == 2 })
		r.stop(t)
		if seen.seen["new"] != 1 || seen.seen["old"] != 0 {
			t.Errorf("read %v, want the new message alone", seen.seen)
		}
	})
}

func TestOffsetOutOfRange(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 2}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 2, 100)
		r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
			return c.CommitSync(ctx, 10, "")
		})
		until(t, "commits", func() bool { return len(server.Committed("group", "orders")) == 2 })
		r.stop(t)
		if err := server.DeleteRecords("orders", 1, 50); err != nil {
			t.Fatal(err)
		}
		r = start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle)
		err := <-r.done
		var outside *kafkax.OffsetOutOfRangeError
		if !errors.As(err, &outside) || *outside != (kafkax.OffsetOutOfRangeError{Topic: "orders", Partition: 1, Offset: 10, First: 50, End: 100}) {
			t.Errorf("Consume: got %v", err)
		}
	})
}

// TestHungCommitLandsLate has a commit hang that is served after a later one, and so takes the offset back. The last
// thing that a member does is to see to it.
func TestHungCommitLandsLate(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 100)
		late := make(chan struct{})
		r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
			release := server.Inject(testkit.Fault{API: testkit.APIOffsetCommit, Hang: true})
			c.Commit(10)
			until(t, "the first commit, repeated", func() bool { return committed(server) == 10 })
			if err := c.CommitSync(ctx, 20, "kept"); err != nil {
				t.Error(err)
			}
			release()
			until(t, "the hung one is served", func() bool { return committed(server) == 10 })
			close(late)
			<-c.Revoked()
			return nil
		})
		<-late
		r.stop(t)
		if all := server.Commits(); all[len(all)-1].Offset != 20 || all[len(all)-1].Metadata != "kept" {
			t.Errorf("the last commit is %+v, want 20", all[len(all)-1])
		}
	})
}

// TestOneTopicDenied has one topic's commits refused. The other topic's go on.
func TestOneTopicDenied(t *testing.T) {
	for name, apis := range map[string][]testkit.API{
		"commits": {testkit.APIOffsetCommit}, "commits and offsets": {testkit.APIOffsetCommit, testkit.APIOffsetFetch},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1, "denied": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
				fill(t, server, "orders", 1, 10)
				fill(t, server, "denied", 1, 10)
				book := newLogbook(t)
				cfg := kafkax.ConsumerConfig{Topics: []string{"orders", "denied"}, Logger: slog.New(book)}
				r := start(t, cluster, cfg, func(_ context.Context, c holdfast.Claim) error {
					for next := range int64(9) {
						c.Commit(next + 1)
						time.Sleep(2 * time.Second)
					}
					<-c.Revoked()
					return nil
				})
				until(t, "the first commits", func() bool { return server.Committed("group", "denied")[0] == 1 })
				var faults []func()
				for _, api := range apis {
					faults = append(faults, server.Inject(testkit.Fault{API: api, Topic: "denied", Code: int16(kafka.TopicAuthorizationFailed), Times: -1}))
				}
				until(t, "the other topic's commits", func() bool { return committed(server) == 9 })
				if got := server.Committed("group", "denied")[0]; got != 1 {
					t.Errorf("denied: committed %d, want 1", got)
				}
				if one, all := book.count("commit of a partition failed, trying again"), book.count("commit failed, trying again"); one != 1 || all != 0 {
					t.Errorf("said %d times that the partition's commit failed, and %d times that all did, want once and never", one, all)
				}
				for _, remove := range faults {
					remove()
				}
				until(t, "the denied topic's commits", func() bool { return server.Committed("group", "denied")[0] == 9 })
				r.stop(t)
			})
		})
	}
}

// TestCommitBehindBegin asks for offsets before the claim, where the log may not reach any more.
func TestCommitBehindBegin(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 100)
		if err := server.DeleteRecords("orders", 0, 20); err != nil {
			t.Fatal(err)
		}
		tried := make(chan struct{})
		r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
			for _, next := range []int64{-1, 19} {
				c.Commit(next)
				if err := c.CommitSync(ctx, next, "x"); err == nil || holdfast.IsAmbiguous(err) {
					t.Errorf("CommitSync(%d): %v", next, err)
				}
			}
			close(tried)
			<-c.Revoked()
			return nil
		})
		<-tried
		r.stop(t)
		if all := server.Commits(); len(all) != 0 {
			t.Errorf("commits: %+v", all)
		}
	})
}

// TestTransactionalTail reads a topic that ends with the marker of a transaction. All is handled, so the group's offset
// must be the log's end: no lag, and nothing to be deleted before it was read.
func TestTransactionalTail(t *testing.T) {
	for name, end := range map[string]kgo.TransactionEndTry{"committed": kgo.TryCommit, "aborted": kgo.TryAbort} {
		for _, atOnce := range []bool{true, false} { // Whether the marker comes with the last messages or after them.
			t.Run(fmt.Sprint(name, atOnce), func(t *testing.T) {
				virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
					writer, err := kgo.NewClient(kgo.SeedBrokers(cluster.Brokers...), kgo.Dialer(cluster.Dial), kgo.TransactionalID("t"))
					if err != nil {
						t.Fatal(err)
					}
					defer writer.Close()
					if err := writer.BeginTransaction(); err != nil {
						t.Fatal(err)
					}
					for i := range 10 {
						if err := writer.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
							t.Fatal(err)
						}
					}
					var seen ledger
					if atOnce {
						if err := writer.EndTransaction(t.Context(), end); err != nil {
							t.Fatal(err)
						}
					}
					r := start(t, cluster, kafkax.ConsumerConfig{}, seen.handle)
					until(t, "all read", func() bool { return seen.distinct() == 10 })
					if !atOnce {
						until(t, "committed", func() bool { return committed(server) == 10 })
						if err := writer.EndTransaction(t.Context(), end); err != nil {
							t.Fatal(err)
						}
					}
					until(t, "all committed", func() bool { return committed(server) == server.Ends("orders")[0] })
					until(t, "no lag", func() bool { return r.consumer.Stats().Groups[0].Partitions[0].Lag == 0 })
					r.stop(t)
					checkCommits(t, server)
					if err := server.DeleteRecords("orders", 0, server.Ends("orders")[0]); err != nil {
						t.Fatal(err)
					}
					r = start(t, cluster, kafkax.ConsumerConfig{}, seen.handle)
					fill(t, server, "orders", 1, 5)
					until(t, "what follows", func() bool { return seen.distinct() == 15 })
					r.stop(t)
				})
			})
		}
	}
}

// TestTailKeepsMetadata has the log go on with a marker after a commit that is to stay as it is.
func TestTailKeepsMetadata(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		writer, err := kgo.NewClient(kgo.SeedBrokers(cluster.Brokers...), kgo.Dialer(cluster.Dial), kgo.TransactionalID("t"))
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		if err := writer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := writer.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		handle := func(ctx context.Context, c holdfast.Claim) error {
			if next, _ := c.Committed(); next == 0 {
				if _, err := c.Fetch(ctx); err != nil {
					return err
				}
				c.Commit(1)
				if err := c.CommitSync(ctx, 1, "kept"); err != nil {
					return err
				}
			}
			_, err := c.Fetch(ctx)
			return err
		}
		r := start(t, cluster, kafkax.ConsumerConfig{}, handle)
		last := func() (c testkit.Commit) {
			if all := server.Commits(); len(all) > 0 {
				c = all[len(all)-1]
			}
			return c
		}
		until(t, "commit", func() bool { return last().Metadata == "kept" })
		if err := writer.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		r.stop(t)
		r = start(t, cluster, kafkax.ConsumerConfig{}, handle)
		time.Sleep(5 * time.Second)
		r.stop(t)
		if c := last(); c.Offset != 1 || c.Metadata != "kept" {
			t.Errorf("the last commit: %+v", c)
		}
	})
}

// TestCommitCircuit has the coordinator refuse commits until the circuit opens. Nothing is sent then but heartbeats, until
// it is tried again, and the last commit of all does not ask.
func TestCommitCircuit(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 100)
		circuit, err := breaker.New(breaker.Config{Name: "kafka.commits", MaxFailures: 3, Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		fault := testkit.Fault{API: testkit.APIOffsetCommit, Code: int16(kafka.GroupCoordinatorNotAvailable), Times: -1}
		remove := server.Inject(fault)
		next := make(chan int64)
		r := start(t, cluster, kafkax.ConsumerConfig{Breaker: circuit}, func(ctx context.Context, c holdfast.Claim) error {
			for {
				select {
				case n := <-next:
					c.Commit(n)
				case <-c.Revoked():
					return nil
				}
			}
		})
		until(t, "the first fetch, which asks it too", func() bool { return circuit.Stats().Totals.Successes == 1 })
		next <- 10
		until(t, "the circuit is open", circuit.IsOpen)
		commits, heartbeats := server.Requests(testkit.APIOffsetCommit), server.Requests(testkit.APIHeartbeat)
		if commits != 3 {
			t.Errorf("%d commits until the circuit opened, want 3", commits)
		}
		time.Sleep(50 * time.Second)
		if n := server.Requests(testkit.APIOffsetCommit) - commits; n != 0 {
			t.Errorf("%d commits through an open circuit", n)
		}
		if n := server.Requests(testkit.APIHeartbeat) - heartbeats; n < 16 {
			t.Errorf("%d heartbeats in 50 s", n)
		}
		if n := circuit.Stats().Totals.Failures; n != 3 {
			t.Errorf("%d failures counted, want 3", n)
		}
		remove()
		until(t, "committed", func() bool { return committed(server) == 10 })
		if g := r.group(); g.Generations != 1 || g.CommitsFailed != 3 {
			t.Errorf("stats: %+v", g)
		}
		circuit.ForceOpen()
		next <- 20
		time.Sleep(10 * time.Second)
		if got := committed(server); got != 10 {
			t.Errorf("committed %d through an open circuit", got)
		}
		r.stop(t)
		if got := committed(server); got != 20 {
			t.Errorf("the last commit is %d, want 20", got)
		}
	})
}

// TestOldBrokersOffsets has brokers of before Kafka 2.5, which cannot tell of commits on their way: a claim begins where
// the group has committed, all the same, and with what is stored there.
func TestOldBrokersOffsets(t *testing.T) {
	for _, version := range []int{2, 4, 5, 6} { // Of 0.11, 2.0, 2.1 to 2.3, and 2.4.
		t.Run(strconv.Itoa(version), func(t *testing.T) {
			cfg := testkit.KafkaConfig{Topics: map[string]int{"orders": 2}, MaxVersions: map[testkit.API]int{testkit.APIOffsetFetch: version}}
			virtual(t, cfg, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
				fill(t, server, "orders", 2, 100)
				r := start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
					_, p := c.Partition()
					return c.CommitSync(ctx, int64(40+p), "here")
				})
				until(t, "committed", func() bool {
					at := server.Committed("group", "orders")
					return at[0] == 40 && at[1] == 41
				})
				r.stop(t)
				var seen ledger
				r = start(t, cluster, kafkax.ConsumerConfig{}, func(ctx context.Context, c holdfast.Claim) error {
					_, p := c.Partition()
					if next, metadata := c.Committed(); next != int64(40+p) || metadata != "here" {
						t.Errorf("partition %d begins at %d with %q", p, next, metadata)
					}
					return seen.handle(ctx, c)
				})
				until(t, "all read", func() bool { return seen.distinct() == 60+59 })
				r.stop(t)
			})
		})
	}
}

// TestUnstableOffset has a transaction about to commit an offset for the group. Where the claim begins is not known until
// it has ended.
func TestUnstableOffset(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 100)
		client, err := kgo.NewClient(kgo.SeedBrokers(cluster.Brokers...), kgo.Dialer(cluster.Dial), kgo.TransactionalID("t"),
			kgo.MaxVersions(kversion.V2_8_0())) // Topics by name.
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		id, epoch, err := client.ProducerID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		add, commit, end := kmsg.NewAddOffsetsToTxnRequest(), kmsg.NewTxnOffsetCommitRequest(), kmsg.NewEndTxnRequest()
		add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = "t", id, epoch, "group"
		commit.TransactionalID, commit.ProducerID, commit.ProducerEpoch, commit.Group = "t", id, epoch, "group"
		commit.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "orders", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Offset: 40}}}}
		end.TransactionalID, end.ProducerID, end.ProducerEpoch, end.Commit = "t", id, epoch, true
		if answer, err := add.RequestWith(t.Context(), client); err != nil || answer.ErrorCode != 0 {
			t.Fatal(answer, err)
		}
		if answer, err := commit.RequestWith(t.Context(), client); err != nil || answer.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Fatal(answer, err)
		}
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{}, seen.handle)
		until(t, "joined", func() bool { return r.group().Generations == 1 })
		time.Sleep(10 * time.Second)
		if n := r.claims() + seen.distinct(); n != 0 {
			t.Errorf("it began while the offset was not known: %d", n)
		}
		if answer, err := end.RequestWith(t.Context(), client); err != nil || answer.ErrorCode != 0 {
			t.Fatal(answer, err)
		}
		until(t, "the rest committed", func() bool { return committed(server) == 100 })
		if n := seen.distinct(); n != 60 {
			t.Errorf("read %d messages, want 60", n)
		}
		r.stop(t)
	})
}

// TestCommitAfterReturn commits for a claim whose handler has returned.
func TestCommitAfterReturn(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		claims := make(chan holdfast.Claim, 1)
		r := start(t, cluster, kafkax.ConsumerConfig{}, func(_ context.Context, c holdfast.Claim) error {
			c.Commit(10)
			claims <- c
			return nil
		})
		c := <-claims
		until(t, "committed", func() bool { return committed(server) == 10 })
		synctest.Wait() // The handler has returned.
		c.Commit(20)
		if err := c.CommitSync(t.Context(), 30, ""); err == nil {
			t.Error("CommitSync: no error")
		}
		time.Sleep(10 * time.Second)
		r.stop(t)
		if got := committed(server); got != 10 {
			t.Errorf("committed %d, want 10", got)
		}
		if n := r.group().LateCompletions; n != 2 {
			t.Errorf("%d late completions, want 2", n)
		}
	})
}

// TestOneCommitAtATime has the coordinator not answer. Nothing else is committed until that is given up, for no partition.
func TestOneCommitAtATime(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 8}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		defer server.Inject(testkit.Fault{API: testkit.APIOffsetCommit, Hang: true})()
		r := start(t, cluster, kafkax.ConsumerConfig{CommitInterval: -1}, func(ctx context.Context, c holdfast.Claim) error {
			_, p := c.Partition()
			if p%2 == 0 {
				return c.CommitSync(ctx, 10, "")
			}
			for next := range int64(10) {
				c.Commit(next + 1)
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		})
		until(t, "the first commit", func() bool { return server.Requests(testkit.APIOffsetCommit) == 1 })
		time.Sleep(4 * time.Second)
		if n := server.Requests(testkit.APIOffsetCommit); n != 1 {
			t.Errorf("%d commits on their way, want 1", n)
		}
		until(t, "all committed", func() bool {
			n := 0
			for _, next := range server.Committed("group", "orders") {
				n += int(next)
			}
			return n == 80
		})
		r.stop(t)
		checkCommits(t, server)
	})
}
