package kafkax

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/holdfast-io/holdfast"
)

// claim is a holdfast.Claim: one partition in one generation.
type claim struct {
	topic     string
	partition int
	begin     int64
	metadata  string
	slot      *slot
	committer *committer

	end        atomic.Int64 // High watermark, -1 before the first answer.
	position   atomic.Int64 // What is fetched next, prefetched messages left out.
	prefetched atomic.Int64 // Bytes that wait for the handler.

	answers chan answer // Not buffered: what is fetched and not handed over waits in fetcher.run.

	revokeOnce sync.Once
	revoked    chan struct{}
}

// answer is one fetch's messages.
type answer struct {
	messages []holdfast.Message
	next     int64 // The offset that follows them.
	size     int
}

func newClaim(k *committer, s *slot, begin int64, metadata string) *claim {
	c := &claim{
		topic: s.topic, partition: s.partition, begin: begin, metadata: metadata, slot: s, committer: k,
		answers: make(chan answer), revoked: make(chan struct{}),
	}
	c.end.Store(-1)
	c.position.Store(begin)
	return c
}

func (c *claim) Partition() (topic string, partition int) { return c.topic, c.partition }

func (c *claim) Committed() (next int64, metadata string) { return c.begin, c.metadata }

func (c *claim) End() int64 { return c.end.Load() }

func (c *claim) Revoked() <-chan struct{} { return c.revoked }

func (c *claim) Commit(next int64) { c.committer.commit(c.slot, next) }

func (c *claim) CommitSync(ctx context.Context, next int64, metadata string) error {
	return c.committer.commitSync(ctx, c.slot, next, metadata)
}

// Fetch returns the messages of one answer.
func (c *claim) Fetch(ctx context.Context) ([]holdfast.Message, error) {
	select {
	case <-c.revoked: // Even when messages wait.
		return nil, holdfast.ErrRevoked
	default:
	}
	select {
	case <-c.revoked:
		return nil, holdfast.ErrRevoked
	case <-ctx.Done():
		return nil, ctx.Err()
	case a := <-c.answers:
		c.position.Store(a.next)
		c.prefetched.Add(int64(-a.size))
		return a.messages, nil
	}
}

// revoke begins the drain.
func (c *claim) revoke() { c.revokeOnce.Do(func() { close(c.revoked) }) }
