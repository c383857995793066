package pipeline

import "github.com/holdfast-io/holdfast"

// messageOverhead is what a message in flight is taken to cost beside its bytes.
const messageOverhead = 256

// batch is a batch on its way to the sink, with the claims its items belong to.
type batch[T any] struct {
	items []holdfast.Item[T]
	marks []mark // marks[i] belongs to items[i].
	bytes int
	spans []holdfast.Span

	ambiguous bool // An attempt may have stored it.

	closed   chan struct{} // Closed when nothing more is to be waited for.
	isClosed bool
	taken    chan struct{} // Closed when the writer has taken it.
}

func newBatch[T any]() *batch[T] {
	return &batch[T]{closed: make(chan struct{}), taken: make(chan struct{})}
}

func (b *batch[T]) add(item holdfast.Item[T], m mark, size int) {
	b.items = append(b.items, item)
	b.marks = append(b.marks, m)
	b.bytes += size
}

// fits tells whether one more item of that size may be added. The first always may.
func (b *batch[T]) fits(size int, limits BatchConfig) bool {
	return len(b.items) == 0 || (len(b.items) < limits.Count && b.bytes+size <= limits.Bytes)
}

// close lets the writer take the batch at once. An empty one stays open.
func (b *batch[T]) close() {
	if len(b.items) > 0 && !b.isClosed {
		b.isClosed = true
		close(b.closed)
	}
}

// span works out which offsets the batch covers, claim by claim: from where the claim's last batch ended.
func (b *batch[T]) span() {
	index := make(map[*claim]int)
	for i, m := range b.marks {
		next := b.items[i].Source.ClaimOffset() + 1
		at, ok := index[m.claim]
		if !ok {
			at = len(b.spans)
			index[m.claim] = at
			topic, partition := m.claim.source.Partition()
			b.spans = append(b.spans, holdfast.Span{Topic: topic, Partition: partition, First: m.claim.spanned})
		}
		b.spans[at].Next = next
		m.claim.spanned = next
	}
}

// release drops the items of claims that are gone and, if asked, hands back those of claims that are being drained. An
// ambiguous batch has to be written again as it was, for as long as one of its claims is there.
func (b *batch[T]) release(handBack bool) {
	leaves := func(c *claim) bool { return c.gone() || (handBack && c.draining()) }
	if b.ambiguous {
		leaves = func(*claim) bool { return b.allGone() }
	}
	kept := 0
	state := make(map[*claim]bool, len(b.spans))
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
	clear(b.items[kept:])
	clear(b.marks[kept:])
	b.items, b.marks = b.items[:kept], b.marks[:kept]
}

func (b *batch[T]) allGone() bool {
	for c := range b.claims() {
		if !c.gone() {
			return false
		}
	}
	return true
}

// draining tells whether items may be handed back because their claim is being drained.
func (b *batch[T]) draining() bool {
	if b.ambiguous {
		return false
	}
	for c := range b.claims() {
		if c.draining() {
			return true
		}
	}
	return false
}

func (b *batch[T]) claims() map[*claim]struct{} {
	claims := make(map[*claim]struct{})
	for _, m := range b.marks {
		claims[m.claim] = struct{}{}
	}
	return claims
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
