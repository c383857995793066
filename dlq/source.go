package dlq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-io/holdfast"
)

// Claims is where a Source gets the claims of its dead-letter topic; *kafkax.Consumer is one.
type Claims interface {
	Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error
}

// SourceConfig says which letters a Source delivers. All others are passed over: they stay where they are, and nothing
// is known of them but that this group has passed them.
type SourceConfig struct {
	Group   string   // Letters of this group only. Empty: of every group.
	Reasons []Reason // Letters with one of these reasons only. Empty: with any.
}

// Validate names every field that cannot be.
func (c SourceConfig) Validate() error {
	if i := slices.Index(c.Reasons, ""); i >= 0 {
		return fmt.Errorf("dlq: SourceConfig.Reasons[%d] must be a reason, got \"\"", i)
	}
	return nil
}

// Source reads letters as the messages they were, with their original topic, partition, offset, time and headers, and
// with Message.Letter set. It is a pipeline.Source. Records that are no letters are passed over. It is safe for
// concurrent use.
type Source struct {
	claims Claims
	cfg    SourceConfig
}

// NewSource returns a Source over the claims of a dead-letter topic. It does no I/O.
func NewSource(c Claims, cfg SourceConfig) (*Source, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if c == nil {
		return nil, errors.New("dlq: NewSource needs Claims, got nil")
	}
	cfg.Reasons = slices.Clone(cfg.Reasons)
	return &Source{claims: c, cfg: cfg}, nil
}

// Consume runs handle for each claim of the dead-letter topic until ctx ends, as the claims' own Consume does.
func (s *Source) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return s.claims.Consume(ctx, func(ctx context.Context, c holdfast.Claim) error {
		next, _ := c.Committed()
		return handle(ctx, &letterClaim{Claim: c, cfg: s.cfg, settled: next, last: next - 1, passed: next})
	})
}

// letterClaim shows the wanted letters of a claim as messages. What it passes over is settled together with the letter
// before it, or at once when no letter is outstanding.
type letterClaim struct {
	holdfast.Claim
	cfg SourceConfig

	mu      sync.Mutex
	settled int64 // Everything before it is settled.
	last    int64 // The last letter delivered.
	passed  int64 // Everything before it was delivered or passed over.
}

// Fetch waits for wanted letters.
func (c *letterClaim) Fetch(ctx context.Context) ([]holdfast.Message, error) {
	for {
		records, err := c.Claim.Fetch(ctx)
		if err != nil {
			return nil, err
		}
		messages := make([]holdfast.Message, 0, len(records))
		for _, r := range records {
			if l, err := Decode(r); err == nil && c.wanted(l) {
				messages = append(messages, message(l, r))
			}
		}
		next := c.deliver(messages, records[len(records)-1].Offset+1)
		if next > 0 {
			c.Claim.Commit(next)
		}
		if len(messages) > 0 {
			return messages, nil
		}
	}
}

// deliver notes what Fetch read up to, and returns how far the claim may be committed right away, zero for not at all.
func (c *letterClaim) deliver(messages []holdfast.Message, passed int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	outstanding := c.settled <= c.last
	c.passed = passed
	switch {
	case len(messages) > 0:
		c.last = messages[len(messages)-1].Letter.Offset
		return 0
	case outstanding:
		return 0
	default:
		c.settled = passed
		return passed
	}
}

// Commit settles the letters before next, and what was passed over behind the last of them.
func (c *letterClaim) Commit(next int64) {
	c.mu.Lock()
	c.settled = max(c.settled, next)
	if c.settled > c.last {
		c.settled = c.passed
	}
	next = c.settled
	c.mu.Unlock()
	c.Claim.Commit(next)
}

// Settled is the offset before which every letter is settled or passed over.
func (c *letterClaim) Settled() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settled
}

func (c *letterClaim) wanted(l Letter) bool {
	return (c.cfg.Group == "" || l.Group == c.cfg.Group) &&
		(len(c.cfg.Reasons) == 0 || slices.Contains(c.cfg.Reasons, l.Reason))
}

func message(l Letter, record holdfast.Message) holdfast.Message {
	m := l.Message
	m.Letter = &holdfast.Letter{
		ID:            l.ID(),
		Reason:        string(l.Reason),
		Redrives:      l.Redrives,
		FirstFailedAt: l.FirstFailedAt,
		Topic:         record.Topic,
		Partition:     record.Partition,
		Offset:        record.Offset,
	}
	return m
}
