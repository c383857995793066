package kafkax

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"time"

	"github.com/segmentio/kafka-go"
)

const (
	defaultAdminTimeout = 15 * time.Second // Longer than the 9 s that Kafka by default takes to miss a broker.
	minAdminTimeout     = 10 * time.Millisecond
)

// AdminConfig says how patient an Admin is. The zero value is a good default.
type AdminConfig struct {
	// Timeout bounds each call, with its retries; for Scan it is for how long a partition may bring nothing. 0 means 15 s.
	Timeout time.Duration
}

// Validate reports all that is wrong with the configuration, in one error.
func (c AdminConfig) Validate() error {
	if c.Timeout != 0 && c.Timeout < minAdminTimeout {
		return fmt.Errorf("kafkax: AdminConfig.Timeout must be at least %v, or 0 for %v, got %v", minAdminTimeout, defaultAdminTimeout, c.Timeout)
	}
	return nil
}

// Admin looks at topics and groups from outside any group, and makes and trims topics. It may be used from many
// goroutines at once.
//
// Calls wait out elections and broken connections up to AdminConfig.Timeout. What Kafka refuses is its own error, in the
// chain: a topic or partition that does not exist is kafka.UnknownTopicOrPartition. When ctx ends first, a call returns
// with its error in the chain, and what was asked for may have been done.
type Admin struct {
	net *network
	cfg AdminConfig
}

// NewAdmin checks the configuration and returns an Admin. It does not connect before the first call.
func NewAdmin(cluster Cluster, cfg AdminConfig) (*Admin, error) {
	if err := errors.Join(cluster.Validate(), cfg.Validate()); err != nil {
		return nil, err
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, defaultAdminTimeout)
	return &Admin{net: newNetwork(cluster.withDefaults(), min(requestTimeout, cfg.Timeout)), cfg: cfg}, nil
}

// Close cuts off what is in progress and closes all connections. Calls fail with net.ErrClosed from then on. Closing
// again does nothing.
func (a *Admin) Close() { a.net.close() }

// DescribeTopic says how many partitions a topic has, and its configuration by Kafka's names, such as
// "max.message.bytes", "retention.ms" or "cleanup.policy", with the values that are in force. Values that Kafka keeps to
// itself are empty.
func (a *Admin) DescribeTopic(ctx context.Context, topic string) (partitions int, config map[string]string, err error) {
	err = a.call(ctx, "describe topic "+topic, func(ctx context.Context) error {
		partitions, config, err = a.net.describeTopic(ctx, topic)
		return err
	})
	return partitions, config, err
}

// CreateTopic makes a topic, with as many replicas as the cluster's own setting says, and returns when its partitions
// have leaders. config holds settings by Kafka's names, nil for none. A topic that exists is kafka.TopicAlreadyExists,
// also when an attempt of this very call has made it and its answer was lost.
func (a *Admin) CreateTopic(ctx context.Context, topic string, partitions int, config map[string]string) error {
	if err := checkTopicName(topic); err != nil {
		return fmt.Errorf("kafkax: create topic: %w", err)
	}
	if partitions < 1 || partitions > math.MaxInt32 {
		return fmt.Errorf("kafkax: create topic %s: partitions must be 1 to %d, got %d", topic, math.MaxInt32, partitions)
	}
	request := kafka.TopicConfig{Topic: topic, NumPartitions: partitions, ReplicationFactor: -1}
	for name, value := range config {
		request.ConfigEntries = append(request.ConfigEntries, kafka.ConfigEntry{ConfigName: name, ConfigValue: value})
	}
	what := "create topic " + topic
	err := a.call(ctx, what, func(ctx context.Context) error {
		resp, err := a.net.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{request}})
		if err != nil {
			return err
		}
		return resp.Errors[topic]
	})
	if err != nil {
		return err
	}
	return a.call(ctx, what, func(ctx context.Context) error {
		_, err := a.net.leaders(ctx, topic)
		if errors.Is(err, kafka.UnknownTopicOrPartition) {
			err = kafka.LeaderNotAvailable // This broker has not heard of it yet.
		}
		return err
	})
}

// Bounds says which offsets each partition of a topic holds: from first up to, not including, next, which is its high
// watermark.
func (a *Admin) Bounds(ctx context.Context, topic string) (first, next map[int]int64, err error) {
	return a.bounds(ctx, topic, false)
}

