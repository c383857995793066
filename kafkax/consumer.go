package kafkax

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-io/holdfast"
)

// Consumer reads topics as a member of a group. It may be used from many goroutines at once.
type Consumer struct {
	cluster Cluster
	cfg     ConsumerConfig

	mu     sync.Mutex
	groups map[string]*groupStats // All groups ever consumed as, as their counters only grow.
}

// NewConsumer checks the configuration and returns a Consumer. It does not connect: Consume does, and leaves nothing
// open.
func NewConsumer(cluster Cluster, cfg ConsumerConfig) (*Consumer, error) {
	if err := errors.Join(cluster.Validate(), cfg.Validate()); err != nil {
		return nil, err
	}
	return &Consumer{cluster: cluster.withDefaults(), cfg: cfg.withDefaults(), groups: make(map[string]*groupStats)}, nil
}

// Topics are the topics that the consumer reads.
func (c *Consumer) Topics() []string { return slices.Clone(c.cfg.Topics) }

// Group returns ConsumerConfig.Group.
func (c *Consumer) Group() string { return c.cfg.Group }

// Consume joins the group and runs handle, in a goroutine of its own, for every partition that the group gives it. When
// the group is rebalanced, every claim is revoked and handle is run again for what the next generation brings.
//
// handle's context is not ctx: it carries ctx's values and ends only when DrainTimeout is spent (cause ErrDrainTimeout),
// when the group has gone on without this member (cause ErrFenced), and when handle has returned. handle is to return
// once the claim is revoked and its work is committed; holdfast.ErrRevoked is as good as nil then. If it returns nil
// earlier, the partition rests until the next rebalance. If it returns an error earlier, the other claims are drained
// and Consume returns that error. A panic in handle is not recovered and ends the process.
//
// Consume returns nil when ctx has ended and all is drained: handlers returned, their last commits made, the group left,
// connections closed. Nothing outlives it, so it waits for a handler that does not look at its context; but the
// membership is given up then, one HeartbeatInterval after DrainTimeout, and nothing more is committed.
//
// At the start, a cluster that cannot be reached is an *UnreachableError within 10 s. Later outages of any length are
// waited out. A topic that does not exist is waited for, and so is one that was deleted; the others go on meanwhile. What
// no patience changes ends Consume: an *OffsetOutOfRangeError unless ConsumerConfig.OutOfRange forbids it, a denied access
// to the group or to a partition's messages, and a record batch that is older than Kafka 0.11 or takes too much memory. What
// was fetched of the partition before that is handed out first.
//
// One Consumer consumes as one group once at a time: a second call meanwhile is an error.
func (c *Consumer) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return c.ConsumeAs(ctx, c.cfg.Group, c.cfg.Topics, handle)
}

// ConsumeAs is Consume with the same settings for another group and other topics. It may run beside Consume.
func (c *Consumer) ConsumeAs(ctx context.Context, group string, topics []string, handle func(context.Context, holdfast.Claim) error) error {
	if err := validateSubscription(group, topics); err != nil {
		return err
	}
	if handle == nil {
		return errors.New("kafkax: Consume needs a handle func, got nil")
	}
	stats, err := c.register(group)
	if err != nil {
		return err
	}
	defer stats.release()
	m := newMembership(c, group, topics, stats)
	defer m.net.close()
	return m.run(ctx, handle)
}

// register finds or makes the group's statistics and takes them for one membership.
func (c *Consumer) register(group string) (*groupStats, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.groups[group]
	if s == nil {
		s = &groupStats{group: group, partitions: make(map[place]*partitionCounts)}
		c.groups[group] = s
	}
	if !s.take() {
		return nil, fmt.Errorf("kafkax: this Consumer consumes as group %q already", group)
	}
	return s, nil
}

// Stats returns a snapshot: one entry for each group ever consumed as, in order of name.
func (c *Consumer) Stats() ConsumerStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out ConsumerStats
	for _, s := range c.groups {
		out.Groups = append(out.Groups, s.snapshot())
	}
	slices.SortFunc(out.Groups, func(a, b GroupStats) int {
		if a.Group < b.Group {
			return -1
		}
		return 1
	})
	return out
}
