package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/pipeline"
)

// away is a sink whose circuit is open.
type away struct{ *breaker.Breaker }

func (a away) Write(ctx context.Context, _ holdfast.Batch[order]) error {
	return a.Execute(ctx, func(context.Context) error { return nil })
}

// paused has a pipeline wait for an open circuit, with a full topic before it, and says how its memory grows meanwhile.
func paused(ctx context.Context, brokers []string, outage time.Duration) error {
	circuit, err := breaker.New(breaker.Config{Name: "sink"})
	if err != nil {
		return err
	}
	circuit.ForceOpen()
	p, err := newPipeline(brokers, "paused", bulk, away{circuit}, pipeline.Config{DeadLetterAfter: -1})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	time.Sleep(outage / 12)
	runtime.GC()
	before, err := resident()
	if err != nil {
		return err
	}
	time.Sleep(outage - outage/12)
	after, err := resident()
	if err != nil {
		return err
	}
	fmt.Printf("resident pipeline.paused %.0f MiB after %v, %.0f MiB after %v\n", before, outage/12, after, outage)
	fmt.Printf("ratio pipeline.paused.memory %.2f\n", after/before)
	stop()
	return <-done
}

// resident is this process's memory, in MiB.
func resident() (float64, error) {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var size, pages int
	if _, err := fmt.Sscan(string(statm), &size, &pages); err != nil {
		return 0, err
	}
	return float64(pages*os.Getpagesize()) / (1 << 20), nil
}
