package testkit

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The methods below go straight into the cluster: no fault strikes them, and they work while it is stopped.

// CreateTopic makes a topic.
func (k *KafkaServer) CreateTopic(name string, partitions int) error {
	return k.CreateTopicWith(name, partitions, nil)
}

// CreateTopicWith makes a topic with settings by their Kafka names, for example "max.message.bytes".
func (k *KafkaServer) CreateTopicWith(name string, partitions int, configs map[string]string) error {
	if partitions < 1 {
		return fmt.Errorf("testkit: create topic %q: partitions must be at least 1, got %d", name, partitions)
	}
	return k.ask(func(c *kfake.Cluster) error {
		if err := c.CreateTopic(name, int32(partitions), configs); err != nil {
			return fmt.Errorf("testkit: create topic %q: %w", name, err)
		}
		return nil
	})
}

// DeleteTopic removes a topic, its log and the offsets that groups have in it.
func (k *KafkaServer) DeleteTopic(name string) error {
	return k.ask(func(c *kfake.Cluster) error {
		if err := c.DeleteTopic(name); err != nil {
			return fmt.Errorf("testkit: delete topic %q: %w", name, err)
		}
		return nil
	})
}

// AddPartitions gives a topic so many partitions more.
func (k *KafkaServer) AddPartitions(topic string, more int) error {
	have := len(k.Ends(topic))
	if have == 0 || more < 1 {
		return fmt.Errorf("testkit: add %d partitions to topic %q, which has %d", more, topic, have)
	}
	request := kmsg.NewPtrCreatePartitionsRequest()
	request.Version = 3
	t := kmsg.NewCreatePartitionsRequestTopic()
	t.Topic, t.Count = topic, int32(have+more)
	request.Topics = append(request.Topics, t)
	controller := len(k.doors) - 1 // The emulator's last broker.
	response, err := k.call(context.Background(), controller, request)
	if err != nil {
		return err
	}
	return refusedWith(response.(*kmsg.CreatePartitionsResponse).Topics[0].ErrorCode)
}

// MoveLeader makes a broker the leader of a partition. Brokers are numbered from 0, in the order of Addrs.
func (k *KafkaServer) MoveLeader(topic string, partition, broker int) error {
	return k.ask(func(c *kfake.Cluster) error {
		if err := c.MoveTopicPartition(topic, int32(partition), int32(broker)); err != nil {
			return fmt.Errorf("testkit: move leader of %s/%d to broker %d: %w", topic, partition, broker, err)
		}
		return nil
	})
}

// Leader returns the broker that leads a partition, -1 if there is no such partition.
func (k *KafkaServer) Leader(topic string, partition int) int {
	leader := -1
	_ = k.ask(func(c *kfake.Cluster) error {
		leader = int(c.LeaderFor(topic, int32(partition)))
		return nil
	})
	return leader
}

// DeleteRecords removes the messages of a partition before an offset, as retention does.
func (k *KafkaServer) DeleteRecords(topic string, partition int, before int64) error {
	return k.ask(func(c *kfake.Cluster) error {
		if err := c.DeleteRecords(topic, int32(partition), before); err != nil {
			return fmt.Errorf("testkit: delete records of %s/%d before %d: %w", topic, partition, before, err)
		}
		return nil
	})
}
