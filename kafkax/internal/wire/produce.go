package wire

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
)

const (
	apiProduce = 0

	// Version 3 brought the record batch (Kafka 0.11), 7 zstd, 9 the flexible encoding, which this package has no use for.
	minProduceVersion  = 3
	maxProduceVersion  = 8
	zstdProduceVersion = 7

	produceBuffer      = 32 << 10 // a request that is smaller is sent with one write
	produceAnswerBytes = 4 << 10
	maxProduceAnswer   = 16 << 20

	idle = 365 * 24 * time.Hour // as good as no deadline
)

// ErrUncertain says that a request may have been served although it failed: it was sent, at least in part, and no answer
// to it has come.
var ErrUncertain = errors.New("no answer")

// ProducePart is one partition's share of a request: one record batch.
type ProducePart struct {
	Topic     string
	Partition int
	Records   []byte

	// Answer gets one value, for which it must have room: nil when the batch is in the log, else an error with a
	// kafka.Error or ErrUncertain in its chain. Records are the Conn's until then.
	Answer chan<- error
}

// ProduceConn is a connection for Produce requests, from DialProduce. Send belongs to one goroutine at a time, Serve to
// another one; Close may be called from anywhere, any time.
type ProduceConn struct {
	session
	version int16
	out     *bufio.Writer
	head    []byte // reused

	// With the session's lock.
	pending []pendingProduce
	muted   time.Time // Until when the broker has said that it reads nothing.
}

type pendingProduce struct {
	id    int32
	parts []ProducePart
	sent  chan struct{} // Closed once nobody reads the parts' records any more.
}

// DialProduce is Dial for Produce requests. Timeout bounds the handshakes, the sending of a request, and the wait for each
// answer; both may take longer by what a broker says that it throttles. Somebody has to call Serve.
func DialProduce(ctx context.Context, d *kafka.Dialer, network, addr string, timeout time.Duration) (*ProduceConn, error) {
	c := &ProduceConn{session: session{timeout: timeout}}
	versions, err := c.connect(ctx, d, network, addr, api{apiProduce, "Produce", minProduceVersion, maxProduceVersion})
	if err != nil {
		return nil, err
	}
	c.version = versions[0]
	c.out = bufio.NewWriterSize(c.conn, produceBuffer)
	return c, nil
}

// Zstd says whether the broker takes batches that are compressed with it.
func (c *ProduceConn) Zstd() bool { return c.version >= zstdProduceVersion }

// Send writes one request for acknowledgement by all in-sync replicas, for which the broker waits up to patience. With an
// error nothing has been sent, and no part is answered. Otherwise each is, by Serve; a failure to send closes the Conn and
// is an answer too.
func (c *ProduceConn) Send(patience time.Duration, parts []ProducePart) error {
	slices.SortStableFunc(parts, func(a, b ProducePart) int { return strings.Compare(a.Topic, b.Topic) })
	request := pendingProduce{c.nextID, parts, make(chan struct{})}
	defer close(request.sent)
	c.mu.Lock()
	if err := c.broken; err != nil {
		c.mu.Unlock()
		return err
	}
	c.pending = append(c.pending, request)
	if len(c.pending) == 1 {
		c.expect()
	}
	deadline := c.deadline()
	c.mu.Unlock()
	c.nextID++
	if err := c.send(request.id, patience, parts, deadline); err != nil {
		_ = c.fail(fmt.Errorf("wire: send produce: %w", err)) // Serve answers with it.
	}
	return nil
}

// expect sets the deadline of the next answer. It needs the lock.
func (c *ProduceConn) expect() {
	deadline := time.Now().Add(idle)
	if len(c.pending) > 0 {
		deadline = c.deadline()
	}
	_ = c.conn.SetReadDeadline(deadline) // One that fails has a Read fail as well.
}

// deadline is that of what begins now. A broker that is muted neither reads nor answers until it is not. It needs the lock.
func (c *ProduceConn) deadline() time.Time {
	return time.Now().Add(c.timeout + max(time.Until(c.muted), 0))
}

