package dlq

import (
	"strings"

	"github.com/holdfast-io/holdfast"
)

// The headers of a letter. Their values are UTF-8 text. Times are RFC 3339 with nanoseconds, in UTC, but for the
// original timestamp, which is in milliseconds since 1970 as Kafka has it.
const (
	HeaderSchema            = "dlq-schema" // The first of them: what stands before it is the original's.
	HeaderID                = "dlq-id"
	HeaderOrigTopic         = "dlq-orig-topic"
	HeaderOrigPartition     = "dlq-orig-partition"
	HeaderOrigOffset        = "dlq-orig-offset"
	HeaderOrigTimestamp     = "dlq-orig-timestamp"
	HeaderOrigTimestampType = "dlq-orig-timestamp-type"
	HeaderGroup             = "dlq-group"
	HeaderReason            = "dlq-reason"
	HeaderRedriveCount      = "dlq-redrive-count"
	HeaderFirstFailedAt     = "dlq-first-failed-at"
	HeaderDeadAt            = "dlq-dead-at"

	// These are optional: a letter that is too large for its topic is written without them, and with HeaderStripped.
	HeaderHandler      = "dlq-handler"
	HeaderStage        = "dlq-stage"
	HeaderRetryable    = "dlq-retryable" // Written for who does not know all reasons; Decode goes by those.
	HeaderCircuit      = "dlq-circuit"
	HeaderCircuitState = "dlq-circuit-state"
	HeaderErrorMessage = "dlq-error-message"
	HeaderErrorClass   = "dlq-error-class"
	HeaderErrorCode    = "dlq-error-code"
	HeaderErrorChain   = "dlq-error-chain"
	HeaderErrorStack   = "dlq-error-stack"
	HeaderAttempts     = "dlq-attempts"
	HeaderLastFailedAt = "dlq-last-failed-at"
	HeaderHost         = "dlq-host"
	HeaderApp          = "dlq-app"
	HeaderAppVersion   = "dlq-app-version"
	HeaderClientID     = "dlq-client-id"

	HeaderStripped = "dlq-stripped"
)

// Of its journeys a message carries HeaderID and HeaderRedriveCount only. Which run brought it home, and when, would be
// further headers on every message: when is its own time, and so HeaderOrigTimestamp of a letter that comes of it, and a run
// is known by its consumer group. A leader's epoch is not kept, since nobody who reads letters asks for it. Headers that
// trace a message, such as traceparent, are the original's, and stay.

// What a release writes as its schema, and how long texts may be. Group and topic are as long as Kafka has them.
const (
	schemaVersion = "1"
	headerPrefix  = "dlq-"
	maxText       = 1 << 10
	maxStack      = 4 << 10
	maxWord       = 256
	cutMark       = "...[cut]"
)

// kind is whose a header is.
type kind int

const (
	original kind = iota // The message's.
	theirs               // Another framework's. In a letter, behind HeaderSchema, it was written for others to read.
	newer                // Of a letter, there, which a newer release has written. Else the message's.
	ours                 // A letter's.
)

func kindOf(key string) kind {
	if strings.HasPrefix(key, headerPrefix) {
		if isRequired(key) || isOptional(key) {
			return ours
		}
		return newer
	}
	if _, known := formatOf(key); known {
		return theirs
	}
	return original
}

// own tells whether a header is the message's own. inLetter says that HeaderSchema stands before it.
func (k kind) own(inLetter bool) bool {
	return k == original || k != ours && !inLetter
}

// strip gives a letter's record without what is optional, and says so in it.
func strip(record holdfast.Message) holdfast.Message {
	var kept []holdfast.Header
	inLetter := false
	for _, h := range record.Headers {
		inLetter = inLetter || h.Key == HeaderSchema
		if !inLetter || !isOptional(h.Key) && kindOf(h.Key) != theirs {
			kept = append(kept, h)
		}
	}
	record.Headers = append(kept, holdfast.Header{Key: HeaderStripped, Value: []byte("true")})
	return record
}

func isRequired(key string) bool {
	switch key {
	case HeaderSchema, HeaderID, HeaderOrigTopic, HeaderOrigPartition, HeaderOrigOffset, HeaderOrigTimestamp,
		HeaderOrigTimestampType, HeaderGroup, HeaderReason, HeaderRedriveCount, HeaderFirstFailedAt, HeaderDeadAt,
		HeaderStripped:
		return true
	}
	return false
}

// isOptional says whether a letter can be read and taken home without a header.
func isOptional(key string) bool {
	switch key {
	case HeaderHandler, HeaderStage, HeaderRetryable, HeaderCircuit, HeaderCircuitState, HeaderErrorMessage,
		HeaderErrorClass, HeaderErrorCode, HeaderErrorChain, HeaderErrorStack, HeaderAttempts, HeaderLastFailedAt, HeaderHost, HeaderApp, HeaderAppVersion,
		HeaderClientID:
		return true
	}
	return false
}
