package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
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

// serve is a broker with letters in it.
func serve(messages int) error {
	b, err := broker.Start(map[string]int{
		"orders": partitions, "orders.dlq": partitions, "orders.dlq.parked": 1, "produced": partitions, "written.dlq": partitions,
	}, kfake.BlackholeProduce())
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Fill("orders.dlq", kgo.NoCompression(), messages, record); err != nil {
		return err
	}
	b.Serve()
	return nil
}

// record is the letter of the i-th message.
func record(i int) *kgo.Record {
	m := message(i)
	l := dlq.Encode(letter(m))
	r := &kgo.Record{Partition: int32(m.Partition), Key: l.Key, Value: l.Value, Timestamp: l.Time}
	for _, h := range l.Headers {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return r
}

func message(i int) holdfast.Message {
	value := make([]byte, valueSize)
	for n := range value {
		value[n] = 'a' + byte(rand.IntN(26))
	}
	return holdfast.Message{
		Topic: "orders", Partition: i / 1000 % partitions, Offset: int64(i), Time: time.UnixMilli(1_700_000_000_000 + int64(i)),
		Key: strconv.AppendInt(nil, int64(i), 10), Value: value, Headers: []holdfast.Header{{Key: "tenant", Value: []byte("7")}},
	}
}

func letter(m holdfast.Message) dlq.Letter {
	return dlq.Letter{Message: m, Reason: dlq.RetriesExhausted, Group: "billing", Stage: "price", Attempts: 3, DeadAt: time.Now()}
}

// contend moves all messages, and prints what that cost.
func contend(ctx context.Context, name string, brokers []string, group string, messages int) error {
	cluster := kafkax.Cluster{Brokers: brokers}
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		return err
	}
	defer func() { _ = producer.Close(ctx) }()
	var s compare.Sample
	switch name {
	case "producer":
		s, err = produce(ctx, producer, messages)
	case "topic":
		s, err = write(ctx, producer, messages)
	case "spool":
		s, err = spool(ctx, messages, partitions, writeBatch)
	case "spool-one":
		s, err = spool(ctx, messages, loneWriters, 1)
	case "redrive":
		s, err = redrive(ctx, cluster, producer, group)
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
func produce(ctx context.Context, producer *kafkax.Producer, messages int) (compare.Sample, error) {
	byPartition := make([][]holdfast.Message, partitions)
	for i := range messages {
		m := message(i)
		m.Headers = append(m.Headers,
			holdfast.Header{Key: dlq.HeaderID, Value: fmt.Appendf(nil, "billing/orders/%d/%d", m.Partition, m.Offset)},
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
				errs[p] = producer.ProduceTo(ctx, "produced", p, own[:n]...)
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
func redrive(ctx context.Context, cluster kafkax.Cluster, producer *kafkax.Producer, group string) (compare.Sample, error) {
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
	r, err := dlq.NewRedrive(consumer, producer, admin, dlq.RedriveConfig{Topic: "orders.dlq", Group: group, Letters: dlq.SourceConfig{Logger: quiet}})
	if err != nil {
		return compare.Sample{}, err
	}
	meter := compare.Start()
	done, err := r.Run(ctx)
	return meter.Stop(done.Redriven), err
}
