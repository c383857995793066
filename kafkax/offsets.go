package kafkax

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
)

var errNoAnswer = errors.New("kafkax: the answer leaves the partition out")

// fetchOffsets asks for what the group has committed, in the order of places. What it could not learn of a single one is
// in that one's Error.
func fetchOffsets(ctx context.Context, client *kafka.Client, group string, places []place) ([]kafka.OffsetFetchPartition, error) {
	topics := make(map[string][]int)
	for _, at := range places {
		topics[at.topic] = append(topics[at.topic], at.partition)
	}
	resp, err := client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: group, Topics: topics})
	if err != nil {
		return nil, err
	}
	if resp.Error != nil {
		return nil, fmt.Errorf("kafkax: fetch offsets of group %s: %w", group, resp.Error)
	}
	out := make([]kafka.OffsetFetchPartition, len(places))
	for i, at := range places {
		p, ok := find(resp.Topics[at.topic], func(p kafka.OffsetFetchPartition) bool { return p.Partition == at.partition })
		if !ok {
			p.Error = errNoAnswer
		}
		if p.Error != nil {
			p.Error = fmt.Errorf("kafkax: fetch offset of %s/%d: %w", at.topic, at.partition, p.Error)
		}
		out[i] = p
	}
	return out, nil
}

func find[T any](in []T, match func(T) bool) (T, bool) {
	for _, v := range in {
		if match(v) {
			return v, true
		}
	}
	var none T
	return none, false
}
