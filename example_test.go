package holdfast_test

import (
	"context"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/pipeline"
)

type Order struct {
	ID     uint64 `json:"id"`
	Amount int64  `json:"amount"`
}

type Row struct {
	ID     uint64 `ch:"id"`
	Amount int64  `ch:"amount"`
	Region string `ch:"region"`
}

func addRegion(_ context.Context, o Order) (Row, error) {
	return Row{ID: o.ID, Amount: o.Amount, Region: "eu"}, nil
}

// The program that the README shows: from Kafka through two functions into ClickHouse.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	cluster := kafkax.Cluster{Brokers: []string{"localhost:9092"}}
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: "orders", Topics: []string{"orders"}})
	check(err)
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	check(err)
	dead, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: "orders.dlq"})
	check(err)
	ch, err := clickhousex.Open(&clickhouse.Options{Addr: []string{"localhost:9000"}}, clickhousex.Config{})
	check(err)
	store, err := clickhousex.NewInserter[Row](ch, "orders", clickhousex.InserterConfig{})
	check(err)

	decode := pipeline.Map("decode", pipeline.JSON[Order], pipeline.StageConfig{})
	enrich := pipeline.Map("enrich", addRegion, pipeline.StageConfig{Timeout: time.Second})
	p, err := pipeline.New(consumer, pipeline.Then(decode, enrich), store, pipeline.Config{DeadLetters: dead})
	check(err)
	check(p.Run(ctx)) // Nil after a clean drain.
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
