package kafkax

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
)

const (
	// startTimeout is how long Consume tries to reach a broker before it says that there is none.
	startTimeout = 8 * time.Second

	// requestTimeout bounds each request to a coordinator or leader.
	requestTimeout = 5 * time.Second

	// watchInterval is how often the topics' partitions are counted. The layout is cached, so this costs no request.
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

	joined  bool           // The group has been joined before.
	seen    map[string]int // How many partitions each topic has had. None while it does not exist.
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

// join is a member of the group until ctx ends, a handler fails, or more of the topics exist.
func (m *membership) join(ctx context.Context, topics []string, handle handler) error {
	link := newNetwork(m.cluster, requestTimeout)
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID:                m.group,
		Brokers:           m.cluster.Brokers,
		Dialer:            link.dialer(),
		Topics:            topics,
		SessionTimeout:    m.cfg.SessionTimeout,
		HeartbeatInterval: m.cfg.HeartbeatInterval,
		RebalanceTimeout:  m.cfg.RebalanceTimeout,
		JoinGroupBackoff:  rejoinBackoff,
		Timeout:           requestTimeout,
	})
	if err != nil {
		return fmt.Errorf("kafkax: group %s: %w", m.group, err)
	}
	member, alive := "", false // Unknown, and whether its generation is still the group's.
	defer func() { m.leave(ctx, group, link, member, alive) }()

	var t trouble
	for {
		gen, err := group.Next(ctx)
		switch {
		case gen == nil && ctx.Err() != nil:
			return nil
		case errors.Is(err, kafka.RebalanceInProgress): // The join was overtaken by another, as happens.
		case err != nil && !m.joined && isRefusal(err):
			return fmt.Errorf("kafkax: join group %s: %w", m.group, err)
		case err != nil:
			member = "" // kafka-go has forgotten it.
			if t.failed() {
				m.log.LogAttrs(ctx, slog.LevelWarn, "cannot join the group, trying again", slog.Any("err", err))
			}
		default:
			t.over() // What follows is logged anyway.
			m.joined, member = true, gen.MemberID
			served := m.serve(ctx, gen, topics, handle)
			if alive = served.alive; served.last {
				return served.err
			}
			alive = false
		}
	}
}

// verdict is how a generation ended.
type verdict struct {
	last  bool // The group is to be left.
	alive bool // The group has not moved on.
	err   error
}

// serve lives through one generation.
func (m *membership) serve(ctx context.Context, gen *kafka.Generation, topics []string, handle handler) verdict {
	var slots []*slot
	for _, topic := range topics {
		for _, p := range gen.Assignments[topic] {
			slots = append(slots, &slot{topic: topic, partition: p.ID})
		}
	}
	m.log.LogAttrs(ctx, slog.LevelInfo, "joined generation",
		slog.Int("generation", int(gen.ID)), slog.String("member", gen.MemberID), slog.Int("partitions", len(slots)))
	served := make(chan verdict, 1)
	gen.Start(func(ended context.Context) {
		g := &generation{membership: m, id: gen.ID, member: gen.MemberID}
		err := g.serve(ctx, ended.Done(), slots, handle)
		v := verdict{alive: ended.Err() == nil, err: err}
		v.last = err != nil || ctx.Err() != nil || len(m.existing()) > len(topics)
		served <- v
		if v.last {
			<-ended.Done() // Had we returned, kafka-go would join again. leave ends it.
		}
	})
	return <-served
}

// leave gives the membership up, and returns when nothing of it is left.
func (m *membership) leave(ctx context.Context, group *kafka.ConsumerGroup, link *network, member string, alive bool) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = group.Close() // Never fails.
	}()
	// kafka-go leaves in good order, but not before a join in progress is over, which can take as long as other members
	// drain. Then we cut it off and leave ourselves, if we know as whom. If not, the group has to notice.
	if member == "" || alive {
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

// reach asks for the topics until a broker answers, at most startTimeout.
func (m *membership) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var last error
	for {
		_, err := m.lookAtTopics(ctx)
		switch {
		case err == nil:
			return nil
		case isRefusal(err):
			return err
		case last == nil || ctx.Err() == nil: // Not that our patience has ended.
			last = err
		}
		if !sleep(ctx, 2*minBackoff) {
			return &UnreachableError{Brokers: m.cluster.Brokers, Waited: startTimeout, Err: last}
		}
	}
}

// lookAtTopics counts the topics' partitions and reports whether there are more than the last time. It logs topics that
// do not exist, once, and when they have come into being.
func (m *membership) lookAtTopics(ctx context.Context) (more bool, err error) {
	layout, err := m.net.client.Metadata(ctx, &kafka.MetadataRequest{Topics: m.topics})
	if err != nil {
		return false, err
	}
	now := make(map[string]int, len(m.topics))
	for _, t := range layout.Topics {
		switch {
		case t.Error == nil, errors.Is(t.Error, kafka.LeaderNotAvailable):
			now[t.Name] = len(t.Partitions)
		case isRefusal(t.Error):
			return false, fmt.Errorf("kafkax: topic %s: %w", t.Name, t.Error)
		}
	}
	for _, topic := range m.topics {
		n := now[topic]
		attr := slog.String("topic", topic)
		switch {
		case n == 0 && m.seen[topic] == 0 && !m.missing[topic]:
			m.missing[topic] = true
			m.log.LogAttrs(ctx, slog.LevelWarn, "topic does not exist, waiting for it", attr)
		case n > m.seen[topic]:
			more = true
			if m.missing[topic] {
				m.log.LogAttrs(ctx, slog.LevelInfo, "topic has come into being", attr, slog.Int("partitions", n))
			}
			delete(m.missing, topic)
			m.seen[topic] = n
		}
	}
	return more, nil
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
		seen: make(map[string]int), missing: make(map[string]bool),
	}
}
