// Package broker is a Kafka broker that takes little CPU, so that a benchmark measures its clients: franz-go's kfake, which
// answers fetches of full topics out of the logs as they lie in memory, without a copy, as a broker with sendfile does.
// Where it shall not store what contenders write, its caller gives kfake.BlackholeProduce: batches are then checked, CRC
// and sequence, and forgotten. All contenders ask it in the same way.
package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/holdfast-io/holdfast/bench/internal/compare"
)

// fetchVersion is the highest version of Fetch that the broker speaks: the last one that names topics, not their ids.
const fetchVersion = 11

// Broker is a cluster of one.
type Broker struct {
	cluster *kfake.Cluster
	topics  map[string]int
	logs    map[string][][]batch // of full topics, by partition
}

// batch is a record batch as it is stored.
type batch struct {
	next  int64 // the offset that follows it
	bytes []byte
}

// Start serves topics, each with so many partitions, until Close.
func Start(topics map[string]int, options ...kfake.Opt) (*Broker, error) {
	b := &Broker{topics: topics, logs: make(map[string][][]batch)}
	options = append(options, kfake.NumBrokers(1), kfake.MaxVersions(versions()),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			l, err := net.Listen(network, "127.0.0.1:0") //nolint:noctx // There is none.
			return &listener{Listener: l, broker: b}, err
		}))
	for topic, partitions := range topics {
		options = append(options, kfake.SeedTopics(int32(partitions), topic))
	}
	var err error
	b.cluster, err = kfake.NewCluster(options...)
	return b, err
}

// Close ends it.
func (b *Broker) Close() { b.cluster.Close() }

// Serve prints the addresses, for the process that started this one, and returns when that has ended.
func (b *Broker) Serve() {
	fmt.Println(strings.Join(b.cluster.ListenAddrs(), ","))
	compare.UntilParentEnds()
}

// Fill writes n records to a topic and makes it a full one, to which nobody writes. Nobody else may be connected yet.
func (b *Broker) Fill(ctx context.Context, topic string, codec kgo.CompressionCodec, n int, record func(i int) *kgo.Record) error {
	// kfake may store nothing, but is to know the offsets; a second one stores.
	store, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(int32(b.topics[topic]), topic))
	if err != nil {
		return err
	}
	defer store.Close()
	for _, cluster := range []*kfake.Cluster{b.cluster, store} {
		if err := Write(ctx, cluster.ListenAddrs(), topic, codec, n, record); err != nil {
			return err
		}
	}
	logs, err := readLogs(ctx, store, topic, b.topics[topic])
	if err != nil {
		return err
	}
	full := maps.Clone(b.logs) // Connections that are about to end may still look at the old one.
	full[topic] = logs
	b.logs = full
	return nil
}

// Write writes n records to a topic, in batches of up to 900,000 B, each record to the partition that it names.
func Write(ctx context.Context, addrs []string, topic string, codec kgo.CompressionCodec, n int, record func(i int) *kgo.Record) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codec),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(900_000), kgo.MaxBufferedRecords(200_000))
	if err != nil {
		return err
	}
	defer client.Close()
	var failed error // The callbacks are called one after the other.
	for i := range n {
		client.Produce(ctx, record(i), func(_ *kgo.Record, err error) {
			if err != nil {
				failed = err
			}
		})
	}
	return errors.Join(client.Flush(ctx), failed)
}

// readLogs fetches all batches of a topic.
func readLogs(ctx context.Context, cluster *kfake.Cluster, topic string, partitions int) ([][]batch, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.MaxVersions(versions()))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	logs := make([][]batch, partitions)
	for p := range logs {
		for next := int64(0); ; {
			request := kmsg.NewPtrFetchRequest()
			part := kmsg.NewFetchRequestTopicPartition()
			part.Partition, part.FetchOffset, part.PartitionMaxBytes = int32(p), next, 8<<20
			request.Topics = []kmsg.FetchRequestTopic{{Topic: topic, Partitions: []kmsg.FetchRequestTopicPartition{part}}}
			request.MaxBytes, request.SessionEpoch = 8<<20, -1
			answer, err := client.Broker(0).Request(ctx, request)
			if err != nil {
				return nil, err
			}
			b := answer.(*kmsg.FetchResponse).Topics[0].Partitions[0].RecordBatches
			if len(b) == 0 {
				break
			}
			for len(b) > 0 {
				size := 12 + binary.BigEndian.Uint32(b[8:])
				next = int64(binary.BigEndian.Uint64(b)) + int64(binary.BigEndian.Uint32(b[23:])) + 1
				logs[p] = append(logs[p], batch{next, b[:size:size]})
				b = b[size:]
			}
		}
	}
	return logs, nil
}

// versions are those that name topics.
func versions() *kversion.Versions {
	v := kversion.Stable()
	v.SetMaxKeyVersion(kmsg.Fetch.Int16(), fetchVersion)
	return v
}
