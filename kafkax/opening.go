package kafkax

import (
	"context"
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
		offsets, err := fetchOffsets(fetching, g.net.client, g.group, places)
		left := waiting
		if err == nil {
			left = nil
			for i, c := range waiting {
				if offsets[i].Error != nil {
					left, err = append(left, c), offsets[i].Error
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
func (g *generation) run(fetching, working context.Context, c *claim, stored kafka.OffsetFetchPartition, handle handler) {
	err := errGone // When handle ends its goroutine.
	defer func() {
		c.revoke()
		g.committer.finish(c.slot)
		g.results <- result{c, err}
	}()
	if !g.begin(fetching, c, stored) {
		err = nil
		return
	}
	fetching, endFetch := context.WithCancel(fetching)
	defer endFetch()
	g.tasks.Go(func() {
		if err := newFetcher(g.membership, c).run(fetching); err != nil {
			g.failed <- err
		}
	})
	working, cancel := context.WithCancel(working)
	defer cancel()
	err = handle(working, c)
}

// begin tells c where it begins, and reports whether it could before ctx ended.
func (g *generation) begin(ctx context.Context, c *claim, stored kafka.OffsetFetchPartition) bool {
	next := stored.CommittedOffset
	g.committer.begin(c.slot, next)
	var t trouble
	for next < 0 {
		var err error
		if next, err = g.firstOffset(ctx, c); err != nil && !g.patient(ctx, &t, err) {
			return false
		}
	}
	c.open(next, stored)
	return ctx.Err() == nil
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

// firstOffset is where to begin without a committed offset, -1 with an error.
func (g *generation) firstOffset(ctx context.Context, c *claim) (int64, error) {
	first, end, err := logRange(ctx, g.net.client, c.topic, c.partition)
	switch {
	case err != nil:
		return -1, err
	case g.cfg.Start != StartLatest:
		return first, nil
	}
	if err := g.committer.commitSync(ctx, c.slot, end, ""); err != nil {
		return -1, err
	}
	return end, nil
}
