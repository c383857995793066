package kafkax

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	metadataapi "github.com/segmentio/kafka-go/protocol/metadata"
)

// layoutVersion is the first version of a Metadata request that does not create the topics it names (Kafka 0.11).
const layoutVersion = 4

// layoutRequest is a Metadata request that goes to a broker. kafka-go's Transport answers its own from a cache, whose age
// is also the longest that a broker may take to answer: there is no setting that is right for both.
type layoutRequest struct {
	metadataapi.Request
	clientID string
}

// Required and RawExchange have the transport leave the exchange to us.
func (r *layoutRequest) Required(map[protocol.ApiKey]int16) bool { return true }

func (r *layoutRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	answer, err := protocol.RoundTrip(rw, layoutVersion, 0, r.clientID, &r.Request)
	if err != nil {
		return nil, err
	}
	return layout{answer.(*metadataapi.Response)}, nil
}

// layout is the answer. As a mere *metadataapi.Response, the transport would take its request for one of its own.
type layout struct{ *metadataapi.Response }

// layout asks a broker for the topics' partitions and where they are.
func (n *network) layout(ctx context.Context, topics ...string) (layout, error) {
	return n.layoutFrom(ctx, n.client.Addr, topics...)
}

// layoutFrom asks one of the brokers at addr.
func (n *network) layoutFrom(ctx context.Context, addr net.Addr, topics ...string) (layout, error) {
	ctx, cancel := context.WithTimeout(ctx, n.client.Timeout)
	defer cancel()
	answer, err := n.pool.RoundTrip(ctx, addr, &layoutRequest{
		Request:  metadataapi.Request{TopicNames: topics},
		clientID: n.cluster.ClientID,
	})
	if err != nil {
		return layout{}, fmt.Errorf("kafkax: metadata: %w", err)
	}
	return answer.(layout), nil
}

// inquiries are layouts of single topics that are being asked for. The zero value is ready. Safe for concurrent use.
type inquiries struct {
	mu      sync.Mutex
	byTopic map[string]*inquiry
}

type inquiry struct {
	done   chan struct{}
	layout layout
	err    error
}

// join gives the inquiry for a topic that is under way, or begins one, which is then the caller's to make and to end.
func (q *inquiries) join(topic string) (i *inquiry, begun bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i = q.byTopic[topic]; i != nil {
		return i, false
	}
	if q.byTopic == nil {
		q.byTopic = make(map[string]*inquiry)
	}
	i = &inquiry{done: make(chan struct{})}
	q.byTopic[topic] = i
	return i, true
}

func (q *inquiries) end(topic string, i *inquiry) {
	q.mu.Lock()
	delete(q.byTopic, topic)
	q.mu.Unlock()
	close(i.done)
}

// layoutOf is layout for one topic. Who asks while another does hears the same: each of a topic's partitions wants to know
// its leader, all at once, and the answer tells of all of them.
func (n *network) layoutOf(ctx context.Context, topic string) (layout, error) {
	for {
		i, ours := n.inquiries.join(topic)
		if ours {
			i.layout, i.err = n.layout(ctx, topic)
			n.inquiries.end(topic, i)
			return i.layout, i.err
		}
		select {
		case <-i.done:
		case <-ctx.Done():
			return layout{}, ctx.Err()
		}
		if !errors.Is(i.err, context.Canceled) { // It was given up by who asked.
			return i.layout, i.err
		}
	}
}

// leader says which broker leads a partition, and where it is.
func (n *network) leader(ctx context.Context, topic string, partition int) (id int32, addr string, err error) {
	layout, err := n.layoutOf(ctx, topic)
	if err != nil {
		return 0, "", err
	}
	for _, t := range layout.Topics {
		if t.ErrorCode != 0 {
			return 0, "", fmt.Errorf("kafkax: leader of %s/%d: %w", topic, partition, kafka.Error(t.ErrorCode))
		}
		p, ok := find(t.Partitions, func(p metadataapi.ResponsePartition) bool { return int(p.PartitionIndex) == partition })
		if !ok {
			break
		}
		if b, ok := find(layout.Brokers, func(b metadataapi.ResponseBroker) bool { return b.NodeID == p.LeaderID }); ok {
			return b.NodeID, net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))), nil
		}
	}
	return 0, "", fmt.Errorf("kafkax: leader of %s/%d: %w", topic, partition, kafka.LeaderNotAvailable)
}

// leaders says which broker leads which partitions of a topic. A partition without a leader is an error.
func (n *network) leaders(ctx context.Context, topic string) (map[int32][]int, error) {
	partitions, err := n.partitionsOf(ctx, topic)
	if err != nil {
		return nil, err
	}
	leaders := make(map[int32][]int)
	for _, p := range partitions {
		if p.LeaderID < 0 {
			return nil, fmt.Errorf("kafkax: leader of %s/%d: %w", topic, p.PartitionIndex, kafka.LeaderNotAvailable)
		}
		leaders[p.LeaderID] = append(leaders[p.LeaderID], int(p.PartitionIndex))
	}
	return leaders, nil
}

// partitions counts a topic's partitions.
func (n *network) partitions(ctx context.Context, topic string) (int, error) {
	partitions, err := n.partitionsOf(ctx, topic)
	return len(partitions), err
}

// partitionsOf lists a topic's partitions, of which there is at least one.
func (n *network) partitionsOf(ctx context.Context, topic string) ([]metadataapi.ResponsePartition, error) {
	if err := checkTopicName(topic); err != nil {
		return nil, err
	}
	layout, err := n.layout(ctx, topic)
	if err != nil {
		return nil, err
	}
	for _, t := range layout.Topics {
		switch {
		case t.Name != topic:
		case t.ErrorCode != 0:
			return nil, fmt.Errorf("kafkax: topic %s: %w", topic, kafka.Error(t.ErrorCode))
		case len(t.Partitions) > 0:
			return t.Partitions, nil
		}
	}
	return nil, fmt.Errorf("kafkax: topic %s: %w", topic, kafka.UnknownTopicOrPartition)
}

// describeTopic counts a topic's partitions and returns its configuration.
func (n *network) describeTopic(ctx context.Context, topic string) (partitions int, config map[string]string, err error) {
	if partitions, err = n.partitions(ctx, topic); err != nil {
		return 0, nil, err
	}
	resp, err := n.client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kafka.ResourceTypeTopic, ResourceName: topic}},
	})
	if err != nil {
		return 0, nil, err
	}
	if len(resp.Resources) != 1 {
		return 0, nil, fmt.Errorf("kafkax: configuration of %s: %w", topic, errNoAnswer)
	}
	if err := resp.Resources[0].Error; err != nil {
		return 0, nil, fmt.Errorf("kafkax: configuration of %s: %w", topic, err)
	}
	config = make(map[string]string)
	for _, e := range resp.Resources[0].ConfigEntries {
		config[e.ConfigName] = e.ConfigValue
	}
	return partitions, config, nil
}
