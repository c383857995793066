package dlq_test

import (
	"context"
	"log/slog"
	"slices"
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
	all := shelf{letters: 100_000}
	for i := range 200 {
		record := dlq.Encode(usual(int64(i)))
		record.Topic, record.Partition = "orders.dlq", 7
		all.records = append(all.records, record)
	}
	letters := dlq.SourceConfig{Logger: slog.New(slog.DiscardHandler)}
	r, err := dlq.NewRedrive(all, nowhere{}, all, dlq.RedriveConfig{Topic: "orders.dlq", Letters: letters})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
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

// shelf is a partition of so many letters, the same ones again and again, of which nothing is committed.
type shelf struct {
	letters int
	records []holdfast.Message
}

func (s shelf) Bounds(context.Context, string) (first, next map[int]int64, err error) {
	return map[int]int64{7: 0}, map[int]int64{7: int64(s.letters)}, nil
}

func (s shelf) Committed(context.Context, string, string) (map[int]int64, error) { return nil, nil }

func (s shelf) Scan(context.Context, string, map[int]int64, func([]holdfast.Message) error) error {
	return nil
}

func (s shelf) ConsumeAs(ctx context.Context, _ string, _ []string, handle func(context.Context, holdfast.Claim) error) error {
	return handle(ctx, &shelfClaim{shelf: s})
}

// shelfClaim hands out copies, which are for their reader to change.
type shelfClaim struct {
	holdfast.Claim
	shelf
	next int64
}

func (c *shelfClaim) Partition() (string, int) { return "orders.dlq", 7 }

func (c *shelfClaim) Committed() (int64, string) { return 0, "" }

func (c *shelfClaim) Commit(int64) {}

func (c *shelfClaim) Revoked() <-chan struct{} { return nil }

func (c *shelfClaim) Fetch(context.Context) ([]holdfast.Message, error) {
	records := slices.Clone(c.records)
	for i := range records {
		records[i].Offset = c.next
		c.next++
	}
	return records, nil
}

// nowhere is a producer whose messages go nowhere.
type nowhere struct{}

func (nowhere) Partitions(context.Context, string) (int, error) { return 8, nil }

func (nowhere) Produce(context.Context, ...holdfast.Message) error { return nil }

func (nowhere) ProduceTo(context.Context, string, int, ...holdfast.Message) error { return nil }
