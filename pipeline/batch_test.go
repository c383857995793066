package pipeline_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/pipeline"
)

// written notes when batches came, and of how many items.
type written struct {
	began time.Time
	at    []time.Duration
	items []int
}

func (w *written) Write(_ context.Context, b holdfast.Batch[int]) error {
	w.at = append(w.at, time.Since(w.began))
	w.items = append(w.items, len(b.Items))
	return nil
}

// A batch is written when one of its bounds is reached, and not before.
func TestBatchIsWrittenAtItsBounds(t *testing.T) {
	const size = 256 + 1 // Of a message of one digit, as BatchConfig counts it.
	for name, c := range map[string]struct {
		cfg   pipeline.BatchConfig
		items []int
		at    []time.Duration
	}{
		"count": {pipeline.BatchConfig{Count: 4, Delay: time.Hour}, []int{4, 4, 2}, []time.Duration{0, 0, time.Hour}},
		// A fetch of ten is charged to its first message, so the batch is full with it, and takes what is there already.
		"bytes":    {pipeline.BatchConfig{Bytes: 10 * size, Delay: time.Hour}, nil, []time.Duration{0}},
		"time":     {pipeline.BatchConfig{Delay: 3 * time.Second}, []int{10}, []time.Duration{3 * time.Second}},
		"default":  {pipeline.BatchConfig{}, []int{10}, []time.Duration{time.Second}},
		"no delay": {pipeline.BatchConfig{Delay: -1, Count: 10, Writers: 1}, nil, []time.Duration{0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, w := newBroker(t, "orders", 1), &written{began: time.Now()}
				for range 10 {
					b.produce(0, "1")
				}
				r := start(t, b, w, pipeline.Config{Batch: c.cfg, Logger: quiet()})
				time.Sleep(2 * time.Hour)
				r.mustStop(t)
				sum := 0
				for _, n := range w.items {
					sum += n
				}
				if sum != 10 || (c.items != nil && !slices.Equal(w.items, c.items)) {
					t.Errorf("batches of %v, want %v", w.items, c.items)
				}
				got, want := slices.Compact(slices.Clone(w.at)), slices.Compact(c.at)
				if !slices.Equal(got[:min(len(got), len(want))], want) {
					t.Errorf("written at %v, want %v first", w.at, want)
				}
			})
		})
	}
}

// A partition that may have no more in flight does not wait for its batch to fill: nothing is to come. That goes for all of it,
// on however many lanes it comes.
func TestBatchDoesNotWaitForMoreThanMayBeInFlight(t *testing.T) {
	for _, order := range []pipeline.Order{pipeline.ByPartition, pipeline.ByKey, pipeline.Unordered} {
		for _, most := range []int{1, 7} {
			t.Run(fmt.Sprint(order, most), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b, s := newBroker(t, "orders", 3), newStore(t)
					for i := range 150 {
						b.produceKeyed(i%3, fmt.Sprint(i), fmt.Sprint(i))
					}
					slow := work(func(_ context.Context, n int) (int, error) {
						time.Sleep(time.Duration(n%10) * time.Millisecond)
						return n, nil
					}, pipeline.StageConfig{})
					cfg := pipeline.Config{Order: order, MaxInFlight: most, Batch: pipeline.BatchConfig{Delay: time.Hour}, Logger: quiet()}
					r := startWith(t, b, slow, s, cfg)
					time.Sleep(30 * time.Minute)
					if got := len(s.stored()); got < 150-3*most { // The last of each partition may wait.
						t.Errorf("%d stored of 150", got)
					}
					r.mustStop(t)
				})
			})
		}
	}
}

// Bounds that are as large as numbers are bound nothing.
func TestLargestBoundsAreNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroker(t, "orders", 1), &slowStore{}
		slow := work(func(_ context.Context, n int) (int, error) {
			time.Sleep(time.Millisecond)
			return n, nil
		}, pipeline.StageConfig{})
		b.produce(0, "0")
		cfg := pipeline.Config{Batch: pipeline.BatchConfig{Count: math.MaxInt, Bytes: math.MaxInt, Delay: -1}, Logger: quiet()}
		r := startWith(t, b, slow, s, cfg)
		time.Sleep(500 * time.Millisecond) // It is being written.
		for range 100 {
			b.produce(0, "1")
		}
		time.Sleep(time.Minute)
		r.mustStop(t)
		if !slices.Equal(s.sizes, []int{1, 100}) {
			t.Errorf("batches of %v items, want all that came meanwhile in one", s.sizes)
		}
	})
}

