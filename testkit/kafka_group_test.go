package testkit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/testkit"
)

func message(topic string, partition int, value string) holdfast.Message {
	return holdfast.Message{Topic: topic, Partition: partition, Value: []byte(value)}
}

func TestGroupConsumesAndCommits(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		if err := b.Produce(t.Context(), message("t", 0, "a"), message("t", 1, "b")); err != nil {
			t.Fatal(err)
		}
		r := kafka.NewReader(kafka.ReaderConfig{
			Brokers: b.Addrs(), GroupID: "g", Topic: "t", MaxWait: 50 * time.Millisecond, Dialer: &kafka.Dialer{DialFunc: b.dial},
		})
		defer func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}()
		var got []string
		for range 2 {
			m, err := r.FetchMessage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(m.Value))
			if err := r.CommitMessages(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(got)
		if want := []string{"a", "b"}; !slices.Equal(got, want) {
			t.Errorf("consumed %q, want %q", got, want)
		}
		if got := b.Committed("g", "t"); got[0] != 1 || got[1] != 1 {
			t.Errorf("committed %v, want 1 in both partitions", got)
		}
		if got := b.Members("g"); got != 1 {
			t.Errorf("%d members, want 1", got)
		}
		commits := b.Commits()
		if len(commits) != 2 {
			t.Fatalf("commits %+v, want 2", commits)
		}
		for _, c := range commits {
			if c.Group != "g" || c.Member == "" || c.Generation != 1 || c.Topic != "t" || c.Offset != 1 || c.Code != 0 {
				t.Errorf("commit %+v", c)
			}
		}
	})
}

// member is a group member that counts its generations.
func member(t *testing.T, b *broker) (generations func() int) {
	t.Helper()
	g, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: "g", Brokers: b.Addrs(), Topics: []string{"t"}, Dialer: &kafka.Dialer{DialFunc: b.dial},
		HeartbeatInterval: 100 * time.Millisecond, JoinGroupBackoff: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	n := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			switch _, err := g.Next(context.Background()); {
			case errors.Is(err, kafka.ErrGroupClosed):
				return
			case err == nil:
				mu.Lock()
				n++
				mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() { _ = g.Close(); <-done })
	return func() int { mu.Lock(); defer mu.Unlock(); return n }
}

// TestMoveCoordinator: another broker is the group's coordinator, and the old one says that it is not any more.
func TestMoveCoordinator(t *testing.T) {
	cfg := oneTopic()
	cfg.Brokers = 3
	everywhere(t, cfg, func(t *testing.T, b *broker) {
		generations := member(t, b)
		until(t, "the member has joined", func() bool { return generations() > 0 })
		find := func() int {
			answer, err := b.client.FindCoordinator(t.Context(), &kafka.FindCoordinatorRequest{Key: "g", KeyType: kafka.CoordinatorKeyTypeConsumer})
			if err != nil {
				t.Fatal(err)
			}
			return answer.Coordinator.NodeID
		}
		client, err := kgo.NewClient(kgo.SeedBrokers(b.Addrs()...), kgo.Dialer(b.dial))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		heartbeat := func(broker int) error {
			request := kmsg.NewPtrHeartbeatRequest()
			request.Group, request.MemberID = "g", "nobody"
			answer, err := client.Broker(broker).Request(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			return kerr.ErrorForCode(answer.(*kmsg.HeartbeatResponse).ErrorCode)
		}
		for range 5 {
			before := find()
			if err := b.MoveCoordinator("g"); err != nil {
				t.Fatal(err)
			}
			after := find()
			if after == before {
				t.Errorf("broker %d is still the coordinator", before)
			}
			if err := heartbeat(before); !errors.Is(err, kerr.NotCoordinator) {
				t.Errorf("the old coordinator says %v", err)
			}
			if err := heartbeat(after); !errors.Is(err, kerr.UnknownMemberID) {
				t.Errorf("the new coordinator says %v", err)
			}
		}
	})
	alone := testkit.Kafka(t, testkit.KafkaConfig{Network: new(testkit.Network)})
	if err := alone.MoveCoordinator("g"); err == nil {
		t.Error("the coordinator of a single broker was moved")
	}
}

func TestRebalance(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		if err := b.Rebalance("g"); err == nil {
			t.Error("a group without members was rebalanced")
		}
		one, two := member(t, b), member(t, b)
		until(t, "both have joined", func() bool { return one() > 0 && two() > 0 && b.Rebalance("g") == nil })
		for range 3 {
			first, second := one(), two()
			until(t, "both have joined again", func() bool { return one() > first && two() > second })
			until(t, "the group is stable", func() bool { return b.Rebalance("g") == nil })
			if got := b.Members("g"); got != 2 {
				t.Errorf("%d members, want 2", got)
			}
		}
	})
}

