package kafkax

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

type handler = func(context.Context, holdfast.Claim) error

// generation is what a member does between two rebalances: it claims its partitions, runs a handler for each, drains
// them, and commits the last of what they did.
type generation struct {
	*membership
	id        int32
	member    string
	committer *committer
	claims    []*claim
	wire      wire.Config    // Of all fetching.
	failed    chan error     // What is to end Consume, of all but the handlers.
	changed   chan struct{}  // Holds one token when another generation is wanted.
	results   chan result    // One for each claim.
	tasks     sync.WaitGroup // Everything that ends by itself once the generation's contexts have ended.

	draining bool
	shutdown bool // The drain is for good, not for a rebalance.
	expired  bool // DrainTimeout was spent.
	failure  error
	deadline *time.Timer
	began    time.Time          // When the drain did.
	endFetch context.CancelFunc // Ends the fetching.
	endWork  context.CancelCauseFunc
}

// result is what a handler returned.
type result struct {
	claim *claim
	err   error
}

// serve runs handle for each of the generation's partitions until all of them have returned, which they are asked to
// when ctx ends, when the group is rebalanced or goes on without us, and when the topics change. It returns the error that
// is to end Consume, if any.
func (g *generation) serve(ctx context.Context, partitions []place, handle handler) error {
	base := context.WithoutCancel(ctx) // Handlers outlive ctx, to drain.
	fetching, endFetch := context.WithCancel(base)
	working, endWork := context.WithCancelCause(base)
	beating, endBeats := context.WithCancel(base)
	g.endFetch, g.endWork = endFetch, endWork
	defer endBeats()
	defer endWork(context.Canceled)
	defer endFetch()

	g.deadline = time.NewTimer(g.cfg.DrainTimeout)
	defer g.deadline.Stop()
	g.deadline.Stop() // Until the drain begins.

	g.committer = newCommitter(g.membership, g.id, g.member)
	share := g.cfg.share(len(partitions))
	g.wire = wire.Config{MaxBytes: g.cfg.BatchBytes, Buffers: wire.NewBuffers(share)}
	for _, at := range partitions {
		g.claims = append(g.claims, newClaim(g.committer, at, wire.NewReader(g.wire, g.cfg.FetchMessages)))
	}
	g.failed = make(chan error, len(g.claims)+1) // One for each, and one for open.
	g.results = make(chan result, len(g.claims))
	g.changed = make(chan struct{}, 1)
	g.stats.enter(g)
	defer g.stats.exit()

	rebalanced, stopCommits := make(chan struct{}), make(chan struct{})
	var commits sync.WaitGroup
	commits.Go(func() { g.committer.run(base, stopCommits) })
	g.tasks.Go(func() { g.beat(beating, rebalanced) })
	g.tasks.Go(func() { g.watchTopics(fetching) })
	g.tasks.Go(func() { g.open(fetching, working, handle) })

	ended, lost := ctx.Done(), g.committer.gone
	for running := len(g.claims); running > 0 || !g.draining; {
		select {
		case <-ended:
			ended = nil
			g.shutdown = true
			g.drain()
		case <-rebalanced:
			rebalanced = nil
			g.drain()
		case <-g.changed:
			g.drain()
		case <-lost:
			lost = nil
			g.drain()
			g.endWork(g.committer.reason())
		case err := <-g.failed:
			g.fail(err)
		case r := <-g.results:
			running--
			g.returned(ctx, working, r)
		case <-g.deadline.C:
			g.overrun(ctx)
		}
	}
	g.stats.drained(time.Since(g.began), g.expired)

	g.endFetch()
	close(stopCommits)
	commits.Wait()
	g.flush(base)
	endBeats()
	g.tasks.Wait()
	return g.outcome()
}

// drain asks all handlers to return.
func (g *generation) drain() {
	if g.draining {
		return
	}
	g.draining = true
	g.began = time.Now()
	g.deadline.Reset(g.cfg.DrainTimeout)
	for _, c := range g.claims {
		c.revoke()
	}
	g.endFetch()
}

// fail drains because of err, which Consume will return.
func (g *generation) fail(err error) {
	if g.failure == nil {
		g.failure = err
	}
	g.shutdown = true
	g.drain()
}

