package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/bench/internal/compare"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/pipeline"
)

const batchRows = 10_000

// order is a message's value, and a row.
type order struct {
	ID       uint64 `json:"id" ch:"id"`
	Customer string `json:"customer" ch:"customer"`
	Text     string `json:"text" ch:"text"`
}

// contend does the work of one contender and prints what that cost.
func contend(name string, brokers []string, group string, messages int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var s compare.Sample
	var err error
	switch name {
	case "noop":
		s, err = ours(ctx, brokers, group, messages, pipeline.Config{}, func() (pipeline.Sink[order], error) { return discard{}, nil })
	case "noop-handwritten":
		s, err = handwritten(ctx, brokers, group, messages, standard, func(context.Context, []order) error { return nil })
	case "noop-handwritten-decode":
		s, err = handwritten(ctx, brokers, group, messages, pipeline.JSON[order], func(context.Context, []order) error { return nil })
	case "noop-watermill":
		s, err = mill(ctx, brokers, group, messages)
	case "store":
		s, err = ours(ctx, brokers, group, messages, pipeline.Config{Batch: pipeline.BatchConfig{Count: batchRows}}, inserter)
	case "store-handwritten":
		s, err = handwrittenStore(ctx, brokers, group, messages)
	case "latency":
		s, err = latency(ctx, brokers, messages, oursOneByOne(group))
	case "latency-reader":
		s, err = latency(ctx, brokers, messages, readerOneByOne(group))
	default:
		err = fmt.Errorf("no contender %q", name)
	}
	if err != nil {
		return err
	}
	return s.Print()
}

// discard is a sink that has everything at once.
type discard struct{}

func (discard) Write(context.Context, holdfast.Batch[order]) error { return nil }

func inserter() (pipeline.Sink[order], error) {
	db, err := clickhousex.Open(options(), clickhousex.Config{Logger: quiet()})
	if err != nil {
		return nil, err
	}
	return clickhousex.NewInserter[order](db, "bench_pipeline", clickhousex.InserterConfig{})
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// counting is a sink that says when it has had a number of items.
type counting struct {
	pipeline.Sink[order]
	left atomic.Int64
	all  chan struct{}
}

// starting is a stage that starts the meter with the first message.
type starting struct {
	once  sync.Once
	meter compare.Meter
}

func (s *starting) decode(ctx context.Context, m holdfast.Message) (order, error) {
	s.once.Do(func() { s.meter = compare.Start() })
	return pipeline.JSON[order](ctx, m)
}

func (c *counting) Write(ctx context.Context, b holdfast.Batch[order]) error {
	err := c.Sink.Write(ctx, b)
	if err == nil && c.left.Add(-int64(len(b.Items))) == 0 {
		close(c.all)
	}
	return err
}

// newPipeline has all guarantees on: commits after the sink, a dead-letter queue, circuits at their defaults.
func newPipeline(brokers []string, group, topic string, sink pipeline.Sink[order], cfg pipeline.Config) (*pipeline.Pipeline, error) {
	return newPipelineWith(brokers, group, topic, pipeline.Map("decode", pipeline.JSON[order], pipeline.StageConfig{}), sink, cfg)
}

func newPipelineWith(
	brokers []string, group, topic string, stage pipeline.Stage[holdfast.Message, order], sink pipeline.Sink[order], cfg pipeline.Config,
) (*pipeline.Pipeline, error) {
	cluster := kafkax.Cluster{Brokers: brokers}
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: group, Topics: []string{topic}, Logger: quiet()})
	if err != nil {
		return nil, err
	}
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		return nil, err
	}
	dead, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: "poison", Logger: quiet()})
	if err != nil {
		return nil, err
	}
	cfg.DeadLetters, cfg.Logger = dead, quiet()
	return pipeline.New(consumer, stage, sink, cfg)
}

// ours is a Holdfast pipeline, from the first message to the last item in the sink.
func ours(ctx context.Context, brokers []string, group string, messages int, cfg pipeline.Config, open func() (pipeline.Sink[order], error)) (compare.Sample, error) {
	inner, err := open()
	if err != nil {
		return compare.Sample{}, err
	}
	sink := &counting{Sink: inner, all: make(chan struct{})}
	sink.left.Store(int64(messages))
	var start starting
	cfg.Batch.Delay = 100 * time.Millisecond // So that what is left at the end does not wait a second.
	p, err := newPipelineWith(brokers, group, bulk, pipeline.Map("decode", start.decode, pipeline.StageConfig{}), sink, cfg)
	if err != nil {
		return compare.Sample{}, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	select {
	case <-sink.all:
	case err := <-done:
		return compare.Sample{}, errors.Join(errors.New("ended early"), err)
	}
	s := start.meter.Stop(messages)
	began := time.Now()
	stop()
	err = <-done
	s.Close = time.Since(began)
	return s, err
}

// standard decodes as people do.
func standard(_ context.Context, m holdfast.Message) (o order, err error) {
	err = json.Unmarshal(m.Value, &o)
	return o, err
}

// handwritten is the loop that people write: a kafka.Reader in a group, a slice of rows, a commit behind it. Joining the
// group counts for nobody: it is measured from the first message on.
func handwritten(
	ctx context.Context, brokers []string, group string, messages int,
	decode func(context.Context, holdfast.Message) (order, error), store func(context.Context, []order) error,
) (compare.Sample, error) {
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: brokers, GroupID: group, Topic: bulk})
	var meter compare.Meter
	rows := make([]order, 0, batchRows)
	last := make(map[int]kafka.Message)
	for i := range messages {
		m, err := r.FetchMessage(ctx)
		if err != nil {
			return compare.Sample{}, err
		}
		if i == 0 {
			meter = compare.Start()
		}
		o, err := decode(ctx, holdfast.Message{Value: m.Value})
		if err != nil {
			return compare.Sample{}, err
		}
		rows, last[m.Partition] = append(rows, o), m
		if len(rows) < batchRows && i < messages-1 {
			continue
		}
		if err := store(ctx, rows); err != nil {
			return compare.Sample{}, err
		}
		for _, m := range last {
			if err := r.CommitMessages(ctx, m); err != nil {
				return compare.Sample{}, err
			}
		}
		rows = rows[:0]
		clear(last)
	}
	s := meter.Stop(messages)
	began := time.Now()
	err := r.Close()
	s.Close = time.Since(began)
	return s, err
}

// handwrittenStore is that with the driver's batch.
func handwrittenStore(ctx context.Context, brokers []string, group string, messages int) (compare.Sample, error) {
	db, err := clickhouse.Open(options())
	if err != nil {
		return compare.Sample{}, err
	}
	defer db.Close()
	return handwritten(ctx, brokers, group, messages, standard, func(ctx context.Context, rows []order) error {
		batch, err := db.PrepareBatch(ctx, "INSERT INTO bench_pipeline (id, customer, text)")
		if err != nil {
			return err
		}
		for _, o := range rows {
			if err := batch.Append(o.ID, o.Customer, o.Text); err != nil {
				return err
			}
		}
		return batch.Send()
	})
}
