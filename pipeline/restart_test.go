package pipeline_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/pipeline"
)

// forgiving is a cluster that goes on when the drain of one claim has taken too long, as *kafkax.Consumer does.
type forgiving struct{ cluster }

func (f forgiving) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return f.cluster.Consume(ctx, func(claimed context.Context, c holdfast.Claim) error {
		if err := handle(claimed, c); ctx.Err() != nil {
			return err
		}
		return nil
	})
}

// That a batch may be stored is known as long as its claims are kept, and no longer. Whoever reads its messages again, after
// a restart or a rebalance, takes them for new ones: they are written again, and while a circuit is open
// Config.DeadLetterAfter decides about them as about any others. Nothing is lost by that, and nothing else gives them a letter.
func TestWhatMayBeStoredAfterARestart(t *testing.T) {
	for name, c := range map[string]struct {
		after   time.Duration // DeadLetterAfter of the second life.
		open    bool          // Whether the circuit is open when that begins.
		again   bool          // The same process gets the partition again.
		letters []int64       // Of an open circuit, in the second life.
	}{
		"the sink is well":                  {},
		"circuit open, messages wait":       {open: true, after: -1},
		"circuit open, patience lasts":      {open: true, after: time.Hour},
		"circuit open, no patience":         {open: true, letters: []int64{0, 1, 2}},
		"given up and claimed again":        {again: true},
		"claimed again, circuit open":       {again: true, open: true, after: -1},
		"claimed again without patience":    {again: true, open: true, letters: []int64{0, 1, 2}},
		"claimed again, patience is enough": {again: true, open: true, after: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				letters := newBroker(t, "orders.dlq", 1)
				b, box, s := newBroker(t, "orders", 1), &letterBox{into: letters}, newStore(t)
				s.do(func(n int, batch holdfast.Batch[int]) error {
					if n == 1 {
						s.keep(batch, nil) // Nobody hears of it.
						return holdfast.Ambiguous(errAway)
					}
					return nil
				})
				for i := range 3 {
					b.produce(0, fmt.Sprint(i))
				}
				cfg := pipeline.Config{DeadLetters: box, DeadLetterAfter: c.after, DrainTimeout: time.Second, Logger: quiet()}
				r := start(t, forgiving{cluster{b, letters}}, s, cfg)
				time.Sleep(10 * time.Second) // Its circuit is open, and the batch is held aside, whatever the patience.
				s.breaker.ForceOpen()
				if box.len() != 0 || b.committed(0) != 0 {
					t.Fatalf("letters %+v, committed %d in the first life", box.letters, b.committed(0))
				}
				if c.again {
					lose(b.owner(0))
				} else {
					_ = r.stop() // What is held is left: a *LeftError.
				}
				if !c.open {
					s.breaker.Reset()
				}
				if !c.again {
					r = start(t, forgiving{cluster{b, letters}}, s, cfg)
				}
				time.Sleep(10 * time.Minute)
				if got := box.of(dlq.CircuitOpen); !slices.Equal(got, c.letters) || box.len() != len(c.letters) {
					t.Errorf("letters about %v, want %v", got, c.letters)
				}
				s.breaker.Reset()
				time.Sleep(10 * time.Minute)
				r.mustStop(t)
				if got := s.stored(); !slices.Equal(got, []int{0, 1, 2, 0, 1, 2}) || b.committed(0) != 3 || box.len() != len(c.letters) {
					t.Errorf("stored %v, committed %d, %d letters", got, b.committed(0), box.len())
				}
			})
		})
	}
}
