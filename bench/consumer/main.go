// Consumer measures what it costs to consume a topic, with Holdfast's consumer and with others. The broker is a process
// of its own, and so is each measurement. See ../README.md.
//
//	go run ./consumer
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-io/holdfast/bench/internal/compare"
	"github.com/holdfast-io/holdfast/testkit"
)

const (
	partitions = 8
	valueSize  = 200
)

func main() {
	log.SetFlags(0)
	role := flag.String("role", "", "broker, or a contender; empty runs all of them")
	brokers := flag.String("brokers", "", "addresses, for a contender")
	topic := flag.String("topic", "", "topic, for a contender")
	group := flag.String("group", "", "group, for a contender")
	messages := flag.Int("messages", 1_000_000, "messages to consume")
	rounds := flag.Int("rounds", 5, "rounds to measure")
	flag.Parse()
	var err error
	switch *role {
	case "":
		err = compareAll(context.Background(), *messages, *rounds)
	case "broker":
		err = serve(*messages)
	default:
		err = contend(*role, strings.Split(*brokers, ","), *topic, *group, *messages)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func compareAll(ctx context.Context, messages, rounds int) error {
	addrs, stop, err := compare.Serve(ctx, "-role", "broker", "-messages", fmt.Sprint(messages))
	if err != nil {
		return err
	}
	defer stop()
	names := []string{"holdfast", "reader", "reader-tuned", "raw", "franz"}
	for _, topic := range []string{"plain", "lz4"} {
		results := make(compare.Results)
		for round := range rounds {
			for i := range names {
				name := names[(i+round)%len(names)] // Nobody is always first.
				s, err := compare.Run(ctx, "-role", name, "-brokers", addrs, "-topic", topic, "-messages", fmt.Sprint(messages),
					"-group", fmt.Sprintf("%s-%s-%d", topic, name, round))
				if err != nil {
					return err
				}
				results[name] = append(results[name], s)
			}
		}
		results.Table(topic)
		suffix := ""
		if topic != "plain" {
			suffix = "." + topic
		}
		ours := results.Median("holdfast", compare.Rate)
		for _, peer := range names[1:] {
			fmt.Printf("ratio consumer%s/%s %.2f\n", suffix, peer, ours/results.Median(peer, compare.Rate))
		}
		fmt.Printf("ratio consumer.cpu%s/franz %.2f\n", suffix, results.Median("holdfast", compare.CPUPerMillion)/results.Median("franz", compare.CPUPerMillion))
		fmt.Printf("allocs consumer%s %.3f\n", suffix, results.Median("holdfast", compare.AllocsPerMessage))
		fmt.Printf("close consumer%s %.0f ms\n\n", suffix, results.Median("holdfast", func(s compare.Sample) float64 { return s.Close.Seconds() * 1e3 }))
	}
	return nil
}

// serve is the broker's process.
func serve(messages int) error {
	k, err := testkit.StartKafka(testkit.KafkaConfig{Topics: map[string]int{"plain": partitions, "lz4": partitions}})
	if err != nil {
		return err
	}
	defer k.Close()
	for topic, codec := range map[string]kgo.CompressionCodec{"plain": kgo.NoCompression(), "lz4": kgo.Lz4Compression()} {
		if err := fill(k.Addrs(), topic, codec, messages); err != nil {
			return err
		}
	}
	fmt.Println(strings.Join(k.Addrs(), ","))
	compare.UntilParentEnds()
	return nil
}

func fill(addrs []string, topic string, codec kgo.CompressionCodec, messages int) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codec),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(900_000), kgo.MaxBufferedRecords(200_000))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := context.Background()
	var failed error
	letters := rand.New(rand.NewPCG(1, 2))
	for i := range messages {
		value := fmt.Appendf(nil, `{"id":%d,"customer":"c%d","text":"`, i, i%997)
		for len(value) < valueSize-2 {
			value = append(value, byte('a'+letters.IntN(26)))
		}
		value = append(value, `"}`...)
		client.Produce(ctx, &kgo.Record{Partition: int32(i % partitions), Key: fmt.Appendf(nil, "k%d", i%10_000), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed = err
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	return failed
}
