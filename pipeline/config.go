package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/holdfast-io/holdfast"
)

const (
	defaultName                = "pipeline"
	defaultMaxLettersPerSecond = 1000
	defaultBatchCount          = 10_000
	defaultBatchBytes          = 32 << 20
	defaultBatchDelay          = time.Second
	defaultBatchWriters        = 2
	defaultMaxInFlight         = 100_000
	defaultLanes               = 16
	maxLanes                   = 10_000 // Each is a goroutine for each partition, and with ByKey a buffer.
	defaultDrainTimeout        = 20 * time.Second
	defaultStallAfter          = time.Minute
)

// Config is how a pipeline meets failures and how it batches. The zero value is good but for DeadLetters: without it
// what cannot be processed holds its partition.
type Config struct {
	// Name appears in logs, health and metrics. Defaults to the source's group, or "pipeline".
	Name string

	// DeadLetters is where messages go that cannot be processed. Nil: they go nowhere, and hold their partition.
	DeadLetters DeadLetters

	// DeadLetterAfter is for how long messages wait for an open circuit, counted from the first one that it rejected,
	// before they are dead-lettered. 0, the default, dead-letters at once; -1 never: nothing more is fetched until the
	// circuit closes. What may already be stored waits in any case, for as long as its partition is kept.
	DeadLetterAfter time.Duration

	// MaxLettersPerSecond bounds how many letters are written in a second; beyond it messages wait. Defaults to
	// 1,000; -1 means no bound.
	MaxLettersPerSecond int

	// LettersStay keeps letters of an open circuit in the dead-letter queue until an operator redrives them. By
	// default they come back through the pipeline by themselves once the circuit closes.
	LettersStay bool

	// Stacks adds a panic's stack to its letter, as far as the dead-letter queue has room for it.
	Stacks bool

	// Order is which messages of a partition keep their order; the zero value is ByPartition. With another, Lanes says how
	// many messages of a partition go through the stages at a time; it defaults to 16, and is at most 10,000.
	Order Order
	Lanes int

	// Batch is when a batch is written.
	Batch BatchConfig

	// MaxInFlight bounds how many messages of a partition there are from the first that is not settled to the last one
	// fetched. At the bound the partition is not fetched from, and a batch of it is not waited with. Defaults to 100,000.
	MaxInFlight int

	// DrainTimeout is how long Run goes on, after its context has ended, to finish what is in flight. Defaults to
	// 20 s, which is below the 30 s that Kubernetes grants by default.
	DrainTimeout time.Duration

	// StallAfter is how old the oldest message in flight of a partition may be, or for how long nothing may be fetched
	// though there is a lag, before Health calls it degraded. Defaults to one minute; -1 means never.
	StallAfter time.Duration

	// Context, if set, makes the context with which a message goes through the stages, such as one with its trace. It
	// must be derived from ctx.
	Context func(ctx context.Context, m holdfast.Message) context.Context

	// OnEvent, if set, is told of changes: in order, one at a time, on goroutines of the pipeline's, which wait for it: while
	// it does not return, what is told of does not go on. It may ask for Stats and Health, and must not wait for Run. A panic
	// in it is logged.
	OnEvent func(Event)

	// Logger gets state changes, never messages. Nil means slog.Default().
	Logger *slog.Logger
}

// BatchConfig is when a batch is written: when one of the bounds is reached. Beside those that are on their way, as many
// again may be gathered, and one more.
type BatchConfig struct {
	Count   int           // Items; defaults to 10,000.
	Bytes   int           // Bytes of keys, values and headers, with 256 added for each message; defaults to 32 MiB.
	Delay   time.Duration // Time since the first item; defaults to 1 s. -1 means no delay: whatever is there is written.
	Writers int           // How many batches may be on their way at a time, as far as Order allows; defaults to 2. See Sink.
}

// Validate names every field that cannot be, with its value.
func (c Config) Validate() error {
	var errs []error
	refuse := func(bad bool, field, want string, got any) {
		if bad {
			errs = append(errs, fmt.Errorf("pipeline: Config.%s must be %s, got %v", field, want, got))
		}
	}
	const duration, count = "positive, 0 for the default or -1", "positive, 0 for the default or -1 for no bound"
	refuse(c.DeadLetterAfter < -1, "DeadLetterAfter", "positive, 0 for at once or -1 for never", c.DeadLetterAfter)
	refuse(c.MaxLettersPerSecond < -1, "MaxLettersPerSecond", count, c.MaxLettersPerSecond)
	refuse(c.Batch.Count < 0, "Batch.Count", "positive or 0 for the default", c.Batch.Count)
	refuse(c.Batch.Bytes < 0, "Batch.Bytes", "positive or 0 for the default", c.Batch.Bytes)
	refuse(c.Batch.Delay < -1, "Batch.Delay", duration, c.Batch.Delay)
	refuse(c.Batch.Writers < 0, "Batch.Writers", "positive or 0 for the default", c.Batch.Writers)
	refuse(c.Order < ByPartition || c.Order > Unordered, "Order", "ByPartition, ByKey or Unordered", int(c.Order))
	refuse(c.Lanes < 0 || c.Lanes > maxLanes, "Lanes", fmt.Sprintf("from 1 to %d, or 0 for the default", maxLanes), c.Lanes)
	refuse(c.MaxInFlight < 0, "MaxInFlight", "positive or 0 for the default", c.MaxInFlight)
	refuse(c.DrainTimeout < 0, "DrainTimeout", "positive or 0 for the default", c.DrainTimeout)
	refuse(c.StallAfter < -1, "StallAfter", duration, c.StallAfter)
	return errors.Join(errs...)
}

// deadLetterTopic is the topic that letters go to, as far as that is known.
func deadLetterTopic(c Config) string {
	if named, ok := c.DeadLetters.(interface{ Topic() string }); ok {
		return named.Topic()
	}
	return ""
}

func (c Config) withDefaults(group string) Config {
	c.Name = cmp.Or(c.Name, group, defaultName)
	c.MaxLettersPerSecond = cmp.Or(c.MaxLettersPerSecond, defaultMaxLettersPerSecond)
	c.Batch.Count = cmp.Or(c.Batch.Count, defaultBatchCount)
	c.Batch.Bytes = cmp.Or(c.Batch.Bytes, defaultBatchBytes)
	c.Batch.Delay = cmp.Or(c.Batch.Delay, defaultBatchDelay)
	c.Batch.Writers = cmp.Or(c.Batch.Writers, defaultBatchWriters)
	c.Lanes = cmp.Or(c.Lanes, defaultLanes)
	c.MaxInFlight = cmp.Or(c.MaxInFlight, defaultMaxInFlight)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, defaultDrainTimeout)
	c.StallAfter = cmp.Or(c.StallAfter, defaultStallAfter)
	if c.DeadLetters == nil {
		c.DeadLetterAfter = -1 // There is nowhere to go for what an open circuit rejects.
	}
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}
