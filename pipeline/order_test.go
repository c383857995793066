package pipeline_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/pipeline"
)

// Rule 9: a key does not overtake itself, through retries, and others do not wait for it.
func TestKeysKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 2), &letterBox{}, newStore(t)
		var mu sync.Mutex
		tries := 0
		stage := work(func(_ context.Context, n int) (int, error) {
			if n != 0 {
				return n, nil
			}
			mu.Lock()
			defer mu.Unlock()
			if tries++; tries < 5 {
				return 0, holdfast.Hold(errAway)
			}
			return n, nil
		}, pipeline.StageConfig{})
		for i := range 600 { // Key k has k, k+6, k+12, ...
			b.produceKeyed(i%2, fmt.Sprint(i%6), fmt.Sprint(i))
		}
		r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Order: pipeline.ByKey, Batch: pipeline.BatchConfig{Count: 7, Delay: 10 * time.Millisecond}, Logger: quiet()})
		time.Sleep(200 * time.Millisecond)
		if n := len(s.stored()); n < 300 || b.committed(0) != 0 {
			t.Errorf("%d stored behind a key that is held, committed %d", n, b.committed(0))
		}
		time.Sleep(time.Minute)
		r.mustStop(t)
		last := map[int]int{}
		for _, n := range s.stored() {
			if was, ok := last[n%6]; ok && n != was+6 {
				t.Errorf("key %d: %d is stored after %d", n%6, n, was)
			}
			last[n%6] = n
		}
		if got := sorted(s.stored()); !slices.Equal(got, numbers(600)) || b.committed(0) != 300 || b.committed(1) != 300 {
			t.Errorf("%d stored, committed %d and %d", len(got), b.committed(0), b.committed(1))
		}
	})
}

func TestUnorderedMessagesDoNotWaitForEachOther(t *testing.T) {
	for name, c := range map[string]struct {
		order pipeline.Order
		keys  bool
		want  int // How many are stored while one is held.
	}{
		"unordered":           {pipeline.Unordered, false, 99},
		"unordered with keys": {pipeline.Unordered, true, 99},
		"by partition":        {pipeline.ByPartition, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				mended := time.Now().Add(time.Minute)
				stage := work(func(_ context.Context, n int) (int, error) {
					if n == 0 && time.Now().Before(mended) {
						return 0, holdfast.Hold(errAway)
					}
					return n, nil
				}, pipeline.StageConfig{})
				for i := range 100 {
					key := ""
					if c.keys {
						key = "same"
					}
					b.produceKeyed(0, key, fmt.Sprint(i))
				}
				r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Order: c.order, Lanes: 3, Logger: quiet()})
				time.Sleep(30 * time.Second)
				if n := len(s.stored()); n != c.want || b.committed(0) != 0 {
					t.Errorf("%d stored, want %d; committed %d", n, c.want, b.committed(0))
				}
				time.Sleep(10 * time.Minute)
				r.mustStop(t)
				if got := sorted(s.stored()); !slices.Equal(got, numbers(100)) || b.committed(0) != 100 {
					t.Errorf("stored %v, committed %d", got, b.committed(0))
				}
			})
		})
	}
}

// slowStore takes a second for a batch, and notes how many it writes at a time, and which partitions side by side.
type slowStore struct {
	mu      sync.Mutex
	writing []int // Partitions.
	most    int
	twice   bool // A partition was in two batches at a time.
	sizes   []int
	spans   int
	rows    []int
}

func (s *slowStore) Write(_ context.Context, b holdfast.Batch[int]) error {
	s.mu.Lock()
	s.sizes = append(s.sizes, len(b.Items))
	s.spans = max(s.spans, len(b.Spans))
	var mine []int
	for _, span := range b.Spans {
		s.twice = s.twice || slices.Contains(s.writing, span.Partition)
		mine = append(mine, span.Partition)
	}
	s.writing = append(s.writing, mine...)
	s.most = max(s.most, len(s.writing))
	s.mu.Unlock()
	time.Sleep(time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = slices.DeleteFunc(s.writing, func(p int) bool { return slices.Contains(mine, p) })
	for _, item := range b.Items {
		s.rows = append(s.rows, item.Value)
	}
	return nil
}

func TestBatchesOfDifferentPartitionsAreWrittenSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 8), &letterBox{}, &slowStore{}
		for i := range 800 {
			b.produce(i%8, fmt.Sprint(i))
		}
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Batch: pipeline.BatchConfig{Count: 10, Writers: 4}, Logger: quiet()})
		time.Sleep(time.Minute)
		r.mustStop(t)
		if got := sorted(s.rows); !slices.Equal(got, numbers(800)) || s.twice || s.most < 4 {
			t.Errorf("%d stored, %d partitions at a time, one twice: %v", len(got), s.most, s.twice)
		}
	})
}

