package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/pipeline"
)

// A message that its pipeline never gets through is redriven five times, and then parked.
func TestLoopIsParked(t *testing.T) {
	c := newCounter(t, orders())
	quiet := slog.New(slog.DiscardHandler)
	cluster := kafkax.Cluster{Brokers: c.kafka.Addrs()}
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = producer.Close(context.WithoutCancel(t.Context())) }()
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: "billing", Topics: []string{"orders"}, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	dead, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: "orders.dlq", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	same := pipeline.Map("same", func(_ context.Context, m holdfast.Message) (holdfast.Message, error) { return m, nil }, pipeline.StageConfig{})
	never := pipeline.Each(func(context.Context, holdfast.Item[holdfast.Message]) error {
		return holdfast.Permanent(errors.New("never"))
	})
	p, err := pipeline.New(consumer, same, never, pipeline.Config{DeadLetters: dead, Batch: pipeline.BatchConfig{Delay: -1}, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	c.produce(holdfast.Message{Topic: "orders", Key: []byte("k"), Value: []byte("poison")})
	for round := range 6 {
		for deadline := time.Now().Add(time.Minute); len(c.messages("orders.dlq")) <= round; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no letter in round %d", round)
			}
		}
		c.run(exitDone, "dlq", "redrive", "orders.dlq", "--yes")
		if round < 5 {
			c.says("redriven 1, parked 0")
		} else {
			c.says("exhausted 1", "redriven 0, parked 1")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if sent, parked := len(c.messages("orders")), c.messages("orders.dlq.parked"); sent != 6 || len(parked) != 1 || string(parked[0].Value) != "poison" {
		t.Errorf("it was sent %d times, and parked is %v", sent, parked)
	}
	c.run(exitDone, "dlq", "redrive", "orders.dlq.parked", "--yes", "--max-redrives", "-1") // When somebody has mended it.
	c.says("redriven 1, parked 0")
}
