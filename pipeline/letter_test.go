package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/pipeline"
)

func TestLetterThatWaitsStopsItsOwnPartitionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 2), &letterBox{away: errAway}, newStore(t)
		s.refuse(holdfast.Permanent(errAway), 0)
		b.produce(0, "0")
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Minute)
		b.produce(0, "1")
		b.produce(1, "2")
		time.Sleep(time.Hour)
		if got := s.stored(); !slices.Equal(got, []int{2}) || b.committed(1) != 1 {
			t.Errorf("stored %v, partition 1 committed %d", got, b.committed(1))
		}
		b.mustGiveUp(0)
		box.setAway(nil)
		time.Sleep(time.Minute)
		r.mustStop(t)
		if b.committed(0) != 2 || !slices.Equal(box.of(dlq.Permanent), []int64{0}) {
			t.Errorf("partition 0 committed %d, letters %+v", b.committed(0), box.letters)
		}
	})
}

func TestLetterDoesNotWaitForTheRestOfItsFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		slow := work(func(_ context.Context, n int) (int, error) {
			time.Sleep(10 * time.Second)
			return n, nil
		}, pipeline.StageConfig{})
		for _, v := range []string{"0", "poison", "2", "3", "4", "5"} {
			b.produce(0, v)
		}
		r := startWith(t, b, slow, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(12 * time.Second)
		if box.len() != 1 || b.committed(0) != 2 {
			t.Errorf("%d letters, committed %d", box.len(), b.committed(0))
		}
		r.mustStop(t)
	})
}

// A letter that the queue refuses, being too large for it, is tried again by itself.
func TestLettersBesideARefusedOneAreWrittenOnce(t *testing.T) {
	for name, inSink := range map[string]bool{"refused by a stage": false, "refused by the sink": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, s := newBroker(t, "orders", 1), newStore(t)
				written := make(map[int64]int)
				tries := 0
				box := boxFunc(func(_ context.Context, letters ...dlq.Letter) error {
					refused := make(map[int]error)
					for i, l := range letters {
						if l.Message.Offset == 4 {
							tries++
							refused[i] = errAway
							continue
						}
						written[l.Message.Offset]++
					}
					if len(refused) > 0 {
						return &holdfast.BatchError{Items: refused}
					}
					return nil
				})
				s.refuse(holdfast.Permanent(errAway), numbers(10)...)
				for i := range 10 {
					value := "poison"
					if inSink {
						value = fmt.Sprint(i)
					}
					b.produce(0, value)
				}
				r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
				time.Sleep(24 * time.Hour)
				synctest.Wait()
				for offset, n := range written {
					if n != 1 {
						t.Errorf("the letter about %d was written %d times", offset, n)
					}
				}
				if len(written) < 4 || tries < 1000 || b.committed(0) != 4 { // Not all have been taken on, with 4 waiting.
					t.Errorf("%d letters written, %d tries of the refused one, committed %d", len(written), tries, b.committed(0))
				}
				r.mustStop(t)
			})
		})
	}
}

// hesitant takes nothing at first, and then half of what it is given.
type hesitant struct {
	mu      sync.Mutex
	tries   int
	offsets []int64
}

func (h *hesitant) Write(_ context.Context, letters ...dlq.Letter) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tries++; h.tries < 5 {
		return errAway
	}
	refused := make(map[int]error)
	for i, l := range letters {
		if i > len(letters)/2 {
			refused[i] = errAway
			continue
		}
		h.offsets = append(h.offsets, l.Message.Offset)
	}
	if len(refused) == 0 {
		return nil
	}
	return &holdfast.BatchError{Items: refused}
}

func TestLettersAreWrittenInOrder(t *testing.T) {
	for name, c := range map[string]struct {
		value string // Of every message.
		stage bool
	}{
		"undecodable":       {value: "poison"},
		"rejected by stage": {value: "1", stage: true},
		"rejected by sink":  {value: "1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &hesitant{}, newStore(t)
				circuit, steps := s.breaker, number()
				if c.stage {
					circuit = newBreaker(t, "guard")
					steps = work(pass, pipeline.StageConfig{Breaker: circuit})
				}
				circuit.ForceOpen()
				for range 60 {
					b.produce(0, c.value)
				}
				r := startWith(t, b, steps, s, pipeline.Config{DeadLetters: box, Batch: pipeline.BatchConfig{Count: 17}, MaxLettersPerSecond: 25, Logger: quiet()})
				time.Sleep(time.Hour)
				r.mustStop(t)
				if len(box.offsets) != 60 || !slices.IsSorted(box.offsets) || b.committed(0) != 60 {
					t.Errorf("letters %v, committed %d", box.offsets, b.committed(0))
				}
			})
		})
	}
}

