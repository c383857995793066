package wire

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	apiFetch    = 1
	apiVersions = 18

	// Version 4 brought the record batch and isolation levels (Kafka 0.11), 12 the flexible encoding, which this
	// package has no use for.
	minFetchVersion = 4
	maxFetchVersion = 11

	minBytes            = 1 // that a broker waits for
	defaultRequestBytes = 1 << 20
)

// Request asks for one partition's messages from Offset on.
type Request struct {
	Topic     string
	Partition int
	Offset    int64

	// MaxWait is how long the broker waits for a message, rounded down to milliseconds. 0 means not at all.
	MaxWait time.Duration

	// MaxBytes is when the broker stops adding batches. A first batch that is larger comes whole all the same, as long
	// as it stays within Config.MaxBytes. 0 means 1 MiB.
	MaxBytes int

	// ReadCommitted leaves out what belongs to an aborted transaction, and stops at the first open one.
	ReadCommitted bool
}

func (r Request) withDefaults() Request {
	r.MaxBytes = cmp.Or(r.MaxBytes, defaultRequestBytes)
	return r
}

func (r Request) validate(cfg Config) error {
	var errs []error
	bad := func(field, want string, got any) {
		errs = append(errs, fmt.Errorf("wire: Request.%s must be %s, got %v", field, want, got))
	}
	if r.Topic == "" || len(r.Topic) > math.MaxInt16 {
		bad("Topic", "a topic's name", fmt.Sprintf("%d bytes", len(r.Topic)))
	}
	if r.Partition < 0 || r.Partition > math.MaxInt32 {
		bad("Partition", "a partition's number", r.Partition)
	}
	if r.Offset < 0 {
		bad("Offset", "0 or more", r.Offset)
	}
	if r.MaxWait < 0 || r.MaxWait.Milliseconds() > math.MaxInt32 {
		bad("MaxWait", "0 or more and below 24 days", r.MaxWait)
	}
	if r.MaxBytes < 0 || r.MaxBytes > cfg.MaxBytes {
		bad("MaxBytes", fmt.Sprintf("positive and at most Config.MaxBytes (%d), or 0 for %d", cfg.MaxBytes, defaultRequestBytes), r.MaxBytes)
	}
	return errors.Join(errs...)
}

// appendTo appends the whole frame.
func (r Request) appendTo(b []byte, version int16, id int32, clientID string) []byte {
	start := len(b)
	b = appendHeader(b, apiFetch, version, id, clientID)
	b = appendInt32(b, -1) // replica id: a consumer
	b = appendInt32(b, int32(r.MaxWait.Milliseconds()))
	b = appendInt32(b, minBytes)
	b = appendInt32(b, math.MaxInt32) // the partition's own limit is the one that counts
	if r.ReadCommitted {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	if version >= 7 {
		b = appendInt32(b, 0)  // session id: none
		b = appendInt32(b, -1) // session epoch: none
	}
	b = appendInt32(b, 1) // topics
	b = appendString(b, r.Topic)
	b = appendInt32(b, 1) // partitions
	b = appendInt32(b, int32(r.Partition))
	if version >= 9 {
		b = appendInt32(b, -1) // leader epoch: unknown, as kafka-go's metadata does not tell
	}
	b = binary.BigEndian.AppendUint64(b, uint64(r.Offset))
	if version >= 5 {
		b = binary.BigEndian.AppendUint64(b, math.MaxUint64) // log start: -1, for followers only
	}
	b = appendInt32(b, int32(r.MaxBytes))
	if version >= 7 {
		b = appendInt32(b, 0) // forgotten topics
	}
	if version >= 11 {
		b = appendString(b, "") // rack: read from the leader
	}
	return finishFrame(b, start)
}

// appendHeader begins a frame whose size finishFrame fills in.
func appendHeader(b []byte, api, version int16, id int32, clientID string) []byte {
	b = appendInt32(b, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(api))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = appendInt32(b, id)
	return appendString(b, clientID)
}

func finishFrame(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

func appendInt16(b []byte, v int16) []byte { return binary.BigEndian.AppendUint16(b, uint16(v)) }

func appendInt32(b []byte, v int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) }

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}
