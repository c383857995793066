package kafkax_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
)

func Example() {
	cluster := kafkax.Cluster{Brokers: []string{"localhost:9092"}}
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: "billing", Topics: []string{"orders"}})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	// Runs once for each partition, at the same time.
	err = consumer.Consume(ctx, func(ctx context.Context, claim holdfast.Claim) error {
		for {
			messages, err := claim.Fetch(ctx)
			if err != nil {
				return err // holdfast.ErrRevoked: the partition is to be given back.
			}
			for _, m := range messages {
				fmt.Println(m.Topic, m.Partition, m.Offset, len(m.Value))
			}
			claim.Commit(messages[len(messages)-1].Offset + 1)
		}
	})
	if err != nil {
		log.Fatal(err)
	}
}

func ExampleProducer() {
	cluster := kafkax.Cluster{Brokers: []string{"localhost:9092"}}
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	defer producer.Close(ctx)

	err = producer.Produce(ctx,
		holdfast.Message{Topic: "orders", Key: []byte("customer-7"), Value: []byte(`{"id": 1}`)},
		holdfast.Message{Topic: "orders", Key: []byte("customer-9"), Value: []byte(`{"id": 2}`)},
	)
	if failed, ok := errors.AsType[*kafkax.ProduceError](err); ok {
		for _, f := range failed.Failures {
			fmt.Println(f.Topic, f.Indexes, f.Ambiguous, f.Err)
		}
	}
}