// Quiet partitions share a batch, unless the sink asks for one of each.
func TestQuietPartitionsShareABatch(t *testing.T) {
	for name, alone := range map[string]bool{"together": false, "one span each": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 20), &letterBox{}, &slowStore{}
				var sink pipeline.Sink[int] = s
				want := []int{20}
				if alone {
					sink, want = oneSpan{s}, slices.Repeat([]int{1}, 20)
				}
				for i := range 20 {
					b.produce(i, fmt.Sprint(i))
				}
				r := start(t, b, sink, pipeline.Config{DeadLetters: box, Logger: quiet()})
				time.Sleep(time.Minute)
				r.mustStop(t)
				if !slices.Equal(s.sizes, want) || s.spans != 20/len(want) {
					t.Errorf("batches of %v items and up to %d spans", s.sizes, s.spans)
				}
			})
		})
	}
}

// oneSpan is a sink that wants batches of one partition.
type oneSpan struct{ pipeline.Sink[int] }

func (oneSpan) OneSpan() bool { return true }

// A partition that waits in the sink does not crowd out the others.
func TestWaitingPartitionLeavesRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 2), &letterBox{}, newStore(t)
		for i := range 1000 {
			b.produce(0, "0")
			b.produce(1, fmt.Sprint(i+1))
		}
		s.do(func(_ int, batch holdfast.Batch[int]) error {
			refused := make(map[int]error)
			for i, item := range batch.Items {
				if item.Value == 0 {
					refused[i] = holdfast.Hold(errAway)
				}
			}
			if len(refused) > 0 {
				return &holdfast.BatchError{Items: refused}
			}
			return nil
		})
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Batch: pipeline.BatchConfig{Count: 20}, Logger: quiet()})
		time.Sleep(5 * time.Minute)
		if b.committed(0) != 0 || b.committed(1) != 1000 {
			t.Errorf("committed %d and %d, want 0 and 1000", b.committed(0), b.committed(1))
		}
		r.mustStop(t)
	})
}

// When the circuit would admit a call, the oldest batch makes it, whichever partition it is of, and no other does before
// the sink has answered.
func TestOldestBatchProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 5), &letterBox{}, newStore(t)
		s.breaker.ForceOpen()
		r := start(t, b, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Batch: pipeline.BatchConfig{Count: 1, Writers: 5}, Logger: quiet()})
		for _, p := range []int{3, 1, 4, 0, 2} {
			b.produce(p, fmt.Sprint(p))
			time.Sleep(time.Minute)
		}
		var calls []int
		s.do(func(_ int, batch holdfast.Batch[int]) error {
			calls = append(calls, batch.Items[0].Value)
			if len(calls) < 4 {
				return errAway
			}
			return nil
		})
		s.breaker.Reset()
		time.Sleep(time.Hour)
		r.mustStop(t)
		if len(calls) != 8 || !slices.Equal(calls[:4], []int{3, 3, 3, 3}) || b.committed(2) != 1 {
			t.Errorf("called for partitions %v, want the oldest batch, of 3, until it is answered", calls)
		}
	})
}

// A partition that has as much waiting as it may, behind its batch on its way, does not have others written bit by bit.
func TestFullPartitionLeavesOthersTheirBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, batches := newBroker(t, "orders", 2), 0
		sink := sinkFunc(func(ctx context.Context, batch holdfast.Batch[int]) error {
			if batch.Items[0].Source.Partition == 0 {
				<-ctx.Done() // Until the end.
				return ctx.Err()
			}
			batches++
			return nil
		})
		for range 100 {
			b.produce(0, "1")
		}
		cfg := pipeline.Config{Batch: pipeline.BatchConfig{Count: 20, Delay: 10 * time.Second}, DrainTimeout: time.Second, Logger: quiet()}
		r := start(t, b, sink, cfg)
		for range 100 {
			time.Sleep(time.Second)
			b.produce(1, "1")
		}
		if batches < 9 || batches > 11 {
			t.Errorf("%d batches in 100 s of a message each, want one in 10 s", batches)
		}
		_ = r.stop()
	})
}
