package kafkax

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast"
)

type (
	// ConsumerStats is the root package's, so that others can show it without knowing this one.
	ConsumerStats = holdfast.ConsumerStats

	// GroupStats is the root package's, too.
	GroupStats = holdfast.GroupStats

	// PartitionStats is the root package's, too.
	PartitionStats = holdfast.PartitionStats
)

// partitionCounts is what is counted of one partition, over all its claims.
type partitionCounts struct {
	commits, commitsFenced, late, fetchesFailed atomic.Uint64
	lastDrain                                   atomic.Int64 // A time.Duration.
}

type groupCounts struct {
	commits, commitsFailed, commitsFenced, late, outOfRange, passedOver atomic.Uint64
}

// groupStats collects what GroupStats shows.
type groupStats struct {
	group  string
	counts groupCounts

	mu            sync.Mutex
	partitions    map[place]*partitionCounts
	taken         bool
	current       *generation
	generations   uint64
	lastDrain     time.Duration
	drainTimeouts uint64
}

// of finds or makes a partition's counts.
func (s *groupStats) of(at place) *partitionCounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := s.partitions[at]
	if counts == nil {
		counts = new(partitionCounts)
		s.partitions[at] = counts
	}
	return counts
}

func (s *groupStats) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken {
		return false
	}
	s.taken = true
	return true
}

func (s *groupStats) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = false
}

func (s *groupStats) enter(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = g
	s.generations++
}

func (s *groupStats) exit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = nil
}

func (s *groupStats) drained(took time.Duration, expired bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastDrain = took
	if expired {
		s.drainTimeouts++
	}
}

func (s *groupStats) snapshot() GroupStats {
	out := GroupStats{
		Group:           s.group,
		Commits:         s.counts.commits.Load(),
		CommitsFailed:   s.counts.commitsFailed.Load(),
		CommitsFenced:   s.counts.commitsFenced.Load(),
		OutOfRange:      s.counts.outOfRange.Load(),
		PassedOver:      s.counts.passedOver.Load(),
		LateCompletions: s.counts.late.Load(),
	}
	s.mu.Lock()
	out.Generations, out.LastDrain, out.DrainTimeouts = s.generations, s.lastDrain, s.drainTimeouts
	g := s.current
	s.mu.Unlock()
	if g == nil {
		return out
	}
	out.Member, out.Generation = g.member, int(g.id)
	for _, c := range g.claims {
		if p := c.snapshot(); p.Position >= 0 {
			out.Partitions = append(out.Partitions, p)
		}
	}
	return out
}

func (c *claim) snapshot() PartitionStats {
	c.mu.Lock()
	next, failure := c.next, c.failure
	c.mu.Unlock()
	p := PartitionStats{
		Topic: c.topic, Partition: c.partition,
		Committed: c.committer.committed(c.slot), Position: next,
		End: c.end.Load(), Lag: -1, Prefetched: c.prefetched.Load(), FetchError: failure,
		FetchesFailed:   c.slot.counts.fetchesFailed.Load(),
		Commits:         c.slot.counts.commits.Load(),
		CommitsFenced:   c.slot.counts.commitsFenced.Load(),
		LateCompletions: c.slot.counts.late.Load(),
		LastDrain:       time.Duration(c.slot.counts.lastDrain.Load()),
	}
	from := p.Committed
	if from < 0 {
		from = p.Position
	}
	if p.End >= 0 {
		p.Lag = max(p.End-from, 0)
	}
	return p
}
