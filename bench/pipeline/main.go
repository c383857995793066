// Pipeline measures a whole pipeline against what people write by hand or take off the shelf. The broker is a
// process of its own, and so is each measurement; ClickHouse is a real server, in HOLDFAST_CLICKHOUSE. See ../README.md.
//
//	go run ./pipeline
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-io/holdfast/bench/internal/broker"
	"github.com/holdfast-io/holdfast/bench/internal/compare"
)

const (
	partitions = 8
	valueSize  = 200

	bulk  = "orders" // Holds all messages from the start.
	trail = "trail"  // Gets one now and then, for latency.
)

func main() {
	log.SetFlags(0)
	role := flag.String("role", "", "broker, or a contender; empty runs all of them")
	brokers := flag.String("brokers", "", "addresses, for a contender")
	group := flag.String("group", "", "group, for a contender")
	messages := flag.Int("messages", 1_000_000, "messages to consume")
	rounds := flag.Int("rounds", 7, "rounds to measure")
	outage := flag.Duration("outage", 2*time.Minute, "length of the outage")
	flag.Parse()
	var err error
	switch *role {
	case "":
		err = compareAll(context.Background(), *messages, *rounds, *outage)
	case "broker":
		err = serve(context.Background(), *messages)
	default:
		err = contend(*role, strings.Split(*brokers, ","), *group, *messages)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// contest is some contenders for the same work. watermill handles a tenth of the messages, since it takes so long.
type contest struct {
	name       string
	contenders []string
	messages   int
}

func compareAll(ctx context.Context, messages, rounds int, outage time.Duration) error {
	addrs, stop, err := compare.Serve(ctx, "-role", "broker", "-messages", fmt.Sprint(messages))
	if err != nil {
		return err
	}
	defer stop()
	contests := []contest{
		{"no-op sink", []string{"noop", "noop-handwritten", "noop-handwritten-decode", "noop-watermill"}, messages},
		{"latency", []string{"latency", "latency-reader"}, 500},
	}
	if os.Getenv("HOLDFAST_CLICKHOUSE") != "" {
		contests = append(contests, contest{"clickhouse", []string{"store", "store-handwritten"}, messages})
	}
	results := make(map[string]compare.Results)
	for _, c := range contests {
		results[c.name] = make(compare.Results)
		for round := range rounds {
			for i := range c.contenders {
				name := c.contenders[(i+round)%len(c.contenders)] // Nobody is always first.
				n := c.messages
				if name == "noop-watermill" {
					n /= 10
				}
				s, err := measure(ctx, name, addrs, fmt.Sprintf("%s-%d", name, round), n)
				if err != nil {
					return err
				}
				results[c.name][name] = append(results[c.name][name], s)
			}
		}
		if c.name != "latency" {
			results[c.name].Table(c.name)
		}
	}

	ratio := func(name, contest, ours, peer string, of func(compare.Sample) float64) {
		if r := results[contest]; r != nil {
			fmt.Printf("ratio %s %.2f\n", name, r.Median(ours, of)/r.Median(peer, of))
		}
	}
	ratio("pipeline.noop/handwritten", "no-op sink", "noop", "noop-handwritten", compare.Rate)
	ratio("pipeline.noop/handwritten-decode", "no-op sink", "noop", "noop-handwritten-decode", compare.Rate)
	ratio("pipeline.noop/watermill", "no-op sink", "noop", "noop-watermill", compare.Rate)
	ratio("pipeline.noop.cpu/handwritten", "no-op sink", "noop", "noop-handwritten", compare.CPUPerMillion)
	ratio("pipeline/handwritten", "clickhouse", "store", "store-handwritten", compare.Rate)
	ratio("pipeline.cpu/handwritten", "clickhouse", "store", "store-handwritten", compare.CPUPerMillion)
	for _, name := range []string{"latency", "latency-reader"} {
		fmt.Printf("p50 %s %.0f µs\n", name, results["latency"].Median(name, p50)*1e6)
	}
	ratio("pipeline.latency/reader", "latency", "latency", "latency-reader", p50)
	return paused(ctx, strings.Split(addrs, ","), outage)
}

// p50 is where a latency contender keeps what it measured.
func p50(s compare.Sample) float64 { return s.Wall.Seconds() }

// measure runs one contender, for a store on a fresh table.
func measure(ctx context.Context, name, addrs, group string, messages int) (compare.Sample, error) {
	if strings.HasPrefix(name, "store") {
		if err := createTable(ctx); err != nil {
			return compare.Sample{}, err
		}
	}
	return compare.Run(ctx, "-role", name, "-brokers", addrs, "-group", group, "-messages", fmt.Sprint(messages))
}

func createTable(ctx context.Context) error {
	ch, err := clickhouse.Open(options())
	if err != nil {
		return err
	}
	defer ch.Close()
	if err := ch.Exec(ctx, "DROP TABLE IF EXISTS bench_pipeline"); err != nil {
		return err
	}
	return ch.Exec(ctx, "CREATE TABLE bench_pipeline (id UInt64, customer String, text String) ENGINE = MergeTree ORDER BY id")
}

func options() *clickhouse.Options {
	return &clickhouse.Options{Addr: []string{os.Getenv("HOLDFAST_CLICKHOUSE")}}
}

// serve is the broker's process.
func serve(ctx context.Context, messages int) error {
	b, err := broker.Start(map[string]int{bulk: partitions, trail: 1, "poison": partitions})
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Fill(ctx, bulk, kgo.NoCompression(), messages, record); err != nil {
		return err
	}
	b.Serve()
	return nil
}

func record(i int) *kgo.Record {
	value := fmt.Appendf(nil, `{"id":%d,"customer":"c%d","text":"`, i, i%997)
	value = append(value, strings.Repeat("x", valueSize-2-len(value))...)
	value = append(value, `"}`...)
	return &kgo.Record{Partition: int32(i % partitions), Key: fmt.Appendf(nil, "k%d", i%10_000), Value: value}
}
