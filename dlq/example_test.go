package dlq_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// A message that could not be processed goes into a dead-letter topic, and when the cause is mended back to where it came
// from.
func Example() {
	kafka, err := testkit.StartKafka(testkit.KafkaConfig{Topics: map[string]int{"orders": 1, "orders.dlq": 1, "orders.dlq.parked": 1}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer kafka.Close()
	ctx := context.Background()
	quiet := slog.New(slog.DiscardHandler)
	cluster := kafkax.Cluster{Brokers: kafka.Addrs()}
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = producer.Close(ctx) }()

	dead, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: "orders.dlq", Logger: quiet})
	if err != nil {
		fmt.Println(err)
		return
	}
	letter := dlq.Letter{
		Message: holdfast.Message{Topic: "orders", Offset: 7, Key: []byte("customer-3"), Value: []byte(`{"id": 7}`)},
		Reason:  dlq.RetriesExhausted, Group: "billing", Attempts: 3,
	}
	letter.Blame(errors.New("no price today"))
	fmt.Println("written:", dead.Write(ctx, letter) == nil)

	admin, err := kafkax.NewAdmin(cluster, kafkax.AdminConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer admin.Close()
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{
		Group: "operator", Topics: []string{"orders.dlq"}, OutOfRange: kafkax.OutOfRangeEarliest, Logger: quiet,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	redrive, err := dlq.NewRedrive(consumer, producer, admin, dlq.RedriveConfig{
		Topic:   "orders.dlq",
		Letters: dlq.SourceConfig{Filter: dlq.Filter{Reasons: []dlq.Reason{dlq.RetriesExhausted}}, MessagesPerSecond: 100, Logger: quiet},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = redrive.Browse(ctx, nil, func(e dlq.Entry) error {
		fmt.Println(e.State, e.Letter.ID(), e.Letter.Reason, e.Letter.Error)
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	did, err := redrive.Run(ctx)
	fmt.Println("redriven:", did.Redriven, err)
	messages, err := kafka.Messages(ctx, "orders")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range messages {
		fmt.Printf("%s %s\n", m.Key, m.Value)
	}
	// Output:
	// written: true
	// open billing/orders/0/7 retries_exhausted no price today
	// redriven: 1 <nil>
	// customer-3 {"id": 7}
}

// Messages wait on the local disk while nobody takes them, and are there again after a restart.
func ExampleSpool() {
	dir, err := os.MkdirTemp("", "spool")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx := context.Background()
	spool, err := dlq.OpenSpool(dir, dlq.SpoolConfig{MaxBytes: 1 << 20})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, value := range []string{"one", "two"} {
		m := holdfast.Message{Topic: "orders", Partition: -1, Key: []byte("customer-3"), Value: []byte(value)}
		if err := spool.Append(ctx, m); err != nil { // Nil: it is on the disk.
			fmt.Println(err)
			return
		}
	}
	err = spool.Drain(ctx, func(context.Context, []holdfast.Message) error { return errors.New("Kafka is away") })
	fmt.Println(err, "- kept:", spool.Stats().Messages)
	if err := spool.Close(); err != nil {
		fmt.Println(err)
		return
	}

	if spool, err = dlq.OpenSpool(dir, dlq.SpoolConfig{MaxBytes: 1 << 20}); err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = spool.Close() }()
	err = spool.Drain(ctx, func(_ context.Context, messages []holdfast.Message) error {
		for _, m := range messages {
			fmt.Printf("%s: %s\n", m.Key, m.Value)
		}
		return nil
	})
	fmt.Println(err, "- kept:", spool.Stats().Messages)
	// Output:
	// dlq: spool: Kafka is away - kept: 2
	// customer-3: one
	// customer-3: two
	// <nil> - kept: 0
}
