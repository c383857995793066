package dlq

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/holdfast-io/holdfast"
)

// slotCount is how many counters there are, 4 MiB of them. With a million keys in the spool, a third of the newcomers
// still find their slot free.
const slotCount = 1 << 20

// slots counts, by hash, what is kept for each key of a topic and each explicit partition. It is safe for concurrent use.
type slots struct {
	seed  maphash.Seed
	count []atomic.Int32
}

func newSlots() *slots {
	return &slots{seed: maphash.MakeSeed(), count: make([]atomic.Int32, slotCount)}
}

// of gives the slots of a message: that of its key, if it has one, and last that of its partition, if it is explicit.
func (s *slots) of(m *holdfast.Message) (slots [2]uint32, n int) {
	topic := maphash.String(s.seed, m.Topic)
	if m.Key != nil {
		slots[n] = uint32((topic*31 + maphash.Bytes(s.seed, m.Key)) % slotCount)
		n++
	}
	if m.Partition >= 0 {
		slots[n] = uint32((topic*37 + maphash.Comparable(s.seed, m.Partition)) % slotCount)
		n++
	}
	return slots, n
}

func (s *slots) add(m *holdfast.Message, sign int) {
	slots, n := s.of(m)
	for _, slot := range slots[:n] {
		s.count[slot].Add(int32(sign))
	}
}

func (s *slots) holds(m *holdfast.Message) bool {
	slots, n := s.of(m)
	for _, slot := range slots[:n] {
		if s.count[slot].Load() > 0 {
			return true
		}
	}
	return false
}
