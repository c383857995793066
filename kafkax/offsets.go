package kafkax

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
	offsetfetchapi "github.com/segmentio/kafka-go/protocol/offsetfetch"
)

var errNoAnswer = errors.New("kafkax: the answer leaves the partition out")

// stored is what a group has committed for one partition.
type stored struct {
	next     int64 // -1 for nothing.
	metadata string
	err      error // Why that is not known.
}

// fetchOffsets asks for what the group has committed, in the order of places. What it could not learn of a single one is
// in that one's err.
func (n *network) fetchOffsets(ctx context.Context, group string, places []place) ([]stored, error) {
	ctx, cancel := context.WithTimeout(ctx, n.client.Timeout)
	defer cancel()
	req := &offsetFetch{Request: offsetfetchapi.Request{GroupID: group}, clientID: n.cluster.ClientID}
	partitions := make(map[string][]int32)
	for _, at := range places {
		partitions[at.topic] = append(partitions[at.topic], int32(at.partition))
	}
	for topic, indexes := range partitions {
		req.Topics = append(req.Topics, offsetfetchapi.RequestTopic{Name: topic, PartitionIndexes: indexes})
	}
	answer, err := n.pool.RoundTrip(ctx, n.client.Addr, req)
	if err != nil {
		return nil, fmt.Errorf("kafkax: fetch offsets of group %s: %w", group, err)
	}
	resp := answer.(*offsetfetchapi.Response)
	if resp.ErrorCode != 0 {
		return nil, fmt.Errorf("kafkax: fetch offsets of group %s: %w", group, kafka.Error(resp.ErrorCode))
	}
	known := make(map[place]stored)
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			s := stored{next: p.CommittedOffset, metadata: p.Metadata}
			if p.ErrorCode != 0 {
				s.err = fmt.Errorf("kafkax: fetch offset of %s/%d: %w", t.Name, p.PartitionIndex, kafka.Error(p.ErrorCode))
			}
			known[place{t.Name, int(p.PartitionIndex)}] = s
		}
	}
	out := make([]stored, len(places))
	for i, at := range places {
		var ok bool
		if out[i], ok = known[at]; !ok {
			out[i].err = fmt.Errorf("kafkax: fetch offset of %s/%d: %w", at.topic, at.partition, errNoAnswer)
		}
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
