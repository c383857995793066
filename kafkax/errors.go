package kafkax

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

var (
	// ErrFenced is the cause with which a handler's context ends when the group goes on without this member: its
	// partitions belong to others, and whatever it commits is refused.
	ErrFenced = errors.New("kafkax: member fenced")

	// ErrDrainTimeout is the cause with which a handler's context ends when ConsumerConfig.DrainTimeout is spent.
	// Consume returns it, wrapped, when that happens on the way out.
	ErrDrainTimeout = errors.New("kafkax: drain timeout")

	// ErrCorruptBatch is in the chain of a *RecordBatchError whose bytes are not what they should be. Where the checksum is
	// wrong, it may be the network's doing, or a broker's disk, which another replica makes good: the fetch is tried again
	// for ever, and PartitionStats.FetchError says so.
	ErrCorruptBatch = wire.ErrCorrupt

	// ErrOldBatch is in the chain of a *RecordBatchError of a log that was written before Kafka 0.11.
	ErrOldBatch = wire.ErrOldFormat

	// ErrLargeBatch is in the chain of a *RecordBatchError of a batch beyond ConsumerConfig.BatchBytes.
	ErrLargeBatch = wire.ErrTooLarge

	errReturned = errors.New("kafkax: the claim's handler has returned")
	errGone     = errors.New("it ended its goroutine")
)

// UnreachableError says that no broker could be asked for the cluster's layout when Consume began.
type UnreachableError struct {
	Brokers []string
	Waited  time.Duration // For how long they were tried.
	Err     error         // What the last attempt met.
}

// Error names the addresses, what was tried and what came of it.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("kafkax: none of the brokers [%s] answered a metadata request within %v, last: %v",
		strings.Join(e.Brokers, " "), e.Waited, e.Err)
}

// Unwrap returns what the last attempt met.
func (e *UnreachableError) Unwrap() error { return e.Err }

// OffsetOutOfRangeError says that what the group wants to read next is not in the partition's log: it was deleted
// before it was read, or the log has lost its end. Going on anywhere else would skip messages or repeat them, so Consume
// ends with it, unless ConsumerConfig.OutOfRange says where to go on. Or set the group's offset to that place.
type OffsetOutOfRangeError struct {
	Topic     string
	Partition int
	Offset    int64
	First     int64 // The log's range: [First, End).
	End       int64
}

// Error names the partition, the offset and the log's range.
func (e *OffsetOutOfRangeError) Error() string {
	return fmt.Sprintf("kafkax: offset %d of %s/%d is out of range, the log holds [%d, %d)", e.Offset, e.Topic, e.Partition, e.First, e.End)
}

// Unwrap returns Kafka's own error.
func (e *OffsetOutOfRangeError) Unwrap() error { return kafka.OffsetOutOfRange }

// RecordBatchError says which batch of a partition's log could not be decoded, and why. Its fields are Topic, Partition,
// Offset (the batch's first, or the one asked for if its header could not be read) and Err, in whose chain is one of
// ErrCorruptBatch, ErrOldBatch and ErrLargeBatch. Fetch, Consume and Admin.Scan return it.
type RecordBatchError = wire.BatchError

// isFencing asks whether a coordinator's answer means that the generation is over for this member. RebalanceInProgress
// is one of them for a commit, as the coordinator answers so only when the next generation has been decided; for a
// heartbeat it is good news, see generation.beat.
func isFencing(err error) bool {
	return errors.Is(err, kafka.IllegalGeneration) || errors.Is(err, kafka.UnknownMemberId) || errors.Is(err, kafka.FencedInstanceID)
}

// isRefusal asks whether err is an answer that asking again will not change. SASLAuthenticationFailed is none: kafka-go
// says so, too, when the connection is cut in the middle of a handshake.
func isRefusal(err error) bool {
	for _, code := range []kafka.Error{
		kafka.InvalidTopic, kafka.InvalidGroupId, kafka.InvalidSessionTimeout, kafka.InconsistentGroupProtocol,
		kafka.TopicAuthorizationFailed, kafka.GroupAuthorizationFailed, kafka.ClusterAuthorizationFailed,
		kafka.UnsupportedSASLMechanism, kafka.IllegalSASLState,
	} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}
