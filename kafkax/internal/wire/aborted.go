package wire

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// abortedSize is an aborted transaction in an answer: its producer and first offset.
const abortedSize = 16

// abortedProducers knows whose transactional batches to leave out while an answer's batches are gone through in order:
// an aborted transaction begins at its first offset and ends with its producer's abort marker. This is the algorithm of
// Kafka's own consumer (CompletedFetch.nextFetchedRecord).
type abortedProducers struct {
	ahead   []abortedTransaction // not begun yet, by first offset
	current map[int64]struct{}
}

type abortedTransaction struct{ producer, first int64 }

func (a *abortedProducers) reset(b []byte) {
	a.ahead = a.ahead[:0]
	clear(a.current)
	for ; len(b) >= abortedSize; b = b[abortedSize:] {
		a.ahead = append(a.ahead, abortedTransaction{
			producer: int64(binary.BigEndian.Uint64(b)),
			first:    int64(binary.BigEndian.Uint64(b[8:])),
		})
	}
	slices.SortFunc(a.ahead, func(x, y abortedTransaction) int { return cmp.Compare(x.first, y.first) })
}

// begin takes note of the transactions that began at offset last or before.
func (a *abortedProducers) begin(last int64) {
	n := 0
	for n < len(a.ahead) && a.ahead[n].first <= last {
		if a.current == nil {
			a.current = make(map[int64]struct{})
		}
		a.current[a.ahead[n].producer] = struct{}{}
		n++
	}
	a.ahead = a.ahead[n:]
}

func (a *abortedProducers) end(producer int64) { delete(a.current, producer) }

func (a *abortedProducers) contains(producer int64) bool {
	_, ok := a.current[producer]
	return ok
}
