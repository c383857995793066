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

// progress counts messages, and measures from the end of the warm-up to the last one.
type progress struct {
	messages int
	seen     atomic.Int64
	meter    compare.Meter
	sample   compare.Sample
	done     chan struct{} // Closed when all are seen.
}

func newProgress(messages int) *progress {
	return &progress{messages: messages, done: make(chan struct{})}
}

// add counts n messages more.
func (p *progress) add(n int) {
	seen := p.seen.Add(int64(n))
	before, all := seen-int64(n), int64(warmUp+p.messages)
	if before < warmUp && seen >= warmUp {
		p.meter = compare.Start()
	}
	if seen == all {
		p.sample = p.meter.Stop(p.messages)
		close(p.done)
	}
}

// closed returns the sample with the time that closing takes.
func (p *progress) closed(stop func() error) (compare.Sample, error) {
	began := time.Now()
	err := stop()
	p.sample.Close = time.Since(began)
	return p.sample, err
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
	p := newProgress(messages)
	done := make(chan error, 1)
	go func() {
		done <- c.Consume(ctx, func(ctx context.Context, claim holdfast.Claim) error {
			for {
				fetched, err := claim.Fetch(ctx)
				if err != nil {
					return err // Revoked, as a rule.
				}
				for i := range fetched {
					handle(fetched[i].Value)
				}
				claim.Commit(fetched[len(fetched)-1].Offset + 1)
				p.add(len(fetched))
			}
		})
	}()
	select {
	case <-p.done:
	case err := <-done:
		return compare.Sample{}, errors.Join(errors.New("ended early"), err)
	case <-ctx.Done():
		return compare.Sample{}, ctx.Err()
	}
	return p.closed(func() error {
		stop()
		return <-done
	})
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
	p := newProgress(messages)
	last := make(map[int]kafka.Message)
	for i := 1; i <= warmUp+messages; i++ {
		m, err := r.FetchMessage(ctx)
		if err != nil {
			return compare.Sample{}, err
		}
		handle(m.Value)
		last[m.Partition] = m
		if i%10_000 == 0 || i == warmUp+messages {
			for _, m := range last {
				if err := r.CommitMessages(ctx, m); err != nil {
					return compare.Sample{}, err
				}
			}
			clear(last)
		}
		p.add(1)
	}
	return p.closed(r.Close)
}

// raw is Conn.ReadBatch, a connection and a goroutine for each partition, without a group.
func raw(ctx context.Context, brokers []string, topic string, messages int) (compare.Sample, error) {
	p := newProgress(messages)
	errs := make([]error, partitions)
	var readers sync.WaitGroup
	for i := range partitions {
		readers.Go(func() { errs[i] = readPartition(ctx, brokers[0], topic, i, p) })
	}
	readers.Wait()
	return p.sample, errors.Join(errs...)
}

func readPartition(ctx context.Context, broker, topic string, partition int, p *progress) error {
	conn, err := kafka.DialLeader(ctx, "tcp", broker, topic, partition)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Seek(0, kafka.SeekStart); err != nil {
		return err
	}
	for left := (warmUp + p.messages) / partitions; left > 0; {
		batch := conn.ReadBatchWith(kafka.ReadBatchConfig{MinBytes: 1, MaxBytes: 1 << 20, MaxWait: time.Second})
		seen := 0
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
		left -= seen
		p.add(seen)
	}
	return nil
}

// franz is a franz-go group consumer that commits what it has marked every 5 s, its default.
func franz(ctx context.Context, brokers []string, topic, group string, messages int) (compare.Sample, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitMarks(), kgo.FetchMaxPartitionBytes(1<<20))
	if err != nil {
		return compare.Sample{}, err
	}
	p := newProgress(messages)
	for seen := 0; seen < warmUp+messages; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return compare.Sample{}, err
		}
		polled := 0
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			for _, r := range p.Records {
				handle(r.Value)
			}
			polled += len(p.Records)
			if n := len(p.Records); n > 0 {
				client.MarkCommitRecords(p.Records[n-1])
			}
		})
		seen += polled
		p.add(polled)
	}
	return p.closed(func() error {
		client.Close()
		return nil
	})
}
