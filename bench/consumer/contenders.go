package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/bench/internal/compare"
	"github.com/holdfast-io/holdfast/kafkax"
)

// contend consumes all messages, commits what it consumed where there is a group, and prints what that cost.
func contend(name string, brokers []string, topic, group string, messages int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var s compare.Sample
	var err error
	switch name {
	case "holdfast":
		s, err = ours(ctx, brokers, topic, group, messages)
	case "reader":
		s, err = reader(ctx, kafka.ReaderConfig{Brokers: brokers, GroupID: group, Topic: topic}, messages)
	case "reader-tuned":
		s, err = reader(ctx, kafka.ReaderConfig{
			Brokers: brokers, GroupID: group, Topic: topic, QueueCapacity: 10_000, MaxWait: 100 * time.Millisecond,
		}, messages)
	case "raw":
		s, err = raw(ctx, brokers, topic, messages)
	case "franz":
		s, err = franz(ctx, brokers, topic, group, messages)
	default:
		err = fmt.Errorf("no contender %q", name)
	}
	if err != nil {
		return err
	}
	return s.Print()
}

// ours is Holdfast's consumer, with its own Fetch and CRC checked.
func ours(ctx context.Context, brokers []string, topic, group string, messages int) (compare.Sample, error) {
	c, err := kafkax.NewConsumer(kafkax.Cluster{Brokers: brokers}, kafkax.ConsumerConfig{
		Group: group, Topics: []string{topic}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return compare.Sample{}, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var (
		first sync.Once
		meter compare.Meter
		seen  atomic.Int64
		all   = make(chan struct{})
	)
	done := make(chan error, 1)
	go func() {
		done <- c.Consume(ctx, func(ctx context.Context, claim holdfast.Claim) error {
			first.Do(func() { meter = compare.Start() })
			for {
				fetched, err := claim.Fetch(ctx)
				if err != nil {
					return err // Revoked, as a rule.
				}
				for i := range fetched {
					handle(fetched[i].Value)
				}
				claim.Commit(fetched[len(fetched)-1].Offset + 1)
				if seen.Add(int64(len(fetched))) == int64(messages) {
					close(all)
				}
			}
		})
	}()
	select {
	case <-all:
	case err := <-done:
		return compare.Sample{}, errors.Join(errors.New("ended early"), err)
	case <-ctx.Done():
		return compare.Sample{}, ctx.Err()
	}
	s := meter.Stop(messages)
	began := time.Now()
	stop()
	err = <-done
	s.Close = time.Since(began)
	return s, err
}

// handle is the handler of all contenders.
func handle(value []byte) {
	if len(value) != valueSize {
		panic("a value of another size")
	}
}

// reader is a kafka.Reader in a group that commits every 10,000 messages.
func reader(ctx context.Context, cfg kafka.ReaderConfig, messages int) (compare.Sample, error) {
	r := kafka.NewReader(cfg)
	first, err := r.FetchMessage(ctx)
	if err != nil {
		return compare.Sample{}, err
	}
	meter := compare.Start()
	handle(first.Value)
	last := map[int]kafka.Message{first.Partition: first}
	for i := 1; i < messages; i++ {
		m, err := r.FetchMessage(ctx)
		if err != nil {
			return compare.Sample{}, err
		}
		handle(m.Value)
		last[m.Partition] = m
		if i%10_000 == 0 || i == messages-1 {
			for _, m := range last {
				if err := r.CommitMessages(ctx, m); err != nil {
					return compare.Sample{}, err
				}
			}
			clear(last)
		}
	}
	s := meter.Stop(messages)
	began := time.Now()
	err = r.Close()
	s.Close = time.Since(began)
	return s, err
}

// raw is Conn.ReadBatch, a connection and a goroutine for each partition, without a group.
func raw(ctx context.Context, brokers []string, topic string, messages int) (compare.Sample, error) {
	meter := compare.Start()
	errs := make([]error, partitions)
	var readers sync.WaitGroup
	for p := range partitions {
		readers.Go(func() { errs[p] = readPartition(ctx, brokers[0], topic, p, messages/partitions) })
	}
	readers.Wait()
	return meter.Stop(messages), errors.Join(errs...)
}

func readPartition(ctx context.Context, broker, topic string, partition, messages int) error {
	conn, err := kafka.DialLeader(ctx, "tcp", broker, topic, partition)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Seek(0, kafka.SeekStart); err != nil {
		return err
	}
	for seen := 0; seen < messages; {
		batch := conn.ReadBatchWith(kafka.ReadBatchConfig{MinBytes: 1, MaxBytes: 1 << 20, MaxWait: time.Second})
		for {
			m, err := batch.ReadMessage()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return errors.Join(err, batch.Close())
			}
			handle(m.Value)
			seen++
		}
		if err := batch.Close(); err != nil {
			return err
		}
	}
	return nil
}

// franz is a franz-go group consumer that commits what it has marked every 5 s, its default.
func franz(ctx context.Context, brokers []string, topic, group string, messages int) (compare.Sample, error) {
	var meter compare.Meter
	joined := make(chan struct{})
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitMarks(), kgo.FetchMaxPartitionBytes(1<<20),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) {
			meter = compare.Start()
			close(joined)
		}))
	if err != nil {
		return compare.Sample{}, err
	}
	<-joined
	for seen := 0; seen < messages; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return compare.Sample{}, err
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			for _, r := range p.Records {
				handle(r.Value)
			}
			seen += len(p.Records)
			if n := len(p.Records); n > 0 {
				client.MarkCommitRecords(p.Records[n-1])
			}
		})
	}
	s := meter.Stop(messages)
	began := time.Now()
	client.Close()
	s.Close = time.Since(began)
	return s, nil
}
