// Dlq measures dead letters: how fast they are written, to a topic and to the disk, and how fast they are taken home,
// against producing the same messages. The broker is a process of its own, and so is each measurement. See ../README.md.
//
//	go run ./dlq
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/bench/internal/compare"
)

const (
	partitions = 8
	valueSize  = 200
	patience   = 2 * time.Minute
)

func main() {
	log.SetFlags(0)
	role := flag.String("role", "", "broker, or a contender; empty runs all of them")
	brokers := flag.String("brokers", "", "addresses, for a contender")
	group := flag.String("group", "", "group, for a contender")
	messages := flag.Int("messages", 500_000, "letters, and messages")
	rounds := flag.Int("rounds", 5, "rounds to measure")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	switch *role {
	case "":
		err = compareAll(context.Background(), *messages, *rounds)
	case "broker":
		err = serve(*messages)
	default:
		err = contend(ctx, *role, strings.Split(*brokers, ","), *group, *messages)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func compareAll(ctx context.Context, messages, rounds int) error {
	results := make(compare.Results)
	names := []string{"producer", "redrive", "topic", "spool", "spool-one"}
	for round := range rounds {
		// A broker of its own for each round, or its memory would fill up.
		addrs, stop, err := compare.Serve(ctx, "-role", "broker", "-messages", fmt.Sprint(messages))
		if err != nil {
			return err
		}
		for i := range names {
			name := names[(i+round)%len(names)] // Nobody is always first.
			n := messages
			if name == "spool-one" {
				n /= loneShare
			}
			s, err := compare.Run(ctx, "-role", name, "-brokers", addrs, "-messages", fmt.Sprint(n), "-group", fmt.Sprint("round-", round))
			if err != nil {
				stop()
				return err
			}
			results[name] = append(results[name], s)
		}
		stop()
	}
	results.Table("dlq")
	for _, way := range []string{"topic", "spool", "spool-one"} {
		fmt.Printf("letters/s written, %s %.0f\n", way, results.Median(way, compare.Rate))
	}
	fmt.Printf("letters/s redriven %.0f\n", results.Median("redrive", compare.Rate))
	fmt.Printf("ratio redrive/producer %.2f\n", results.Median("redrive", compare.Rate)/results.Median("producer", compare.Rate))
	return nil
}
