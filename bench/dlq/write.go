package main

import (
	"context"
	"os"
	"sync"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/bench/internal/compare"
	"github.com/holdfast-io/holdfast/dlq"
)

const (
	writeBatch  = 500 // How many letters a pipeline's claim writes at once, at the most.
	loneWriters = 64  // How many write one letter at a time,
	loneShare   = 20  // and which share of all letters.
)

// write dead-letters all messages, each partition by a goroutine of its own, as a pipeline's claims do.
func write(ctx context.Context, producer dlq.Producer, run string, messages int) (compare.Sample, error) {
	topic, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: run + written})
	if err != nil {
		return compare.Sample{}, err
	}
	byPartition := make([][]dlq.Letter, partitions)
	for i := range messages {
		m := message(run, i)
		byPartition[m.Partition] = append(byPartition[m.Partition], letter(m))
	}
	meter := compare.Start()
	err = each(byPartition, writeBatch, func(some []dlq.Letter) error { return topic.Write(ctx, some...) })
	return meter.Stop(messages), err
}

// spool keeps all letters on the disk, so many in a call, by so many goroutines. The directory is on the disk of the
// working directory: /tmp may be memory.
func spool(ctx context.Context, run string, messages, writers, batch int) (s compare.Sample, err error) {
	dir, err := os.MkdirTemp(".", ".spool-")
	if err != nil {
		return s, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	disk, err := dlq.OpenSpool(dir, dlq.SpoolConfig{MaxBytes: 8 << 30})
	if err != nil {
		return s, err
	}
	defer func() { _ = disk.Close() }()
	byWriter := make([][]holdfast.Message, writers)
	for i := range messages {
		m := message(run, i)
		r := dlq.Encode(letter(m))
		r.Topic, r.Partition = run+written, m.Partition
		byWriter[i%writers] = append(byWriter[i%writers], r)
	}
	meter := compare.Start()
	err = each(byWriter, batch, func(some []holdfast.Message) error { return disk.Append(ctx, some...) })
	return meter.Stop(messages), err
}

// each hands out what the writers have, side by side, n at a time.
func each[T any](byWriter [][]T, n int, do func([]T) error) error {
	errs := make(chan error, len(byWriter))
	var writers sync.WaitGroup
	for _, own := range byWriter {
		writers.Go(func() {
			for len(own) > 0 {
				some := own[:min(n, len(own))]
				own = own[len(some):]
				if err := do(some); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	writers.Wait()
	close(errs)
	return <-errs // The first, or nil.
}
