package dlq

import (
	"context"
	"sync"

	"github.com/holdfast-io/holdfast"
)

// How many bytes of letters a run reads ahead, but for what a fetch has beyond that: of one partition, and of all. More
// of one would be out of the processor's cache before it is sent.
const (
	aheadOfOne = 256 << 10
	aheadTotal = 32 << 20
)

// portion is messages that were handed out, and all the headers that their letters' records have.
type portion struct {
	messages []holdfast.Message
	headers  [][]holdfast.Header
}

// basket holds what a journey has read and not begun to send. One goroutine puts in what it reads, until the basket is
// full; another takes all there is. So a call is the larger, the longer the one before it took.
type basket struct {
	limit           int           // In bytes.
	filled, emptied chan struct{} // Each holds a token when that has happened since somebody looked.

	mu sync.Mutex
	portion
	size  int
	spare portion // What was taken last. Its memory is used again.
	ended error   // Why nothing more comes.
}

func newBasket(limit int) *basket {
	return &basket{limit: min(limit, aheadOfOne), filled: make(chan struct{}, 1), emptied: make(chan struct{}, 1)}
}

// put adds p, and waits until there is room for more, or the drain begins, or ctx ends.
func (b *basket) put(ctx context.Context, revoked <-chan struct{}, p portion) error {
	b.mu.Lock()
	b.messages, b.headers = append(b.messages, p.messages...), append(b.headers, p.headers...)
	for i := range p.messages {
		b.size += memoryOf(&p.messages[i], p.headers[i])
	}
	b.mu.Unlock()
	signal(b.filled)
	for b.full() {
		select {
		case <-b.emptied:
		case <-revoked:
			return holdfast.ErrRevoked
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (b *basket) full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size >= b.limit
}

// close says why nothing more comes.
func (b *basket) close(err error) {
	b.mu.Lock()
	b.ended = err
	b.mu.Unlock()
	signal(b.filled)
}

// take waits for letters and takes all there are. When the drain has begun, or ctx has ended, it leaves them. What it
// returns is good until the next call.
func (b *basket) take(ctx context.Context, revoked <-chan struct{}) (portion, error) {
	for {
		select {
		case <-revoked:
			return portion{}, holdfast.ErrRevoked
		case <-ctx.Done():
			return portion{}, ctx.Err()
		default:
		}
		if p, err := b.all(); err != nil || len(p.messages) > 0 {
			return p, err
		}
		select {
		case <-b.filled:
		case <-revoked:
		case <-ctx.Done():
		}
	}
}

func (b *basket) all() (portion, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.messages) == 0 {
		return portion{}, b.ended
	}
	b.spare, b.portion = b.portion, portion{b.spare.messages[:0], b.spare.headers[:0]}
	b.size = 0
	signal(b.emptied)
	return b.spare, nil
}

// memoryOf is about how much memory a letter holds.
func memoryOf(m *holdfast.Message, headers []holdfast.Header) int {
	const fixed, perHeader = 256, 40
	size := fixed + len(m.Key) + len(m.Value)
	for i := range headers {
		size += perHeader + len(headers[i].Value)
	}
	return size
}
