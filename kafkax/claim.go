package kafkax

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

// claim is a holdfast.Claim: one partition in one generation.
type claim struct {
	place
	slot      *slot
	committer *committer

	begin    int64 // With metadata set by open, before the handler knows of the claim.
	metadata string

	end        atomic.Int64 // High watermark, -1 before the first answer.
	prefetched atomic.Int64 // Bytes that wait for the handler.

	mu    sync.Mutex
	tail  int64 // What follows the last message that was handed out.
	next  int64 // What is fetched next, prefetched messages left out. -1 before open.
	asked int64 // What Commit was asked for, or has left in an earlier generation. -1 for nothing.

	failure error // Why nothing can be fetched, nil when it can.

	answers chan wire.Answer // Not buffered: what is fetched and not handed over waits in fetcher.run.
	hungry  chan struct{}    // Fetch offers a token while it has nothing to hand out.
	reader  *wire.Reader     // Fetch's: the answer that it hands out, a few messages at a time.
	size    int              // Of that answer.

	revokeOnce sync.Once
	revoked    chan struct{}
}

// place is one partition.
type place struct {
	topic     string
	partition int
}

func newClaim(k *committer, at place, reader *wire.Reader) *claim {
	c := &claim{
		place: at, slot: k.add(at), committer: k, next: -1,
		answers: make(chan wire.Answer), hungry: make(chan struct{}), reader: reader, revoked: make(chan struct{}),
	}
	c.end.Store(-1)
	return c
}

// open says where the claim begins, and what the group has stored.
func (c *claim) open(begin int64, had stored) {
	c.begin, c.metadata = begin, had.metadata
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail, c.next, c.asked = begin, begin, had.next
	if had.metadata != "" {
		c.asked = -1 // An exact commit, which is to stay.
	}
}

func (c *claim) Partition() (topic string, partition int) { return c.topic, c.partition }

func (c *claim) Committed() (next int64, metadata string) { return c.begin, c.metadata }

func (c *claim) End() int64 { return c.end.Load() }

func (c *claim) Revoked() <-chan struct{} { return c.revoked }

// Commit of all that was handed out commits what follows it, too: the log goes on with the markers that end
// transactions, aborted messages, or gaps, and a group that stayed before them would lag for ever.
func (c *claim) Commit(next int64) {
	if next < c.begin {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = max(c.asked, next)
	if next == c.tail {
		next = c.next
	}
	c.committer.commit(c.slot, next)
}

// Settled is the offset before which all is settled: what Commit was asked for, and what follows it that is no message.
func (c *claim) Settled() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked == c.tail {
		return c.next
	}
	return max(c.asked, c.begin)
}

func (c *claim) CommitSync(ctx context.Context, next int64, metadata string) error {
	if next < c.begin {
		return fmt.Errorf("kafkax: commit of %s/%d at %d: the claim began at %d", c.topic, c.partition, next, c.begin)
	}
	c.mu.Lock()
	c.asked = -1 // Nothing but the next Commit is to replace it.
	c.mu.Unlock()
	return c.committer.commitSync(ctx, c.slot, next, metadata)
}

// Fetch hands out what an answer has, a few messages at a time. A batch that cannot be decoded is its error, once all that
// came before it is handed out.
func (c *claim) Fetch(ctx context.Context) ([]holdfast.Message, error) {
	for {
		select {
		case <-c.revoked: // Even when messages wait.
			return nil, holdfast.ErrRevoked
		default:
		}
		if c.reader.More() {
			messages, next, err := c.reader.Next()
			c.take(messages, next)
			if err != nil || len(messages) > 0 {
				return messages, err
			}
			continue
		}
		select {
		case <-c.revoked:
			return nil, holdfast.ErrRevoked
		case <-ctx.Done():
			return nil, ctx.Err()
		case c.hungry <- struct{}{}:
		case a := <-c.answers:
			c.size = a.Size()
			c.reader.Begin(a)
		}
	}
}

// awaitHunger returns when Fetch waits for an answer, so that all before it is handed out. What is larger than the
// partition's share of memory is read only then, and what ends Consume does so only then.
func (c *claim) awaitHunger(ctx context.Context) error {
	select {
	case <-c.hungry:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take notes that messages are handed out, and what follows them.
func (c *claim) take(messages []holdfast.Message, next int64) {
	if !c.reader.More() {
		c.prefetched.Add(int64(-c.size))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = next
	if n := len(messages); n > 0 {
		c.tail = messages[n-1].Offset + 1
	} else if c.asked == c.tail {
		c.committer.commit(c.slot, c.next)
	}
}

// fetchFailed notes why nothing can be fetched.
func (c *claim) fetchFailed(err error) {
	c.slot.counts.fetchesFailed.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = err
}

// fetched notes that something can be.
func (c *claim) fetched() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = nil
}

// revoke begins the drain.
func (c *claim) revoke() { c.revokeOnce.Do(func() { close(c.revoked) }) }
