package kafkax

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/segmentio/kafka-go"
)

// settle notes the answer for one partition, and returns it when it says that all of them have to wait. k.mu is held.
func (k *committer) settle(t target, answer error) error {
	s := t.slot
	switch {
	case answer == nil:
		k.stats.counts.commits.Add(1)
		s.counts.commits.Add(1)
		k.stored(s, t.next, t.metadata, t.sync)
		s.finishSync(t.sync, nil)
		return nil
	case isFencing(answer), errors.Is(answer, kafka.RebalanceInProgress):
		k.stats.counts.commitsFenced.Add(1)
		s.counts.commitsFenced.Add(1)
		s.unknown = false
		if k.lost == nil {
			k.lost = fmt.Errorf("%w: %w", ErrFenced, answer)
			close(k.gone)
		}
		s.finishSync(t.sync, k.lost)
		return nil
	}
	k.stats.counts.commitsFailed.Add(1)
	switch {
	case t.sync != nil && (isRefusal(answer) || errors.Is(answer, kafka.OffsetMetadataTooLarge) || errors.Is(answer, kafka.InvalidCommitOffsetSize)):
		s.unknown = false
		s.finishSync(t.sync, answer)
		return nil
	case errors.Is(answer, kafka.TopicAuthorizationFailed), errors.Is(answer, kafka.UnknownTopicOrPartition), errors.Is(answer, errNoAnswer):
		k.suffer(s, answer)
		return nil
	default:
		// Even a clear "not now" such as NotCoordinatorForGroup is read back: it costs one request.
		s.doubtful = true
		return answer
	}
}

// stored notes that the broker holds next and metadata for s, by way of done if that is not nil. k.mu is held.
func (k *committer) stored(s *slot, next int64, metadata string, done *syncCommit) {
	s.unknown, s.stored = false, next
	if next >= s.wanted || done != nil && done.restart {
		s.wanted, s.metadata = next, metadata
		if s.trouble.over() > 0 {
			k.news = append(k.news, news{slog.LevelInfo, "commits of a partition go through again", s.place, nil})
		}
	}
}

// suffer notes a failure that is one partition's own, and does not hold up the others. It is tried again later; in the
// end, what has no such partition or no access to it is given up. k.mu is held.
func (k *committer) suffer(s *slot, err error) {
	if k.hurry && (isRefusal(err) || errors.Is(err, kafka.UnknownTopicOrPartition)) {
		s.unknown, s.wanted = false, s.stored
		for len(s.syncs) > 0 {
			s.finishSync(s.syncs[0], err)
		}
		k.news = append(k.news, news{slog.LevelWarn, "last commit of a partition given up, what it covers will be read again", s.place, err})
		return
	}
	if s.trouble.failed() {
		k.news = append(k.news, news{slog.LevelWarn, "commit of a partition failed, trying again", s.place, err})
	}
	s.rest = time.Now().Add(s.trouble.backoff())
}

// news is what is to be logged once mu is free.
type news struct {
	level   slog.Level
	message string
	at      place
	err     error
}

func (k *committer) tell(ctx context.Context) {
	k.mu.Lock()
	all := k.news
	k.news = nil
	k.mu.Unlock()
	for _, n := range all {
		attrs := []slog.Attr{slog.String("topic", n.at.topic), slog.Int("partition", n.at.partition)}
		if n.err != nil {
			attrs = append(attrs, slog.Any("err", n.err))
		}
		k.log.LogAttrs(ctx, n.level, n.message, attrs...) //nolint:sloglint // Constants, all of them.
	}
}

// finishSync tells c's caller and takes it off the queue, whose head it is.
func (s *slot) finishSync(c *syncCommit, err error) {
	if c != nil {
		c.done <- err
		s.syncs = s.syncs[1:]
	}
}

// readBack asks the broker what it holds.
func (k *committer) readBack(ctx context.Context, slots []*slot) error {
	places := make([]place, len(slots))
	for i, s := range slots {
		places[i] = s.place
	}
	offsets, err := k.net.fetchOffsets(ctx, k.group, places)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, s := range slots {
		o := offsets[i]
		if o.err != nil {
			k.suffer(s, o.err)
			continue
		}
		var done *syncCommit
		if len(s.syncs) > 0 {
			if c := s.syncs[0]; c.sent && o.next == c.next && o.metadata == c.metadata {
				done = c
			}
		}
		k.stored(s, o.next, o.metadata, done)
		s.finishSync(done, nil)
	}
	return nil
}
