package clickhousex

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"slices"

	"github.com/holdfast-io/holdfast"
)

// tokenVersion changes when a batch's token does, so that a rolling deployment never takes two rules for one.
const tokenVersion = "holdfast-1"

// batchToken is the deduplication token of a batch, "" without spans. It depends on what the batch is and on nothing
// else, neither time nor attempt, so that the same batch after a crash gets the same token: on the epoch, the spans in
// whatever order, and the offsets inside of them that the items leave out, since the same span without a message that
// went to the dead-letter queue is another set of rows. So are the same items without the refused ones. Items without a
// Source leave no offset to go by, and are only counted.
func batchToken[T any](epoch string, b holdfast.Batch[T], refused map[int]error) string {
	if len(b.Spans) == 0 {
		return ""
	}
	h := tokenHash{hash: sha256.New()}
	h.text(tokenVersion)
	h.text(epoch)

	type partition struct {
		topic string
		id    int
	}
	present := make(map[partition]*[]int64)
	var (
		last    partition
		offsets *[]int64
		unknown int64
	)
	for i := range b.Items {
		m := b.Items[i].Source
		if m == nil {
			unknown++
			continue
		}
		p, offset := partition{m.Topic, m.Partition}, m.Offset
		if m.Letter != nil { // The spans count in the topic that the claim is of.
			p, offset = partition{m.Letter.Topic, m.Letter.Partition}, m.Letter.Offset
		}
		if offsets == nil || p != last {
			if last, offsets = p, present[p]; offsets == nil {
				offsets = new([]int64)
				present[p] = offsets
			}
		}
		*offsets = append(*offsets, offset)
	}
	for _, offsets := range present {
		slices.Sort(*offsets)
	}
	spans := slices.SortedFunc(slices.Values(b.Spans), func(x, y holdfast.Span) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition), cmp.Compare(x.First, y.First))
	})
	for _, s := range spans {
		h.text(s.Topic)
		h.number(int64(s.Partition))
		h.number(s.First)
		h.number(s.Next)
		var offsets []int64
		if found := present[partition{s.Topic, s.Partition}]; found != nil {
			offsets = *found
		}
		h.gaps(offsets, s.First, s.Next)
	}
	h.number(unknown)
	h.number(int64(len(b.Items)))
	if len(refused) > 0 {
		for i := range b.Items {
			if refused[i] != nil {
				h.number(int64(i))
			}
		}
	}
	return h.sum()
}

// partToken is the token of a part of a batch that had to be split. The parent's must not stand for fewer rows.
func partToken(parent string, from, to int) string {
	if parent == "" {
		return ""
	}
	h := tokenHash{hash: sha256.New()}
	h.text(parent)
	h.number(int64(from))
	h.number(int64(to))
	return h.sum()
}

// tokenHash writes every part with its length, so that no two inputs read the same.
type tokenHash struct {
	hash   hash.Hash
	buffer [8]byte
}

func (t *tokenHash) text(s string) {
	t.number(int64(len(s)))
	t.hash.Write([]byte(s))
}

func (t *tokenHash) number(n int64) {
	binary.LittleEndian.PutUint64(t.buffer[:], uint64(n))
	t.hash.Write(t.buffer[:])
}

// gaps writes the runs of [first, next) that are not among the ascending offsets, and how many there are.
func (t *tokenHash) gaps(offsets []int64, first, next int64) {
	count := int64(0)
	at, _ := slices.BinarySearch(offsets, first)
	for _, o := range offsets[at:] {
		if o >= next {
			break
		}
		if o > first {
			t.number(first)
			t.number(o)
			count++
		}
		first = o + 1
	}
	if first < next {
		t.number(first)
		t.number(next)
		count++
	}
	t.number(count)
}

func (t *tokenHash) sum() string {
	return tokenVersion + "-" + hex.EncodeToString(t.hash.Sum(nil)[:16])
}
