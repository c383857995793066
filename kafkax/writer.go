package kafkax

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/retry"
)

// recordOverhead is about what a record takes beside its key, value and headers.
const recordOverhead = 32

// writer writes one call's messages for one partition.
type writer struct {
	producer *Producer
	at       place
	messages []holdfast.Message // All of the call's.
	failures []ProduceFailure
}

// write writes the messages with these indexes, in their order, batch by batch.
func (w *writer) write(ctx context.Context, indexes []int) {
	for len(indexes) > 0 {
		n := w.fit(indexes)
		if err := w.batch(ctx, indexes[:n]); err != nil {
			// What follows must not overtake what failed.
			if rest := indexes[n:]; len(rest) > 0 {
				w.fail(rest, fmt.Errorf("not sent, because an earlier one of the partition failed: %w", err), false)
			}
			return
		}
		indexes = indexes[n:]
	}
}

// fit says how many of the messages make a batch.
func (w *writer) fit(indexes []int) int {
	size := 0
	for n, i := range indexes {
		size += messageSize(&w.messages[i])
		if n > 0 && size > w.producer.cfg.BatchBytes {
			return n
		}
	}
	return len(indexes)
}

// batch writes messages with one request. A batch that is refused for what is in it is halved until those at fault stand
// alone, unless it may be written already. It returns an error that bars what follows, and nil when only such messages have
// failed.
func (w *writer) batch(ctx context.Context, indexes []int) error {
	ambiguous := false
	attempt := func(ctx context.Context) error {
		err := w.attempt(ctx, indexes)
		if err == nil {
			return nil
		}
		verdict, written := judge(err)
		ambiguous = ambiguous || written
		if isStale(err) {
			there, lookErr := w.producer.exists(ctx, w.at)
			switch {
			case lookErr != nil && !written:
				return lookErr // Tells more: without a layout, kafka-go says that there is no such topic.
			case lookErr == nil && !there:
				return holdfast.Hold(verdict)
			}
		}
		return verdict
	}
	policy, circuit := w.producer.cfg.Retry, w.producer.cfg.Breaker
	policy.Retryable = func(err error) bool {
		worth := w.producer.cfg.Retry.Retryable
		return !circuit.IsOpen() && (worth == nil || worth(err))
	}
	err := retry.Do(ctx, policy, func(ctx context.Context) error {
		// Before the circuit is asked: a call that waits for its turn must see what has become of the circuit meanwhile.
		select {
		case w.producer.requests <- struct{}{}:
			defer func() { <-w.producer.requests }()
		case <-ctx.Done():
			return &unsentError{ctx.Err()}
		}
		if ctx.Err() != nil { // Both were there, and select took the token.
			return &unsentError{ctx.Err()}
		}
		return circuit.Execute(ctx, attempt)
	})
	switch {
	case err == nil:
		return nil
	case !holdfast.IsPermanent(err), ambiguous && len(indexes) > 1:
		w.fail(indexes, err, ambiguous)
		return err
	case len(indexes) == 1:
		w.fail(indexes, err, ambiguous)
		return nil
	}
	half := len(indexes) / 2
	if err := w.batch(ctx, indexes[:half]); err != nil {
		w.fail(indexes[half:], fmt.Errorf("not sent, because an earlier one of the partition failed: %w", err), false)
		return err
	}
	return w.batch(ctx, indexes[half:])
}

// attempt sends one request.
func (w *writer) attempt(ctx context.Context, indexes []int) error {
	records := make([]kafka.Record, len(indexes))
	now := time.Now()
	for n, i := range indexes {
		records[n] = record(&w.messages[i], now)
	}
	resp, err := w.producer.net.client.Produce(ctx, &kafka.ProduceRequest{
		Topic: w.at.topic, Partition: w.at.partition, RequiredAcks: kafka.RequireAll,
		Records: kafka.NewRecordReader(records...), Compression: w.producer.cfg.Compression,
	})
	if err != nil {
		return err
	}
	return resp.Error
}

func (w *writer) fail(indexes []int, err error, ambiguous bool) {
	f := ProduceFailure{
		Topic: w.at.topic, Partition: w.at.partition, Indexes: slices.Clone(indexes), Err: err,
		Ambiguous: ambiguous, Permanent: !ambiguous && holdfast.IsPermanent(err), Hold: holdfast.IsHold(err),
	}
	for _, i := range indexes {
		f.Bytes += messageSize(&w.messages[i])
	}
	w.failures = append(w.failures, f)
}

func record(m *holdfast.Message, now time.Time) kafka.Record {
	r := kafka.Record{Key: kafka.NewBytes(m.Key), Value: kafka.NewBytes(m.Value), Time: m.Time}
	if r.Time.IsZero() {
		r.Time = now
	}
	for _, h := range m.Headers {
		r.Headers = append(r.Headers, kafka.Header{Key: h.Key, Value: h.Value})
	}
	return r
}

func messageSize(m *holdfast.Message) int {
	size := recordOverhead + len(m.Key) + len(m.Value)
	for _, h := range m.Headers {
		size += recordOverhead/4 + len(h.Key) + len(h.Value)
	}
	return size
}

// sort puts failures into the order of their first messages.
func (e *ProduceError) sort() {
	slices.SortFunc(e.Failures, func(a, b ProduceFailure) int { return cmp.Compare(a.Indexes[0], b.Indexes[0]) })
}
