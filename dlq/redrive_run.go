package dlq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast"
)

const (
	lookEvery     = time.Second // How often a run looks at what others do.
	leastFailures = 20          // Letters before their share of failures counts.
)

// run is one Run of a Redrive.
type run struct {
	*Redrive
	sorter *sorter
	pace   pace
	tally  *tally
	until  map[int]int64 // The end as it stood at the start, by partition.
	total  int64
	canary chan struct{} // Holds a token while nobody sends a letter to a half-open circuit.
	stop   context.CancelCauseFunc

	holding atomic.Int64 // Letters in hand.

	mu   sync.Mutex
	left map[int]int64 // The partitions that have letters left, and where they end.
}

// errDone is why a run ends that has come to its end.
var errDone = errors.New("dlq: the redrive has come to its end")

// Run redrives until the end of the dead-letter topic as it stood at the start. When ctx ends, it finishes what is on
// its way, commits, and returns ctx's error; the next run goes on there. It also stops when too many letters fail
// (ErrTooManyFailures), and when the target refuses to be written to, such as a topic that does not exist. The summary
// is right in any case.
func (r *Redrive) Run(ctx context.Context) (Summary, error) {
	running := &run{
		Redrive: r,
		sorter:  r.sorter(),
		pace:    newPace(r.cfg.Letters.MessagesPerSecond, r.cfg.Letters.BytesPerSecond),
		tally:   newTally(r.logger.With(slog.String("topic", r.cfg.Topic), slog.String("group", r.cfg.Group))),
		canary:  make(chan struct{}, 1),
	}
	if err := running.begin(ctx); err != nil {
		return Summary{}, fmt.Errorf("dlq: redrive of %s: %w", r.cfg.Topic, err)
	}
	if !r.current.CompareAndSwap(nil, running) {
		return Summary{}, errors.New("dlq: this Redrive runs already")
	}
	defer r.end(running)
	err := running.all(ctx)
	if err != nil {
		err = fmt.Errorf("dlq: redrive of %s: %w", r.cfg.Topic, err)
	}
	return running.tally.summary(), err
}

// Progress tells how far the current Run is: of so many records, what became of those that were read. It is all zero
// when none runs.
func (r *Redrive) Progress() (total int64, s Summary) {
	if running := r.current.Load(); running != nil {
		return running.total, running.tally.summary()
	}
	return 0, Summary{}
}

// begin finds out what there is to do.
func (r *run) begin(ctx context.Context) error {
	first, next, err := r.log.Bounds(ctx, r.cfg.Topic)
	if err != nil {
		return err
	}
	committed, err := r.log.Committed(ctx, r.cfg.Group, r.cfg.Topic)
	if err != nil {
		return err
	}
	r.until, r.left = next, make(map[int]int64)
	for p, end := range next {
		if begin := max(first[p], committed[p]); begin < end {
			r.left[p] = end
			r.total += end - begin
		}
	}
	return nil
}

// all runs until no partition has letters left.
func (r *run) all(ctx context.Context) error {
	if len(r.left) == 0 {
		return nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r.stop = stop
	var helpers sync.WaitGroup
	helpers.Go(func() { r.look(ctx) })
	err := r.consumer.ConsumeAs(ctx, r.cfg.Group, []string{r.cfg.Topic}, r.serve)
	cause := context.Cause(ctx)
	stop(nil)
	helpers.Wait()
	if err == nil && !errors.Is(cause, errDone) {
		err = cause
	}
	return err
}

// look watches what others do: members of the same group that have other partitions, whoever deletes letters, and the
// pipeline that writes letters about messages which have come home and failed again.
func (r *run) look(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	tail := maps.Clone(r.until)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if committed, err := r.log.Committed(ctx, r.cfg.Group, r.cfg.Topic); err == nil {
			for p, next := range committed {
				r.finish(p, next)
			}
		}
		if first, _, err := r.log.Bounds(ctx, r.cfg.Topic); err == nil && r.holding.Load() == 0 { // What was left may have been deleted.
			for p, offset := range first {
				r.finish(p, offset)
			}
		}
		_ = r.log.Scan(ctx, r.cfg.Topic, tail, func(records []holdfast.Message) error { // Another time, if it fails.
			for _, record := range records {
				tail[record.Partition] = record.Offset + 1
				if l, err := Decode(record); err == nil && l.Redrives > 0 {
					r.tally.returned.Add(1)
				}
			}
			return nil
		})
		r.judge()
	}
}

// finish notes up to where a partition is settled, and ends the run when that was the last one.
func (r *run) finish(partition int, next int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if end, left := r.left[partition]; left && next >= end {
		delete(r.left, partition)
	}
	if len(r.left) == 0 {
		r.stop(errDone)
	}
}

// judge stops the run when too many letters have failed.
func (r *run) judge() {
	failed := float64(r.tally.failed.Load() + r.tally.returned.Load())
	sent := float64(r.tally.failed.Load() + r.tally.redriven.Load())
	if r.cfg.MaxFailures > 0 && sent >= leastFailures && failed > sent*r.cfg.MaxFailures {
		r.stop(fmt.Errorf("%w: %.0f of %.0f", ErrTooManyFailures, failed, sent))
	}
}

// serve redrives the letters of one claim.
func (r *run) serve(ctx context.Context, c holdfast.Claim) error {
	_, partition := c.Partition()
	end, mine := r.until[partition]
	if !mine { // It was added since.
		rest(ctx, c)
		return nil
	}
	begin, _ := c.Committed()
	c.Commit(begin) // So that it goes on behind markers and gaps, even if no record comes.
	letters := &letterClaim{Claim: c, sorter: r.sorter, tally: r.tally, end: end}
	j := &journey{run: r, claim: letters}
	letters.home = j.home
	err := serveLetters(ctx, letters, func(ctx context.Context, _ *letterClaim) error { return j.travel(ctx) })
	r.tally.reached(partition, letters.Settled())
	if errors.Is(err, errEnd) || errors.Is(err, holdfast.ErrRevoked) {
		err = nil
	}
	err = errors.Join(err, j.arrive(ctx))
	if letters.Settled() >= end {
		r.finish(partition, end)
	}
	if err == nil {
		rest(ctx, c)
	}
	return err
}

// rest keeps a claim that is done with until the group or the run is.
func rest(ctx context.Context, c holdfast.Claim) {
	select {
	case <-c.Revoked():
	case <-ctx.Done():
	}
}
