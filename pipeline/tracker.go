package pipeline

// tracker knows which of a claim's messages are settled, and up to where all are. Its costs per message do not depend on
// how many are in flight. It is not safe for concurrent use.
type tracker struct {
	slots   []slot // A ring; its length is a power of two.
	head    int    // The number of the oldest message in flight.
	tail    int    // The number of the next message to come.
	settled int    // How many between head and tail are settled.
}

type slot struct {
	offset  int64
	fetched int64 // Nanoseconds since the engine started.
	settled bool
}

// add notes a message in flight and returns its number.
func (t *tracker) add(offset, fetched int64) int {
	if t.tail-t.head == len(t.slots) {
		t.grow()
	}
	n := t.tail
	t.slots[n&(len(t.slots)-1)] = slot{offset: offset, fetched: fetched}
	t.tail++
	return n
}

// settle marks message n. It returns the offset after the contiguous settled prefix if that has moved.
func (t *tracker) settle(n int) (next int64, moved bool) {
	if n < t.head || n >= t.tail {
		return 0, false
	}
	mask := len(t.slots) - 1
	if s := &t.slots[n&mask]; !s.settled {
		s.settled = true
		t.settled++
	}
	for t.head < t.tail && t.slots[t.head&mask].settled {
		next, moved = t.slots[t.head&mask].offset+1, true
		t.head++
		t.settled--
	}
	return next, moved
}

// inFlight is how many messages are not settled.
func (t *tracker) inFlight() int { return t.tail - t.head - t.settled }

// oldest is the first message that is not settled.
func (t *tracker) oldest() (s slot, ok bool) {
	if t.head == t.tail {
		return slot{}, false
	}
	return t.slots[t.head&(len(t.slots)-1)], true
}

func (t *tracker) grow() {
	grown := make([]slot, max(64, 2*len(t.slots)))
	for n := t.head; n < t.tail; n++ {
		grown[n&(len(grown)-1)] = t.slots[n&(len(t.slots)-1)]
	}
	t.slots = grown
}
