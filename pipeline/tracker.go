package pipeline

// tracker knows which of a claim's messages are settled, and up to where all are. Its costs per message do not depend on
// how many are in flight. It is not safe for concurrent use.
type tracker struct {
	slots   []slot // A ring; its length is a power of two.
	usual   int    // The length that it grows to at once.
	head    int    // The number of the oldest message in flight.
	tail    int    // The number of the next message to come.
	settled int    // How many between head and tail are settled.
	handed  int    // How many of the others are handed back.
}

const minSlots = 64

// slot is one message.
type slot struct {
	offset  int64
	fetched int64 // Nanoseconds since the engine started.
	pending int   // Values that are not settled. The message is when there is none left.
	handed  bool  // Handed back: nobody waits for it any more.
}

// add notes a message in flight, with one value to come, and returns its number.
func (t *tracker) add(offset, fetched int64) int {
	if t.tail-t.head == len(t.slots) {
		t.grow()
	}
	n := t.tail
	*t.slot(n) = slot{offset: offset, fetched: fetched, pending: 1}
	t.tail++
	return n
}

// fetchedAt is when message n, which is in flight, was fetched.
func (t *tracker) fetchedAt(n int) int64 { return t.slot(n).fetched }

// expect says that the stages made so many values of message n.
func (t *tracker) expect(n, values int) { t.slot(n).pending = values }

// settle settles one value of message n. It returns the offset after the contiguous settled prefix if that has moved.
func (t *tracker) settle(n int) (next int64, moved bool) {
	if n < t.head || n >= t.tail || t.slot(n).pending == 0 {
		return 0, false
	}
	s := t.slot(n)
	if s.pending--; s.pending > 0 {
		return 0, false
	}
	t.settled++
	if s.handed {
		t.handed--
	}
	for t.head < t.tail && t.slot(t.head).pending == 0 {
		next, moved = t.slot(t.head).offset+1, true
		t.head++
		t.settled--
	}
	if t.head == t.tail && len(t.slots) > minSlots {
		t.rest()
	}
	return next, moved
}

// handBack gives up waiting for message n.
func (t *tracker) handBack(n int) {
	if n < t.head || n >= t.tail {
		return
	}
	if s := t.slot(n); s.pending > 0 && !s.handed {
		s.handed = true
		t.handed++
	}
}

// span is how many messages there are from the oldest in flight to the newest, settled ones in between included.
func (t *tracker) span() int { return t.tail - t.head }

// inFlight is how many messages are neither settled nor handed back.
func (t *tracker) inFlight() int { return t.tail - t.head - t.settled - t.handed }

// oldest is the first message that is not settled.
func (t *tracker) oldest() (s slot, ok bool) {
	if t.head == t.tail {
		return slot{}, false
	}
	return *t.slot(t.head), true
}

func (t *tracker) slot(n int) *slot { return &t.slots[n&(len(t.slots)-1)] }

// rest gives a large ring up when nothing is in flight, or every claim would keep what its largest burst took.
func (t *tracker) rest() { t.usual, t.slots = len(t.slots)/2, make([]slot, minSlots) }

func (t *tracker) grow() {
	grown := make([]slot, max(minSlots, t.usual, 2*len(t.slots)))
	for n := t.head; n < t.tail; n++ {
		grown[n&(len(grown)-1)] = *t.slot(n)
	}
	t.slots = grown
}
