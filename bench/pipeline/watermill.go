package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wmkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/sony/gobreaker"

	"github.com/holdfast-io/holdfast/bench/internal/compare"
)

// mill is a watermill router with retry, circuit breaker and poison queue, as its documentation puts them together. It is
// measured from the first message on.
func mill(ctx context.Context, brokers []string, group string, messages int) (compare.Sample, error) {
	logger := watermill.NopLogger{}
	cfg := wmkafka.DefaultSaramaSubscriberConfig()
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	subscriber, err := wmkafka.NewSubscriber(wmkafka.SubscriberConfig{
		Brokers: brokers, Unmarshaler: wmkafka.DefaultMarshaler{}, OverwriteSaramaConfig: cfg, ConsumerGroup: group,
	}, logger)
	if err != nil {
		return compare.Sample{}, err
	}
	publisher, err := wmkafka.NewPublisher(wmkafka.PublisherConfig{Brokers: brokers, Marshaler: wmkafka.DefaultMarshaler{}}, logger)
	if err != nil {
		return compare.Sample{}, err
	}
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return compare.Sample{}, err
	}
	poison, err := middleware.PoisonQueue(publisher, "poison")
	if err != nil {
		return compare.Sample{}, err
	}
	router.AddMiddleware(poison, middleware.Retry{MaxRetries: 3, InitialInterval: 100 * time.Millisecond}.Middleware,
		middleware.NewCircuitBreaker(gobreaker.Settings{Name: "sink"}).Middleware)
	var (
		seen  atomic.Int64
		began = make(chan compare.Meter, 1)
		all   = make(chan struct{})
	)
	router.AddConsumerHandler("orders", bulk, subscriber, func(m *message.Message) error {
		n := seen.Add(1)
		if n == 1 {
			began <- compare.Start()
		}
		var o order
		if err := json.Unmarshal(m.Payload, &o); err != nil {
			return err
		}
		if n == int64(messages) {
			close(all)
		}
		return nil
	})
	done := make(chan error, 1)
	go func() { done <- router.Run(ctx) }()
	select {
	case <-all:
	case err := <-done:
		return compare.Sample{}, errors.Join(errors.New("ended early"), err)
	case <-ctx.Done():
		return compare.Sample{}, ctx.Err()
	}
	s := (<-began).Stop(messages)
	closing := time.Now()
	err = router.Close()
	s.Close = time.Since(closing)
	return s, err
}
