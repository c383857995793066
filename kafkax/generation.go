package kafkax

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast"
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
// when ctx ends or rebalanced is closed. It returns the error that is to end Consume, if any.
func (g *generation) serve(ctx context.Context, rebalanced <-chan struct{}, partitions []*slot, handle handler) error {
	base := context.WithoutCancel(ctx) // Handlers outlive ctx, to drain.
	if !g.open(ctx, rebalanced, partitions) {
		return nil
	}
	g.stats.enter(g)
	defer g.stats.exit()

	fetching, endFetch := context.WithCancel(base)
	working, endWork := context.WithCancelCause(base)
	g.endFetch, g.endWork = endFetch, endWork
	defer endWork(context.Canceled)
	defer endFetch()

	g.deadline = time.NewTimer(g.cfg.DrainTimeout)
	defer g.deadline.Stop()
	g.deadline.Stop() // Until the drain begins.

	failed := make(chan error, len(g.claims))
	results := make(chan result, len(g.claims))
	for _, c := range g.claims {
		g.start(fetching, working, c, handle, failed, results)
	}
	grown := make(chan struct{})
	g.tasks.Go(func() { g.watchTopics(fetching, grown) })
	beating, endBeats := context.WithCancel(base)
	defer endBeats()
	stopCommits := make(chan struct{})
	var commits sync.WaitGroup
	commits.Go(func() { g.committer.run(base, stopCommits) })

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
			// kafka-go has stopped its heartbeats, ours keep the membership while handlers drain.
			g.tasks.Go(func() { g.beat(beating) })
		case <-grown:
			grown = nil
			g.drain()
		case <-lost:
			lost = nil
			g.drain()
			g.endWork(g.committer.reason())
		case err := <-failed:
			g.fail(err)
		case r := <-results:
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

// start fetches for c and runs its handler.
func (g *generation) start(fetching, working context.Context, c *claim, handle handler, failed chan<- error, results chan<- result) {
	fetching, endFetch := context.WithCancel(fetching)
	g.tasks.Go(func() {
		if err := newFetcher(g.membership, c).run(fetching); err != nil {
			failed <- err
		}
	})
	g.tasks.Go(func() {
		ctx, cancel := context.WithCancel(working)
		defer cancel()
		err := handle(ctx, c)
		endFetch()
		c.revoke()
		g.committer.finish(c.slot)
		results <- result{c, err}
	})
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

// beat keeps the membership alive until ctx ends.
func (g *generation) beat(ctx context.Context) {
	for {
		err := g.net.sendHeartbeat(ctx, g.group, g.id, g.member)
		// RebalanceInProgress says that the group waits for us. Anything else but a fence may pass.
		if isFencing(err) {
			g.committer.lose(fmt.Errorf("%w: %w", ErrFenced, err))
			return
		}
		select {
		case <-g.committer.gone:
			return
		default:
		}
		if !sleep(ctx, g.cfg.HeartbeatInterval) {
			return
		}
	}
}

// watchTopics closes grown when a topic has more partitions than it had, or has come into being.
func (g *generation) watchTopics(ctx context.Context, grown chan<- struct{}) {
	for sleep(ctx, watchInterval) {
		if more, err := g.lookAtTopics(ctx); err == nil && more {
			close(grown)
			return
		}
	}
}

// open finds out where each partition begins and makes the claims. It reports whether the generation still goes on.
func (g *generation) open(ctx context.Context, rebalanced <-chan struct{}, partitions []*slot) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	g.tasks.Go(func() {
		select {
		case <-rebalanced:
			cancel()
		case <-stop:
		}
	})
	defer g.tasks.Wait()
	defer close(stop)

	var t trouble
	for ctx.Err() == nil {
		err := g.position(ctx, partitions)
		if err == nil {
			return ctx.Err() == nil
		}
		if t.failed() {
			g.log.LogAttrs(ctx, slog.LevelWarn, "cannot read the group's offsets, trying again", slog.Any("err", err))
		}
		t.wait(ctx)
	}
	return false
}

func (g *generation) position(ctx context.Context, partitions []*slot) error {
	offsets, err := fetchOffsets(ctx, g.net.client, g.group, partitions)
	if err != nil {
		return err
	}
	k := newCommitter(g.membership, g.id, g.member)
	claims := make([]*claim, len(partitions))
	for i, p := range partitions {
		next := offsets[i].CommittedOffset
		s := k.add(p.topic, p.partition, next)
		if next < 0 {
			first, end, err := logRange(ctx, g.net.client, p.topic, p.partition)
			if err != nil {
				return err
			}
			next = first
			if g.cfg.Start == StartLatest {
				next = end
				k.commit(s, next)
			}
		}
		claims[i] = newClaim(k, s, next, offsets[i].Metadata)
	}
	if err := k.flush(ctx); err != nil {
		return err
	}
	k.hurry = false
	g.committer, g.claims = k, claims
	return nil
}
