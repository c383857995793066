package pipeline_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/pipeline"
)

// well is a source of one partition that hands out the same fetch until it has given enough, and waits for the last
// commit.
type well struct {
	fetch []holdfast.Message
	left  int
	next  int64
	done  chan struct{}
}

func (w *well) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return handle(context.WithoutCancel(ctx), w)
}

func (w *well) Partition() (string, int)                        { return "orders", 0 }
func (w *well) Committed() (int64, string)                      { return 0, "" }
func (w *well) End() int64                                      { return -1 }
func (w *well) Revoked() <-chan struct{}                        { return w.done }
func (w *well) CommitSync(context.Context, int64, string) error { return nil }
func (w *well) Commit(next int64) {
	if next == w.next && w.left == 0 {
		close(w.done)
	}
}

func (w *well) Fetch(context.Context) ([]holdfast.Message, error) {
	if w.left == 0 {
		<-w.done
		return nil, holdfast.ErrRevoked
	}
	messages := make([]holdfast.Message, min(len(w.fetch), w.left))
	copy(messages, w.fetch)
	for i := range messages {
		messages[i].Offset = w.next
		w.next++
	}
	w.left -= len(messages)
	return messages, nil
}

// BenchmarkPipeline is what the pipeline itself costs a message: one partition, two stages, a sink that does nothing.
func BenchmarkPipeline(b *testing.B) {
	fetch := make([]holdfast.Message, 1000)
	for i := range fetch {
		fetch[i] = holdfast.Message{Topic: "orders", Value: []byte(fmt.Sprintf(`{"id":%d,"text":%q}`, i, strings.Repeat("x", 180)))}
	}
	pass := pipeline.Map("pass", func(_ context.Context, m holdfast.Message) (int, error) { return len(m.Value), nil }, pipeline.StageConfig{})
	again := pipeline.Map("again", func(_ context.Context, n int) (int, error) { return n + 1, nil }, pipeline.StageConfig{})
	b.ReportAllocs()
	w := &well{fetch: fetch, left: b.N, done: make(chan struct{})}
	p, err := pipeline.New(w, pipeline.Then(pass, again), sinkFunc(func(context.Context, holdfast.Batch[int]) error { return nil }),
		pipeline.Config{Logger: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	if err := p.Run(b.Context()); err != nil {
		b.Fatal(err)
	}
}
