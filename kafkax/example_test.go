package kafkax_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// A member of a group, and how it takes its leave: what it has committed is where the group goes on.
func Example() {
	kafka, err := testkit.StartKafka(testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}) // Kafka in this process.
	if err != nil {
		fmt.Println(err)
		return
	}
	defer kafka.Close()
	ctx, stop := context.WithCancel(context.Background()) // In a program: signal.NotifyContext.
	defer stop()
	for _, value := range []string{"one", "two"} {
		if err := kafka.Produce(ctx, holdfast.Message{Topic: "orders", Value: []byte(value)}); err != nil {
			fmt.Println(err)
			return
		}
	}

	cluster := kafkax.Cluster{Brokers: kafka.Addrs()}
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{
		Group: "billing", Topics: []string{"orders"}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The function runs once for each partition, at the same time.
	err = consumer.Consume(ctx, func(ctx context.Context, claim holdfast.Claim) error {
		for {
			messages, err := claim.Fetch(ctx)
			if err != nil {
				return err // holdfast.ErrRevoked: the partition is to be given back.
			}
			for _, m := range messages {
				fmt.Printf("%s/%d at %d: %s\n", m.Topic, m.Partition, m.Offset, m.Value)
			}
			next := messages[len(messages)-1].Offset + 1
			claim.Commit(next)
			if next == 2 {
				stop()
			}
		}
	})
	fmt.Println(err, "- committed:", kafka.Committed("billing", "orders")[0])
	// Output:
	// orders/0 at 0: one
	// orders/0 at 1: two
	// <nil> - committed: 2
}

func ExampleProducer() {
	kafka, err := testkit.StartKafka(testkit.KafkaConfig{
		Topics: map[string]int{"orders": 1}, Configs: map[string]string{"message.max.bytes": "1000"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer kafka.Close()
	producer, err := kafkax.NewProducer(kafkax.Cluster{Brokers: kafka.Addrs()}, kafkax.ProducerConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	defer func() { _ = producer.Close(ctx) }()

	err = producer.Produce(ctx,
		holdfast.Message{Topic: "orders", Key: []byte("customer-7"), Value: []byte(`{"id": 1}`)},
		holdfast.Message{Topic: "orders", Key: []byte("customer-9"), Value: make([]byte, 2000)},
	)
	if failed, ok := errors.AsType[*kafkax.ProduceError](err); ok { // All others are written.
		for _, f := range failed.Failures {
			fmt.Printf("%s %v: permanent %v, ambiguous %v\n", f.Topic, f.Indexes, f.Permanent, f.Ambiguous)
		}
	}
	fmt.Println("written:", kafka.Ends("orders")[0])
	// Output:
	// orders [1]: permanent true, ambiguous false
	// written: 1
}
