package main

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/dlq"
)

// clockSkew is how far apart the clocks may be of those who write letters and of Kafka. Letters of a time are looked for
// from so long before on.
const clockSkew = time.Hour

// browsing is a look into a dead-letter topic.
type browsing struct {
	*tool
	*session
	topic   string
	redrive *dlq.Redrive
	begin   map[int]int64 // Nothing before is selected.
}

// browse prepares a look at what is selected. It reads nothing of the topic yet.
func (t *tool) browse(ctx context.Context, s *session, topic string, which *selection) (*browsing, error) {
	filter, err := which.filter()
	if err != nil {
		return nil, err
	}
	b := &browsing{tool: t, session: s, topic: topic}
	cfg := dlq.RedriveConfig{Topic: topic, Letters: dlq.SourceConfig{Filter: filter}}
	if b.redrive, err = s.deadLetters(ctx, cfg, which.ledgerOf(topic)); err != nil {
		return nil, err
	}
	b.begin, err = s.beginOf(ctx, topic, &filter)
	return b, err
}

// beginOf is where what a filter selects can begin.
func (s *session) beginOf(ctx context.Context, topic string, f *dlq.Filter) (map[int]int64, error) {
	first, next, err := s.admin.Bounds(ctx, topic)
	if err != nil {
		return nil, err
	}
	begin := make(map[int]int64, len(next))
	for p := range next {
		begin[p] = next[p]
		if len(f.Partitions) == 0 || slices.Contains(f.Partitions, p) {
			begin[p] = max(first[p], f.From)
		}
	}
	if f.After.IsZero() {
		return begin, nil
	}
	at, err := s.admin.OffsetsAt(ctx, topic, f.After.Add(-clockSkew)) // A letter is dead before it is written.
	for p := range begin {
		begin[p] = max(begin[p], at[p])
	}
	return begin, err
}

// read shows every record from some offsets on, and on a terminal how far it is.
func (b *browsing) read(ctx context.Context, from map[int]int64, show func(dlq.Entry) error) error {
	total, err := b.depth(ctx, b.topic, from)
	if err != nil {
		return err
	}
	var read atomic.Int64
	defer b.progress(total, read.Load)()
	return b.redrive.Browse(ctx, from, func(e dlq.Entry) error {
		read.Add(1)
		return show(e)
	})
}

// survey counts every record from some offsets on.
func (b *browsing) survey(ctx context.Context, from map[int]int64) (*dlq.Survey, error) {
	counted := dlq.NewSurvey()
	err := b.read(ctx, from, func(e dlq.Entry) error {
		counted.Add(&e)
		return nil
	})
	return &counted, err
}