func TestCommitMetadataLimit(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		most, tooMuch := strings.Repeat("m", 4096), strings.Repeat("m", 4097)
		response, err := b.client.OffsetCommit(t.Context(), &kafka.OffsetCommitRequest{
			GroupID: "g", GenerationID: -1,
			Topics: map[string][]kafka.OffsetCommit{
				"t": {{Partition: 0, Offset: 5, Metadata: most}, {Partition: 1, Offset: 6, Metadata: tooMuch}},
				"u": {{Partition: 0, Offset: 7, Metadata: tooMuch}},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		codes := make(map[string]error)
		for topic, parts := range response.Topics {
			for _, p := range parts {
				codes[fmt.Sprint(topic, p.Partition)] = p.Error
			}
		}
		for part, want := range map[string]error{"t0": nil, "t1": kafka.OffsetMetadataTooLarge, "u0": kafka.OffsetMetadataTooLarge} {
			if got, ok := codes[part]; !ok || !errors.Is(got, want) {
				t.Errorf("%s: error %v (answered %t), want %v", part, got, ok, want)
			}
		}
		if got := b.Committed("g", "t"); len(got) != 1 || got[0] != 5 {
			t.Errorf("committed %v, want 5 in partition 0 only", got)
		}
		var journal []string
		for _, c := range b.Commits() {
			journal = append(journal, fmt.Sprintf("%s%d=%d/%d/%d", c.Topic, c.Partition, c.Offset, len(c.Metadata), c.Code))
		}
		slices.Sort(journal)
		if want := []string{"t0=5/4096/0", "t1=6/4097/12", "u0=7/4097/12"}; !slices.Equal(journal, want) {
			t.Errorf("commits %q, want %q", journal, want)
		}
	})
}

// The order of Commits is the order in which they took effect: the last one that was taken is what the group has.
func TestCommitsAreInOrder(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for j := range 20 {
					if err := b.commit(t, "g", "t", 0, int64(100*i+j), ""); err != nil {
						t.Error(err)
					}
					commits := b.Commits()
					if len(commits) == 0 {
						t.Error("an answered commit is not noted")
					}
				}
			})
		}
		all.Wait()
		commits := b.Commits()
		if len(commits) != 160 {
			t.Fatalf("%d commits, want 160", len(commits))
		}
		if last, got := commits[159].Offset, b.Committed("g", "t")[0]; last != got {
			t.Errorf("the last commit is of %d, the group has %d", last, got)
		}
	})
}

func TestCommitsNoteRefusals(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		response, err := b.client.OffsetCommit(t.Context(), &kafka.OffsetCommitRequest{
			GroupID: "g", GenerationID: 9, MemberID: "ghost", Topics: map[string][]kafka.OffsetCommit{"t": {{Offset: 3}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		refusal, _ := errors.AsType[kafka.Error](response.Topics["t"][0].Error)
		want := []testkit.Commit{{Group: "g", Member: "ghost", Generation: 9, Topic: "t", Offset: 3, Code: int16(refusal)}}
		if got := b.Commits(); refusal == 0 || !slices.Equal(got, want) {
			t.Errorf("commits %+v, want %+v", got, want)
		}
	})
}

// What the coordinator did is noted even if nobody was there any more to hear of it.
func TestCommitsNoteWhatNobodyHeard(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		remove := b.Inject(testkit.Fault{API: testkit.APIOffsetCommit, Hang: true, Times: -1})
		before := b.Requests(testkit.APIOffsetCommit)
		for offset := range int64(20) {
			ctx, cancel := context.WithCancel(t.Context())
			answer := make(chan error, 1)
			go func() {
				_, err := b.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
					GroupID: "g", GenerationID: -1, Topics: map[string][]kafka.OffsetCommit{"t": {{Offset: offset}}},
				})
				answer <- err
			}()
			until(t, "the commit is there", func() bool { return b.Requests(testkit.APIOffsetCommit) > before+int(offset) })
			cancel()
			if err := <-answer; err == nil {
				t.Error("a commit that hangs was answered")
			}
		}
		remove()
		until(t, "all commits are noted", func() bool { return len(b.Commits()) == 20 })
	})
}
