package dlq

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-io/holdfast"
)

// Producer is what a Topic needs of Kafka; *kafkax.Producer is one.
type Producer interface {
	// Partitions tells how many partitions a topic has.
	Partitions(ctx context.Context, topic string) (int, error)

	// ProduceTo returns nil when all messages are acknowledged by all in-sync replicas, in the order given. An error may
	// name by a method Indexes() []int which messages are not; the others are.
	ProduceTo(ctx context.Context, topic string, partition int, messages ...holdfast.Message) error
}

// TopicConfig is how a Topic writes.
type TopicConfig struct {
	Topic string // Required. It must exist; give it as many partitions as the topics whose letters it takes.
}

// Validate names every field that cannot be.
func (c TopicConfig) Validate() error {
	if c.Topic == "" {
		return errors.New("dlq: TopicConfig.Topic must name a topic, got \"\"")
	}
	return nil
}

// Topic writes letters to a Kafka topic. It is safe for concurrent use.
type Topic struct {
	producer Producer
	topic    string
}

// NewTopic returns a Topic that writes through p. It does no I/O.
func NewTopic(p Producer, cfg TopicConfig) (*Topic, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if p == nil {
		return nil, errors.New("dlq: NewTopic needs a Producer, got nil")
	}
	return &Topic{producer: p, topic: cfg.Topic}, nil
}

// Topic is the topic's name.
func (t *Topic) Topic() string { return t.topic }

// Write returns nil when every letter is acknowledged by all in-sync replicas. Letters of one partition go to one
// partition (original partition modulo the topic's), in the order given, so that what was ordered stays ordered.
//
// A *holdfast.BatchError names the letters, by index, that are not known to be written; the others are. A letter
// written again after a lost acknowledgement may stand in the topic twice. When ctx ends first, letters may be written
// nevertheless.
func (t *Topic) Write(ctx context.Context, letters ...Letter) error {
	if len(letters) == 0 {
		return nil
	}
	partitions, err := t.producer.Partitions(ctx, t.topic)
	if err != nil {
		return fmt.Errorf("dlq: topic %s: %w", t.topic, err)
	}
	if partitions < 1 {
		return fmt.Errorf("dlq: topic %s has no partitions", t.topic)
	}
	byPartition := make(map[int][]int)
	for i, l := range letters {
		p := l.Message.Partition % partitions
		byPartition[p] = append(byPartition[p], i)
	}
	failed := make(map[int]error)
	for p, indexes := range byPartition {
		records := make([]holdfast.Message, len(indexes))
		for i, index := range indexes {
			records[i] = Encode(letters[index])
			records[i].Topic = t.topic
		}
		if err := t.producer.ProduceTo(ctx, t.topic, p, records...); err != nil {
			for _, i := range notWritten(err, len(indexes)) {
				failed[indexes[i]] = fmt.Errorf("dlq: topic %s partition %d: %w", t.topic, p, err)
			}
		}
	}
	if len(failed) > 0 {
		return &holdfast.BatchError{Items: failed}
	}
	return nil
}

// notWritten gives the indexes, of n records, that a producer's error speaks of: those that it names, or all.
func notWritten(err error, n int) []int {
	var named interface{ Indexes() []int }
	if errors.As(err, &named) {
		return slices.DeleteFunc(slices.Clone(named.Indexes()), func(i int) bool { return i < 0 || i >= n })
	}
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}