// While a batch is being written the next is fetched and goes through the stages.
func TestFetchingStagesAndWritingOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroker(t, "orders", 1), &slowStore{}
		decoded := 0
		stage := work(func(_ context.Context, n int) (int, error) {
			time.Sleep(100 * time.Millisecond) // As long for ten as the sink takes.
			decoded++
			return n, nil
		}, pipeline.StageConfig{})
		for i := range 200 {
			b.produce(0, fmt.Sprint(i))
		}
		began := time.Now()
		r := startWith(t, b, stage, s, pipeline.Config{Batch: pipeline.BatchConfig{Count: 10}, Logger: quiet()})
		for b.committed(0) < 200 && time.Since(began) < time.Minute {
			time.Sleep(50 * time.Millisecond)
		}
		if took := time.Since(began); took > 25*time.Second {
			t.Errorf("20 batches took %v, want 20 s of stages and 1 s of the last write, not 40 s", took)
		}
		r.mustStop(t)
	})
}

// Several batches of one partition are on their way where its order allows.
func TestBatchesOfOnePartitionAreWrittenSideBySide(t *testing.T) {
	for order, want := range map[pipeline.Order]int{pipeline.ByPartition: 1, pipeline.ByKey: 2, pipeline.Unordered: 3} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, s := newBroker(t, "orders", 1), &slowStore{}
				for i := range 400 {
					b.produceKeyed(0, fmt.Sprint(i%100), fmt.Sprint(i))
				}
				r := start(t, b, s, pipeline.Config{Order: order, Lanes: 2, Batch: pipeline.BatchConfig{Count: 5, Writers: 3}, Logger: quiet()})
				time.Sleep(10 * time.Minute)
				r.mustStop(t)
				if got := sorted(s.rows); s.most != want || !slices.Equal(got, numbers(400)) || b.committed(0) != 400 {
					t.Errorf("%d batches at a time, want %d; %d stored, committed %d", s.most, want, len(got), b.committed(0))
				}
			})
		})
	}
}

type traceKey struct{}

// What Config.Context puts into a message's context is there in every stage, and in each attempt.
func TestContextHookReachesEveryStage(t *testing.T) {
	for name, order := range map[string]pipeline.Order{"by partition": pipeline.ByPartition, "by key": pipeline.ByKey} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, s := newBroker(t, "orders", 1), newStore(t)
				var mu sync.Mutex
				seen := make(map[string]int)
				traced := func(stage string, fails int) func(context.Context, int) (int, error) {
					return func(ctx context.Context, n int) (int, error) {
						mu.Lock()
						defer mu.Unlock()
						key := fmt.Sprint(stage, " ", n, " ", ctx.Value(traceKey{}))
						if seen[key]++; seen[key] <= fails {
							return 0, errAway
						}
						return n, nil
					}
				}
				stage := pipeline.Then(work(traced("first", 2), pipeline.StageConfig{}),
					pipeline.Map("second", traced("second", 0), pipeline.StageConfig{Timeout: time.Minute, Breaker: newBreaker(t, "second")}))
				for i := range 3 {
					b.produce(0, fmt.Sprint(i))
				}
				r := startWith(t, b, stage, s, pipeline.Config{
					Order: order, Logger: quiet(),
					Context: func(ctx context.Context, m holdfast.Message) context.Context {
						return context.WithValue(ctx, traceKey{}, fmt.Sprint("trace of ", m.Offset))
					},
				})
				time.Sleep(time.Minute)
				r.mustStop(t)
				for n := range 3 {
					for stage, calls := range map[string]int{"first": 3, "second": 1} {
						if got := seen[fmt.Sprint(stage, " ", n, " trace of ", n)]; got != calls {
							t.Errorf("stage %s had the context of message %d in %d calls, want %d; seen %v", stage, n, got, calls, seen)
						}
					}
				}
			})
		})
	}
}
