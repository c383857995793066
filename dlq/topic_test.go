package dlq_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

// producer is a Kafka of so many partitions that keeps what it is given.
type producer struct {
	partitions int

	mu    sync.Mutex
	away  map[int]error // By partition; -1 is the topic itself.
	calls int
	log   map[int][]holdfast.Message
}

func (p *producer) Partitions(context.Context, string) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	return p.partitions, p.away[-1]
}

func (p *producer) set(away map[int]error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = away
}

func (p *producer) ProduceTo(_ context.Context, topic string, partition int, messages ...holdfast.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	if err := p.away[partition]; err != nil {
		return err
	}
	if p.log == nil {
		p.log = make(map[int][]holdfast.Message)
	}
	for i, m := range messages {
		m.Topic, m.Partition, m.Offset = topic, partition, int64(len(p.log[partition])+i)
		p.log[partition] = append(p.log[partition], m)
	}
	return nil
}

func letters(n int) []dlq.Letter {
	ls := make([]dlq.Letter, n)
	for i := range ls {
		ls[i] = letter()
		ls[i].Message.Partition, ls[i].Message.Offset = i%5, int64(i)
	}
	return ls
}

func TestTopicKeepsPartitionOrder(t *testing.T) {
	p := &producer{partitions: 3}
	topic, err := dlq.NewTopic(p, dlq.TopicConfig{Topic: "orders.dlq"})
	if err != nil {
		t.Fatal(err)
	}
	if err := topic.Write(t.Context(), letters(50)...); err != nil {
		t.Fatal(err)
	}
	total := 0
	for partition, records := range p.log {
		var offsets []int64
		for _, r := range records {
			l, err := dlq.Decode(r)
			if err != nil {
				t.Fatal(err)
			}
			if l.Message.Partition%3 != partition {
				t.Errorf("letter of partition %d in partition %d", l.Message.Partition, partition)
			}
			offsets = append(offsets, l.Message.Offset)
		}
		if !slices.IsSorted(offsets) {
			t.Errorf("partition %d is out of order: %v", partition, offsets)
		}
		total += len(records)
	}
	if total != 50 {
		t.Errorf("%d letters written, want 50", total)
	}
}

func TestTopicSaysWhichLettersAreNotWritten(t *testing.T) {
	away := errors.New("away")
	p := &producer{partitions: 3, away: map[int]error{1: away}}
	topic, err := dlq.NewTopic(p, dlq.TopicConfig{Topic: "orders.dlq"})
	if err != nil {
		t.Fatal(err)
	}
	all := letters(10)
	err = topic.Write(t.Context(), all...)
	var partly *holdfast.BatchError
	if !errors.As(err, &partly) || !errors.Is(err, away) {
		t.Fatalf("got %v, want a BatchError about %v", err, away)
	}
	for i, l := range all {
		if failed := partly.Items[i] != nil; failed != (l.Message.Partition%3 == 1) {
			t.Errorf("letter %d of partition %d: failed is %v", i, l.Message.Partition, failed)
		}
	}
}

// narrow is a Kafka that refuses records of some original offset and says so.
type narrow struct {
	producer
	refused string
}

type refusedError []int

func (refusedError) Error() string    { return "too large" }
func (e refusedError) Indexes() []int { return e }

func (p *narrow) ProduceTo(ctx context.Context, topic string, partition int, messages ...holdfast.Message) error {
	var refused refusedError
	for i, m := range messages {
		if slices.ContainsFunc(m.Headers, func(h holdfast.Header) bool { return h.Key == dlq.HeaderOrigOffset && string(h.Value) == p.refused }) {
			refused = append(refused, i)
			continue
		}
		_ = p.producer.ProduceTo(ctx, topic, partition, m)
	}
	if refused == nil {
		return nil
	}
	return append(refused, -1, len(messages)) // Nonsense does no harm.
}

// One letter that is too large is not a reason to write its neighbours again.
func TestTopicNamesTheLettersThatTheProducerNames(t *testing.T) {
	p := &narrow{producer: producer{partitions: 2}, refused: "8"}
	topic, err := dlq.NewTopic(p, dlq.TopicConfig{Topic: "orders.dlq"})
	if err != nil {
		t.Fatal(err)
	}
	err = topic.Write(t.Context(), letters(10)...)
	var partly *holdfast.BatchError
	if !errors.As(err, &partly) || len(partly.Items) != 1 || partly.Items[8] == nil {
		t.Errorf("got %v, want a BatchError about letter 8", err)
	}
	if written := len(p.log[0]) + len(p.log[1]); written != 9 {
		t.Errorf("%d letters written, want 9", written)
	}
}

func TestTopicRefusesNonsense(t *testing.T) {
	if _, err := dlq.NewTopic(&producer{}, dlq.TopicConfig{}); err == nil || !strings.Contains(err.Error(), "TopicConfig.Topic") {
		t.Errorf("got %v", err)
	}
	_, err := dlq.NewTopic(&producer{}, dlq.TopicConfig{Placement: 7, Formats: []dlq.Format{dlq.Connect, dlq.Streams}})
	for _, field := range []string{"TopicConfig.Topic", "TopicConfig.Placement", "TopicConfig.Formats[1]"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("got %v, want it to name %s", err, field)
		}
	}
	if _, err := dlq.NewTopic(nil, dlq.TopicConfig{Topic: "t"}); err == nil || !strings.Contains(err.Error(), "Producer") {
		t.Errorf("got %v", err)
	}
	topic, _ := dlq.NewTopic(&producer{}, dlq.TopicConfig{Topic: "t"})
	if err := topic.Write(t.Context(), letter()); err == nil {
		t.Error("a topic without partitions took a letter")
	}
}
