package holdfast

import (
	"context"
	"errors"
)

// ErrRevoked says that a claim is being drained: nothing more is fetched from it, what was fetched may be finished.
var ErrRevoked = errors.New("holdfast: claim revoked")

// Claim is one partition, owned by one member for one generation of its group. Its methods are safe for concurrent use,
// except Fetch, which belongs to one goroutine at a time.
type Claim interface {
	// Partition names what is claimed.
	Partition() (topic string, partition int)

	// Committed is where this claim began: the group's committed offset, that is the next one to be read, and the
	// metadata stored with it. It does not change. Without a committed offset it is where reading starts by
	// configuration.
	Committed() (next int64, metadata string)

	// End is the partition's high watermark as last seen, -1 before the first answer. End minus the committed offset
	// is the lag.
	End() int64

	// Fetch waits for messages and returns at least one, in offset order. It returns ErrRevoked once the drain has
	// begun, and ctx's error when ctx ends first; neither loses a message. Any other error says what in the log cannot
	// be read, and stays; what came before it has been returned. The messages are the caller's, who may change them and
	// keep them, and their bytes stay valid as long as they are referenced; nobody writes to those.
	Fetch(ctx context.Context) ([]Message, error)

	// Revoked is closed when the drain begins: start nothing new, finish what runs, commit it, and return.
	Revoked() <-chan struct{}

	// Commit says that everything before next is settled. It returns at once; the commit is coalesced with others
	// and sent in the background, the last one before the claim is given up. It never goes back: a lower next than an earlier one
	// does nothing. After the handler has returned, or once the claim is lost, it does nothing.
	Commit(next int64)

	// CommitSync returns nil when the broker holds exactly next and metadata for this partition. It is never
	// coalesced. When ctx ends first, or the answer was lost, the outcome is unknown.
	CommitSync(ctx context.Context, next int64, metadata string) error
}
