package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/bench/internal/broker"
	"github.com/holdfast-io/holdfast/bench/internal/compare"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
)

// chunk is how many messages a call of the producer gets.
const chunk = 2000

// The topics of a run, by the ends of their names.
const (
	origin   = ".orders"
	letters  = ".orders.dlq"
	parked   = ".orders.dlq.parked"
	produced = ".produced"
	written  = ".written.dlq"
)

func topics() map[string]int {
	return map[string]int{origin: partitions, letters: partitions, parked: 1, produced: partitions, written: partitions}
}

// serve is a broker with letters in it.
func serve(ctx context.Context, run string, messages int) error {
	named := make(map[string]int)
	for topic, n := range topics() {
		named[run+topic] = n
	}
	b, err := broker.Start(named, kfake.BlackholeProduce())
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Fill(ctx, run+letters, kgo.NoCompression(), messages, record(run)); err != nil {
		return err
	}
	b.Serve()
	return nil
}

// prepare makes the topics on brokers that run, and writes the letters.
func prepare(ctx context.Context, brokers []string, run string, messages int) error {
	admin, err := kafkax.NewAdmin(kafkax.Cluster{Brokers: brokers}, kafkax.AdminConfig{})
	if err != nil {
		return err
	}
	defer admin.Close()
	for topic, n := range topics() {
		if err := admin.CreateTopic(ctx, run+topic, n, nil); err != nil {
			return err
		}
	}
	return broker.Write(ctx, brokers, run+letters, kgo.NoCompression(), messages, record(run))
}

// record makes the letter of the i-th message.
func record(run string) func(i int) *kgo.Record {
	return func(i int) *kgo.Record {
		m := message(run, i)
		l := dlq.Encode(letter(m))
		r := &kgo.Record{Partition: int32(m.Partition), Key: l.Key, Value: l.Value, Timestamp: l.Time}
		for _, h := range l.Headers {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		return r
	}
}

func message(run string, i int) holdfast.Message {
	value := make([]byte, valueSize)
	for n := range value {
		value[n] = 'a' + byte(rand.IntN(26))
	}
	return holdfast.Message{
		Topic: run + origin, Partition: i / 1000 % partitions, Offset: int64(i), Time: time.UnixMilli(1_700_000_000_000 + int64(i)),
		Key: strconv.AppendInt(nil, int64(i), 10), Value: value, Headers: []holdfast.Header{{Key: "tenant", Value: []byte("7")}},
	}
}

func letter(m holdfast.Message) dlq.Letter {
	return dlq.Letter{Message: m, Reason: dlq.RetriesExhausted, Group: "billing", Stage: "price", Attempts: 3, DeadAt: time.Now()}
}

// contend moves all messages, and prints what that cost.
func contend(ctx context.Context, name string, brokers []string, run string, messages int) error {
	cluster := kafkax.Cluster{Brokers: brokers}
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		return err
	}
	defer func() { _ = producer.Close(ctx) }()
	var s compare.Sample
	switch name {
	case "producer":
		s, err = produce(ctx, producer, run, messages)
	case "topic":
		s, err = write(ctx, producer, run, messages)
	case "spool":
		s, err = spool(ctx, run, messages, partitions, writeBatch)
	case "spool-one":
		s, err = spool(ctx, run, messages, loneWriters, 1)
	case "relay":
		s, err = relay(ctx, cluster, producer, run, messages)
	case "redrive":
		s, err = redrive(ctx, cluster, producer, run)
	default:
		err = fmt.Errorf("no contender %q", name)
	}
	if err == nil && s.Count != messages {
		err = fmt.Errorf("%s moved %d messages, not %d", name, s.Count, messages)
	}
	if err != nil {
		return err
	}
	return s.Print()
}

// produce writes what a redrive writes, from memory, each partition by a goroutine of its own.
func produce(ctx context.Context, producer *kafkax.Producer, run string, messages int) (compare.Sample, error) {
	byPartition := make([][]holdfast.Message, partitions)
	for i := range messages {
		m := message(run, i)
		m.Headers = append(m.Headers,
			holdfast.Header{Key: dlq.HeaderID, Value: fmt.Appendf(nil, "billing/%s/%d/%d", m.Topic, m.Partition, m.Offset)},
			holdfast.Header{Key: dlq.HeaderRedriveCount, Value: []byte("1")})
		byPartition[m.Partition] = append(byPartition[m.Partition], m)
	}
	meter := compare.Start()
	errs := make([]error, partitions)
	var writers sync.WaitGroup
	for p, own := range byPartition {
		writers.Go(func() {
			for len(own) > 0 && errs[p] == nil {
				n := min(chunk, len(own))
				errs[p] = producer.ProduceTo(ctx, run+produced, p, own[:n]...)
				own = own[n:]
			}
		})
	}
	writers.Wait()
	for _, err := range errs {
		if err != nil {
			return compare.Sample{}, err
		}
	}
	return meter.Stop(messages), nil
}

// redrive takes all letters home. It is measured whole: joining the group, reading, decoding, writing, committing.
func redrive(ctx context.Context, cluster kafkax.Cluster, producer *kafkax.Producer, run string) (compare.Sample, error) {
	admin, err := kafkax.NewAdmin(cluster, kafkax.AdminConfig{})
	if err != nil {
		return compare.Sample{}, err
	}
	defer admin.Close()
	quiet := slog.New(slog.DiscardHandler)
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: "unused", Topics: []string{"unused"}, Logger: quiet})
	if err != nil {
		return compare.Sample{}, err
	}
	r, err := dlq.NewRedrive(consumer, producer, admin, dlq.RedriveConfig{Topic: run + letters, Group: run, Letters: dlq.SourceConfig{Logger: quiet}})
	if err != nil {
		return compare.Sample{}, err
	}
	meter := compare.Start()
	done, err := r.Run(ctx)
	return meter.Stop(done.Redriven), err
}

// relay is what is left of a redrive when nobody decodes a letter: a consumer that writes each record back, with as many
// headers as a message that comes home.
func relay(ctx context.Context, cluster kafkax.Cluster, producer *kafkax.Producer, run string, messages int) (compare.Sample, error) {
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{
		Group: run + ".relay", Topics: []string{run + letters}, FetchMessages: chunk, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return compare.Sample{}, err
	}
	var left atomic.Int64
	left.Store(int64(messages))
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	meter := compare.Start()
	err = consumer.Consume(ctx, func(ctx context.Context, claim holdfast.Claim) error {
		_, partition := claim.Partition()
		for {
			fetched, err := claim.Fetch(ctx)
			if err != nil {
				return err // Revoked, as a rule.
			}
			for i := range fetched {
				fetched[i].Headers = fetched[i].Headers[:3]
			}
			if err := producer.ProduceTo(ctx, run+produced, partition, fetched...); err != nil {
				return err
			}
			claim.Commit(fetched[len(fetched)-1].Offset + 1)
			if left.Add(-int64(len(fetched))) == 0 {
				stop()
			}
		}
	})
	return meter.Stop(messages - int(left.Load())), err
}
