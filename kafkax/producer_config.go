package kafkax

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

const (
	defaultProduceTimeout = 10 * time.Second
	defaultBatchBytes     = 900_000 // Below the 1,048,588 bytes that a broker takes by default.
	defaultMaxRequests    = 16
	minProduceTimeout     = 10 * time.Millisecond
)

// ProducerConfig says how to write. The zero value is a good default.
type ProducerConfig struct {
	// Breaker is asked before every request. Nil means one of its own, from BreakerConfig("kafka.producer").
	Breaker *breaker.Breaker

	// Retry says how often a request is tried. Attempts and Delay of 0 are those of RetryPolicy.
	Retry retry.Policy

	// Timeout bounds one attempt. The broker is told to give up after half of it. 0 means 10 s.
	Timeout time.Duration

	// BatchBytes is about how many bytes of messages go into one request. A larger message goes alone. 0 means 900,000.
	BatchBytes int

	// MaxRequests is how many requests may be on their way at once, over all calls. Others wait. 0 means 16.
	MaxRequests int

	// Compression is none by default.
	Compression kafka.Compression
}

// Validate reports all that is wrong with the configuration, in one error.
func (c ProducerConfig) Validate() error {
	var errs []error
	bad := func(field, want string, got any) {
		errs = append(errs, fmt.Errorf("kafkax: ProducerConfig.%s must be %s, got %v", field, want, got))
	}
	if c.Timeout != 0 && c.Timeout < minProduceTimeout {
		bad("Timeout", fmt.Sprintf("at least %v, or 0 for %v", minProduceTimeout, defaultProduceTimeout), c.Timeout)
	}
	if c.BatchBytes < 0 {
		bad("BatchBytes", fmt.Sprintf("positive, or 0 for %d", defaultBatchBytes), c.BatchBytes)
	}
	if c.MaxRequests < 0 {
		bad("MaxRequests", fmt.Sprintf("positive, or 0 for %d", defaultMaxRequests), c.MaxRequests)
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
	return c, nil
}
