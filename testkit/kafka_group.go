package testkit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Committed returns the offsets that a group has committed in a topic, by partition; empty if there are none.
func (k *KafkaServer) Committed(group, topic string) map[int]int64 {
	committed := make(map[int]int64)
	for partition, c := range k.group(group).Commits[topic] {
		committed[int(partition)] = c.Offset
	}
	return committed
}

// Members returns how many members a group has, those that have not yet been missed included.
func (k *KafkaServer) Members(group string) int { return len(k.group(group).Members) }

// group returns what the cluster knows of a group, the zero value for an unknown one.
func (k *KafkaServer) group(name string) kfake.GroupInfo {
	var info kfake.GroupInfo
	_ = k.ask(func(c *kfake.Cluster) error {
		if known := c.GroupInfo(name); known != nil {
			info = *known
		}
		return nil
	})
	return info
}

// Rebalance makes every member of a group join it again, as the coming of a new member would, and returns when the group
// has begun to rebalance. The group must be stable, with members of the classic protocol: anything else is an error, a
// group that is rebalancing already included.
func (k *KafkaServer) Rebalance(group string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := k.joinAndLeave(ctx, group); err != nil {
		return fmt.Errorf("testkit: rebalance group %q: %w", group, err)
	}
	return nil
}

// joinAndLeave lets a member come that does not stay: it is gone before the group has agreed on who gets what.
func (k *KafkaServer) joinAndLeave(ctx context.Context, group string) error {
	join, err := k.joinRequest(ctx, group)
	if err != nil {
		return err
	}
	coordinator, err := k.coordinator(group)
	if err != nil {
		return err
	}
	b, err := k.enter(ctx, coordinator)
	if err != nil {
		return err
	}
	defer b.close()

	response, err := b.call(ctx, join)
	if err != nil {
		return err
	}
	named := response.(*kmsg.JoinGroupResponse)
	if err := kerr.ErrorForCode(named.ErrorCode); !errors.Is(err, kerr.MemberIDRequired) {
		return fmt.Errorf("the coordinator did not name a new member: %w", err)
	}
	join.MemberID = named.MemberID
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		_, _ = b.call(ctx, join) // Answered when the members have joined again, or when this one leaves.
	}()
	defer func() { b.close(); <-joined }()

	isMember := func(m kfake.GroupMember) bool { return m.MemberID == join.MemberID }
	for !slices.ContainsFunc(k.group(group).Members, isMember) {
		select {
		case <-time.After(time.Millisecond):
		case <-joined:
			return errors.New("the coordinator did not let a new member in")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Version, leave.Group = 5, group
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = join.MemberID
	leave.Members = append(leave.Members, m)
	left, err := k.call(ctx, coordinator, leave)
	if err != nil {
		return err
	}
	return refusedWith(left.(*kmsg.LeaveGroupResponse).ErrorCode)
}

// joinRequest is a request to join the group with the protocol its members speak, but with no interest in any topic.
func (k *KafkaServer) joinRequest(ctx context.Context, group string) (*kmsg.JoinGroupRequest, error) {
	coordinator, err := k.coordinator(group)
	if err != nil {
		return nil, err
	}
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Version, describe.Groups = 5, []string{group}
	response, err := k.call(ctx, coordinator, describe)
	if err != nil {
		return nil, err
	}
	known := response.(*kmsg.DescribeGroupsResponse).Groups[0]
	if known.State != "Stable" { // Otherwise the coordinator does not tell the protocol.
		return nil, fmt.Errorf("it is not stable but %s", known.State)
	}
	interest := kmsg.NewConsumerMemberMetadata()
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = known.Protocol, interest.AppendTo(nil)
	join := kmsg.NewPtrJoinGroupRequest()
	join.Version, join.Group, join.ProtocolType = 9, group, known.ProtocolType
	join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = 30_000, 30_000
	join.Protocols = append(join.Protocols, p)
	return join, nil
}

// MoveCoordinator gives a group, and maybe others, to another broker. Members stay; requests to the old coordinator are
// answered with NOT_COORDINATOR (16).
func (k *KafkaServer) MoveCoordinator(group string) error {
	if len(k.doors) < 2 {
		return fmt.Errorf("testkit: move the coordinator of group %q: there must be another broker, got %d", group, len(k.doors))
	}
	return k.ask(func(c *kfake.Cluster) error {
		for before := c.CoordinatorFor(group); c.CoordinatorFor(group) == before; {
			c.RehashCoordinators()
		}
		return nil
	})
}

// coordinator returns the broker that coordinates a group.
func (k *KafkaServer) coordinator(group string) (int, error) {
	broker := 0
	err := k.ask(func(c *kfake.Cluster) error {
		broker = int(c.CoordinatorFor(group))
		return nil
	})
	return broker, err
}