// bounds is Bounds; stable takes the first open transaction for a partition's end.
func (a *Admin) bounds(ctx context.Context, topic string, stable bool) (first, next map[int]int64, err error) {
	err = a.call(ctx, "bounds of "+topic, func(ctx context.Context) error {
		leaders, err := a.net.leaders(ctx, topic)
		if err != nil {
			return err
		}
		if first, err = a.net.listOffsets(ctx, topic, leaders, kafka.FirstOffset, false); err != nil {
			return err
		}
		next, err = a.net.listOffsets(ctx, topic, leaders, kafka.LastOffset, stable)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return first, next, nil
}

// OffsetsAt says where a time is in each partition of a topic: the offset of the first message that has this time or a
// later one, or the partition's end if none has. What comes behind may have earlier times.
func (a *Admin) OffsetsAt(ctx context.Context, topic string, at time.Time) (map[int]int64, error) {
	var offsets map[int]int64
	err := a.call(ctx, "offsets at a time in "+topic, func(ctx context.Context) error {
		leaders, err := a.net.leaders(ctx, topic)
		if err != nil {
			return err
		}
		next, err := a.net.listOffsets(ctx, topic, leaders, kafka.LastOffset, false)
		if err != nil {
			return err
		}
		offsets, err = a.net.listOffsets(ctx, topic, leaders, max(0, at.UnixMilli()), false)
		for p, offset := range offsets {
			if offset < 0 {
				offsets[p] = next[p]
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return offsets, nil
}

// Committed says what a group has committed for the partitions of a topic: the offset that it reads next. Partitions for
// which it has committed nothing are left out, and so a group that Kafka does not know has committed nothing.
func (a *Admin) Committed(ctx context.Context, group, topic string) (map[int]int64, error) {
	if group == "" {
		return nil, errors.New("kafkax: committed: the group must not be empty")
	}
	var committed map[int]int64
	err := a.call(ctx, fmt.Sprintf("offsets of group %s in %s", group, topic), func(ctx context.Context) error {
		n, err := a.net.partitions(ctx, topic)
		if err != nil {
			return err
		}
		places := make([]place, n)
		for p := range places {
			places[p] = place{topic, p}
		}
		committed = make(map[int]int64)
		offsets, err := a.net.fetchOffsets(ctx, group, places)
		if errors.Is(err, kafka.GroupIdNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for p, o := range offsets {
			if o.err != nil {
				return o.err
			}
			if o.next >= 0 {
				committed[p] = o.next
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return committed, nil
}

// DeleteRecords deletes, for good and for everybody, the messages of each given partition that are before an offset. An
// offset beyond the partition's end is kafka.OffsetOutOfRange. When it fails, some partitions may be trimmed; asking
// again does no harm.
func (a *Admin) DeleteRecords(ctx context.Context, topic string, before map[int]int64) error {
	for p, offset := range before {
		if offset < 0 {
			return fmt.Errorf("kafkax: delete records of %s/%d: the offset must not be below 0, got %d", topic, p, offset)
		}
	}
	return a.call(ctx, "delete records of "+topic, func(ctx context.Context) error {
		leaders, err := a.net.leaders(ctx, topic)
		if err != nil {
			return err
		}
		leaderOf := make(map[int]int32)
		for leader, partitions := range leaders {
			for _, p := range partitions {
				leaderOf[p] = leader
			}
		}
		requests := make(map[int32]*deleteRecords)
		for p, offset := range before {
			leader, ok := leaderOf[p]
			if !ok {
				return fmt.Errorf("partition %d: %w", p, kafka.UnknownTopicOrPartition)
			}
			if requests[leader] == nil {
				requests[leader] = &deleteRecords{
					topic: topic, before: make(map[int]int64), leader: leader,
					timeout: a.net.client.Timeout / 2, clientID: a.net.cluster.ClientID,
				}
			}
			requests[leader].before[p] = offset
		}
		var errs []error
		for _, r := range requests {
			errs = append(errs, a.net.deleteRecords(ctx, r))
		}
		return errors.Join(errs...)
	})
}

// begin makes a context that ends with the Admin, too.
func (a *Admin) begin(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(a.net.life, func() { cancel(net.ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// call tries until it is done, or refused, or Timeout has passed.
func (a *Admin) call(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, end := a.begin(ctx)
	defer end()
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timeout)
	defer cancel()
	var t trouble
	var last error
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if ctx.Err() == nil && !isPassing(err) {
			return fmt.Errorf("kafkax: %s: %w", what, err)
		}
		a.net.refresh()
		t.failed()
		if !t.wait(ctx) {
			return fmt.Errorf("kafkax: %s: %w, last: %w", what, context.Cause(ctx), last)
		}
	}
}

// isPassing asks whether err may be another one, or none, in a moment. A topic that does not exist is no such error, nor is
// a certificate that is not trusted.
func isPassing(err error) bool {
	if _, distrusted := errors.AsType[*tls.CertificateVerificationError](err); distrusted {
		return false
	}
	var code kafka.Error
	if isUnsent(err) || !errors.As(err, &code) {
		return true
	}
	return code != kafka.UnknownTopicOrPartition && code.Temporary()
}
