package testkit_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast/testkit"
)

// A lost acknowledgement: the message is in the log, its producer cannot know, and writes it again.
func ExampleKafkaServer_Inject() {
	broker, err := testkit.StartKafka(testkit.KafkaConfig{Topics: map[string]int{"orders": 1}})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Close()
	broker.Inject(testkit.Fault{API: testkit.APIProduce, LoseAck: true})

	writer := &kafka.Writer{
		Addr: kafka.TCP(broker.Addrs()...), Topic: "orders", RequiredAcks: kafka.RequireAll, BatchTimeout: time.Millisecond,
	}
	err = writer.WriteMessages(context.Background(), kafka.Message{Value: []byte("one")})
	fmt.Println("the writer's error:", err)
	if err := writer.Close(); err != nil {
		log.Fatal(err)
	}

	messages, err := broker.Messages(context.Background(), "orders")
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range messages {
		fmt.Printf("offset %d: %s\n", m.Offset, m.Value)
	}
	// Output:
	// the writer's error: <nil>
	// offset 0: one
	// offset 1: one
}
