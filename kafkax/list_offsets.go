package kafkax

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	listoffsetsapi "github.com/segmentio/kafka-go/protocol/listoffsets"
)

// listOffsetsVersion is the first version of a ListOffsets request that knows isolation levels (Kafka 0.11).
const listOffsetsVersion = 2

// offsetsRequest is a ListOffsets request for all partitions of one leader. kafka-go sends one for each partition, all
// at once and each over a connection of its own.
type offsetsRequest struct {
	request  listoffsetsapi.Request // Not embedded: it would divide itself.
	leader   int32
	clientID string
}

func (r *offsetsRequest) ApiKey() protocol.ApiKey { return protocol.ListOffsets }

// Broker has the transport send it to the leader.
func (r *offsetsRequest) Broker(protocol.Cluster) (protocol.Broker, error) {
	return protocol.Broker{ID: r.leader}, nil
}

// Required and RawExchange have the transport leave the exchange to us.
func (r *offsetsRequest) Required(map[protocol.ApiKey]int16) bool { return true }

func (r *offsetsRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	return protocol.RoundTrip(rw, listOffsetsVersion, 0, r.clientID, &r.request)
}

// maxOffsetRequests is how many such requests one broker gets at a time: kafka-go has a connection for each, and the
// partitions of a generation begin all at once.
const maxOffsetRequests = 8

// turns bounds the requests to each broker, so that one that does not answer holds up only its own partitions. The zero
// value is ready. Safe for concurrent use.
type turns struct {
	mu      sync.Mutex
	brokers map[int32]chan struct{}
}

// take waits for a turn, which is to be given back.
func (t *turns) take(ctx context.Context, broker int32) (giveBack func(), err error) {
	t.mu.Lock()
	if t.brokers == nil {
		t.brokers = make(map[int32]chan struct{})
	}
	if t.brokers[broker] == nil {
		t.brokers[broker] = make(chan struct{}, maxOffsetRequests)
	}
	taken := t.brokers[broker]
	t.mu.Unlock()
	select {
	case taken <- struct{}{}:
		return func() { <-taken }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// listOffsets asks the partitions' leaders where a time is in their logs: the first offset whose message is no older,
// -1 if there is none. kafka.FirstOffset and kafka.LastOffset as the time, in milliseconds, mean the log's first offset
// and its end; stable takes the first open transaction for the end.
func (n *network) listOffsets(ctx context.Context, topic string, leaders map[int32][]int, time int64, stable bool) (map[int]int64, error) {
	offsets := make(map[int]int64)
	for leader, partitions := range leaders {
		if err := n.listOffsetsOf(ctx, topic, leader, partitions, time, stable, offsets); err != nil {
			return nil, err
		}
	}
	return offsets, nil
}

func (n *network) listOffsetsOf(ctx context.Context, topic string, leader int32, partitions []int, time int64, stable bool, offsets map[int]int64) error {
	asked := listoffsetsapi.RequestTopic{Topic: topic}
	for _, p := range partitions {
		asked.Partitions = append(asked.Partitions, listoffsetsapi.RequestPartition{Partition: int32(p), Timestamp: time})
	}
	req := &offsetsRequest{leader: leader, clientID: n.cluster.ClientID, request: listoffsetsapi.Request{
		ReplicaID: -1, Topics: []listoffsetsapi.RequestTopic{asked}, // A consumer.
	}}
	if stable {
		req.request.IsolationLevel = 1
	}
	giveBack, err := n.turns.take(ctx, leader)
	if err != nil {
		return fmt.Errorf("kafkax: offsets of %s: %w", topic, err)
	}
	defer giveBack()
	ctx, cancel := context.WithTimeout(ctx, n.client.Timeout)
	defer cancel()
	answer, err := n.pool.RoundTrip(ctx, n.client.Addr, req)
	if err != nil {
		return fmt.Errorf("kafkax: offsets of %s: %w", topic, err)
	}
	var errs []error
	for _, t := range answer.(*listoffsetsapi.Response).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				errs = append(errs, fmt.Errorf("kafkax: offset of %s/%d: %w", topic, p.Partition, kafka.Error(p.ErrorCode)))
				continue
			}
			offsets[int(p.Partition)] = p.Offset
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if i := slices.IndexFunc(partitions, func(p int) bool { _, ok := offsets[p]; return !ok }); i >= 0 {
		return fmt.Errorf("kafkax: offset of %s/%d: %w", topic, partitions[i], errNoAnswer)
	}
	return nil
}
