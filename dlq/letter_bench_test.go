package dlq_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

// usual is a letter as most are: of an order with a header of its own, which failed in every attempt.
func usual(offset int64) dlq.Letter {
	l := letter()
	l.Message.Offset, l.Message.Value = offset, make([]byte, 200)
	l.Message.Headers = []holdfast.Header{{Key: "tenant", Value: []byte("7")}}
	l.Reason, l.Redrives, l.Circuit, l.CircuitState, l.Stack = dlq.RetriesExhausted, 0, "", "", ""
	return l
}

func BenchmarkEncode(b *testing.B) {
	l := usual(1)
	b.ReportAllocs()
	for b.Loop() {
		dlq.Encode(l)
	}
}

func BenchmarkDecode(b *testing.B) {
	m := dlq.Encode(usual(1))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := dlq.Decode(m); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTopicWrite writes 500 letters in a call.
func BenchmarkTopicWrite(b *testing.B) {
	topic, err := dlq.NewTopic(nowhere{}, dlq.TopicConfig{Topic: "orders.dlq"})
	if err != nil {
		b.Fatal(err)
	}
	letters := make([]dlq.Letter, 500)
	for i := range letters {
		letters[i] = usual(int64(i))
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := topic.Write(b.Context(), letters...); err != nil {
			b.Fatal(err)
		}
	}
	perLetter(b, len(letters))
}

// BenchmarkRedrive redrives a partition, but for what reading and writing it costs.
func BenchmarkRedrive(b *testing.B) {
	all := newShelf(200, 200, func(l *dlq.Letter) { *l = usual(l.Message.Offset) })
	all.letters = 100_000
	letters := dlq.SourceConfig{Logger: slog.New(slog.DiscardHandler)}
	r, err := dlq.NewRedrive(all, nowhere{}, all, dlq.RedriveConfig{Topic: "orders.dlq", Letters: letters})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		all.committed = 0
		if s, err := r.Run(b.Context()); err != nil || s.Redriven != all.letters {
			b.Fatal(s, err)
		}
	}
	perLetter(b, all.letters)
}

func perLetter(b *testing.B, letters int) {
	b.Helper()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(letters), "ns/letter")
}

// nowhere is a producer whose messages go nowhere.
type nowhere struct{}

func (nowhere) Partitions(context.Context, string) (int, error) { return 8, nil }

func (nowhere) Produce(context.Context, ...holdfast.Message) error { return nil }

func (nowhere) ProduceTo(context.Context, string, int, ...holdfast.Message) error { return nil }
