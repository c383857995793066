package wire

import "sync"

// AnswerHead is what an answer has beside the record batches, as a rule: its fixed fields and the topic's name.
const AnswerHead = 1 << 10

// keepInflated is the largest buffer for decompressed batches that is kept for the next one.
const keepInflated = 4 << 20

// Buffers is memory that answers pass through on their way to be decoded. It is shared by all Conns and Readers of one
// owner, and used again and again: what is decoded is copied out of it. It is safe for concurrent use.
type Buffers struct {
	size     int
	inflated sync.Pool // *[]byte of any size up to keepInflated.

	mu   sync.Mutex
	free [][]byte // Of size bytes each, the one used last at the end.
}

// NewBuffers makes room for answers to requests of up to maxBytes.
func NewBuffers(maxBytes int) *Buffers { return &Buffers{size: maxBytes + AnswerHead} }

// forAnswer returns an empty buffer for an answer of n bytes, and makes no more room at once than answers take that are
// within what was asked for: a size alone proves nothing. A small answer gets what it takes; it shows that there is less
// to fetch than before, so a free buffer is let go.
func (p *Buffers) forAnswer(n int) []byte {
	p.mu.Lock()
	var last []byte
	if i := len(p.free) - 1; i >= 0 && n <= p.size {
		last, p.free[i], p.free = p.free[i], nil, p.free[:i]
	}
	p.mu.Unlock()
	switch {
	case n <= p.size/2:
		return make([]byte, 0, n)
	case last == nil:
		return make([]byte, 0, p.size)
	}
	return last
}

func (p *Buffers) answered(b []byte) {
	if cap(b) != p.size {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, b[:0])
}

// toInflate returns an empty buffer.
func (p *Buffers) toInflate() *[]byte {
	if b, ok := p.inflated.Get().(*[]byte); ok {
		return b
	}
	return new([]byte)
}

func (p *Buffers) inflatedAll(b *[]byte) {
	if cap(*b) <= keepInflated {
		*b = (*b)[:0]
		p.inflated.Put(b)
	}
}
