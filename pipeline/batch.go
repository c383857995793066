package pipeline

import (
	"math"
	"slices"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/internal/mutant"
)

// messageOverhead is what a message in flight is taken to cost beside its bytes.
const messageOverhead = 256

// batch is a batch on its way to the sink.
type batch[T any] struct {
	items  []holdfast.Item[T]
	marks  []mark // marks[i] belongs to items[i].
	of     []*lane[T]
	unsure []bool // Which may be stored. Nil: none.
	spans  []holdfast.Span
	lanes  []*lane[T] // Ordered lanes that have items in it. Under the outlet's lock.
	bytes  int
	oldest int64 // When the first of its messages was fetched, for whose turn it is.

	abandon   func()        // Ends its write if nobody needs the outcome; nil: it is not being written. Under the outlet's lock.
	kick      chan struct{} // Holds a token when whoever waits with it has something to look at.
	held      error         // Why it is held aside, nil if it is not. Under the outlet's lock.
	behind    []*batch[T]   // Held aside, and to be written before it.
	landed    chan struct{} // Closed when it is not on its way any more.
	turn      *turn         // At the gate.
	outage    outage        // As far as it has seen one.
	unseen    int           // How often in a row a circuit rejected it that the sink does not show.
	rejection rejection
}

func newBatch[T any](items int) *batch[T] {
	return &batch[T]{
		items: make([]holdfast.Item[T], 0, items), marks: make([]mark, 0, items), of: make([]*lane[T], 0, items),
		kick: make(chan struct{}, 1), landed: make(chan struct{}), rejection: rejection{over: make(chan struct{}, 1)},
	}
}

// takeFrom appends as many of a lane's pieces as the batch has room for, and says how many. The first always has.
func (b *batch[T]) takeFrom(l *lane[T], limits BatchConfig) int {
	for i, p := range l.line.queue {
		if len(b.items) > 0 && (len(b.items) >= limits.Count || b.bytes+p.size > limits.Bytes) {
			return i
		}
		b.items = append(b.items, p.item)
		b.marks = append(b.marks, p.mark)
		b.of = append(b.of, l)
		b.bytes += p.size
	}
	return len(l.line.queue)
}

// span works out which offsets the batch covers, claim by claim: from where the claim's last batch ended, when those do not
// overtake each other, or from the first one.
func (b *batch[T]) span(contiguous bool) {
	b.oldest = math.MaxInt64
	index := make(map[*claim]int)
	var last *claim
	var s *holdfast.Span
	for i, m := range b.marks {
		offset := b.items[i].Source.ClaimOffset()
		if m.claim != last {
			at, ok := index[m.claim]
			if !ok {
				at = len(b.spans)
				index[m.claim] = at
				b.oldest = min(b.oldest, m.claim.fetchedAt(m.n))
				first := offset
				if contiguous {
					first = min(m.claim.spanned, offset) // Lower when the message's first values were in the batch before.
				}
				b.spans = append(b.spans, holdfast.Span{Topic: m.claim.topic, Partition: m.claim.partition, First: first, Next: offset + 1})
			}
			last, s = m.claim, &b.spans[at]
		}
		s.First, s.Next = min(s.First, offset), max(s.Next, offset+1)
		m.claim.spanned = max(m.claim.spanned, s.Next)
	}
}

// hasLanded is closed when b is not on its way any more; for no batch it never is.
func (b *batch[T]) hasLanded() <-chan struct{} {
	if b == nil {
		return nil
	}
	return b.landed
}

// ambiguous tells whether any of the batch may be stored.
func (b *batch[T]) ambiguous() bool {
	return slices.Contains(b.unsure, true) && !mutant.Is("6 an ambiguous batch is dead-lettered")
}

// doubt notes that all of the batch may be stored.
func (b *batch[T]) doubt() { b.unsure = slices.Repeat([]bool{true}, len(b.items)) }

func (b *batch[T]) isUnsure(i int) bool { return b.unsure != nil && b.unsure[i] }

// isNobodys tells whether all claims that have messages in b are gone.
func (b *batch[T]) isNobodys() bool {
	var last *claim // Asked already, as nearly all are: a claim's messages lie together.
	return !slices.ContainsFunc(b.marks, func(m mark) bool {
		if m.claim == last {
			return false
		}
		last = m.claim
		return !last.gone()
	})
}

// release drops the items of claims that are gone and, if asked, hands back those of claims that are being drained. An
// ambiguous batch has to be written again as it was, for as long as one of its claims is there.
func (b *batch[T]) release(handBack bool) {
	leaves := func(c *claim) bool { return c.gone() || (handBack && c.draining()) }
	if b.ambiguous() && !mutant.Is("6 an ambiguous batch is written again without its lost claims") {
		all := b.isNobodys()
		leaves = func(*claim) bool { return all }
	}
	state := make(map[*claim]bool, len(b.spans))
	b.keep(func(i int) bool {
		c := b.marks[i].claim
		leaving, known := state[c]
		if !known {
			leaving = leaves(c)
			state[c] = leaving
		}
		if leaving {
			c.handBack(b.marks[i].n)
		}
		return !leaving
	})
}

// keep drops the items that stays says no to.
func (b *batch[T]) keep(stays func(i int) bool) {
	kept := 0
	for i := range b.items {
		if !stays(i) {
			continue
		}
		b.items[kept], b.marks[kept], b.of[kept] = b.items[i], b.marks[i], b.of[i]
		if b.unsure != nil {
			b.unsure[kept] = b.unsure[i]
		}
		kept++
	}
	clear(b.items[kept:])
	clear(b.marks[kept:])
	clear(b.of[kept:])
	b.items, b.marks, b.of = b.items[:kept], b.marks[:kept], b.of[:kept]
	if b.unsure != nil {
		b.unsure = b.unsure[:kept]
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
	for len(marks) > 0 {
		n := runOf(marks)
		marks[0].claim.settle(marks[:n]...)
		marks = marks[n:]
	}
}

// runOf is how many of the first marks are of one claim.
func runOf(marks []mark) int {
	n := slices.IndexFunc(marks, func(m mark) bool { return m.claim != marks[0].claim })
	if n < 0 {
		return len(marks)
	}
	return n
}
