package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/holdfast-io/holdfast/bench/internal/compare"
)

// fetchVersion is the highest version of Fetch that the broker speaks: the last one that names topics, not their ids.
const fetchVersion = 11

// broker is kfake, but for Fetch, which it answers out of the logs as they lie in memory, without a copy. Thus it costs
// every contender as little as a broker that has sendfile.
type broker struct {
	net.Listener
	logs map[string][][]recordBatch // by topic and partition; nil while they are written
}

// recordBatch is a batch as it is stored.
type recordBatch struct {
	next  int64 // the offset that follows it
	bytes []byte
}

// serve is the broker's process.
func serve(messages int) error {
	var b broker
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(kmsg.Fetch.Int16(), fetchVersion)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topics...), kfake.MaxVersions(versions),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			var err error
			b.Listener, err = net.Listen(network, "127.0.0.1:0") //nolint:noctx // There is none.
			return &b, err
		}))
	if err != nil {
		return err
	}
	defer cluster.Close()
	logs := make(map[string][][]recordBatch)
	for _, topic := range topics {
		if err := fill(cluster.ListenAddrs(), topic, messages); err != nil {
			return err
		}
		if logs[topic], err = readLogs(cluster.ListenAddrs(), topic); err != nil {
			return err
		}
	}
	b.logs = logs // Nobody is connected any more.
	fmt.Println(strings.Join(cluster.ListenAddrs(), ","))
	compare.UntilParentEnds()
	return nil
}

func fill(addrs []string, topic string, messages int) error {
	codec := kgo.NoCompression()
	if topic == "lz4" {
		codec = kgo.Lz4Compression()
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codec),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(900_000), kgo.MaxBufferedRecords(200_000))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := context.Background()
	var failed error
	letters := rand.New(rand.NewPCG(1, 2))
	for i := range messages {
		value := fmt.Appendf(nil, `{"id":%d,"customer":"c%d","text":"`, i, i%997)
		for len(value) < valueSize-2 {
			value = append(value, byte('a'+letters.IntN(26)))
		}
		value = append(value, `"}`...)
		client.Produce(ctx, &kgo.Record{Partition: int32(i % partitions), Key: fmt.Appendf(nil, "k%d", i%10_000), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed = err
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	return failed
}

// readLogs fetches all batches of a topic.
func readLogs(addrs []string, topic string) ([][]recordBatch, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	logs := make([][]recordBatch, partitions)
	for p := range logs {
		for next := int64(0); ; {
			request := kmsg.NewPtrFetchRequest()
			part := kmsg.NewFetchRequestTopicPartition()
			part.Partition, part.FetchOffset, part.PartitionMaxBytes = int32(p), next, 8<<20
			request.Topics = []kmsg.FetchRequestTopic{{Topic: topic, Partitions: []kmsg.FetchRequestTopicPartition{part}}}
			request.MaxBytes, request.SessionEpoch = 8<<20, -1
			answer, err := client.Broker(0).Request(context.Background(), request)
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
				logs[p] = append(logs[p], recordBatch{next, b[:size:size]})
				b = b[size:]
			}
		}
	}
	return logs, nil
}

// Accept gives kfake its next connection.
func (b *broker) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	return &front{Conn: conn, logs: b.logs}, err
}

// front is a client's connection as kfake sees it: without the fetches.
type front struct {
	net.Conn
	logs   map[string][][]recordBatch
	unread []byte // of a request that is kfake's
}

func (f *front) Read(p []byte) (int, error) {
	for len(f.unread) == 0 {
		var size [4]byte
		if _, err := io.ReadFull(f.Conn, size[:]); err != nil {
			return 0, err
		}
		frame := make([]byte, 4+binary.BigEndian.Uint32(size[:]))
		copy(frame, size[:])
		if _, err := io.ReadFull(f.Conn, frame[4:]); err != nil {
			return 0, err
		}
		if f.logs == nil || int16(binary.BigEndian.Uint16(frame[4:])) != kmsg.Fetch.Int16() {
			f.unread = frame
			continue
		}
		if err := f.fetch(frame[4:]); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.unread)
	f.unread = f.unread[n:]
	return n, nil
}

// fetch answers a request: from each partition the batches up to its limit, the first of all in any case, and after
// MaxWait if there is none.
func (f *front) fetch(frame []byte) error {
	var request kmsg.FetchRequest
	request.SetVersion(int16(binary.BigEndian.Uint16(frame[2:])))
	idSize := max(int(int16(binary.BigEndian.Uint16(frame[8:]))), 0) // The client's id may be null.
	if err := request.ReadFrom(frame[10+idSize:]); err != nil {
		return err
	}
	var head []byte // Since the last of the parts.
	var parts net.Buffers
	left := int(request.MaxBytes)
	head = append(head, 0, 0, 0, 0) // Its size, when it is known.
	head = append(head, frame[4:8]...)
	head = binary.BigEndian.AppendUint32(head, 0) // Not throttled.
	if request.Version >= 7 {
		head = append(head, 0, 0, 0, 0, 0, 0) // No error, and no session.
	}
	head = binary.BigEndian.AppendUint32(head, uint32(len(request.Topics)))
	for _, t := range request.Topics {
		head = binary.BigEndian.AppendUint16(head, uint16(len(t.Topic)))
		head = append(head, t.Topic...)
		head = binary.BigEndian.AppendUint32(head, uint32(len(t.Partitions)))
		for _, p := range t.Partitions {
			log := f.logs[t.Topic][p.Partition]
			end := uint64(log[len(log)-1].next)
			head = binary.BigEndian.AppendUint32(head, uint32(p.Partition))
			head = append(head, 0, 0)
			head = binary.BigEndian.AppendUint64(head, end)
			head = binary.BigEndian.AppendUint64(head, end)
			if request.Version >= 5 {
				head = binary.BigEndian.AppendUint64(head, 0) // The log's start.
			}
			head = binary.BigEndian.AppendUint32(head, 0) // No aborted transactions.
			if request.Version >= 11 {
				head = binary.BigEndian.AppendUint32(head, ^uint32(0)) // No other replica.
			}
			batches, size := pick(log, p.FetchOffset, min(left, int(p.PartitionMaxBytes)), left == int(request.MaxBytes))
			left -= size
			head = binary.BigEndian.AppendUint32(head, uint32(size))
			if size > 0 {
				parts = append(append(parts, head), batches...)
				head = nil
			}
		}
	}
	if parts == nil {
		time.Sleep(time.Duration(request.MaxWaitMillis) * time.Millisecond)
	}
	parts = append(parts, head)
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	binary.BigEndian.PutUint32(parts[0], uint32(size-4))
	_, err := parts.WriteTo(f.Conn)
	return err
}

// pick takes the batches from offset on, up to limit bytes, and if it must, the first one in any case.
func pick(log []recordBatch, offset int64, limit int, must bool) (batches [][]byte, size int) {
	for _, b := range log {
		switch {
		case b.next <= offset:
			continue
		case size+len(b.bytes) > limit && (size > 0 || !must):
			return batches, size
		}
		batches = append(batches, b.bytes)
		size += len(b.bytes)
	}
	return batches, size
}
