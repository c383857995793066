package dlq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
)

// headerRoom is what a letter's headers add to a message at the most, but for those of other frameworks.
const headerRoom = 11 << 10

// describer is a Producer that can tell how a topic is configured, by Kafka's names, such as "retention.ms".
type describer interface {
	DescribeTopic(ctx context.Context, topic string) (partitions int, config map[string]string, err error)
}

// Check looks at the topic before letters depend on it, beside the topics that they will come from. It returns all at
// once what would lose letters, or hold them up for good:
//   - There is no such topic, or it is one of the sources.
//   - It is compacted: of the letters with one key, all but the last would go.
//   - It takes smaller messages than a source does (max.message.bytes).
//
// It warns, through TopicConfig.Logger, when the topic
//   - has fewer partitions than a source: letters of several partitions share one;
//   - takes messages that are hardly larger than a source's: the largest letters will be stripped (Write);
//   - deletes letters by size, or sooner than a source deletes its messages.
//
// A Producer without DescribeTopic(ctx, topic) (partitions int, config map[string]string, err error) shows only whether the
// topic exists. What a broker does not tell is not checked.
func (t *Topic) Check(ctx context.Context, sources ...string) error {
	if slices.Contains(sources, t.cfg.Topic) {
		return fmt.Errorf("dlq: topic %s is one of its own sources", t.cfg.Topic)
	}
	d, ok := t.producer.(describer)
	if !ok {
		sources = nil
		d = counter{t.producer}
	}
	own, err := describe(ctx, d, t.cfg.Topic)
	if err != nil {
		return err
	}
	var errs []error
	if strings.Contains(own.config["cleanup.policy"], "compact") {
		errs = append(errs, fmt.Errorf("dlq: topic %s is compacted, so a letter would replace the one before that has its key: its cleanup.policy must be delete, got %s",
			own.name, own.config["cleanup.policy"]))
	}
	if bound, ok := own.number("retention.bytes"); ok && bound >= 0 {
		t.cfg.Logger.Warn("dead-letter topic deletes letters by size", slog.String("topic", own.name), slog.Int64("retention_bytes", bound))
	}
	for _, name := range sources {
		source, err := describe(ctx, d, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, t.compare(own, source))
	}
	return errors.Join(errs...)
}

// counter is a describer that tells no more than a Producer does.
type counter struct{ Producer }

func (c counter) DescribeTopic(ctx context.Context, topic string) (int, map[string]string, error) {
	n, err := c.Partitions(ctx, topic)
	return n, nil, err
}

// topicInfo is what a broker tells of a topic.
type topicInfo struct {
	name       string
	partitions int
	config     map[string]string
}

func describe(ctx context.Context, d describer, name string) (topicInfo, error) {
	partitions, config, err := d.DescribeTopic(ctx, name)
	if err == nil && partitions < 1 {
		err = errNoPartitions
	}
	if err != nil {
		return topicInfo{}, fmt.Errorf("dlq: topic %s: %w", name, err)
	}
	return topicInfo{name, partitions, config}, nil
}

// number is a setting that is a number, if the broker told it.
func (i topicInfo) number(setting string) (int64, bool) {
	n, err := strconv.ParseInt(i.config[setting], 10, 64)
	return n, err == nil
}

// compare holds the topic against one that its letters come from.
func (t *Topic) compare(own, source topicInfo) error {
	log := t.cfg.Logger.With(slog.String("topic", own.name), slog.String("source", source.name))
	if own.partitions < source.partitions {
		log.Warn("dead-letter topic has fewer partitions than its source",
			slog.Int("partitions", own.partitions), slog.Int("source_partitions", source.partitions))
	}
	if kept, sourceKept, ok := both(own, source, "retention.ms"); ok && kept >= 0 && (sourceKept < 0 || kept < sourceKept) {
		log.Warn("dead-letter topic deletes letters sooner than its source deletes messages",
			slog.Int64("retention_ms", kept), slog.Int64("source_retention_ms", sourceKept))
	}
	size, sourceSize, ok := both(own, source, "max.message.bytes")
	switch {
	case ok && size < sourceSize:
		return fmt.Errorf("dlq: topic %s takes messages of %d bytes and %s of %d: the larger ones could never be dead-lettered: its max.message.bytes must be at least %d",
			own.name, size, source.name, sourceSize, sourceSize+headerRoom)
	case ok && size < sourceSize+headerRoom:
		log.Warn("dead-letter topic has no room for the headers of the largest letters",
			slog.Int64("max_message_bytes", size), slog.Int64("source_max_message_bytes", sourceSize))
	}
	return nil
}

func both(own, source topicInfo, setting string) (ours, theirs int64, ok bool) {
	ours, ok1 := own.number(setting)
	theirs, ok2 := source.number(setting)
	return ours, theirs, ok1 && ok2
}
