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
	"strings"

	"github.com/holdfast-io/holdfast/bench/internal/compare"
)

const (
	partitions = 8
	valueSize  = 200
	warmUp     = 250_000 // Messages before those that are measured.
)

var topics = []string{"plain", "lz4"} //nolint:gochecknoglobals // A constant.

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
		err = serve(context.Background(), warmUp+*messages)
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
	for _, topic := range topics {
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
