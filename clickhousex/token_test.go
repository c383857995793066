package clickhousex_test

import (
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestTokens: a set of rows has the token of what it is, whoever writes it, and no two different sets share one.
func TestTokens(t *testing.T) {
	type batch = holdfast.Batch[order]
	letters := func(b batch) batch {
		for i := range b.Items {
			m := *b.Items[i].Source
			m.Letter = &holdfast.Letter{Topic: "orders.dlq", Offset: m.Offset}
			m.Offset += 1000
			b.Items[i].Source = &m
		}
		b.Spans[0].Topic = "orders.dlq"
		return b
	}
	without := func(b batch, item int) batch {
		b.Items = slices.Delete(b.Items, item, item+1)
		return b
	}
	spans := func(b batch, s ...holdfast.Span) batch {
		b.Spans = s
		return b
	}
	change := func(fn func(b *batch)) batch {
		b := batchOf(0, 4)
		fn(&b)
		return b
	}
	// Values of the one message at offset 0, from index first on.
	values := func(first, n int) batch {
		b := spans(batchOf(0, n), holdfast.Span{Topic: "orders", First: 0, Next: 1})
		for i := range b.Items {
			b.Items[i].Source.Offset, b.Items[i].Index = 0, first+i
		}
		return b
	}
	bad := 300
	refused := batchOf(0, 4)
	refused.Items[2].Value.N = &bad
	first, second := holdfast.Span{Topic: "orders", First: 0, Next: 2}, holdfast.Span{Topic: "orders", First: 2, Next: 4}

	// Each line is one set of rows, in several guises.
	sets := map[string][]batch{
		"plain": {
			batchOf(0, 4), spans(batchOf(0, 4), first, second), spans(batchOf(0, 4), second, first),
			change(func(b *batch) { slices.Reverse(b.Items) }),
			change(func(b *batch) { b.Spans[0].Next = 9 }),
		},
		"next":            {batchOf(4, 4)},
		"longer":          {batchOf(0, 5)},
		"first left out":  {without(batchOf(0, 4), 0)},
		"middle left out": {without(batchOf(0, 4), 2), refused},
		"last left out":   {without(batchOf(0, 4), 3), batchOf(0, 3)},
		"doubled":         {change(func(b *batch) { b.Items = append(b.Items, b.Items[3]) })},
		"letters":         {letters(batchOf(0, 4))},
		"letters but one": {letters(without(batchOf(0, 4), 1))},
		"other partition": {change(func(b *batch) {
			b.Spans[0].Partition = 1
			for i := range b.Items {
				b.Items[i].Source.Partition = 1
			}
		})},
		"half of each": {change(func(b *batch) {
			b.Spans = append(b.Spans, holdfast.Span{Topic: "orders", Partition: 1, Next: 4})
			b.Items[1].Source.Partition = 1
		})},
		"values":           {values(0, 4)},
		"further values":   {values(4, 4)},
		"a value less":     {values(0, 3)},
		"one value":        {values(0, 1), batchOf(0, 1)},
		"another value":    {values(1, 1)},
		"its next message": {batchOf(1, 1)},
	}
	none := map[string]batch{
		"no spans":         spans(batchOf(0, 4)),
		"outside of spans": spans(batchOf(0, 4), first),
		"of other spans":   spans(batchOf(0, 4), holdfast.Span{Topic: "orders", Partition: 1, First: 0, Next: 4}),
		"a lacking source": change(func(b *batch) { b.Items[1].Source = nil }),
	}
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		ch := open(t, options(s), clickhousex.Config{})
		token := func(epoch string, b batch) string {
			t.Helper()
			in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{Epoch: epoch})
			_ = in.Write(t.Context(), b) // Of refused rows it has an error.
			log := s.Inserts()
			return log[len(log)-1].Token
		}
		seen := make(map[string]string)
		for _, epoch := range []string{"", "2"} {
			for name, batches := range sets {
				first := token(epoch, batches[0])
				if other, found := seen[first]; found {
					t.Errorf("%s of epoch %q has the token of %s", name, epoch, other)
				}
				seen[first] = name
				for i, b := range batches {
					if again := token(epoch, b); again != first || again == "" {
						t.Errorf("%s: token %q, then %q in guise %d", name, first, again, i)
					}
				}
			}
		}
		for name, b := range none {
			if got := token("", b); got != "" {
				t.Errorf("%s: token %q, want none", name, got)
			}
		}
	})
}
