package clickhousex

import (
	"errors"
	"reflect"

	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
)

// cells is one column of a batch on its way to the server: filled with checked values once, and handed to the driver as
// often as the batch is tried. Not safe for concurrent use.
type cells interface {
	// fill adds the values of these rows, and calls refuse for each that the column would not store as it is. Then the cells
	// are good for nothing until they are reset.
	fill(v view, rows []int, refuse func(row int, err error))
	send(dst column.Interface, w *wire, from, to int) error
	size(from, to int) int // Bytes on the wire, near enough.
	reset()
}

// newCells picks the form in which a column is kept: that of the wire where its values simply follow one another, and Go
// values for the driver's row interface where they do not.
func newCells(f field, t colType, server *column.ServerContext) (cells, error) {
	if !t.isFlat() {
		scratch, err := column.Type(t.name).Column(f.column, server)
		if err != nil {
			return nil, err
		}
		return &rowCells{columnType: t, goType: f.goType, dynamic: holdsInterface(f.goType), scratch: scratch}, nil
	}
	scratch, err := column.Type(t.element).Column(f.column, server)
	if err != nil {
		return nil, err
	}
	zero, err := encodeByDriver(scratch, nil)
	if err != nil {
		return nil, err
	}
	flat := flatCells{encode: newEncoder(f.goType, t, scratch), nullable: t.nullable, zero: zero}
	if t.base != "String" {
		flat.width = len(zero)
	}
	if t.lowCard {
		return newLowCells(flat), nil
	}
	return &flat, nil
}

// flatCells holds values as they go over the wire, one after the other.
type flatCells struct {
	encode   encoder
	nullable bool
	zero     []byte // What stands in the place of nil.
	width    int    // Of a value, 0 when they differ.

	values []byte
	ends   []int  // Of each value, when they differ in width.
	nulls  []byte // 1 for nil; empty unless nullable.
}

func (c *flatCells) fill(v view, rows []int, refuse func(int, error)) {
	for _, row := range rows {
		values, err := c.encode(c.values, v.at(row))
		null := byte(0)
		if err != nil && c.nullable && errors.Is(err, errNull) {
			values, null, err = append(c.values, c.zero...), 1, nil
		}
		if err != nil {
			refuse(row, err)
			continue
		}
		c.values = values
		if c.width == 0 {
			c.ends = append(c.ends, len(values))
		}
		if c.nullable {
			c.nulls = append(c.nulls, null)
		}
	}
}

func (c *flatCells) send(dst column.Interface, w *wire, from, to int) error {
	values := c.values[c.start(from):c.start(to)]
	if c.nullable {
		return w.decode(dst, to-from, c.nulls[from:to], values)
	}
	return w.decode(dst, to-from, values)
}

// start is where a value begins.
func (c *flatCells) start(i int) int {
	switch {
	case c.width > 0:
		return i * c.width
	case i == 0:
		return 0
	default:
		return c.ends[i-1]
	}
}

func (c *flatCells) size(from, to int) int { return c.start(to) - c.start(from) }

func (c *flatCells) reset() { c.values, c.ends, c.nulls = c.values[:0], c.ends[:0], c.nulls[:0] }

// rowCells holds a column as the values that the driver's AppendRow takes. Each is tried on a column of our own first,
// so that a bad one never poisons a batch.
type rowCells struct {
	columnType colType
	goType     reflect.Type
	dynamic    bool // The field's type leaves the value's open, so that a wrong one is the row's fault.
	scratch    column.Interface
	values     []any
	ends       []int // Of each value, in bytes.
}

func (c *rowCells) fill(v view, rows []int, refuse func(int, error)) {
	end := 0
	for _, row := range rows {
		value, err := plain(c.columnType, reflect.NewAt(c.goType, v.at(row)).Elem())
		var encoded []byte
		if err == nil {
			encoded, err = encodeByDriver(c.scratch, value)
		}
		if err != nil {
			refuse(row, unlessDynamic(err, c.dynamic))
			continue
		}
		end += len(encoded)
		c.values, c.ends = append(c.values, value), append(c.ends, end)
	}
}

func (c *rowCells) send(dst column.Interface, _ *wire, from, to int) (err error) {
	defer catch(&err)
	for _, value := range c.values[from:to] {
		if err := dst.AppendRow(value); err != nil {
			return err
		}
	}
	return nil
}

func (c *rowCells) size(from, to int) int {
	if from == 0 {
		return c.ends[to-1]
	}
	return c.ends[to-1] - c.ends[from-1]
}

func (c *rowCells) reset() {
	clear(c.values)
	c.values, c.ends = c.values[:0], c.ends[:0]
}

func holdsInterface(t reflect.Type) bool {
	for range maxSteps {
		switch t.Kind() {
		case reflect.Interface:
			return true
		case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
			t = t.Elem()
		default:
			return false
		}
	}
	return false // A type of itself.
}
