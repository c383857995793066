package kafkax

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

// WriterConfig says how a Writer protects what it wraps. The zero value is a good default.
type WriterConfig struct {
	// Breaker is asked before every attempt. Nil means one of its own, from BreakerConfig("kafka.writer").
	Breaker *breaker.Breaker

	// Retry says how often a call is tried. Zero leaves the retries to the kafka.Writer, which tries 10 times by itself; with
	// its MaxAttempts at 1 it means RetryPolicy.
	Retry retry.Policy

	// Logger is told of settings that are seldom meant. Nil means slog.Default().
	Logger *slog.Logger
}

// Writer is a kafka.Writer behind a circuit breaker and retries, from WrapWriter. It is safe for concurrent use. It is not
// idempotent and keeps no order through failures: a new program is better off with a Producer.
type Writer struct {
	writer  *kafka.Writer
	breaker *breaker.Breaker
	retry   retry.Policy
}

// WrapWriter protects a kafka.Writer, which stays as it is and the caller's to close. It refuses one that loses messages
// without a word: RequiredAcks of RequireNone, which is what a struct literal has by default, and Async. It logs a warning
// for RequireOne, where the messages that only the leader had are lost with it, and for a BatchTimeout that was left at its
// default: each call waits a second for it.
func WrapWriter(w *kafka.Writer, cfg WriterConfig) (*Writer, error) {
	if w == nil {
		return nil, errors.New("kafkax: WrapWriter needs a kafka.Writer, got nil")
	}
	var errs []error
	if w.Addr == nil {
		errs = append(errs, errors.New("kafkax: kafka.Writer.Addr must be where the brokers are, such as kafka.TCP(\"localhost:9092\"), got nil"))
	}
	if w.RequiredAcks == kafka.RequireNone {
		errs = append(errs, errors.New("kafkax: kafka.Writer.RequiredAcks must be RequireAll or RequireOne, got RequireNone: "+
			"the broker would acknowledge nothing, and what it refuses would be lost"))
	}
	if w.Async {
		errs = append(errs, errors.New("kafkax: kafka.Writer.Async must be false, got true: "+
			"WriteMessages would return before anything is written, and what fails would be lost"))
	}
	if err := cfg.Retry.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("kafkax: WriterConfig.Retry: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	log := cmp.Or(cfg.Logger, slog.Default())
	if w.RequiredAcks == kafka.RequireOne {
		log.Warn("kafka.Writer has RequireOne: what only the leader has is lost with it")
	}
	if w.BatchTimeout == 0 {
		log.Warn("kafka.Writer has no BatchTimeout: a call that does not fill a batch waits for the default", slog.Duration("batch_timeout", time.Second))
	}
	out := &Writer{writer: w, breaker: cfg.Breaker, retry: cfg.Retry}
	if out.retry.Attempts == 0 {
		out.retry.Attempts = -1
		if w.MaxAttempts == 1 {
			out.retry.Attempts = RetryPolicy().Attempts
		}
	}
	if out.breaker == nil {
		var err error
		if out.breaker, err = breaker.New(BreakerConfig("kafka.writer")); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// WriteMessages writes messages and returns when all are acknowledged as RequiredAcks says. What fails is tried again,
// and only that. The error is a *ProduceError that names the messages which failed; all others are written. With a circuit
// that is open it is breaker.ErrCircuitOpen, at once. No message is no error.
func (w *Writer) WriteMessages(ctx context.Context, messages ...kafka.Message) error {
	a := attempts{topic: w.writer.Topic, messages: messages, failed: make(map[int]ProduceFailure)}
	for i := range messages {
		if err := checkTopicName(cmp.Or(messages[i].Topic, w.writer.Topic)); err != nil {
			a.failed[i] = a.describe(i, err)
			continue
		}
		a.left = append(a.left, i)
	}
	err := retry.DoThrough(ctx, w.breaker, w.retry, func(ctx context.Context) error { return a.try(ctx, w.writer) })
	return a.failure(err)
}

// IsOpen says whether the circuit rejects what is written now.
func (w *Writer) IsOpen() bool { return w.breaker.IsOpen() }

// WaitUntilReady waits until the circuit admits a call, or ctx ends.
func (w *Writer) WaitUntilReady(ctx context.Context) error { return w.breaker.WaitUntilReady(ctx) }

// attempts is one WriteMessages.
type attempts struct {
	topic    string // Of messages that name none.
	messages []kafka.Message
	left     []int                  // To be written.
	unsure   map[int]bool           // An attempt may have written them.
	failed   map[int]ProduceFailure // For good.
}

// try writes what is left, and returns an error if something still is.
func (a *attempts) try(ctx context.Context, w *kafka.Writer) error {
	batch := make([]kafka.Message, len(a.left))
	for n, i := range a.left {
		batch[n] = a.messages[i]
	}
	err := w.WriteMessages(ctx, batch...)
	if err == nil {
		a.left = nil
		return nil
	}
	each, partly := errors.AsType[kafka.WriteErrors](err)
	tooLarge, large := errors.AsType[kafka.MessageTooLargeError](err)
	var left []int
	var verdict error
	for n, i := range a.left {
		var why error
		switch {
		case partly:
			why = each[n]
		case large && same(&batch[n], &tooLarge.Message):
			why = holdfast.Permanent(fmt.Errorf("%w: %w", kafka.MessageSizeTooLarge, err))
		case large: // The writer looks at sizes before it writes.
			why = &unsentError{err}
		default:
			why = err
		}
		if why == nil {
			continue
		}
		judged, written := judge(why)
		if written {
			a.doubt(i)
		}
		if holdfast.IsPermanent(judged) && !a.unsure[i] {
			a.failed[i] = a.describe(i, judged)
			continue
		}
		left = append(left, i)
		verdict = judged
	}
	a.left = left
	return verdict
}

func same(a, b *kafka.Message) bool {
	return len(a.Value) == len(b.Value) && len(a.Key) == len(b.Key) && string(a.Key) == string(b.Key) && string(a.Value) == string(b.Value)
}

func (a *attempts) doubt(i int) {
	if a.unsure == nil {
		a.unsure = make(map[int]bool)
	}
	a.unsure[i] = true
}

func (a *attempts) describe(i int, err error) ProduceFailure {
	m := &a.messages[i]
	unsure := a.unsure[i]
	return ProduceFailure{
		Topic: cmp.Or(m.Topic, a.topic), Partition: -1, Indexes: []int{i}, Bytes: recordOverhead + len(m.Key) + len(m.Value), Err: err,
		Ambiguous: unsure, Permanent: !unsure && holdfast.IsPermanent(err), Hold: holdfast.IsHold(err),
	}
}

// failure collects what has failed, in the order of the messages.
func (a *attempts) failure(err error) error {
	for _, i := range a.left {
		a.failed[i] = a.describe(i, err)
	}
	if len(a.failed) == 0 {
		return nil
	}
	out := &ProduceError{Messages: len(a.messages)}
	for i := range a.messages {
		if f, ok := a.failed[i]; ok {
			out.Failures = append(out.Failures, f)
		}
	}
	return out
}