func TestPanickingDeadLetterQueueIsAway(t *testing.T) {
	for name, open := range map[string]bool{"undecodable": false, "circuit open": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, s := newBroker(t, "orders", 1), newStore(t)
				if b.produce(0, "poison"); open {
					b.partitions[0].log[0].Value = []byte("0")
					s.breaker.ForceOpen()
				}
				panics := 0
				box := boxFunc(func(context.Context, ...dlq.Letter) error {
					if panics < 5 {
						panics++
						panic("box")
					}
					return nil
				})
				r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
				time.Sleep(1500 * time.Millisecond)
				synctest.Wait()
				if h := r.Health(); b.committed(0) != 0 || !strings.Contains(asJSON(h), "panic: box") {
					t.Errorf("committed %d, health %+v", b.committed(0), h)
				}
				time.Sleep(time.Hour)
				r.mustStop(t)
				if panics != 5 || b.committed(0) != 1 {
					t.Errorf("committed %d after %d panics", b.committed(0), panics)
				}
			})
		})
	}
}

// A queue's word about some letters does not count for the others when something else failed beside.
func TestLettersOfAFailureBesideAreNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroker(t, "orders", 1), newStore(t)
		var tries atomic.Int32
		box := boxFunc(func(_ context.Context, letters ...dlq.Letter) error {
			if tries.Add(1) > 1 {
				return nil
			}
			return errors.Join(&holdfast.BatchError{Items: map[int]error{len(letters) - 1: errAway}}, errAway)
		})
		s.refuse(holdfast.Permanent(errAway), 0, 1)
		b.produce(0, "0")
		b.produce(0, "1")
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(1020 * time.Millisecond)
		synctest.Wait()
		if n := tries.Load(); n != 1 || b.committed(0) != 0 {
			t.Errorf("committed %d after %d tries, want none after the first", b.committed(0), n)
		}
		time.Sleep(time.Minute)
		r.mustStop(t)
		if b.committed(0) != 2 {
			t.Errorf("committed %d, want 2", b.committed(0))
		}
	})
}

// A pipeline that consumed its own dead-letter topic would write letters about letters without end.
func TestPipelineDoesNotFeedOnItsLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroker(t, "orders.dlq", 1), newStore(t)
		box := &letterBox{into: b}
		b.produce(0, "poison")
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		if err := <-r.done; err == nil || !strings.Contains(err.Error(), "orders.dlq is the topic that letters go to") {
			t.Errorf("Run returned %v", err)
		}
		if box.len() != 0 || b.committed(0) != 0 {
			t.Errorf("%d letters, committed %d", box.len(), b.committed(0))
		}
	})
}

type codeError struct{ code int }

func (e *codeError) Error() string { return fmt.Sprint(e.code) }

// The text of a typed nil error cannot be had.
func TestTypedNilErrorHasALetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		stage := work(func(_ context.Context, n int) (int, error) {
			var none *codeError
			return n, none
		}, pipeline.StageConfig{})
		b.produce(0, "0")
		r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Minute)
		r.mustStop(t)
		if box.len() != 1 || box.letters[0].Error != "*pipeline_test.codeError" || b.committed(0) != 1 {
			t.Errorf("letters %+v, committed %d", box.letters, b.committed(0))
		}
	})
}

func TestNilContextHasALetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		b.produce(0, "0")
		none := func(context.Context, holdfast.Message) context.Context { return nil }
		r := start(t, b, s, pipeline.Config{DeadLetters: box, Context: none, Logger: quiet()})
		time.Sleep(time.Minute)
		r.mustStop(t)
		if box.len() != 1 || !strings.Contains(box.letters[0].Error, "nil context") || box.letters[0].Stage != "context" || b.committed(0) != 1 {
			t.Errorf("letters %+v, committed %d", box.letters, b.committed(0))
		}
	})
}

// A panic's stack is in its letter when asked for, and takes no more room than headers have for it, however deep it is.
func TestStackIsInTheLetterWhenAskedForAndCapped(t *testing.T) {
	for name, asked := range map[string]bool{"asked for": true, "by default": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				var dive func(depth int)
				dive = func(depth int) {
					if depth == 0 {
						panic("deep")
					}
					dive(depth - 1)
				}
				stage := work(func(context.Context, int) (int, error) {
					dive(1000)
					return 0, nil
				}, pipeline.StageConfig{})
				b.produce(0, "0")
				r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Stacks: asked, Logger: quiet()})
				time.Sleep(time.Minute)
				r.mustStop(t)
				header := ""
				for _, h := range dlq.Encode(box.letters[0]).Headers {
					if h.Key == dlq.HeaderErrorStack {
						header = string(h.Value)
					}
				}
				if len(header) > 4096 || strings.Contains(header, "TestStackIsInTheLetter") != asked {
					t.Errorf("the stack's header, of %d bytes, is\n%s", len(header), header)
				}
			})
		})
	}
}
