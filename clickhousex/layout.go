package clickhousex

import (
	"errors"
	"reflect"
	"slices"
	"sync"

	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	chdriver "github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// layout is the table's columns as the server described them, for the fields of one row type. It does not change; when
// the table does, there is a new one. Safe for concurrent use.
type layout struct {
	table  string
	fields []field
	types  []colType
	server *column.ServerContext
	free   sync.Pool // Of *rows, for their slices.

	takesToken    bool // The server knows insert_deduplication_token.
	waitsForAsync bool // The server knows wait_for_async_insert.
}

func newLayout(table string, fields []field, server *chdriver.ServerVersion) *layout {
	return &layout{
		table:         table,
		fields:        fields,
		server:        serverContext(server),
		takesToken:    server.Revision >= stringSettingsRevision,
		waitsForAsync: knowsAsyncInserts(server),
	}
}

// fits says whether the table still looks the same.
func (l *layout) fits(columns []column.Interface) bool {
	return slices.EqualFunc(l.types, columns, func(t colType, c column.Interface) bool { return t.name == string(c.Type()) })
}

// rows are the items of one batch in the form in which they are sent. Not safe for concurrent use.
type rows struct {
	layout *layout
	cells  []cells
	items  []int // The item of each row, ascending.
}

// rows checks and converts n items. What refused gets are the items that no column would take; an error means that no
// item could be taken at all, whatever its values.
func (l *layout) rows(n int, item func(int) reflect.Value, refused map[int]error) (*rows, error) {
	r, err := l.take()
	if err != nil {
		return nil, err
	}
	for i := range n {
		if err := r.add(i, item(i)); err != nil {
			var fault *RowError
			if !errors.As(err, &fault) {
				r.release()
				return nil, err
			}
			refused[i] = err
		}
	}
	return r, nil
}

func (l *layout) take() (*rows, error) {
	if r, ok := l.free.Get().(*rows); ok {
		return r, nil
	}
	r := &rows{layout: l}
	for i, f := range l.fields {
		c, err := newCells(f, l.types[i], l.server)
		if err != nil {
			return nil, l.columnError(i, err)
		}
		r.cells = append(r.cells, c)
	}
	return r, nil
}

func (l *layout) columnError(i int, err error) error {
	f := l.fields[i]
	return &ColumnError{Table: l.table, Column: f.column, Type: l.types[i].name, Field: f.goType.String(), Err: err}
}

// add takes the item's value into every column, or into none.
func (r *rows) add(i int, row reflect.Value) error {
	if row.Kind() == reflect.Pointer {
		if row.IsNil() {
			return &RowError{Row: i, Reason: "the row is a nil pointer"}
		}
		row = row.Elem()
	}
	for k, c := range r.cells {
		err := c.add(row)
		if err == nil {
			continue
		}
		for _, filled := range r.cells[:k] {
			filled.pop()
		}
		if errors.Is(err, errMismatch) {
			return r.layout.columnError(k, err)
		}
		f := r.layout.fields[k]
		return &RowError{
			Row: i, Column: f.column, Type: r.layout.types[k].name, Kind: f.goType.String(), Reason: reason(err), Err: err,
		}
	}
	r.items = append(r.items, i)
	return nil
}

// reason never repeats a value, as the driver's own texts do.
func reason(err error) string {
	for _, known := range []error{errNull, errOutOfRange, errInexact, errWrongType} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "not a value of this column"
}

// fill gives the rows [first, next) to a fresh batch.
func (r *rows) fill(batch chdriver.Batch, first, next int) error {
	for k, c := range r.cells {
		if err := c.send(batch.Column(k), first, next); err != nil {
			return r.layout.columnError(k, err)
		}
	}
	return nil
}

func (r *rows) release() {
	for _, c := range r.cells {
		c.reset()
	}
	r.items = r.items[:0]
	r.layout.free.Put(r)
}
