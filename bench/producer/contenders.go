package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/bench/internal/compare"
	"github.com/holdfast-io/holdfast/kafkax"
)

// contend writes all messages, waits until they are acknowledged, and prints what that cost.
func contend(name string, brokers []string, messages, calls int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var s compare.Sample
	var err error
	switch name {
	case "holdfast":
		s, err = ours(ctx, brokers, messages)
	case "writer":
		s, err = writer(ctx, brokers, messages)
	case "franz":
		s, err = franz(ctx, brokers, messages)
	case "holdfast-sync":
		s, err = oursOneByOne(ctx, brokers, calls)
	case "client-sync":
		s, err = clientOneByOne(ctx, brokers, calls)
	case "franz-sync":
		s, err = franzOneByOne(ctx, brokers, calls)
	default:
		err = fmt.Errorf("no contender %q", name)
	}
	if err != nil {
		return err
	}
	return s.Print()
}

// input is what all contenders write: keys and values made before the clock runs.
type input struct {
	keys  [][]byte
	value []byte
}

func newInput() input {
	in := input{value: make([]byte, valueSize)}
	for i := range in.value {
		in.value[i] = byte('a' + i%26)
	}
	for i := range 10_000 {
		in.keys = append(in.keys, fmt.Appendf(nil, "customer-%d", i))
	}
	return in
}

func (in input) key(i int) []byte { return in.keys[i%len(in.keys)] }

// tally counts acknowledgements.
type tally struct {
	left   atomic.Int64
	failed atomic.Pointer[error]
	done   chan struct{}
}

func newTally(n int) *tally {
	t := &tally{done: make(chan struct{})}
	t.left.Store(int64(n))
	return t
}

func (t *tally) note(err error) {
	if err != nil {
		failed := err // Or err itself would be allocated, each time.
		t.failed.CompareAndSwap(nil, &failed)
	}
	if t.left.Add(-1) == 0 {
		close(t.done)
	}
}

func (t *tally) wait(ctx context.Context) error {
	select {
	case <-t.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := t.failed.Load(); err != nil {
		return *err
	}
	return nil
}

func ours(ctx context.Context, brokers []string, messages int) (compare.Sample, error) {
	p, err := kafkax.NewProducer(kafkax.Cluster{Brokers: brokers}, kafkax.ProducerConfig{BatchBytes: batchBytes, MaxBufferedBytes: inFlight})
	if err != nil {
		return compare.Sample{}, err
	}
	in := newInput()
	if err := p.Produce(ctx, holdfast.Message{Topic: topic, Key: in.key(0), Value: in.value}); err != nil { // Connected.
		return compare.Sample{}, err
	}
	acks := newTally(messages)
	note := acks.note
	meter := compare.Start()
	for i := range messages {
		if err := p.ProduceAsync(ctx, holdfast.Message{Topic: topic, Key: in.key(i), Value: in.value}, note); err != nil {
			return compare.Sample{}, err
		}
	}
	if err := acks.wait(ctx); err != nil {
		return compare.Sample{}, err
	}
	s := meter.Stop(messages)
	began := time.Now()
	err = p.Close(ctx)
	s.Close = time.Since(began)
	return s, err
}

// writer is a kafka.Writer, tuned: asynchronous, with large batches that do not wait. It cannot be idempotent.
func writer(ctx context.Context, brokers []string, messages int) (compare.Sample, error) {
	var acks *tally
	w := &kafka.Writer{
		Addr: kafka.TCP(brokers...), Topic: topic, Balancer: kafka.Murmur2Balancer{Consistent: true}, RequiredAcks: kafka.RequireAll,
		BatchSize: batchBytes / valueSize, BatchBytes: batchBytes, BatchTimeout: 5 * time.Millisecond, Async: true,
		Completion: func(written []kafka.Message, err error) {
			for range written {
				acks.note(err)
			}
		},
	}
	in := newInput()
	acks = newTally(1)
	if err := errors.Join(w.WriteMessages(ctx, kafka.Message{Key: in.key(0), Value: in.value}), acks.wait(ctx)); err != nil {
		return compare.Sample{}, err
	}
	acks = newTally(messages)
	meter := compare.Start()
	const handful = 1000 // A call for each message would be slower by far.
	batch := make([]kafka.Message, 0, handful)
	for i := range messages {
		batch = append(batch, kafka.Message{Key: in.key(i), Value: in.value})
		if len(batch) == handful || i == messages-1 {
			if err := w.WriteMessages(ctx, batch...); err != nil {
				return compare.Sample{}, err
			}
			batch = batch[:0]
		}
	}
	if err := acks.wait(ctx); err != nil {
		return compare.Sample{}, err
	}
	s := meter.Stop(messages)
	began := time.Now()
	err := w.Close()
	s.Close = time.Since(began)
	return s, err
}

func newFranz(brokers []string) (*kgo.Client, error) {
	return kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), // Murmur2 for keys, as in Java.
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(batchBytes),
		kgo.MaxBufferedBytes(inFlight), kgo.MaxBufferedRecords(inFlight), kgo.DisableClientMetrics())
}

