package kafkax

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/segmentio/kafka-go"
)

// errShrunk says that a log ends before the offset that is to be read next, and that reading is to go on elsewhere.
var errShrunk = errors.New("kafkax: the log has lost its end")

// elsewhere says where to go on when a log does not hold an offset: nowhere, with an error, unless the configuration
// says otherwise.
func (m *membership) elsewhere(ctx context.Context, e *OffsetOutOfRangeError) (int64, error) {
	next := e.First
	switch m.cfg.OutOfRange {
	case OutOfRangeEarliest:
	case OutOfRangeLatest:
		next = e.End
	default:
		return 0, e
	}
	m.counts.outOfRange.Add(1)
	if next > e.Offset {
		m.counts.passedOver.Add(uint64(next - e.Offset))
	}
	m.log.LogAttrs(ctx, slog.LevelWarn, "offset out of range, going on elsewhere",
		slog.String("topic", e.Topic), slog.Int("partition", e.Partition), slog.Int64("offset", e.Offset),
		slog.Int64("first", e.First), slog.Int64("end", e.End), slog.Int64("next", next))
	return next, nil
}

// outOfRange asks whether a log holds offset, or ends with it. It is an *OffsetOutOfRangeError when it does not.
func (n *network) outOfRange(ctx context.Context, at place, offset int64) error {
	first, end, err := n.logRange(ctx, at)
	if err == nil && (offset < first || offset > end) {
		err = &OffsetOutOfRangeError{Topic: at.topic, Partition: at.partition, Offset: offset, First: first, End: end}
	}
	return err
}

// logRange returns the range of offsets that a partition's log holds: [first, end).
func (n *network) logRange(ctx context.Context, at place) (first, end int64, err error) {
	if first, err = n.offsetAt(ctx, at, kafka.FirstOffset); err != nil {
		return 0, 0, err
	}
	end, err = n.offsetAt(ctx, at, kafka.LastOffset)
	return first, end, err
}

// offsetAtTime returns the offset of the first message that is no older than t, or else the log's end.
func (n *network) offsetAtTime(ctx context.Context, at place, t time.Time) (int64, error) {
	end, err := n.offsetAt(ctx, at, kafka.LastOffset) // First, as what is written between the two is no older.
	if err != nil {
		return 0, err
	}
	next, err := n.offsetAt(ctx, at, t.UnixMilli())
	if err == nil && next < 0 {
		next = end
	}
	return next, err
}

// offsetAt is listOffsets for one partition.
func (n *network) offsetAt(ctx context.Context, at place, time int64) (int64, error) {
	leader, _, err := n.leader(ctx, at.topic, at.partition)
	if err != nil {
		return 0, err
	}
	offsets, err := n.listOffsets(ctx, at.topic, map[int32][]int{leader: {at.partition}}, time, false)
	return offsets[at.partition], err
}
