package clickhousex_test

import (
	"testing"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestTokens: a batch has the token of what it is, whoever writes it, and no two different batches share one.
func TestTokens(t *testing.T) {
	letters := func(b holdfast.Batch[order]) holdfast.Batch[order] {
		for i := range b.Items {
			m := *b.Items[i].Source
			m.Letter = &holdfast.Letter{Topic: "orders.dlq", Offset: m.Offset}
			m.Offset += 1000
			b.Items[i].Source = &m
		}
		b.Spans[0].Topic = "orders.dlq"
		return b
	}
	without := func(b holdfast.Batch[order], item int) holdfast.Batch[order] {
		b.Items = append(b.Items[:item:item], b.Items[item+1:]...)
		return b
	}
	spans := func(s ...holdfast.Span) holdfast.Batch[order] {
		b := batchOf(0, 4)
		b.Spans = s
		return b
	}
	sourceless := func(n int) holdfast.Batch[order] {
		b := batchOf(0, n)
		b.Spans[0].Next = 4
		for i := range b.Items {
			b.Items[i].Source = nil
		}
		return b
	}
	bad := 300
	refused := batchOf(0, 4)
	refused.Items[2].Value.N = &bad
	doubled := batchOf(0, 4)
	doubled.Items = append(doubled.Items, doubled.Items[3])
	first, second := holdfast.Span{Topic: "orders", First: 0, Next: 2}, holdfast.Span{Topic: "orders", First: 2, Next: 4}
	other := holdfast.Span{Topic: "orders", Partition: 1, First: 0, Next: 4}

	different := map[string]holdfast.Batch[order]{
		"plain":             batchOf(0, 4),
		"next":              batchOf(4, 4),
		"longer":            batchOf(0, 5),
		"first left out":    without(batchOf(0, 4), 0),
		"middle left out":   without(batchOf(0, 4), 1),
		"other left out":    without(batchOf(0, 4), 2),
		"last left out":     without(batchOf(0, 4), 3),
		"one refused":       refused,
		"doubled":           doubled,
		"letters":           letters(batchOf(0, 4)),
		"letters but one":   letters(without(batchOf(0, 4), 1)),
		"letters but other": letters(without(batchOf(0, 4), 2)),
		"two spans":         spans(first, second),
		"other partition":   spans(other),
		"without sources":   sourceless(4),
		"fewer of them":     sourceless(3),
	}
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		ch := open(t, options(s), clickhousex.Config{})
		token := func(epoch string, b holdfast.Batch[order]) string {
			t.Helper()
			in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{Epoch: epoch})
			_ = in.Write(t.Context(), b) // Of refused rows it has an error.
			log := s.Inserts()
			return log[len(log)-1].Token
		}
		seen := make(map[string]string)
		for _, epoch := range []string{"", "2"} {
			for name, b := range different {
				first := token(epoch, b)
				if other, found := seen[first]; found {
					t.Errorf("%s of epoch %q has the token of %s", name, epoch, other)
				}
				seen[first] = name
				if again := token(epoch, b); again != first || again == "" {
					t.Errorf("%s: token %q, then %q", name, first, again)
				}
			}
		}
		if token("", spans(first, second)) != token("", spans(second, first)) {
			t.Error("the order of spans changes the token")
		}
		if token("", spans(first, other)) == token("", spans(second, other)) {
			t.Error("two sets of spans share a token")
		}
	})
}
