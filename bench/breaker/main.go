// Breaker measures what a circuit breaker costs, ours and others', in one process and interleaved: every round measures
// every contender once, and a figure is the median of its rounds. See ../README.md for the settings.
//
//	go run ./breaker
package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 9, "rounds to measure")
	span := flag.Duration("span", 40*time.Millisecond, "how long one measurement takes")
	flag.Parse()
	if *rounds < 5 {
		fmt.Fprintf(os.Stderr, "-rounds must be at least 5 for a median, got %d\n", *rounds)
		os.Exit(2)
	}
	fmt.Printf("%s, %d CPUs, %d rounds of %v\n\n", runtime.Version(), runtime.GOMAXPROCS(0), *rounds, *span)

	all := contenders()
	figures := make(map[string]float64) // Median nanoseconds by "work/contender".
	for _, work := range works(all) {
		maps.Copy(figures, measure(work, *rounds, *span))
	}
	table(figures)
	heap := heaps(all)
	fmt.Println("bytes of an idle breaker")
	for _, name := range slices.Sorted(maps.Keys(heap)) {
		fmt.Printf("  %-20s %d\n", name, heap[name])
	}
	fmt.Println()

	ratio := func(name, ours, theirs string) {
		fmt.Printf("ratio %s %.2f\n", name, figures[ours]/figures[theirs])
	}
	ratio("breaker.closed/gobreaker", "closed/holdfast", "closed/gobreaker")
	ratio("breaker.closed/fastest", "closed/holdfast", fastest(figures, "closed/"))
	ratio("breaker.parallel/fastest", "parallel/holdfast", fastest(figures, "parallel/"))
	ratio("breaker.window/failsafe", "window/holdfast", "window/failsafe")
	ratio("breaker.open/gobreaker", "open/holdfast", "open/gobreaker")
	fmt.Printf("allocs breaker.closed %g\n", allocs(all[0].closed))
	fmt.Printf("allocs breaker.open %g\n", allocs(all[0].open))
	fmt.Printf("bytes breaker.idle %d\n", heap["holdfast"])
}

// fastest is the peer with the lowest figure for a work.
func fastest(figures map[string]float64, work string) string {
	best := ""
	for name, ns := range figures {
		peer := strings.HasPrefix(name, work) && name != work+"holdfast" && name != work+"floor"
		if peer && (best == "" || ns < figures[best]) {
			best = name
		}
	}
	return best
}

func table(figures map[string]float64) {
	columns := []string{"closed", "parallel", "window", "open"}
	rows := make(map[string]bool)
	for name := range figures {
		_, contender, _ := strings.Cut(name, "/")
		rows[contender] = true
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "ns/op\t%s\t\n", strings.Join(columns, "\t"))
	for _, row := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(w, "%s\t", row)
		for _, column := range columns {
			if ns, ok := figures[column+"/"+row]; ok {
				fmt.Fprintf(w, "%.1f\t", ns)
			} else {
				fmt.Fprint(w, "-\t")
			}
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
	fmt.Println()
}
