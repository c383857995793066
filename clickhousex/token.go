package clickhousex

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/internal/mutant"
)

// tokenVersion changes when the tokens do, so that a rolling deployment never takes two rules for one.
const tokenVersion = "holdfast-2"

// partition is one that claims are of.
type partition struct {
	topic string
	id    int
}

// place is where a value comes from within its partition. With that it names the value's row, before a crash and after.
type place struct {
	offset int64
	index  int
}

// placeOf gives an item's place in the claim that it was fetched from. The item needs a Source.
func placeOf[T any](item *holdfast.Item[T]) (partition, place) {
	m := item.Source
	p := partition{m.Topic, m.Partition}
	if m.Letter != nil {
		p = partition{m.Letter.Topic, m.Letter.Partition}
	}
	return p, place{m.ClaimOffset(), item.Index}
}

// hasPlaces says whether each item has a place that can be trusted: a Source, and an offset in one of the spans.
func hasPlaces[T any](b holdfast.Batch[T]) bool {
	spans := make(map[partition][]holdfast.Span)
	for _, s := range b.Spans {
		p := partition{s.Topic, s.Partition}
		spans[p] = append(spans[p], s)
	}
	var (
		last  partition
		known []holdfast.Span
	)
	for i := range b.Items {
		if b.Items[i].Source == nil {
			return false
		}
		p, at := placeOf(&b.Items[i])
		if i == 0 || p != last {
			last, known = p, spans[p]
		}
		if !slices.ContainsFunc(known, func(s holdfast.Span) bool { return s.First <= at.offset && at.offset < s.Next }) {
			return false
		}
	}
	return true
}

// rowsToken is the deduplication token of some of a batch's items: equal for equal sets of rows, in whatever order and
// batch they come, and for no others. It depends on neither time nor attempt, so that the same rows after a crash get the
// same token; and on each row, so that no token stands for fewer rows than it once did, nor for the other values of a
// message that became several.
func rowsToken[T any](epoch string, b holdfast.Batch[T], items []int) string {
	rows := make(map[partition]*[]place)
	var (
		last   partition
		places *[]place
	)
	for _, i := range items {
		p, at := placeOf(&b.Items[i])
		if places == nil || p != last {
			if last, places = p, rows[p]; places == nil {
				places = new([]place)
				rows[p] = places
			}
		}
		*places = append(*places, at)
	}
	d := digest{}.text(epoch)
	for _, p := range slices.SortedFunc(maps.Keys(rows), func(x, y partition) int {
		return cmp.Or(cmp.Compare(x.topic, y.topic), cmp.Compare(x.id, y.id))
	}) {
		places := *rows[p]
		byPlace := func(x, y place) int { return cmp.Or(cmp.Compare(x.offset, y.offset), cmp.Compare(x.index, y.index)) }
		if !slices.IsSortedFunc(places, byPlace) {
			slices.SortFunc(places, byPlace)
		}
		d = d.text(p.topic).number(int64(p.id)).number(int64(len(places)))
		for _, at := range places {
			d = d.number(at.offset).number(int64(at.index))
		}
	}
	if mutant.Is("6 an ambiguous batch is written again with another token") {
		return rand.Text()
	}
	return tokenVersion + "-" + d.sum()
}

// batchKey tells whether a batch is the same as an earlier one: the same items in the same order.
func batchKey[T any](b holdfast.Batch[T]) string {
	var d digest
	for i := range b.Items {
		p, at := placeOf(&b.Items[i])
		d = d.text(p.topic).number(int64(p.id)).number(at.offset).number(int64(at.index))
	}
	return d.sum()
}

// digest collects what is hashed, in such a way that no two inputs read the same.
type digest []byte

func (d digest) text(s string) digest {
	return append(d.number(int64(len(s))), s...)
}

func (d digest) number(n int64) digest { return binary.AppendVarint(d, n) }

func (d digest) sum() string {
	sum := sha256.Sum256(d)
	return hex.EncodeToString(sum[:16])
}
