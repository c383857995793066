package kafkax

import (
	"context"
	"errors"
	"log/slog"

	"github.com/segmentio/kafka-go"
)

// open reads what the group has committed, and runs each claim as soon as that is known of it. Claims that are not run
// when fetching ends count as returned.
func (g *generation) open(fetching, working context.Context, handle handler) {
	waiting := g.claims
	var t trouble
	for len(waiting) > 0 {
		places := make([]place, len(waiting))
		for i, c := range waiting {
			places[i] = c.place
		}
		offsets, err := g.net.fetchOffsets(fetching, g.group, places)
		left := waiting
		if err == nil {
			left = nil
			for i, c := range waiting {
				if offsets[i].err != nil {
					left, err = append(left, c), offsets[i].err
					continue
				}
				g.tasks.Go(func() { g.run(fetching, working, c, offsets[i], handle) })
			}
		}
		waiting = left
		if err != nil && !g.patient(fetching, &t, err) {
			break
		}
	}
	for _, c := range waiting {
		g.results <- result{c, nil}
	}
}

// run finds out where c begins, fetches for it, and runs its handler.
func (g *generation) run(fetching, working context.Context, c *claim, had stored, handle handler) {
	err := errGone // When handle ends its goroutine.
	defer func() {
		c.revoke()
		g.committer.finish(c.slot)
		g.results <- result{c, err}
	}()
	if !g.begin(fetching, c, had) {
		err = nil
		return
	}
	fetching, endFetch := context.WithCancel(fetching)
	defer endFetch()
	g.tasks.Go(func() {
		switch err := newFetcher(g, c).run(fetching); {
		case errors.Is(err, errShrunk):
			g.change() // The next generation begins it elsewhere.
		case err != nil:
			g.failed <- err
		}
	})
	working, cancel := context.WithCancel(working)
	defer cancel()
	err = handle(working, c)
}

// begin tells c where it begins, and reports whether it could before ctx ended.
func (g *generation) begin(ctx context.Context, c *claim, had stored) bool {
	g.committer.begin(c.slot, had.next)
	var t trouble
	for {
		next, err := g.firstOffset(ctx, c, had.next)
		if err == nil {
			if next != had.next {
				had = stored{next: -1} // It speaks of another place.
			}
			c.open(next, had)
			return ctx.Err() == nil
		}
		if !g.patient(ctx, &t, err) {
			return false
		}
	}
}

// patient waits after a failure and reports whether to try again. One that no patience will change ends Consume.
func (g *generation) patient(ctx context.Context, t *trouble, err error) bool {
	switch {
	case ctx.Err() != nil:
		return false
	case isRefusal(err):
		g.failed <- err
		<-ctx.Done() // It is drained for that.
		return false
	case isStale(err):
		g.net.refresh()
	}
	if t.failed() {
		g.log.LogAttrs(ctx, slog.LevelWarn, "cannot read the group's offsets, trying again", slog.Any("err", err))
	}
	return t.wait(ctx)
}

// firstOffset is where to begin: where the group has got to, or else where the configuration says. What is not the
// same the next time it is asked for is committed first.
func (g *generation) firstOffset(ctx context.Context, c *claim, stored int64) (int64, error) {
	if stored >= 0 {
		if g.cfg.OutOfRange == OutOfRangeFail {
			return stored, nil // The first fetch will tell.
		}
		err := g.net.outOfRange(ctx, c.place, stored)
		outside, ok := errors.AsType[*OffsetOutOfRangeError](err)
		if !ok {
			return stored, err
		}
		next, err := g.elsewhere(ctx, outside)
		if err != nil {
			return -1, err
		}
		return next, g.committer.restart(ctx, c.slot, next)
	}
	var next int64
	var err error
	switch g.cfg.Start {
	case StartLatest:
		next, err = g.net.offsetAt(ctx, c.place, kafka.LastOffset)
	case StartAtTime:
		next, err = g.net.offsetAtTime(ctx, c.place, g.cfg.StartTime)
	default:
		return g.net.offsetAt(ctx, c.place, kafka.FirstOffset)
	}
	if err != nil {
		return -1, err
	}
	return next, g.committer.commitSync(ctx, c.slot, next, "")
}
