package pipeline

import (
	"slices"
	"time"

	"github.com/holdfast-io/holdfast"
)

// messageOverhead is what a message in flight is taken to cost beside its bytes.
const messageOverhead = 256

// batch is a batch on its way to the sink, with the claims its items belong to.
type batch[T any] struct {
	items []holdfast.Item[T]
	marks []mark // marks[i] belongs to items[i].
	bytes int
	spans []holdfast.Span

	began     time.Time     // When the first item came.
	due       bool          // Nothing more is to be waited for.
	taken     chan struct{} // Closed when the writer has taken it.
	wholly    bool          // An attempt may have stored any of it.
	ambiguous bool          // That, or some of its items are unsure.
}

func newBatch[T any]() *batch[T] { return &batch[T]{taken: make(chan struct{})} }

// add puts an item in while the batch is gathered.
func (b *batch[T]) add(item holdfast.Item[T], m mark, size int, limits BatchConfig) {
	if len(b.items) == 0 {
		b.began = time.Now()
	}
	b.push(item, m)
	b.bytes += size
	b.due = b.due || len(b.items) == limits.Count || b.bytes >= limits.Bytes
}

func (b *batch[T]) push(item holdfast.Item[T], m mark) {
	b.items = append(b.items, item)
	b.marks = append(b.marks, m)
}

// fits tells whether one more item of that size may be added. The first always may.
func (b *batch[T]) fits(size int, limits BatchConfig) bool {
	return len(b.items) == 0 || (len(b.items) < limits.Count && b.bytes+size <= limits.Bytes)
}

// span works out which offsets the batch covers, claim by claim: from where the claim's last batch ended.
func (b *batch[T]) span() {
	index := make(map[*claim]int)
	for i, m := range b.marks {
		offset := b.items[i].Source.ClaimOffset()
		at, ok := index[m.claim]
		if !ok {
			at = len(b.spans)
			index[m.claim] = at
			first := min(m.claim.spanned, offset) // Lower when the message's first values were in the batch before.
			b.spans = append(b.spans, holdfast.Span{Topic: m.claim.topic, Partition: m.claim.partition, First: first})
		}
		b.spans[at].Next = offset + 1
		m.claim.spanned = b.spans[at].Next
	}
}

// release drops the items of claims that are gone and, if asked, hands back those of claims that are being drained. An
// ambiguous batch has to be written again as it was, for as long as one of its claims is there.
func (b *batch[T]) release(handBack bool) {
	leaves := func(c *claim) bool { return c.gone() || (handBack && c.draining()) }
	if b.ambiguous {
		all := !slices.ContainsFunc(b.marks, func(m mark) bool { return !m.claim.gone() })
		leaves = func(*claim) bool { return all }
	}
	state := make(map[*claim]bool, len(b.spans))
	kept := 0
	for i, m := range b.marks {
		leaving, known := state[m.claim]
		if !known {
			leaving = leaves(m.claim)
			state[m.claim] = leaving
		}
		if leaving {
			m.claim.handBack(m.n)
			continue
		}
		b.items[kept], b.marks[kept] = b.items[i], m
		kept++
	}
	b.truncate(kept)
}

// drop takes out those of the first n items whose graves are closed: all but the ones left.
func (b *batch[T]) drop(n int, left []grave) {
	kept := 0
	for i, m := range b.marks {
		if i < n && !slices.ContainsFunc(left, func(g grave) bool { return g.mark == m }) {
			continue
		}
		b.items[kept], b.marks[kept] = b.items[i], m
		kept++
	}
	b.truncate(kept)
}

func (b *batch[T]) truncate(n int) {
	clear(b.items[n:])
	clear(b.marks[n:])
	b.items, b.marks = b.items[:n], b.marks[:n]
	if n == 0 {
		b.bytes = 0
	}
}

func sizeOf(m *holdfast.Message) int {
	size := messageOverhead + len(m.Key) + len(m.Value)
	for _, h := range m.Headers {
		size += len(h.Key) + len(h.Value)
	}
	return size
}

// settleMarks settles messages, a run of one claim's at a time.
func settleMarks(marks []mark) {
	var numbers []int
	for i, m := range marks {
		numbers = append(numbers, m.n)
		if i == len(marks)-1 || marks[i+1].claim != m.claim {
			m.claim.settle(numbers...)
			numbers = numbers[:0]
		}
	}
}
