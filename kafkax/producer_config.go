package kafkax

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

const (
	defaultProduceTimeout = 10 * time.Second
	defaultBatchBytes     = 900_000 // Below the 1,048,588 bytes that a broker takes by default.
	defaultMaxRequests    = 2
	defaultMaxBuffered    = 64 << 20
	maxMaxBuffered        = 1 << 30
	minProduceTimeout     = 10 * time.Millisecond
)

// ProducerConfig says how to write. The zero value is a good default.
type ProducerConfig struct {
	// Breaker is asked before every attempt to write a batch. A request that is lost is one failure to it, however many
	// partitions' batches it had: a lone broker that takes requests and answers none opens it after about
	// MaxFailures times Timeout. Nil means one of its own, from BreakerConfig("kafka.producer").
	Breaker *breaker.Breaker

	// Retry says how often a batch is tried. Attempts and Delay of 0 are those of RetryPolicy.
	Retry retry.Policy

	// Timeout bounds one attempt, beside the time for which a broker says that it throttles, of which up to a minute is
	// waited out. The broker is told to give up after half of it. 0 means 10 s.
	Timeout time.Duration

	// BatchBytes is about how many bytes of messages go into one request. A larger message goes alone. 0 means 900,000.
	BatchBytes int

	// MaxRequests is how many requests may be on their way to one broker at once, each over a connection of its own and at
	// most one for each partition. A second one is sent, and its connection opened, only when it is full. 0 means 2.
	MaxRequests int

	// MaxBufferedBytes bounds the memory of the messages that have been taken and not yet settled, over all calls. Callers
	// wait for room. A message that is larger alone is refused. 0 means 64 MiB.
	MaxBufferedBytes int

	// FailWhenFull has callers get ErrBufferFull at once where they would wait for room.
	FailWhenFull bool

	// DisableIdempotence gives up the producer id: what is repeated after a lost answer may be there twice. Brokers before
	// 2.8 want the right IDEMPOTENT_WRITE on the cluster for it, later ones the right to write to any topic.
	DisableIdempotence bool

	// Compression is none by default.
	Compression kafka.Compression

	// Spool takes the messages that meet an open circuit. They count as produced, and are written in their order when the
	// circuit has closed, also those that an earlier process has left there. As long as the spool has a key, newer messages
	// of that key go behind it. What goes through the spool is written at least once. Order, of messages and of the calls
	// of functions given to ProduceAsync, is each key's then, no longer the partition's; a message that the spool refuses
	// fails, and takes all with it that waits in its partition. Nil means none: messages that meet an open circuit fail with
	// breaker.ErrCircuitOpen. The spool is this Producer's alone, and is not closed by it.
	Spool Spool

	// Logger is told when messages begin to go to the spool, how draining it goes, and of functions given to ProduceAsync
	// that panic. Nil means slog.Default().
	Logger *slog.Logger
}

// Validate reports all that is wrong with the configuration, in one error.
func (c ProducerConfig) Validate() error {
	var errs []error
	bad := func(field, want string, got any) {
		errs = append(errs, fmt.Errorf("kafkax: ProducerConfig.%s must be %s, got %v", field, want, got))
	}
	if c.Timeout != 0 && (c.Timeout < minProduceTimeout || c.Timeout.Milliseconds() > math.MaxInt32) {
		bad("Timeout", fmt.Sprintf("at least %v and below 24 days, or 0 for %v", minProduceTimeout, defaultProduceTimeout), c.Timeout)
	}
	if c.BatchBytes < 0 {
		bad("BatchBytes", fmt.Sprintf("positive, or 0 for %d", defaultBatchBytes), c.BatchBytes)
	}
	if c.MaxRequests < 0 {
		bad("MaxRequests", fmt.Sprintf("positive, or 0 for %d", defaultMaxRequests), c.MaxRequests)
	}
	if c.MaxBufferedBytes < 0 || c.MaxBufferedBytes > maxMaxBuffered {
		bad("MaxBufferedBytes", fmt.Sprintf("from 1 to %d, or 0 for %d", maxMaxBuffered, defaultMaxBuffered), c.MaxBufferedBytes)
	}
	if c.Compression < 0 || c.Compression > kafka.Zstd {
		bad("Compression", "one of kafka-go's codecs, or 0 for none", int(c.Compression))
	}
	if err := c.Retry.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("kafkax: ProducerConfig.Retry: %w", err))
	}
	return errors.Join(errs...)
}

func (c ProducerConfig) withDefaults() (ProducerConfig, error) {
	if c.Breaker == nil {
		b, err := breaker.New(BreakerConfig("kafka.producer"))
		if err != nil {
			return c, err
		}
		c.Breaker = b
	}
	c.Retry.Attempts = cmp.Or(c.Retry.Attempts, RetryPolicy().Attempts)
	c.Retry.Delay = cmp.Or(c.Retry.Delay, RetryPolicy().Delay)
	c.Retry.Jitter = cmp.Or(c.Retry.Jitter, RetryPolicy().Jitter)
	c.Timeout = cmp.Or(c.Timeout, defaultProduceTimeout)
	c.BatchBytes = cmp.Or(c.BatchBytes, defaultBatchBytes)
	c.MaxRequests = cmp.Or(c.MaxRequests, defaultMaxRequests)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	c.MaxBufferedBytes = cmp.Or(c.MaxBufferedBytes, defaultMaxBuffered)
	return c, nil
}
