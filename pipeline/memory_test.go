package pipeline_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/pipeline"
)

// Rule 8: a message keeps the whole of its fetch in memory. When nearly all of a fetch is skipped, the few messages that
// stay count for all of it.
func TestSparseFilterIsChargedForItsFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		s.breaker.ForceOpen()
		const size, fetch = 1000, 10 // Bytes of a message, messages of a fetch.
		for i := range 2000 {
			b.produce(0, fmt.Sprintf("%*d", size, i))
		}
		tenth := work(func(_ context.Context, n int) (int, error) {
			if n%fetch != 0 {
				return 0, holdfast.ErrSkip
			}
			return n, nil
		}, pipeline.StageConfig{})
		r := startWith(t, b, tenth, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Batch: pipeline.BatchConfig{Bytes: 10 * fetch * size}, Logger: quiet()})
		time.Sleep(time.Hour)
		if b.fetched() > 21*fetch || b.fetched() < 12*fetch {
			t.Errorf("%d messages of %d bytes fetched, with two batches of %d bytes each", b.fetched(), size, 10*fetch*size)
		}
		s.breaker.Reset()
		time.Sleep(10 * time.Minute)
		r.mustStop(t)
		if got := s.stored(); len(got) != 200 || !slices.IsSorted(got) || b.committed(0) != 2000 {
			t.Errorf("stored %v, committed %d", got, b.committed(0))
		}
	})
}

// Rule 8: what comes after a held batch may be dead-lettered, but has to be remembered for as long as that is held.
func TestSpanBehindAHeldBatchIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		s.do(func(int, holdfast.Batch[int]) error { return holdfast.Ambiguous(errAway) })
		for i := range 1000 {
			b.produce(0, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, MaxInFlight: 100, Batch: pipeline.BatchConfig{Count: 7}, Logger: quiet()})
		time.Sleep(time.Hour)
		if b.fetched() > 110 || box.len() < 90 || b.committed(0) != 0 {
			t.Errorf("%d messages fetched, %d letters, committed %d", b.fetched(), box.len(), b.committed(0))
		}
		s.do(nil)
		time.Sleep(24 * time.Hour)
		r.mustStop(t)
		if b.committed(0) != 1000 || len(s.stored())+box.len() != 1000 {
			t.Errorf("committed %d, %d stored, %d letters", b.committed(0), len(s.stored()), box.len())
		}
	})
}

// A burst leaves nothing behind: what its messages took is free again, though their partition stays claimed.
func TestBurstsLeaveNoMemory(t *testing.T) {
	type row [1 << 10]byte
	synctest.Test(t, func(t *testing.T) {
		const partitions, burst = 20, 2000
		b := newBroker(t, "orders", partitions)
		stage := pipeline.Map("row", func(context.Context, holdfast.Message) (row, error) { return row{}, nil }, pipeline.StageConfig{})
		p, err := pipeline.New(b, stage, nothing[row]{}, pipeline.Config{Batch: pipeline.BatchConfig{Count: burst}, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		var before int64
		for i := range partitions {
			for range burst {
				b.produce(i, "")
			}
			time.Sleep(10 * time.Second)
			if i == 0 {
				before = inUse()
			}
		}
		if grown := inUse() - before; grown > 24<<20 { // A line takes more than 2 MiB, and the broker keeps what was produced.
			t.Errorf("%d MiB more after %d bursts than after the first", grown>>20, partitions)
		}
		stop()
		if err := <-done; err != nil || p.Stats().Stored != partitions*burst {
			t.Errorf("Run returned %v, %d stored", err, p.Stats().Stored)
		}
	})
}

// nothing is a sink that keeps nothing.
type nothing[T any] struct{}

func (nothing[T]) Write(context.Context, holdfast.Batch[T]) error { return nil }

// inUse is how many bytes of memory are.
func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
