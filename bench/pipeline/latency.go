package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/bench/internal/compare"
	"github.com/holdfast-io/holdfast/pipeline"
)

// warm is how many messages go before those that count.
const warm = 50

// latency produces 100 messages a second, and takes the median of the time from before one is produced to when its handler
// is entered. consume calls entered with each message's id.
func latency(ctx context.Context, brokers []string, messages int, consume func(ctx context.Context, brokers []string, entered func(id uint64)) error) (compare.Sample, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	arrivals := make(chan arrival, messages)
	done := make(chan error, 1)
	go func() {
		done <- consume(ctx, brokers, func(id uint64) { arrivals <- arrival{id, time.Now()} })
	}()
	client := &kafka.Client{Addr: kafka.TCP(brokers...)}
	first := uint64(time.Now().UnixNano()) // Other runs have used the topic before.
	sent := make([]time.Time, messages)
	took := make([]time.Duration, 0, messages)
	for i := range sent {
		sent[i] = time.Now()
		value := fmt.Appendf(nil, `{"id":%d}`, first+uint64(i))
		if _, err := client.Produce(ctx, &kafka.ProduceRequest{
			Topic: trail, RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(kafka.Record{Value: kafka.NewBytes(value)}),
		}); err != nil {
			return compare.Sample{}, err
		}
		for {
			select {
			case a := <-arrivals:
				if a.id < first {
					continue
				}
				if n := int(a.id - first); n >= warm {
					took = append(took, a.at.Sub(sent[n]))
				}
				if int(a.id-first) < i {
					continue
				}
			case err := <-done:
				return compare.Sample{}, err
			case <-ctx.Done():
				return compare.Sample{}, ctx.Err()
			}
			break
		}
		time.Sleep(time.Until(sent[i].Add(10 * time.Millisecond)))
	}
	slices.Sort(took)
	stop()
	if err := <-done; err != nil && ctx.Err() == nil {
		return compare.Sample{}, err
	}
	return compare.Sample{Count: len(took), Wall: took[len(took)/2]}, nil
}

type arrival struct {
	id uint64
	at time.Time
}

// oursOneByOne is a pipeline whose stage is the handler.
func oursOneByOne(group string) func(context.Context, []string, func(uint64)) error {
	return func(ctx context.Context, brokers []string, entered func(uint64)) error {
		p, err := newPipelineWith(brokers, group, trail, pipeline.Map("enter", func(ctx context.Context, m holdfast.Message) (order, error) {
			o, err := pipeline.JSON[order](ctx, m)
			entered(o.ID)
			return o, err
		}, pipeline.StageConfig{}), discard{}, pipeline.Config{})
		if err != nil {
			return err
		}
		return p.Run(ctx)
	}
}

// readerOneByOne is a kafka.Reader as it comes, with a commit behind each message.
func readerOneByOne(group string) func(context.Context, []string, func(uint64)) error {
	return func(ctx context.Context, brokers []string, entered func(uint64)) error {
		r := kafka.NewReader(kafka.ReaderConfig{Brokers: brokers, GroupID: group, Topic: trail})
		defer r.Close()
		for {
			m, err := r.FetchMessage(ctx)
			if err != nil {
				return err
			}
			var o order
			if err := json.Unmarshal(m.Value, &o); err != nil {
				return err
			}
			entered(o.ID)
			if err := r.CommitMessages(ctx, m); err != nil {
				return err
			}
		}
	}
}
