// Producer measures what it costs to write to a topic, with Holdfast's producer and with others. The broker is a process
// of its own, fresh for each round, and so is each measurement. See ../README.md.
//
//	go run ./producer
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/holdfast-io/holdfast/bench/internal/broker"
	"github.com/holdfast-io/holdfast/bench/internal/compare"
)

const (
	partitions = 4
	topic      = "orders"
	valueSize  = 200
	batchBytes = 900_000  // Of one batch, on all sides.
	inFlight   = 16 << 20 // Bytes taken and not yet acknowledged, on all sides.
)

func main() {
	log.SetFlags(0)
	role := flag.String("role", "", "broker, or a contender; empty runs all of them")
	brokers := flag.String("brokers", "", "addresses, for a contender")
	messages := flag.Int("messages", 10_000_000, "messages to write in bulk")
	calls := flag.Int("calls", 2000, "messages to write one by one")
	rounds := flag.Int("rounds", 5, "rounds to measure")
	flag.Parse()
	var err error
	switch *role {
	case "":
		err = compareAll(context.Background(), *messages, *calls, *rounds)
	case "broker":
		err = serve()
	default:
		err = contend(*role, strings.Split(*brokers, ","), *messages, *calls)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func compareAll(ctx context.Context, messages, calls, rounds int) error {
	bulk := []string{"holdfast", "writer", "franz"}
	single := []string{"holdfast-sync", "client-sync", "franz-sync"}
	results := make(compare.Results)
	for round := range rounds {
		for _, names := range [][]string{bulk, single} {
			for i := range names {
				name := names[(i+round)%len(names)] // Nobody is always first.
				s, err := measure(ctx, name, messages, calls)
				if err != nil {
					return err
				}
				results[name] = append(results[name], s)
			}
		}
	}
	pick := func(names []string) compare.Results {
		some := make(compare.Results)
		for _, name := range names {
			some[name] = results[name]
		}
		return some
	}
	pick(bulk).Table("bulk")
	fmt.Println("one message after the other, p50")
	p50 := func(s compare.Sample) float64 { return float64(s.P50.Microseconds()) }
	for _, name := range single {
		fmt.Printf("%15s %6.0f us\n", name, results.Median(name, p50))
	}
	fmt.Println()
	ratio := func(name, ours, peer string, of func(compare.Sample) float64) {
		fmt.Printf("ratio %s %.2f\n", name, results.Median(ours, of)/results.Median(peer, of))
	}
	ratio("producer.sync/client", "holdfast-sync", "client-sync", p50)
	ratio("producer.bulk/writer", "holdfast", "writer", compare.Rate)
	ratio("producer.bulk/franz", "holdfast", "franz", compare.Rate)
	ratio("producer.cpu/franz", "holdfast", "franz", compare.CPUPerMillion)
	fmt.Printf("allocs producer %.3f\n", results.Median("holdfast", compare.AllocsPerMessage))
	return nil
}

// measure runs a contender against a fresh broker.
func measure(ctx context.Context, name string, messages, calls int) (compare.Sample, error) {
	addrs, stop, err := compare.Serve(ctx, "-role", "broker")
	if err != nil {
		return compare.Sample{}, err
	}
	defer stop()
	return compare.Run(ctx, "-role", name, "-brokers", addrs, "-messages", fmt.Sprint(messages), "-calls", fmt.Sprint(calls))
}

func serve() error {
	b, err := broker.Start(map[string]int{topic: partitions}, kfake.BlackholeProduce())
	if err != nil {
		return err
	}
	defer b.Close()
	b.Serve()
	return nil
}
