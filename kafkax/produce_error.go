package kafkax

import (
	"errors"
	"fmt"
	"slices"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/produce"

	"github.com/holdfast-io/holdfast"
)

// ErrProducerClosed is returned for what is produced after Close.
var ErrProducerClosed = errors.New("kafkax: producer closed")

// ProduceError says which messages of one Produce call were not acknowledged, and why. All others were.
type ProduceError struct {
	Messages int // How many the call had.
	Failures []ProduceFailure
}

// ProduceFailure is one run of messages for one partition that failed together.
type ProduceFailure struct {
	Topic     string
	Partition int   // -1 when it was not known.
	Indexes   []int // Of the messages in the call, in their order.
	Bytes     int   // About the size of all of them.
	Err       error

	// Ambiguous says that the messages may have been written all the same: an answer was lost.
	Ambiguous bool

	// Permanent says that these messages will never be accepted as they are: too large, or invalid.
	Permanent bool

	// Hold says that nothing is wrong with the messages, but that the configuration refuses them: access denied.
	Hold bool
}

// Error names the first failure and how many messages failed.
func (e *ProduceError) Error() string {
	if len(e.Failures) == 0 {
		return "kafkax: produce error without failures"
	}
	f, failed := e.Failures[0], 0
	for _, f := range e.Failures {
		failed += len(f.Indexes)
	}
	unknown := ""
	if f.Ambiguous {
		unknown = ", may have been written"
	}
	return fmt.Sprintf("kafkax: %d of %d messages not acknowledged, first %d (%d bytes) for %s/%d%s: %v",
		failed, e.Messages, f.Indexes[0], f.Bytes, f.Topic, f.Partition, unknown, f.Err)
}

// Unwrap gives the failures' errors.
func (e *ProduceError) Unwrap() []error {
	errs := make([]error, len(e.Failures))
	for i, f := range e.Failures {
		errs[i] = f.Err
	}
	return errs
}

// Indexes lists the messages that failed, in their order.
func (e *ProduceError) Indexes() []int {
	var all []int
	for _, f := range e.Failures {
		all = append(all, f.Indexes...)
	}
	slices.Sort(all)
	return all
}

// Ambiguous says that at least one of the messages may have been written all the same.
func (e *ProduceError) Ambiguous() bool {
	return slices.ContainsFunc(e.Failures, func(f ProduceFailure) bool { return f.Ambiguous })
}

// Permanent says that none of the messages will ever be accepted as it is.
func (e *ProduceError) Permanent() bool {
	return len(e.Failures) > 0 && !slices.ContainsFunc(e.Failures, func(f ProduceFailure) bool { return !f.Permanent })
}

// Hold says that the configuration refuses at least one of the messages, through no fault of theirs.
func (e *ProduceError) Hold() bool {
	return slices.ContainsFunc(e.Failures, func(f ProduceFailure) bool { return f.Hold })
}

// judge gives the error of one attempt its verdict, for retry and breaker, and says whether the messages may have been
// written.
func judge(err error) (verdict error, written bool) {
	var code kafka.Error
	switch {
	case isUnsent(err):
		return err, false
	case !errors.As(err, &code):
		return err, true // Sent, and no answer.
	}
	switch code {
	case kafka.MessageSizeTooLarge, kafka.RecordListTooLarge, kafka.InvalidTimestamp, errInvalidRecord:
		return holdfast.Permanent(err), false
	case kafka.TopicAuthorizationFailed, kafka.ClusterAuthorizationFailed, kafka.InvalidTopic, kafka.PolicyViolation,
		kafka.SASLAuthenticationFailed, kafka.UnsupportedSASLMechanism, kafka.UnsupportedForMessageFormat:
		return holdfast.Hold(err), false
	case kafka.UnknownTopicOrPartition, kafka.LeaderNotAvailable, kafka.NotEnoughReplicas, kafka.InvalidMessage,
		kafka.UnsupportedVersion:
		return err, false
	default:
		// Even NotLeaderForPartition: a leader that is deposed while it waits for its followers answers so, and the
		// followers may have what it wrote.
		return err, true
	}
}

// errInvalidRecord is a code that kafka-go does not name: a broker refuses what a record holds.
const errInvalidRecord = kafka.Error(87)

// unsentError is an error that came before anything was sent.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// isUnsent asks whether err came before anything was sent.
func isUnsent(err error) bool {
	if _, ok := errors.AsType[*unsentError](err); ok {
		return true
	}
	_, ok := errors.AsType[*produce.Error](err) // The layout knows no such partition, or no leader for it.
	return ok || errors.Is(err, kafka.BrokerNotAvailable)
}

// isStale asks whether err means that the cached layout of the cluster is wrong.
func isStale(err error) bool {
	return isUnsent(err) || errors.Is(err, kafka.NotLeaderForPartition) || errors.Is(err, kafka.UnknownTopicOrPartition) ||
		errors.Is(err, kafka.LeaderNotAvailable) || errors.Is(err, kafka.FencedLeaderEpoch)
}
