package wire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// ErrTooMany says that MaxOutstanding requests wait for their answers already.
var ErrTooMany = errors.New("wire: too many outstanding requests")

// MaxOutstanding is how many requests may wait for their answers on one Conn. A broker works on one request per
// connection at a time, so one ahead of the answer being handled is all that pays.
const MaxOutstanding = 2

const (
	defaultTimeout  = 10 * time.Second
	defaultMaxBytes = 128 << 20
	minMaxBytes     = 64 << 10
	maxMaxBytes     = 1 << 30

	// A broker over its quota answers at once and then leaves the connection mute for as long as it says (KIP-219):
	// 11 windows of 1 s by default. What it says is believed up to here.
	maxThrottle = time.Minute

	// answerOverhead is what an answer may hold beside the records: its fixed fields, the topic's name and the
	// aborted transactions, 16 bytes each.
	answerOverhead = 1 << 20
)

// Config bounds a Conn. The zero value is a good default.
type Config struct {
	// Timeout bounds the dial with its handshakes where kafka.Dialer.Timeout is unset, the sending of a request, and
	// the beginning of an answer beyond the request's own MaxWait, and each 4 KiB of it from then on. 0 means 10 s.
	Timeout time.Duration

	// MaxBytes bounds an answer as it comes, what each of its batches decompresses to, and a record's headers. A batch
	// over it is ErrTooLarge. 0 means 128 MiB.
	MaxBytes int

	// Buffers is what answers pass through. Nil means some of the Conn's own, for answers of up to 1 MiB.
	Buffers *Buffers

	// Large is called before an answer is read that is larger than its Request.MaxBytes, since its first batch is. It
	// may wait; an error of it is Receive's. Nil means that such an answer is read as any other.
	Large func(context.Context) error
}

// Validate reports every field out of range.
func (cfg Config) Validate() error {
	var errs []error
	if cfg.Timeout < 0 {
		errs = append(errs, fmt.Errorf("wire: Config.Timeout must be positive, or 0 for %v, got %v", defaultTimeout, cfg.Timeout))
	}
	if cfg.MaxBytes != 0 && (cfg.MaxBytes < minMaxBytes || cfg.MaxBytes > maxMaxBytes) {
		errs = append(errs, fmt.Errorf("wire: Config.MaxBytes must be from %d to %d, or 0 for %d, got %d",
			minMaxBytes, maxMaxBytes, defaultMaxBytes, cfg.MaxBytes))
	}
	return errors.Join(errs...)
}

func (cfg Config) withDefaults() Config {
	cfg.Timeout = cmp.Or(cfg.Timeout, defaultTimeout)
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, defaultMaxBytes)
	if cfg.Buffers == nil {
		cfg.Buffers = NewBuffers(defaultRequestBytes)
	}
	return cfg
}

// Conn is one connection to one broker, from Dial. Send belongs to one goroutine at a time and so does Receive, but
// they may be two; Close may be called from anywhere, any time.
type Conn struct {
	session
	cfg     Config
	version int16 // of Fetch, agreed on with the broker

	out     []byte // one request, reused
	pending chan pendingRequest

	throttled time.Duration // what the last answer announced
}

type pendingRequest struct {
	id int32
	Request
}

// Send writes one Fetch request. Answers come in the order of the requests. A bad request or ErrTooMany leaves the Conn
// as it was; after any other error it is closed and every further call fails.
func (c *Conn) Send(req Request) error {
	req = req.withDefaults()
	if err := req.validate(c.cfg); err != nil {
		return err
	}
	if err := c.err(); err != nil {
		return err
	}
	id := c.nextID
	select {
	case c.pending <- pendingRequest{id, req}:
	default:
		return ErrTooMany
	}
	c.nextID++
	c.out = req.appendTo(c.out[:0], c.version, id, c.clientID)
	if err := c.write(c.out); err != nil {
		return c.fail(fmt.Errorf("wire: send fetch of %s/%d: %w", req.Topic, req.Partition, err))
	}
	return nil
}

// Receive waits for the answer to the oldest request that has none yet: for the request's MaxWait, Config.Timeout and
// the time for which the broker has said that it throttles, and then as long as it comes. Without an outstanding request
// it fails at once.
//
// A partition's error is in the chain as a kafka.Error, a batch whose header or checksum is wrong is a *BatchError; the
// Conn stays usable after both. After any other error, the end of ctx and a batch of too many bytes included, it is closed
// and every further call fails.
// No message is lost with an error: fetch the same offset again.
func (c *Conn) Receive(ctx context.Context) (Answer, error) {
	var req pendingRequest
	select {
	case req = <-c.pending:
	default:
		return Answer{}, cmp.Or(c.err(), errors.New("wire: receive without an outstanding request"))
	}
	if err := c.err(); err != nil {
		return Answer{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.fail(fmt.Errorf("wire: receive: %w", context.Cause(ctx))) })
	defer stop()

	buffer, err := c.readAnswer(ctx, req)
	if err != nil {
		return Answer{}, c.fail(fmt.Errorf("wire: receive fetch of %s/%d: %w", req.Topic, req.Partition, err))
	}
	a, err := parseAnswer(req.Request, c.version, buffer)
	c.throttled = min(a.Throttle, maxThrottle)
	switch {
	case errors.Is(err, errMalformed):
		return Answer{}, c.fail(fmt.Errorf("wire: receive fetch of %s/%d: %w", req.Topic, req.Partition, err))
	case err != nil || len(a.batches) == 0:
		c.cfg.Buffers.answered(buffer)
	default:
		a.buffer = buffer
	}
	return a, err
}

func (c *Conn) readAnswer(ctx context.Context, req pendingRequest) ([]byte, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(req.MaxWait + c.cfg.Timeout + c.throttled)); err != nil {
		return nil, err
	}
	id, size, err := c.nextHeader(math.MaxInt32)
	switch limit := c.cfg.MaxBytes + answerOverhead; {
	case err != nil:
		return nil, err
	case id != req.id:
		return nil, otherAnswer(id, req.id)
	case size > limit: // Its first batch is, as no other is sent beyond what was asked for.
		err := fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, size, limit)
		return nil, c.fail(&BatchError{Topic: req.Topic, Partition: req.Partition, Offset: req.Offset, Err: err})
	}
	if c.cfg.Large != nil && size > req.MaxBytes+AnswerHead {
		if err := c.cfg.Large(ctx); err != nil {
			return nil, err
		}
		if err := c.conn.SetReadDeadline(time.Now().Add(c.cfg.Timeout)); err != nil {
			return nil, err
		}
	}
	return c.readBody(c.cfg.Buffers.forAnswer(size), size)
}
