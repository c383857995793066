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
	"os"
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
	brokers := flag.String("brokers", os.Getenv("HOLDFAST_KAFKA"), "addresses; empty for a broker of the benchmark's own")
	run := flag.String("run", "", "what the topics' names begin with, for broker and contenders")
	messages := flag.Int("messages", 500_000, "letters, and messages")
	rounds := flag.Int("rounds", 5, "rounds to measure")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	switch *role {
	case "":
		err = compareAll(context.Background(), *brokers, *messages, *rounds)
	case "broker":
		err = serve(ctx, *run, *messages)
	default:
		err = contend(ctx, *role, strings.Split(*brokers, ","), *run, *messages)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func compareAll(ctx context.Context, brokers string, messages, rounds int) error {
	results := make(compare.Results)
	for round := range rounds {
		if err := measureRound(ctx, results, brokers, round, messages); err != nil {
			return err
		}
	}
	results.Table("dlq")
	for _, way := range []string{"topic", "spool", "spool-one"} {
		fmt.Printf("letters/s written, %s %.0f\n", way, results.Median(way, compare.Rate))
	}
	fmt.Printf("letters/s redriven %.0f\n", results.Median("redrive", compare.Rate))
	for _, peer := range []string{"producer", "relay"} {
		fmt.Printf("ratio redrive/%s %.2f\n", peer, results.Median("redrive", compare.Rate)/results.Median(peer, compare.Rate))
	}
	return nil
}

// measureRound measures everyone on topics that nobody has used, and without brokers on one that nobody has, or its memory
// would fill up.
func measureRound(ctx context.Context, results compare.Results, brokers string, round, messages int) error {
	run := fmt.Sprintf("bench-%d-%d", time.Now().Unix(), round)
	if brokers == "" {
		addrs, stop, err := compare.Serve(ctx, "-role", "broker", "-run", run, "-messages", fmt.Sprint(messages))
		if err != nil {
			return err
		}
		defer stop()
		brokers = addrs
	} else if err := prepare(ctx, strings.Split(brokers, ","), run, messages); err != nil {
		return err
	}
	names := []string{"producer", "redrive", "relay", "topic", "spool", "spool-one"}
	for i := range names {
		name := names[(i+round)%len(names)] // Nobody is always first.
		n := messages
		if name == "spool-one" {
			n /= loneShare
		}
		s, err := compare.Run(ctx, "-role", name, "-brokers", brokers, "-messages", fmt.Sprint(n), "-run", run)
		if err != nil {
			return err
		}
		results[name] = append(results[name], s)
	}
	return nil
}
