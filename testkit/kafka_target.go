package testkit

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// target is one thing that a request is about.
type target struct {
	topic     string
	partition int // -1: the topic as a whole.
	group     string
}

// selects says whether the request of the kind key that is about targets is one that the fault may strike.
func (a *armed) selects(key int16, targets []target) bool {
	if want, ok := a.API.key(); ok && want != key {
		return false
	}
	if a.Topic == "" && a.Group == "" {
		return true
	}
	return slices.ContainsFunc(targets, func(t target) bool {
		return (a.Topic == "" || a.Topic == t.topic) &&
			(a.Group == "" || a.Group == t.group) &&
			(len(a.Partitions) == 0 || slices.Contains(a.Partitions, t.partition))
	})
}

// targets lists what r is about, for the requests that Fault's selectors are documented to know.
func (k *KafkaServer) targets(r kmsg.Request) []target {
	var ts []target
	add := func(group, topic string, id [16]byte, partitions ...int32) {
		topic = k.topicName(topic, id)
		if len(partitions) == 0 {
			ts = append(ts, target{group: group, topic: topic, partition: -1})
		}
		for _, p := range partitions {
			ts = append(ts, target{group: group, topic: topic, partition: int(p)})
		}
	}
	var none [16]byte
	switch r := r.(type) {
	case *kmsg.ProduceRequest:
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				add("", t.Topic, t.TopicID, p.Partition)
			}
		}
	case *kmsg.FetchRequest:
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				add("", t.Topic, t.TopicID, p.Partition)
			}
		}
	case *kmsg.ListOffsetsRequest:
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				add("", t.Topic, none, p.Partition)
			}
		}
	case *kmsg.MetadataRequest:
		for _, t := range r.Topics {
			add("", value(t.Topic), t.TopicID)
		}
	case *kmsg.CreateTopicsRequest:
		for _, t := range r.Topics {
			add("", t.Topic, none)
		}
	case *kmsg.DeleteTopicsRequest:
		for _, name := range r.TopicNames {
			add("", name, none)
		}
		for _, t := range r.Topics {
			add("", value(t.Topic), t.TopicID)
		}
	case *kmsg.OffsetCommitRequest:
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				add(r.Group, t.Topic, t.TopicID, p.Partition)
			}
		}
	case *kmsg.TxnOffsetCommitRequest:
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				add(r.Group, t.Topic, none, p.Partition)
			}
		}
	case *kmsg.OffsetFetchRequest:
		add(r.Group, "", none)
		for _, t := range r.Topics {
			add(r.Group, t.Topic, none, t.Partitions...)
		}
		for _, g := range r.Groups {
			add(g.Group, "", none)
			for _, t := range g.Topics {
				add(g.Group, t.Topic, t.TopicID, t.Partitions...)
			}
		}
	case *kmsg.AddPartitionsToTxnRequest:
		for _, t := range r.Topics {
			add("", t.Topic, none, t.Partitions...)
		}
	case *kmsg.FindCoordinatorRequest:
		for _, group := range append(slices.Clone(r.CoordinatorKeys), r.CoordinatorKey) {
			add(group, "", none)
		}
	case *kmsg.DescribeGroupsRequest:
		for _, group := range r.Groups {
			add(group, "", none)
		}
	case *kmsg.AddOffsetsToTxnRequest:
		add(r.Group, "", none)
	case *kmsg.JoinGroupRequest:
		add(r.Group, "", none)
	case *kmsg.SyncGroupRequest:
		add(r.Group, "", none)
	case *kmsg.HeartbeatRequest:
		add(r.Group, "", none)
	case *kmsg.LeaveGroupRequest:
		add(r.Group, "", none)
	}
	return ts
}
