package testkit

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-io/holdfast"
)

// batchBytes is about how large a batch Produce writes: well below the million bytes that Kafka accepts.
const batchBytes = 256 << 10

// Produce appends messages to the log, each to its own Topic and Partition, those of one partition in the given order.
// It goes straight into the cluster: no fault strikes it, and it works while the cluster is stopped. After an error some
// of the messages may be in the log.
func (k *KafkaServer) Produce(ctx context.Context, messages ...holdfast.Message) error {
	sorted := slices.Clone(messages)
	slices.SortStableFunc(sorted, func(a, b holdfast.Message) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	for len(sorted) > 0 {
		first, n, size := sorted[0], 0, 0
		for n < len(sorted) && sorted[n].Topic == first.Topic && sorted[n].Partition == first.Partition && size < batchBytes {
			size += len(sorted[n].Key) + len(sorted[n].Value)
			n++
		}
		if err := k.append(ctx, first.Topic, int32(first.Partition), encodeBatch(sorted[:n])); err != nil {
			return fmt.Errorf("testkit: produce to %s/%d: %w", first.Topic, first.Partition, err)
		}
		sorted = sorted[n:]
	}
	return nil
}

// append writes an encoded batch.
func (k *KafkaServer) append(ctx context.Context, topic string, partition int32, batch []byte) error {
	request := kmsg.NewPtrProduceRequest()
	request.Version, request.Acks = 9, -1
	t, p := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	t.Topic, p.Partition, p.Records = topic, partition, batch
	t.Partitions = append(t.Partitions, p)
	request.Topics = append(request.Topics, t)
	response, err := k.call(ctx, max(k.Leader(topic, int(partition)), 0), request)
	if err != nil {
		return err
	}
	return refusedWith(response.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
}

// encodeBatch makes one record batch of messages.
func encodeBatch(messages []holdfast.Message) []byte {
	now := time.Now()
	stamp := func(m holdfast.Message) int64 {
		if m.Time.IsZero() {
			return now.UnixMilli()
		}
		return m.Time.UnixMilli()
	}
	batch := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		FirstTimestamp: stamp(messages[0]), MaxTimestamp: stamp(messages[0]),
		LastOffsetDelta: int32(len(messages) - 1), NumRecords: int32(len(messages)),
	}
	for i, m := range messages {
		record := kmsg.Record{
			OffsetDelta: int32(i), TimestampDelta64: stamp(m) - batch.FirstTimestamp, Key: m.Key, Value: m.Value,
		}
		for _, h := range m.Headers {
			record.Headers = append(record.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		record.Length = int32(len(record.AppendTo(nil)) - 1) // Without the length itself, which takes a byte when it is 0.
		batch.Records = record.AppendTo(batch.Records)
		batch.MaxTimestamp = max(batch.MaxTimestamp, stamp(m))
	}
	const beforeLength, beforeChecked = 12, 21
	encoded := batch.AppendTo(nil)
	binary.BigEndian.PutUint32(encoded[8:], uint32(len(encoded)-beforeLength))
	sum := crc32.Checksum(encoded[beforeChecked:], crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(encoded[17:], sum)
	return encoded
}

// Messages returns everything that is in a topic's log, by partition, then offset. It leaves out what a careful consumer
// would not see: messages of aborted transactions, and whatever comes after the beginning of one that is still open.
// It goes straight into the cluster: no fault strikes it, and it works while the cluster is stopped.
func (k *KafkaServer) Messages(ctx context.Context, topic string) ([]holdfast.Message, error) {
	infos, err := k.partitions(topic)
	if err != nil {
		return nil, err
	}
	var messages []holdfast.Message
	for _, info := range infos {
		read, err := k.read(ctx, topic, info)
		if err != nil {
			return nil, fmt.Errorf("testkit: read %s/%d: %w", topic, info.Partition, err)
		}
		messages = append(messages, read...)
	}
	return messages, nil
}

// read returns the messages of one partition, up to the end that info knows.
func (k *KafkaServer) read(ctx context.Context, topic string, info *kfake.PartitionInfo) ([]holdfast.Message, error) {
	var messages []holdfast.Message
	decompressor := kgo.DefaultDecompressor()
	for next := info.LogStartOffset; next < info.LastStableOffset; {
		fetched, err := k.fetch(ctx, topic, info.Partition, next)
		if err != nil {
			return nil, err
		}
		decoded, after := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
			Offset: next, IsolationLevel: kgo.ReadCommitted(), Topic: topic, Partition: info.Partition,
		}, fetched, decompressor, nil)
		if decoded.Err != nil {
			return nil, decoded.Err
		}
		for _, r := range decoded.Records {
			messages = append(messages, message(r))
		}
		if after == next {
			break
		}
		next = after
	}
	return messages, nil
}

// fetch reads a partition's log from an offset on, as much as comes in one answer.
func (k *KafkaServer) fetch(
	ctx context.Context, topic string, partition int32, offset int64,
) (*kmsg.FetchResponseTopicPartition, error) {
	request := kmsg.NewPtrFetchRequest()
	request.Version, request.ReplicaID, request.MaxBytes, request.IsolationLevel = 12, -1, maxFrame, 1
	request.SessionEpoch = -1 // No fetch session.
	t, p := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	t.Topic, p.Partition, p.FetchOffset, p.PartitionMaxBytes = topic, partition, offset, maxFrame
	t.Partitions = append(t.Partitions, p)
	request.Topics = append(request.Topics, t)
	response, err := k.call(ctx, max(k.Leader(topic, int(partition)), 0), request)
	if err != nil {
		return nil, err
	}
	fetched := response.(*kmsg.FetchResponse)
	if err := refusedWith(fetched.ErrorCode); err != nil {
		return nil, err
	}
	part := &fetched.Topics[0].Partitions[0]
	return part, refusedWith(part.ErrorCode)
}

func message(r *kgo.Record) holdfast.Message {
	m := holdfast.Message{
		Topic: r.Topic, Partition: int(r.Partition), Offset: r.Offset, Key: r.Key, Value: r.Value, Time: r.Timestamp,
	}
	for _, h := range r.Headers {
		m.Headers = append(m.Headers, holdfast.Header{Key: h.Key, Value: h.Value})
	}
	return m
}

// Ends returns the offset after the last message of each partition of a topic; nil if there is no such topic.
func (k *KafkaServer) Ends(topic string) map[int]int64 {
	infos, err := k.partitions(topic)
	if err != nil {
		return nil
	}
	ends := make(map[int]int64, len(infos))
	for _, info := range infos {
		ends[int(info.Partition)] = info.HighWatermark
	}
	return ends
}

// partitions returns what the cluster knows of a topic's partitions, in their order.
func (k *KafkaServer) partitions(topic string) ([]*kfake.PartitionInfo, error) {
	var infos []*kfake.PartitionInfo
	err := k.ask(func(c *kfake.Cluster) error {
		infos = c.PartitionInfos(topic)
		if len(infos) == 0 {
			return fmt.Errorf("testkit: topic %q does not exist", topic)
		}
		return nil
	})
	return infos, err
}
