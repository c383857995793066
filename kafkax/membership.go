package kafkax

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
)

const (
	// requestTimeout bounds each request to a coordinator or leader.
	requestTimeout = 5 * time.Second

	// watchInterval is how often the topics' partitions are counted.
	watchInterval = time.Second

	// rejoinBackoff is how long kafka-go waits before it joins again after an error.
	rejoinBackoff = time.Second

	// leaveTimeout is how long a group is given to be left in good order.
	leaveTimeout = 5 * time.Second
)

// membership is one call of Consume or ConsumeAs.
type membership struct {
	cluster Cluster
	cfg     ConsumerConfig
	group   string
	topics  []string
	net     *network // For all but the group itself, which has its own, see leave.
	log     *slog.Logger
	stats   *groupStats
	counts  *groupCounts

	brokers []string       // The cluster's, the one to ask first in front.
	trouble trouble        // In joining.
	unrest  unrest         // Of the topics.
	seen    map[string]int // How many partitions each topic had when it was last looked at or assigned. None while it does not exist.
	missing map[string]bool
}

// run is a member of the group until ctx ends or a handler fails.
func (m *membership) run(ctx context.Context, handle handler) error {
	if err := m.reach(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // The caller ended it, that is no failure.
		}
		return err
	}
	for {
		// kafka-go assigns nothing at all while one of the topics does not exist, and asks the broker to create it. So it
		// is not told of those.
		topics := m.existing()
		for len(topics) == 0 {
			if !sleep(ctx, watchInterval) {
				return nil
			}
			_, _ = m.lookAtTopics(ctx) // It has worked before, and we are waiting anyway.
			topics = m.existing()
		}
		err := m.join(ctx, topics, handle)
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// never is the longest interval between heartbeats that kafka-go takes, 24 days. A single one that fails would end its
// generation, so we send them ourselves, see generation.beat.
const never = (math.MaxInt32 - 1) * time.Millisecond

// join is a member of the group until ctx ends, a handler fails, the group cannot be joined, or the topics change.
func (m *membership) join(ctx context.Context, topics []string, handle handler) error {
	link := newNetwork(m.cluster, requestTimeout)
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID:                m.group,
		Brokers:           m.brokers,
		Dialer:            link.dialer(),
		Topics:            topics,
		GroupBalancers:    []kafka.GroupBalancer{assignor{kafka.RangeGroupBalancer{}, m}, assignor{kafka.RoundRobinGroupBalancer{}, m}},
		SessionTimeout:    m.cfg.SessionTimeout,
		HeartbeatInterval: never,
		RebalanceTimeout:  m.cfg.RebalanceTimeout,
		JoinGroupBackoff:  rejoinBackoff,
		Timeout:           requestTimeout,
	})
	if err != nil {
		return fmt.Errorf("kafkax: group %s: %w", m.group, err)
	}
	member, joining := "", true // The member is unknown.
	defer func() { m.leave(ctx, group, link, member, joining) }()

	for {
		gen, err := group.Next(ctx)
		switch {
		case gen == nil && ctx.Err() != nil:
			return nil
		case errors.Is(err, kafka.RebalanceInProgress): // The join was overtaken by another, as happens.
		case isRefusal(err):
			return fmt.Errorf("kafkax: join group %s: %w", m.group, err)
		case err != nil:
			member = "" // kafka-go has forgotten it.
			if m.trouble.failed() {
				m.log.LogAttrs(ctx, slog.LevelWarn, "cannot join the group, trying again", slog.Any("err", err))
			}
			// kafka-go always begins with the first broker that takes a connection, even if it never says a word.
			m.brokers = slices.Concat(m.brokers[1:], m.brokers[:1])
			m.trouble.wait(ctx)
			return nil
		default:
			m.trouble.over() // What follows is logged anyway.
			member = gen.MemberID
			if last, err := m.serve(ctx, gen, topics, handle); last {
				joining = false
				return err
			}
		}
	}
}

// assignor assigns as kafka-go's balancer does, if this member is the one to do so, and notes what there was to assign:
// brokers do not hear of new partitions all at once, and the one that was asked may have been late.
type assignor struct {
	kafka.GroupBalancer
	membership *membership
}

func (a assignor) AssignGroups(members []kafka.GroupMember, partitions []kafka.Partition) kafka.GroupMemberAssignments {
	had := make(map[string]int)
	for _, p := range partitions {
		had[p.Topic]++
	}
	for topic := range a.membership.seen {
		if n := had[topic]; n > 0 {
			a.membership.seen[topic] = n // So that what it was late for is news to watchTopics.
		}
	}
	return a.GroupBalancer.AssignGroups(members, partitions)
}