// returned takes note of what a handler returned.
func (g *generation) returned(ctx context.Context, working context.Context, r result) {
	if g.draining {
		r.claim.slot.counts.lastDrain.Store(int64(time.Since(g.began)))
	}
	attrs := []slog.Attr{slog.String("topic", r.claim.topic), slog.Int("partition", r.claim.partition)}
	switch ours := working.Err() != nil && (errors.Is(r.err, context.Canceled) || errors.Is(r.err, context.Cause(working))); {
	case r.err == nil && !g.draining:
		g.log.LogAttrs(ctx, slog.LevelInfo, "handler returned before its claim was revoked, the partition rests until the next rebalance", attrs...)
	case r.err == nil, errors.Is(r.err, holdfast.ErrRevoked), ours:
	case g.draining && !g.shutdown:
		g.log.LogAttrs(ctx, slog.LevelWarn, "handler failed while it drained", append(attrs, slog.Any("err", r.err))...)
	default:
		g.fail(fmt.Errorf("kafkax: handler of %s/%d: %w", r.claim.topic, r.claim.partition, r.err))
	}
}

// overrun is called when the drain has taken DrainTimeout, and once more when handlers still run a heartbeat later.
func (g *generation) overrun(ctx context.Context) {
	if !g.expired {
		g.expired = true
		g.log.LogAttrs(ctx, slog.LevelError, "drain timeout spent, ending the handlers' contexts",
			slog.Duration("drain_timeout", g.cfg.DrainTimeout))
		g.endWork(ErrDrainTimeout)
		g.committer.hasten()
		g.deadline.Reset(g.cfg.HeartbeatInterval)
		return
	}
	// A handler that does not look at its context cannot be stopped, but it need not hold up the group.
	g.log.LogAttrs(ctx, slog.LevelError, "handlers still run after the drain timeout, giving up the membership")
	g.committer.lose(ErrDrainTimeout)
	g.leaveGroup(ctx, g.member)
}

// flush commits what the handlers left, within what remains of the drain's time, and at least within a heartbeat.
func (g *generation) flush(base context.Context) {
	remains := max(g.cfg.DrainTimeout-time.Since(g.began), g.cfg.HeartbeatInterval)
	ctx, cancel := context.WithTimeout(base, remains)
	defer cancel()
	if err := g.committer.flush(ctx); err != nil {
		g.log.LogAttrs(base, slog.LevelWarn, "last commit failed, what it covers will be read again", slog.Any("err", err))
	}
	g.committer.lose(errReturned)
}

func (g *generation) outcome() error {
	if g.failure == nil && g.shutdown && g.expired {
		return fmt.Errorf("%w: handlers had not returned after %v", ErrDrainTimeout, g.cfg.DrainTimeout)
	}
	return g.failure
}

// beat keeps the membership alive until ctx ends, and closes rebalanced when the group waits for us. kafka-go's own
// heartbeats would end the generation when a single one is lost.
func (g *generation) beat(ctx context.Context, rebalanced chan<- struct{}) {
	ticker := time.NewTicker(g.cfg.HeartbeatInterval)
	defer ticker.Stop()
	var t trouble
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.committer.gone:
			return
		case <-ticker.C:
		}
		err := g.net.sendHeartbeat(ctx, g.cfg.HeartbeatInterval, g.group, g.id, g.member)
		switch {
		case ctx.Err() != nil:
			return
		case isFencing(err):
			g.committer.lose(fmt.Errorf("%w: %w", ErrFenced, err))
			return
		case err == nil, errors.Is(err, kafka.RebalanceInProgress):
			if n := t.over(); n > 0 {
				g.log.LogAttrs(ctx, slog.LevelInfo, "heartbeats go through again", slog.Int("failures", n))
			}
			if err != nil && rebalanced != nil {
				close(rebalanced)
				rebalanced = nil
			}
		case t.failed():
			g.log.LogAttrs(ctx, slog.LevelWarn, "heartbeat failed, trying again", slog.Any("err", err))
		}
	}
}

// change asks for another generation.
func (g *generation) change() {
	select {
	case g.changed <- struct{}{}:
	default: // It is asked for.
	}
}

// watchTopics asks for another generation when a topic has come into being, has gone, or has another number of
// partitions; not at once when that happens again and again.
func (g *generation) watchTopics(ctx context.Context) {
	for sleep(ctx, watchInterval) {
		if change, _ := g.lookAtTopics(ctx); change { // What it could not see, it may see the next time.
			if g.unrest.wait(ctx) {
				g.change()
			}
			return
		}
	}
}