func (c *ProduceConn) send(id int32, patience time.Duration, parts []ProducePart, deadline time.Time) error {
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	b := appendHeader(c.head[:0], apiProduce, c.version, id, c.clientID)
	b = appendInt16(b, -1) // transactional id: null
	b = appendInt16(b, -1) // acknowledged by all in-sync replicas
	b = appendInt32(b, int32(patience.Milliseconds()))
	topics, size := 0, len(b)
	for i, p := range parts {
		if i == 0 || parts[i-1].Topic != p.Topic {
			topics++
			size += 2 + len(p.Topic) + 4
		}
		size += 4 + 4 + len(p.Records)
	}
	b = appendInt32(b, int32(topics))
	binary.BigEndian.PutUint32(b, uint32(size)) // Plus the topics' count, minus the size itself.
	for i, p := range parts {
		if i == 0 || parts[i-1].Topic != p.Topic {
			b = appendString(b, p.Topic)
			b = appendInt32(b, int32(run(parts[i:])))
		}
		b = appendInt32(b, int32(p.Partition))
		b = appendInt32(b, int32(len(p.Records)))
		if _, err := c.out.Write(b); err != nil {
			return err
		}
		if _, err := c.out.Write(p.Records); err != nil {
			return err
		}
		b = b[:0]
	}
	c.head = b
	return c.out.Flush()
}

// run is how many of the parts, from the first on, are for its topic.
func run(parts []ProducePart) int {
	n := 1
	for n < len(parts) && parts[n].Topic == parts[0].Topic {
		n++
	}
	return n
}

// Serve hands out the answers, one request's after the other, and calls answered after each. It returns when the Conn is
// closed or fails, which it answers to all that still wait.
func (c *ProduceConn) Serve(answered func()) error {
	for {
		err := c.serve()
		if err == nil {
			answered()
			continue
		}
		err = c.fail(err)
		c.mu.Lock()
		lost := c.pending
		c.pending = nil
		c.mu.Unlock()
		for _, request := range lost {
			<-request.sent
			for _, part := range request.parts {
				part.Answer <- fmt.Errorf("%w: %w", ErrUncertain, err)
			}
		}
		return err
	}
}

func (c *ProduceConn) serve() error {
	id, answer, err := c.next(produceAnswerBytes, maxProduceAnswer)
	if err != nil {
		return fmt.Errorf("wire: receive produce: %w", err)
	}
	c.mu.Lock()
	if len(c.pending) == 0 || c.pending[0].id != id {
		c.mu.Unlock()
		return fmt.Errorf("wire: receive produce: %w: answer to another request", errMalformed)
	}
	request := c.pending[0]
	c.mu.Unlock()
	errs, throttle, err := decodeProduce(c.version, request.parts, answer)
	if err != nil {
		return fmt.Errorf("wire: receive produce: %w", err)
	}
	c.mu.Lock()
	c.pending = slices.Delete(c.pending, 0, 1)
	c.muted = time.Now().Add(min(throttle, maxThrottle))
	c.expect()
	c.mu.Unlock()
	<-request.sent // A broker that answers before it has read all of it is no broker, but the records are still ours.
	for i, part := range request.parts {
		part.Answer <- errs[i]
	}
	return nil
}

// decodeProduce gives the error of each part.
func decodeProduce(version int16, parts []ProducePart, answer []byte) (errs []error, throttle time.Duration, err error) {
	errs = make([]error, len(parts))
	seen := make([]bool, len(parts))
	in := cursor{b: answer}
	for topics := in.int32(); topics > 0 && !in.short; topics-- {
		topic := in.bytes(int(in.int16()))
		for partitions := in.int32(); partitions > 0 && !in.short; partitions-- {
			partition, code := in.int32(), in.int16()
			in.bytes(8 + 8) // base offset, append time
			if version >= 5 {
				in.int64() // log start
			}
			var message []byte
			if version >= 8 {
				for n := in.int32(); n > 0 && !in.short; n-- {
					in.int32() // index of a record
					in.bytes(max(int(in.int16()), 0))
				}
				message = in.bytes(max(int(in.int16()), 0))
			}
			i := slices.IndexFunc(parts, func(p ProducePart) bool {
				return int32(p.Partition) == partition && p.Topic == string(topic)
			})
			if in.short || i < 0 || seen[i] {
				return nil, 0, fmt.Errorf("%w: a partition that was not written to", errMalformed)
			}
			seen[i] = true
			errs[i] = produceError(code, message)
		}
	}
	throttle = time.Duration(max(in.int32(), 0)) * time.Millisecond
	if in.short || slices.Contains(seen, false) {
		return nil, 0, fmt.Errorf("%w: it ends early", errMalformed)
	}
	return errs, throttle, nil
}

func produceError(code int16, message []byte) error {
	switch {
	case code == 0:
		return nil
	case len(message) == 0:
		return kafka.Error(code)
	default:
		return fmt.Errorf("%w: %s", kafka.Error(code), message)
	}
}