// serve lives through one generation, and says whether it was the last one.
func (m *membership) serve(ctx context.Context, gen *kafka.Generation, topics []string, handle handler) (last bool, err error) {
	var partitions []place
	for _, topic := range topics {
		for _, p := range gen.Assignments[topic] {
			partitions = append(partitions, place{topic, p.ID})
		}
	}
	m.log.LogAttrs(ctx, slog.LevelInfo, "joined generation",
		slog.Int("generation", int(gen.ID)), slog.String("member", gen.MemberID), slog.Int("partitions", len(partitions)))
	served := make(chan struct{})
	gen.Start(func(ended context.Context) {
		g := &generation{membership: m, id: gen.ID, member: gen.MemberID}
		err = g.serve(ctx, partitions, handle)
		last = err != nil || ctx.Err() != nil || !slices.Equal(m.existing(), topics)
		close(served)
		if last {
			<-ended.Done() // Had we returned, kafka-go would join again. leave ends it.
		}
	})
	<-served
	return last, err
}

// leave gives the membership up, and returns when nothing of it is left.
func (m *membership) leave(ctx context.Context, group *kafka.ConsumerGroup, link *network, member string, joining bool) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = group.Close() // Never fails.
	}()
	// kafka-go leaves in good order, but not before a join in progress is over, which can take as long as other members
	// drain. Then we cut it off and leave ourselves, if we know as whom. If not, the group has to notice.
	if member == "" || !joining {
		patience := time.NewTimer(leaveTimeout)
		defer patience.Stop()
		select {
		case <-closed:
			link.close()
			return
		case <-patience.C:
		}
	}
	link.close()
	<-closed
	if member != "" {
		m.leaveGroup(ctx, member)
	}
}

// leaveGroup tells the coordinator that member is gone, whether ctx has ended or not.
func (m *membership) leaveGroup(ctx context.Context, member string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	_, err := m.net.client.LeaveGroup(ctx, &kafka.LeaveGroupRequest{
		GroupID: m.group, Members: []kafka.LeaveGroupRequestMember{{ID: member}},
	})
	if err != nil {
		m.log.LogAttrs(ctx, slog.LevelWarn, "cannot leave the group, it will notice after the session timeout", slog.Any("err", err))
	}
}

// lookAtTopics asks for the topics, and reports whether they have changed.
func (m *membership) lookAtTopics(ctx context.Context) (changed bool, err error) {
	layout, err := m.net.layout(ctx, m.topics...)
	if err != nil {
		return false, err
	}
	return m.note(ctx, layout)
}

// note counts the topics' partitions and reports whether the numbers have changed since the last time. It logs topics
// that do not exist, once, and when they have come into being. The error is of what it could not see.
func (m *membership) note(ctx context.Context, layout layout) (changed bool, err error) {
	for _, t := range layout.Topics {
		n, attr := len(t.Partitions), slog.String("topic", t.Name)
		switch code := kafka.Error(t.ErrorCode); {
		case code == kafka.UnknownTopicOrPartition:
			n = 0
		case code != 0 && n == 0:
			err = fmt.Errorf("kafkax: topic %s: %w", t.Name, code)
			continue
		}
		switch had := m.seen[t.Name]; {
		case n == 0 && had > 0:
			m.log.LogAttrs(ctx, slog.LevelWarn, "topic is gone, waiting for another of its name", attr)
		case n == 0 && !m.missing[t.Name]:
			m.log.LogAttrs(ctx, slog.LevelWarn, "topic does not exist, waiting for it", attr)
		case n > 0 && m.missing[t.Name]:
			m.log.LogAttrs(ctx, slog.LevelInfo, "topic has come into being", attr, slog.Int("partitions", n))
		}
		changed = changed || n != m.seen[t.Name]
		m.seen[t.Name], m.missing[t.Name] = n, n == 0
	}
	return changed, err
}

// existing lists the topics that exist.
func (m *membership) existing() []string {
	return slices.DeleteFunc(slices.Clone(m.topics), func(topic string) bool { return m.seen[topic] == 0 })
}

func newMembership(c *Consumer, group string, topics []string, stats *groupStats) *membership {
	topics = slices.Clone(topics)
	return &membership{
		cluster: c.cluster, cfg: c.cfg, group: group, topics: topics,
		net:   newNetwork(c.cluster, requestTimeout, topics...),
		log:   c.cfg.Logger.With(slog.String("group", group)),
		stats: stats, counts: &stats.counts,
		brokers: slices.Clone(c.cluster.Brokers), seen: make(map[string]int), missing: make(map[string]bool),
	}
}
