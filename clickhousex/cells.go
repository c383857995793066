package clickhousex

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	chdriver "github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// cells is one column of a batch on its way to the driver: values are checked as they are added, row by row, and handed
// over in slices as often as the batch is tried. Not safe for concurrent use.
type cells interface {
	add(row reflect.Value) error // Adds nothing when it fails.
	pop()                        // Takes the last value back.
	send(dst chdriver.BatchColumn, from, to int) error
	reset()
}

// newCells picks the way by which values of a field reach a column: for the common scalars a slice of the column's own
// element type, which the driver takes as a whole; for all else its row interface, behind a check of our own.
func newCells(f field, t colType, sc *column.ServerContext) (cells, error) {
	scratch, err := column.Type(t.name).Column(f.column, sc)
	if err != nil {
		return nil, err
	}
	element := f.goType
	if element.Kind() == reflect.Pointer {
		element = element.Elem()
	}
	// Types that bring their own value, and named strings that print differently, are the row interface's to resolve.
	if !bringsValue(f.goType) && !bringsValue(element) {
		if c := newTypedCells(f, element, t, scratch); c != nil {
			return c, nil
		}
	}
	return &anyCells{index: f.index, columnType: t, scratch: scratch, dynamic: holdsInterface(f.goType)}, nil
}

func newTypedCells(f field, element reflect.Type, t colType, scratch column.Interface) cells {
	isString := element.Kind() == reflect.String && !element.Implements(reflect.TypeFor[fmt.Stringer]()) ||
		element.Kind() == reflect.Slice && element.Elem().Kind() == reflect.Uint8
	isNumber := element.Kind() >= reflect.Bool && element.Kind() <= reflect.Uint64
	isFloat := isNumber && element.Kind() != reflect.Bool ||
		element.Kind() == reflect.Float32 || element.Kind() == reflect.Float64
	isTime := element == reflect.TypeFor[time.Time]()
	switch {
	case t.base == "Int8" && isNumber:
		return typed(f, t, toInt[int8])
	case t.base == "Int16" && isNumber:
		return typed(f, t, toInt[int16])
	case t.base == "Int32" && isNumber:
		return typed(f, t, toInt[int32])
	case t.base == "Int64" && isNumber:
		return typed(f, t, toInt[int64])
	case t.base == "UInt8" && isNumber:
		return typed(f, t, toInt[uint8])
	case t.base == "UInt16" && isNumber:
		return typed(f, t, toInt[uint16])
	case t.base == "UInt32" && isNumber:
		return typed(f, t, toInt[uint32])
	case t.base == "UInt64" && isNumber:
		return typed(f, t, toInt[uint64])
	case t.base == "Float32" && isFloat:
		return typed(f, t, toFloat[float32])
	case t.base == "Float64" && isFloat:
		return typed(f, t, toFloat[float64])
	case t.base == "Bool" && element.Kind() == reflect.Bool:
		return typed(f, t, toBool)
	case t.base == "String" && isString:
		return typed(f, t, toString)
	case t.base == "FixedString":
		size, ok := sizeParam(t)
		if ok && (isString || element.Kind() == reflect.Array && element.Elem().Kind() == reflect.Uint8) {
			return typed(f, t, toFixedString(size))
		}
	case (t.base == "Enum8" || t.base == "Enum16") && isString:
		return typed(f, t, toEnum(scratch))
	case isTime:
		if r, ok := timeRangeOf(t.base); ok {
			return typed(f, t, r.toTime)
		}
	}
	return nil
}

// bringsValue is true of types whose stored form is not their Go kind's.
func bringsValue(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[driver.Valuer]())
}

// toEnum asks the driver once for each name.
func toEnum(scratch column.Interface) func(reflect.Value) (string, error) {
	known := make(map[string]struct{})
	return func(v reflect.Value) (string, error) {
		s, err := toString(v)
		if err != nil {
			return "", err
		}
		if _, ok := known[s]; !ok {
			defer scratch.Reset()
			if err := scratch.AppendRow(s); err != nil {
				return "", fmt.Errorf("unknown name: %w", errOutOfRange) // The driver's text repeats the value.
			}
			known[s] = struct{}{}
		}
		return s, nil
	}
}

