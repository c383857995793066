// Insert measures what it costs to store rows in a ClickHouse server, with Holdfast's Inserter and by the driver's own
// means. Each measurement is a process of its own. It wants a real server, in HOLDFAST_CLICKHOUSE. See ../README.md.
//
//	go run ./insert
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast/bench/internal/compare"
)

// work is one table and one size of batches.
type work struct {
	name   string
	engine string
	batch  int
}

func works() []work {
	const mergeTree = "MergeTree ORDER BY id"
	return []work{
		{"mergetree-10000", mergeTree, 10_000},
		{"mergetree-100000", mergeTree, 100_000},
		{"null-10000", "Null", 10_000},
		{"null-100000", "Null", 100_000},
	}
}

func main() {
	log.SetFlags(0)
	name := flag.String("contender", "", "measure this one only, into the table bench_insert; empty compares all")
	batch := flag.Int("batch", 100_000, "rows of a batch, for a contender")
	rows := flag.Int("rows", 2_000_000, "rows to insert in one measurement")
	rounds := flag.Int("rounds", 7, "rounds to measure")
	flag.Parse()
	addr := os.Getenv("HOLDFAST_CLICKHOUSE")
	var err error
	switch {
	case addr == "":
		err = errors.New("HOLDFAST_CLICKHOUSE must be a server's address: make servers-up")
	case *name == "":
		err = compareAll(context.Background(), addr, *rows, *rounds)
	default:
		err = contend(context.Background(), addr, *name, *rows, *batch)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func compareAll(ctx context.Context, addr string, rows, rounds int) error {
	results := make(map[string]compare.Results)
	names := contenderNames()
	for round := range rounds {
		for _, w := range works() {
			if results[w.name] == nil {
				results[w.name] = make(compare.Results)
			}
			for i := range names {
				name := names[(i+round)%len(names)] // Nobody is always first.
				s, err := measure(ctx, addr, w, name, rows)
				if err != nil {
					return err
				}
				results[w.name][name] = append(results[w.name][name], s)
			}
		}
	}
	for _, w := range works() {
		results[w.name].Table(w.name)
	}

	ratio := func(name, work, peer string, of func(compare.Sample) float64) {
		fmt.Printf("ratio %s %.2f\n", name, results[work].Median("holdfast", of)/results[work].Median(peer, of))
	}
	ratio("insert/driver", "mergetree-10000", "driver", compare.Rate)
	ratio("insert.null/driver", "null-100000", "driver", compare.Rate)
	ratio("insert.null/struct", "null-100000", "struct", compare.Rate)
	ratio("insert.cpu/driver", "mergetree-10000", "driver", compare.CPUPerMillion)
	return nil
}

// measure runs one contender on a fresh table.
func measure(ctx context.Context, addr string, w work, contender string, rows int) (compare.Sample, error) {
	if err := createTable(ctx, addr, w.engine); err != nil {
		return compare.Sample{}, err
	}
	return compare.Run(ctx, "-contender", contender, "-rows", fmt.Sprint(rows), "-batch", fmt.Sprint(w.batch))
}

// createTable drops the last one first, so that the server has nothing of it left to merge.
func createTable(ctx context.Context, addr, engine string) error {
	ch, err := clickhouse.Open(options(addr))
	if err != nil {
		return err
	}
	defer ch.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := ch.Exec(ctx, "DROP TABLE IF EXISTS bench_insert"); err != nil {
		return err
	}
	return ch.Exec(ctx, "CREATE TABLE bench_insert (id UInt64, customer String, amount Float64, at DateTime) ENGINE = "+engine)
}

// options are the same for every contender: those of the driver, no compression.
func options(addr string) *clickhouse.Options {
	return &clickhouse.Options{Addr: []string{addr}}
}
