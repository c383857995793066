package kafkax

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
)

var (
	// ErrProducerClosed is returned for what is produced after Close, and for what Close had to cut off.
	ErrProducerClosed = errors.New("kafkax: producer closed")

	// ErrBufferFull is returned when ProducerConfig.MaxBufferedBytes are taken, and callers are not to wait.
	ErrBufferFull = errors.New("kafkax: producer's buffer is full")

	errOutdated = errors.New("the circuit has opened or closed since this was to be sent")
	errSpooled  = errors.New("kept in the spool, after an attempt that may have written it")
)

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

	// Spooled says that the messages are durable in ProducerConfig.Spool and will be written, so do not produce them
	// again. They are reported because an attempt may have written them already: they may be there twice.
	Spooled bool

	// Hold says that nothing is wrong with the messages, but that the configuration refuses them: access denied.
	Hold bool
}

// alone is the error of one message.
func (f ProduceFailure) alone() error {
	f.Indexes = []int{0}
	return &ProduceError{Messages: 1, Failures: []ProduceFailure{f}}
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

// Indexes lists the messages that failed, in their order, without those that are in the spool.
func (e *ProduceError) Indexes() []int {
	var all []int
	for _, f := range e.Failures {
		if !f.Spooled {
			all = append(all, f.Indexes...)
		}
	}
	slices.Sort(all)
	return all
}

// Ambiguous says that at least one of the messages may have been written all the same, those aside that are in the spool.
func (e *ProduceError) Ambiguous() bool {
	return slices.ContainsFunc(e.Failures, func(f ProduceFailure) bool { return f.Ambiguous && !f.Spooled })
}

// Permanent says that none of the messages will ever be accepted as it is.
func (e *ProduceError) Permanent() bool {
	return len(e.Failures) > 0 && !slices.ContainsFunc(e.Failures, func(f ProduceFailure) bool { return !f.Permanent })
}

func (e *ProduceError) anyPermanent() bool {
	return slices.ContainsFunc(e.Failures, func(f ProduceFailure) bool { return f.Permanent })
}

// Hold says that the configuration refuses at least one of the messages, through no fault of theirs.
func (e *ProduceError) Hold() bool {
	return slices.ContainsFunc(e.Failures, func(f ProduceFailure) bool { return f.Hold })
}

// CloseError says what Close did not see written. Each message has been settled with an error of its own as well.
type CloseError struct {
	NotWritten int   // Messages that were given up, and are not written.
	Ambiguous  int   // Messages that were given up, and may be written.
	Spool      bool  // There are messages left in the spool, or there may be: nobody has seen it empty.
	Running    bool  // The caller's own code has not returned, such as a function given to ProduceAsync. What waits for it is not counted.
	Err        error // Why Close did not wait any longer. Nil when it did not have to.
}

// Error counts the messages.
func (e *CloseError) Error() string {
	text := fmt.Sprintf("kafkax: close producer: %d messages not written, %d perhaps", e.NotWritten, e.Ambiguous)
	if e.Spool {
		text += ", and more is left in the spool"
	}
	if e.Running {
		text += ", and a function of the caller's has not returned"
	}
	if e.Err != nil {
		text += fmt.Sprintf(": %v", e.Err)
	}
	return text
}

// Unwrap gives why Close did not wait any longer.
func (e *CloseError) Unwrap() error { return e.Err }

// judge gives the error of one attempt its verdict, for retry and breaker, and says whether the messages may have been
// written.
func judge(err error) (verdict error, written bool) {
	var code kafka.Error
	switch {
	case isUnsent(err):
		return err, false
	case !errors.As(err, &code):
		return err, true // No answer.
	}
	switch code {
	case kafka.MessageSizeTooLarge, kafka.RecordListTooLarge, kafka.InvalidTimestamp, errInvalidRecord:
		return holdfast.Permanent(err), false
	case kafka.TopicAuthorizationFailed, kafka.ClusterAuthorizationFailed, kafka.InvalidTopic, kafka.PolicyViolation,
		kafka.SASLAuthenticationFailed, kafka.UnsupportedSASLMechanism, kafka.UnsupportedForMessageFormat,
		kafka.UnsupportedCompressionType:
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

// companionError is an error that another batch of the same request has reported, too.
type companionError struct{ err error }

func (e *companionError) Error() string { return e.err.Error() }
func (e *companionError) Unwrap() error { return e.err }

// isUnsent asks whether err came before anything was sent.
func isUnsent(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	_, ok := errors.AsType[*unsentError](err)
	return ok || errors.Is(err, kafka.BrokerNotAvailable)
}

// isSequenceError asks whether a broker has refused a batch because it does not know its producer, or knows it otherwise.
func isSequenceError(err error) bool {
	return errors.Is(err, kafka.OutOfOrderSequenceNumber) || errors.Is(err, kafka.DuplicateSequenceNumber) ||
		errors.Is(err, kafka.UnknownProducerId) || errors.Is(err, kafka.InvalidProducerEpoch) ||
		errors.Is(err, kafka.InvalidProducerIDMapping) || errors.Is(err, kafka.ProducerFenced)
}

// isStale asks whether err means that the cached layout of the cluster is wrong.
func isStale(err error) bool {
	return isUnsent(err) || errors.Is(err, kafka.NotLeaderForPartition) || errors.Is(err, kafka.UnknownTopicOrPartition) ||
		errors.Is(err, kafka.LeaderNotAvailable) || errors.Is(err, kafka.FencedLeaderEpoch)
}
