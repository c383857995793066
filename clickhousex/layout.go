package clickhousex

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	chdriver "github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// layout is the table's columns as the server described them, for the fields of one row type, and what that server knows.
// It does not change; when they do, there is a new one. Safe for concurrent use.
type layout struct {
	table  string
	fields []field
	types  []colType
	server *column.ServerContext
	made   time.Time
	free   sync.Pool // Of *rows, for their slices.

	takesToken     bool // The server knows insert_deduplication_token.
	knowsAsync     bool // The server knows async_insert and wait_for_async_insert.
	knowsDedupMode bool // The server knows deduplicate_insert.
}

// layoutLife is how long a layout is relied on: the next connection may go to a server of another version. Younger than
// trustedLife it may even refuse a row.
const (
	layoutLife  = time.Minute
	trustedLife = 10 * time.Second
)

func newLayout(table string, fields []field, columns []column.Interface, server *chdriver.ServerVersion) *layout {
	l := &layout{
		table:          table,
		fields:         fields,
		server:         serverContext(server),
		made:           time.Now(),
		takesToken:     server.Revision > stringSettingsRevision && isSince(server, 22, 2),
		knowsAsync:     isSince(server, 21, 11),
		knowsDedupMode: isSince(server, 26, 2),
	}
	for _, c := range columns {
		l.types = append(l.types, parseType(string(c.Type())))
	}
	return l
}

func (l *layout) age() time.Duration { return time.Since(l.made) }

// says tells whether other has nothing new to say to a reader of the log.
func (l *layout) says(other *layout) bool {
	return l.takesToken == other.takesToken &&
		slices.EqualFunc(l.types, other.types, func(x, y colType) bool { return x.name == y.name })
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

// rows checks and converts n items but for those in left. Unfit are the items that a column would not take; an error means
// that no item could be taken at all, whatever its values.
func (l *layout) rows(n int, item func(int) reflect.Value, left map[int]error) (_ *rows, unfit map[int]error, _ error) {
	r, err := l.take()
	if err != nil {
		return nil, nil, err
	}
	for i := range n {
		if left[i] != nil {
			continue
		}
		if err := r.add(i, item(i)); err != nil {
			if _, ok := errors.AsType[*RowError](err); !ok {
				r.release()
				return nil, nil, err
			}
			if unfit == nil {
				unfit = make(map[int]error)
			}
			unfit[i] = err
		}
	}
	return r, unfit, nil
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
	k, err := r.fillCells(row)
	if err == nil {
		r.items = append(r.items, i)
		return nil
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

// fillCells adds a row to one column after the other, and says which one did not take it.
func (r *rows) fillCells(row reflect.Value) (k int, err error) {
	defer func() {
		if p := recover(); p != nil { // In a Valuer of the program's.
			err = fmt.Errorf("%w: %v", errPanicked, p)
		}
	}()
	for k = range r.cells {
		if err := r.cells[k].add(row); err != nil {
			return k, err
		}
	}
	return k, nil
}

// reason never repeats a value, as the driver's own texts do.
func reason(err error) string {
	for _, known := range []error{errNull, errOutOfRange, errInexact, errWrongType, errPanicked} {
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
