package pipeline

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/dlq"
)

// Stats is what a pipeline has done, at one moment. Counters only grow while the Pipeline lives.
type Stats struct {
	Name       string
	Partitions []PartitionStats // Claimed now, sorted.

	Stored   uint64                // Items a sink has stored.
	Skipped  uint64                // Messages skipped on purpose.
	Redriven uint64                // Items stored of messages that had come home from the dead-letter queue.
	Batches  uint64                // Batches that a sink has taken.
	Late     uint64                // Completions dropped because their claim was gone.
	Letters  map[dlq.Reason]uint64 // Letters written, by reason.
}

// PartitionStats is one claimed partition.
type PartitionStats struct {
	Topic        string
	Partition    int
	Home         bool          // A partition of the dead-letter queue, whose letters come home.
	Settled      int64         // Everything before this offset is settled.
	Lag          int64         // The high watermark minus Settled; -1 while it is not known.
	InFlight     int           // Messages fetched and not settled.
	OldestOffset int64         // The first message in flight, -1 for none.
	OldestAge    time.Duration // How long it has been in flight.
	OldestStage  string        // The stage it is in, "sink" or, while its letter is to be written, "dead letters"; empty for none.

	// With nothing in flight and something to fetch, OldestStage is "fetch", OldestOffset what is to come, and OldestAge for
	// how long that has been seen by Stats and Health.
}

// fetchStage is the source's name where stages have theirs.
const fetchStage = "fetch"

// Stats tells what the pipeline has done.
func (p *Pipeline) Stats() Stats {
	e := p.engine
	s := Stats{
		Name:       e.cfg.Name,
		Partitions: e.claims.stats(),
		Stored:     e.counts.stored.Load(),
		Skipped:    e.counts.skipped.Load(),
		Redriven:   e.counts.redriven.Load(),
		Batches:    e.counts.batches.Load(),
		Late:       e.counts.late.Load(),
	}
	e.counts.mu.Lock()
	defer e.counts.mu.Unlock()
	s.Letters = maps.Clone(e.counts.letters)
	return s
}

// registry is the claims of the moment.
type registry struct {
	mu     sync.Mutex
	claims map[*claim]struct{}
}

func (r *registry) add(c *claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.claims == nil {
		r.claims = make(map[*claim]struct{})
	}
	r.claims[c] = struct{}{}
}

func (r *registry) remove(c *claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.claims, c)
}

func (r *registry) stats() []PartitionStats {
	r.mu.Lock()
	claims := slices.Collect(maps.Keys(r.claims))
	r.mu.Unlock()
	stats := make([]PartitionStats, len(claims))
	for i, c := range claims {
		stats[i] = c.stats()
	}
	slices.SortFunc(stats, func(a, b PartitionStats) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return stats
}

func (c *claim) stats() PartitionStats {
	end := c.source.End()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.engine.now() // Not before the lock: a message fetched meanwhile would be older than nothing.
	s := PartitionStats{
		Topic: c.topic, Partition: c.partition, Home: c.home,
		Settled: c.next, Lag: -1, InFlight: c.tracker.inFlight(), OldestOffset: -1,
	}
	if passes, ok := c.source.(interface{ Settled() int64 }); ok {
		s.Settled = max(s.Settled, passes.Settled())
	}
	if end >= 0 {
		s.Lag = max(0, end-s.Settled)
	}
	if oldest, ok := c.tracker.oldest(); ok {
		s.OldestOffset, s.OldestAge, s.OldestStage = oldest.offset, time.Duration(now-oldest.fetched), sinkStage
		for _, w := range c.walks {
			if stage := w.stage.Load(); stage != nil && w.n.Load() == int64(c.tracker.head) {
				s.OldestStage = stage.name
			}
		}
		if c.awaitsLetter(c.tracker.head) {
			s.OldestStage = lettersStage
		}
		return s
	}
	if age := c.behind.look(now, s.Settled, s.Lag); age > 0 {
		s.OldestOffset, s.OldestAge, s.OldestStage = s.Settled, age, fetchStage
	}
	return s
}
