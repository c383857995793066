package pipeline_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/retry"
)

// A queue's consumer with a dead-letter queue to fall back on: for a message that cannot be read, for one that fails,
// and for all that come while the circuit is open. Offsets are committed when every message before them is in one place
// or the other.
func Example() {
	payments, err := breaker.New(breaker.Config{Name: "payments", MaxFailures: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	pay := func(_ context.Context, amount int) (string, error) {
		if amount > 1000 {
			return "", errors.New("payment service is down")
		}
		return fmt.Sprint("paid ", amount), nil
	}
	stages := pipeline.Then(
		pipeline.Map("decode", pipeline.JSON[int], pipeline.StageConfig{}),
		pipeline.Map("pay", pay, pipeline.StageConfig{Breaker: payments, Retry: retry.Policy{Attempts: -1}}),
	)
	var receipts []string
	sink := pipeline.Each(func(_ context.Context, item holdfast.Item[string]) error {
		receipts = append(receipts, item.Value)
		return nil
	})
	ctx, stop := context.WithCancel(context.Background())
	queue := &queue{values: []string{"20", "thirty", "40", "5000", "60"}, revoked: make(chan struct{}), settled: stop}
	dead := &deadLetters{}
	p, err := pipeline.New(queue, stages, sink, pipeline.Config{
		Name:        "orders",
		DeadLetters: dead,
		Batch:       pipeline.BatchConfig{Delay: -1},
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	fmt.Println("run:", p.Run(ctx))
	for _, receipt := range receipts {
		fmt.Println(receipt)
	}
	for _, l := range dead.letters {
		fmt.Printf("dead letter %d, %s at %s: %s\n", l.Message.Offset, l.Reason, l.Stage, l.Message.Value)
	}
	// Unordered output:
	// run: <nil>
	// paid 20
	// paid 40
	// dead letter 1, decode at decode: thirty
	// dead letter 3, retries_exhausted at pay: 5000
	// dead letter 4, circuit_open at pay: 60
}

// A decoder is a function. This one could as well call proto.Unmarshal, or look a schema up by the number that a registry
// has put before the bytes: a look-up that fails is returned as it is, and tried again.
func ExampleDecodeError() {
	type reading struct{ Sensor, Value uint32 }
	decode := func(_ context.Context, m holdfast.Message) (reading, error) {
		var r reading
		if _, err := binary.Decode(m.Value, binary.BigEndian, &r); err != nil {
			return r, &pipeline.DecodeError{Format: "reading", Err: err}
		}
		return r, nil
	}
	ctx, stop := context.WithCancel(context.Background())
	queue := &queue{values: []string{"\x00\x00\x00\x07\x00\x00\x00\x2a", "short"}, revoked: make(chan struct{}), settled: stop}
	dead := &deadLetters{}
	p, err := pipeline.New(queue, pipeline.Map("decode", decode, pipeline.StageConfig{}),
		pipeline.Each(func(_ context.Context, item holdfast.Item[reading]) error {
			fmt.Printf("%+v\n", item.Value)
			return nil
		}), pipeline.Config{DeadLetters: dead, Batch: pipeline.BatchConfig{Delay: -1}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("run:", p.Run(ctx))
	for _, l := range dead.letters {
		fmt.Printf("dead letter %d, %s: %s\n", l.Message.Offset, l.Reason, l.Error)
	}
	// Unordered output:
	// run: <nil>
	// {Sensor:7 Value:42}
	// dead letter 1, decode: decode reading: buffer too small
}

// queue is a Source in memory, and its one Claim. It ends the run when all of its messages are settled.
type queue struct {
	values  []string
	fetched bool
	revoked chan struct{}
	settled func()
}

func (q *queue) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	defer context.AfterFunc(ctx, func() { close(q.revoked) })()
	return handle(context.WithoutCancel(ctx), q)
}

func (q *queue) Fetch(ctx context.Context) ([]holdfast.Message, error) {
	if q.fetched {
		select {
		case <-q.revoked:
			return nil, holdfast.ErrRevoked
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	q.fetched = true
	var messages []holdfast.Message
	for offset, value := range q.values {
		messages = append(messages, holdfast.Message{Topic: "orders", Offset: int64(offset), Value: []byte(value)})
	}
	return messages, nil
}

func (q *queue) Commit(next int64) {
	if next == q.End() {
		q.settled()
	}
}

func (q *queue) CommitSync(_ context.Context, next int64, _ string) error {
	q.Commit(next)
	return nil
}

func (q *queue) Partition() (topic string, partition int) { return "orders", 0 }
func (q *queue) Committed() (next int64, metadata string) { return 0, "" }
func (q *queue) End() int64                               { return int64(len(q.values)) }
func (q *queue) Revoked() <-chan struct{}                 { return q.revoked }

// deadLetters keeps letters in memory, where a program would have a *dlq.Topic.
type deadLetters struct{ letters []dlq.Letter }

func (d *deadLetters) Write(_ context.Context, letters ...dlq.Letter) error {
	d.letters = append(d.letters, letters...)
	return nil
}