func franz(ctx context.Context, brokers []string, messages int) (compare.Sample, error) {
	client, err := newFranz(brokers)
	if err != nil {
		return compare.Sample{}, err
	}
	in := newInput()
	if err := client.ProduceSync(ctx, &kgo.Record{Key: in.key(0), Value: in.value}).FirstErr(); err != nil {
		return compare.Sample{}, err
	}
	acks := newTally(messages)
	note := func(_ *kgo.Record, err error) { acks.note(err) }
	meter := compare.Start()
	for i := range messages {
		client.Produce(ctx, &kgo.Record{Key: in.key(i), Value: in.value}, note)
	}
	if err := acks.wait(ctx); err != nil {
		return compare.Sample{}, err
	}
	s := meter.Stop(messages)
	began := time.Now()
	client.Close()
	s.Close = time.Since(began)
	return s, nil
}

// oneByOne times calls.
func oneByOne(calls int, produce func(i int) error) (compare.Sample, error) {
	for i := range calls / 10 {
		if err := produce(i); err != nil {
			return compare.Sample{}, err
		}
	}
	took := make([]time.Duration, calls)
	meter := compare.Start()
	for i := range calls {
		began := time.Now()
		if err := produce(i); err != nil {
			return compare.Sample{}, err
		}
		took[i] = time.Since(began)
	}
	s := meter.Stop(calls)
	slices.Sort(took)
	s.P50 = took[calls/2]
	return s, nil
}

func oursOneByOne(ctx context.Context, brokers []string, calls int) (compare.Sample, error) {
	p, err := kafkax.NewProducer(kafkax.Cluster{Brokers: brokers}, kafkax.ProducerConfig{})
	if err != nil {
		return compare.Sample{}, err
	}
	in := newInput()
	s, err := oneByOne(calls, func(i int) error {
		return p.Produce(ctx, holdfast.Message{Topic: topic, Key: in.key(i), Value: in.value})
	})
	return s, errors.Join(err, p.Close(ctx))
}

// clientOneByOne is kafka.Client.Produce to partitions in turn: it has no partitioner, and is not idempotent.
func clientOneByOne(ctx context.Context, brokers []string, calls int) (compare.Sample, error) {
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	client := &kafka.Client{Addr: kafka.TCP(brokers...), Transport: transport, Timeout: 10 * time.Second}
	in := newInput()
	return oneByOne(calls, func(i int) error {
		resp, err := client.Produce(ctx, &kafka.ProduceRequest{
			Topic: topic, Partition: i % partitions, RequiredAcks: kafka.RequireAll,
			Records: kafka.NewRecordReader(kafka.Record{Time: time.Now(), Key: kafka.NewBytes(in.key(i)), Value: kafka.NewBytes(in.value)}),
		})
		if err != nil {
			return err
		}
		return resp.Error
	})
}

func franzOneByOne(ctx context.Context, brokers []string, calls int) (compare.Sample, error) {
	client, err := newFranz(brokers)
	if err != nil {
		return compare.Sample{}, err
	}
	defer client.Close()
	in := newInput()
	return oneByOne(calls, func(i int) error {
		var acked sync.WaitGroup
		var failed error
		acked.Add(1)
		client.Produce(ctx, &kgo.Record{Key: in.key(i), Value: in.value}, func(_ *kgo.Record, err error) {
			failed = err
			acked.Done()
		})
		acked.Wait()
		return failed
	})
}
