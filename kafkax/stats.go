package kafkax

import (
	"sync"
	"sync/atomic"
	"time"
)

// ConsumerStats is a snapshot of a Consumer.
type ConsumerStats struct {
	Groups []GroupStats
}

// GroupStats is a snapshot of one group's membership. Counters only grow as long as the Consumer lives.
type GroupStats struct {
	Group      string
	Member     string // Empty while not joined.
	Generation int    // 0 while not joined.

	Generations     uint64 // Joined so far.
	Commits         uint64 // Partitions' offsets accepted by the coordinator.
	CommitsFailed   uint64 // Refused, or lost with a request or its answer. They are tried again.
	CommitsFenced   uint64 // Refused because the generation was over. They are not.
	OutOfRange      uint64 // Offsets that a log did not hold, and ConsumerConfig.OutOfRange said where to go on.
	PassedOver      uint64 // Offsets that were left unread by that.
	LateCompletions uint64 // Commit and CommitSync calls after the claim was lost or its handler had returned.

	LastDrain     time.Duration // From the revoke until the last handler had returned.
	DrainTimeouts uint64        // Drains that took longer than DrainTimeout.

	Partitions []PartitionStats // What handlers have of the present generation, empty while not joined.
}

// PartitionStats is a snapshot of one claim.
type PartitionStats struct {
	Topic      string
	Partition  int
	Committed  int64 // What the group's coordinator holds, as far as known. -1 for nothing.
	Position   int64 // What the handler will fetch next.
	End        int64 // The high watermark as last seen, -1 before the first answer.
	Lag        int64 // End minus Committed, or minus Position where nothing is committed yet. -1 while End is unknown.
	Prefetched int64 // Bytes that wait for the handler.
}

type groupCounts struct {
	commits, commitsFailed, commitsFenced, late, outOfRange, passedOver atomic.Uint64
}

// groupStats collects what GroupStats shows.
type groupStats struct {
	group  string
	counts groupCounts

	mu            sync.Mutex
	taken         bool
	current       *generation
	generations   uint64
	lastDrain     time.Duration
	drainTimeouts uint64
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
	next := c.next
	c.mu.Unlock()
	p := PartitionStats{
		Topic: c.topic, Partition: c.partition,
		Committed: c.committer.committed(c.slot), Position: next,
		End: c.end.Load(), Lag: -1, Prefetched: c.prefetched.Load(),
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