// typedCells holds a column as the slice that the driver copies in one go.
type typedCells[E any] struct {
	index    []int
	nullable bool
	byRow    bool // LowCardinality(Nullable): by slice the driver would keep a dictionary of pointers.
	convert  func(reflect.Value) (E, error)
	values   []E
	null     []bool // As long as values when nullable, else empty.
	pointers []*E   // Scratch of send.
}

func typed[E any](f field, t colType, convert func(reflect.Value) (E, error)) cells {
	return &typedCells[E]{index: f.index, nullable: t.nullable, byRow: t.nullable && t.lowCard, convert: convert}
}

func (c *typedCells[E]) add(row reflect.Value) error {
	v := row.FieldByIndex(c.index)
	var value E
	null := false
	if v.Kind() == reflect.Pointer {
		if null = v.IsNil(); !null {
			v = v.Elem()
		}
	}
	if null && !c.nullable {
		return errNull
	}
	if !null {
		var err error
		if value, err = c.convert(v); err != nil {
			return err
		}
	}
	c.values = append(c.values, value)
	if c.nullable {
		c.null = append(c.null, null)
	}
	return nil
}

func (c *typedCells[E]) pop() {
	c.values = c.values[:len(c.values)-1]
	if c.nullable {
		c.null = c.null[:len(c.null)-1]
	}
}

func (c *typedCells[E]) send(dst chdriver.BatchColumn, from, to int) error {
	if !c.nullable {
		return dst.Append(c.values[from:to])
	}
	c.pointers = c.pointers[:0]
	for i := from; i < to; i++ {
		p := &c.values[i]
		if c.null[i] {
			p = nil
		}
		c.pointers = append(c.pointers, p)
	}
	if !c.byRow {
		return dst.Append(c.pointers)
	}
	for _, p := range c.pointers {
		var value any
		if p != nil {
			value = *p
		}
		if err := dst.AppendRow(value); err != nil {
			return err
		}
	}
	return nil
}

func (c *typedCells[E]) reset() {
	clear(c.values) // Strings of the last batch.
	c.values, c.null = c.values[:0], c.null[:0]
}

// anyCells holds a column as the values that the driver's AppendRow takes. Each is tried on a column of our own first,
// so that a bad one never poisons a batch.
type anyCells struct {
	index      []int
	columnType colType
	scratch    column.Interface
	dynamic    bool // The field's type leaves the value's open, so that a wrong one is the row's fault.
	values     []any
}

func (c *anyCells) add(row reflect.Value) error {
	value, err := plain(c.columnType, row.FieldByIndex(c.index))
	if day, ok := value.(time.Time); ok && c.columnType.base == "Date32" {
		value = beginningOfDay(day)
	}
	if err == nil {
		err = c.try(value)
	}
	var converter *column.ColumnConverterError
	mismatch := errors.Is(err, errMismatch) || errors.As(err, &converter)
	switch {
	case mismatch && c.dynamic:
		return errWrongType
	case mismatch:
		return errMismatch
	case err != nil:
		return err
	}
	c.values = append(c.values, value)
	return nil
}

func holdsInterface(t reflect.Type) bool {
	for {
		switch t.Kind() {
		case reflect.Interface:
			return true
		case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
			t = t.Elem()
		default:
			return false
		}
	}
}

// try appends to the scratch column. Some of the driver's columns panic on values that they do not expect.
func (c *anyCells) try(value any) (err error) {
	defer func() {
		c.scratch.Reset()
		if p := recover(); p != nil {
			err = fmt.Errorf("the driver panicked: %v", p)
		}
	}()
	return c.scratch.AppendRow(value)
}

func (c *anyCells) pop() { c.values = c.values[:len(c.values)-1] }

func (c *anyCells) send(dst chdriver.BatchColumn, from, to int) error {
	for _, value := range c.values[from:to] {
		if err := dst.AppendRow(value); err != nil {
			return err
		}
	}
	return nil
}

func (c *anyCells) reset() {
	clear(c.values)
	c.values = c.values[:0]
}
