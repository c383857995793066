package clickhousex

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
)

// lowCells holds a LowCardinality column: every value once, and for each row which of them it has.
type lowCells struct {
	dictionary flatCells         // Its first value is the zero, and its second, too, where the first stands for nil.
	known      map[string]uint32 // A value's place in the dictionary, by its form on the wire.
	count      uint32            // Values in the dictionary.
	rows       []uint32
	value      []byte // Scratch of fill.
}

func newLowCells(dictionary flatCells) *lowCells {
	c := &lowCells{dictionary: dictionary}
	c.reset()
	return c
}

func (c *lowCells) fill(v view, rows []int, refuse func(int, error)) {
	for _, row := range rows {
		value, err := c.dictionary.encode(c.value[:0], v.at(row))
		switch {
		case err == nil:
			c.value = value
			c.rows = append(c.rows, c.place(value))
		case c.dictionary.nullable && errors.Is(err, errNull):
			c.rows = append(c.rows, 0)
		default:
			refuse(row, err)
		}
	}
}

func (c *lowCells) place(value []byte) uint32 {
	place, found := c.known[string(value)]
	if !found {
		place = c.count
		c.add(value)
	}
	return place
}

func (c *lowCells) add(value []byte) {
	c.known[string(value)] = c.count
	c.append(value)
}

func (c *lowCells) append(value []byte) {
	c.dictionary.values = append(c.dictionary.values, value...)
	if c.dictionary.width == 0 {
		c.dictionary.ends = append(c.dictionary.ends, len(c.dictionary.values))
	}
	c.count++
}

// send follows SerializationLowCardinality of ClickHouse: how the rows are numbered, the dictionary, the rows.
func (c *lowCells) send(dst column.Interface, w *wire, from, to int) error {
	const hasDictionary, isItsOwn = 1 << 9, 1 << 10
	if from > 0 || to < len(c.rows) {
		part := c.part(from, to)
		return part.send(dst, w, 0, len(part.rows))
	}
	width := 0 // As a power of 2.
	switch {
	case c.count > math.MaxUint16+1:
		width = 2
	case c.count > math.MaxUint8+1:
		width = 1
	}
	head := binary.LittleEndian.AppendUint64(nil, hasDictionary|isItsOwn|uint64(width))
	head = binary.LittleEndian.AppendUint64(head, uint64(c.count))
	rows := make([]byte, 0, 8+len(c.rows)<<width)
	rows = binary.LittleEndian.AppendUint64(rows, uint64(len(c.rows)))
	for _, place := range c.rows {
		rows = appendBits(rows, uint64(place), 1<<width)
	}
	return w.decode(dst, to-from, head, c.dictionary.values, rows)
}

// part is the column of some of the rows, whose dictionary has only what they have.
func (c *lowCells) part(from, to int) *lowCells {
	part := newLowCells(flatCells{nullable: c.dictionary.nullable, zero: c.dictionary.zero, width: c.dictionary.width})
	for _, place := range c.rows[from:to] {
		if c.dictionary.nullable && place == 0 {
			part.rows = append(part.rows, 0)
			continue
		}
		part.rows = append(part.rows, part.place(c.valueAt(place)))
	}
	return part
}

func (c *lowCells) valueAt(place uint32) []byte {
	return c.dictionary.values[c.dictionary.start(int(place)):c.dictionary.start(int(place)+1)]
}

func (c *lowCells) size(from, to int) int {
	if from == 0 && to == len(c.rows) {
		return len(c.dictionary.values) + 4*to
	}
	values, seen := 0, make(map[uint32]bool)
	for _, place := range c.rows[from:to] {
		if !seen[place] {
			seen[place] = true
			values += len(c.valueAt(place))
		}
	}
	return values + 4*(to-from)
}

func (c *lowCells) reset() {
	c.dictionary.reset()
	c.rows = c.rows[:0]
	c.known = make(map[string]uint32)
	c.count = 0
	if c.dictionary.nullable {
		c.append(c.dictionary.zero)
	}
	c.add(c.dictionary.zero)
}
