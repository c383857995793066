package main

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// work is one column of the table: the same call, made by every contender.
type work struct {
	name     string
	parallel bool
	calls    map[string]func()
}

func works(all []contender) []work {
	closed, parallel, window, open := make(map[string]func()), make(map[string]func()), make(map[string]func()), make(map[string]func())
	for _, c := range all {
		closed[c.name], parallel[c.name] = c.closed, c.closed
		if c.window != nil {
			window[c.name] = c.window
		}
		if c.open != nil {
			open[c.name] = c.open
		}
	}
	return []work{{"closed", false, closed}, {"parallel", true, parallel}, {"window", false, window}, {"open", false, open}}
}

// measure gives each contender's median of nanoseconds a call.
func measure(w work, rounds int, span time.Duration) map[string]float64 {
	names := make([]string, 0, len(w.calls))
	sizes := make(map[string]int)
	for name, call := range w.calls {
		names = append(names, name)
		sizes[name] = calibrate(call, span)
	}
	samples := make(map[string][]float64)
	for range rounds {
		rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] }) // Nobody always follows the same one.
		for _, name := range names {
			runtime.GC()
			samples[name] = append(samples[name], run(w.calls[name], sizes[name], w.parallel))
		}
	}
	medians := make(map[string]float64)
	for name, s := range samples {
		slices.Sort(s)
		medians[w.name+"/"+name] = s[len(s)/2]
	}
	return medians
}

// calibrate finds how many calls take about the span.
func calibrate(call func(), span time.Duration) int {
	n := 1000
	for {
		if ns := run(call, n, false); time.Duration(ns*float64(n)) >= span/4 {
			return max(1, int(float64(span)/ns))
		}
		n *= 2
	}
}

func run(call func(), n int, parallel bool) (nsPerCall float64) {
	workers := 1
	if parallel {
		workers = runtime.GOMAXPROCS(0)
	}
	began := time.Now()
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range n / workers {
				call()
			}
		})
	}
	all.Wait()
	return float64(time.Since(began)) / float64(n/workers*workers)
}

func allocs(call func()) float64 { return testing.AllocsPerRun(10_000, call) }

// heaps gives the live bytes of one idle breaker of each contender.
func heaps(all []contender) map[string]int {
	const instances = 20_000
	bytes := make(map[string]int)
	for _, c := range all {
		if c.make == nil {
			continue
		}
		kept := make([]any, instances)
		before := live()
		for i := range kept {
			kept[i] = c.make()
		}
		bytes[c.name] = int(live()-before) / instances
		runtime.KeepAlive(kept)
	}
	return bytes
}

func live() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
