package clickhousex

import (
	"errors"
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
	facts  facts     // Of the table.

	takesToken      bool // The server knows insert_deduplication_token.
	takesAsyncToken bool // The server can heed that of an asynchronous insert.
	knowsAsync      bool // The server knows async_insert and wait_for_async_insert.
	knowsDedupMode  bool // The server knows deduplicate_insert, and heeds the tokens of asynchronous inserts by default.
}

// layoutLife is how long a layout is relied on: the next connection may go to a server of another version. Younger than
// trustedLife it may even refuse a row.
const (
	layoutLife  = time.Minute
	trustedLife = 10 * time.Second
)

func newLayout(table string, fields []field, columns []column.Interface, server *chdriver.ServerVersion) *layout {
	l := &layout{
		table:           table,
		fields:          fields,
		server:          serverContext(server),
		made:            time.Now(),
		takesToken:      server.Revision > stringSettingsRevision && isSince(server, 22, 2),
		takesAsyncToken: isSince(server, 23, 7), // ClickHouse#55539, #76297
		knowsAsync:      isSince(server, 21, 11),
		knowsDedupMode:  isSince(server, 26, 2),
	}
	for _, c := range columns {
		l.types = append(l.types, parseType(string(c.Type())))
	}
	return l
}

func (l *layout) age() time.Duration { return time.Since(l.made) }

// says tells whether other has nothing new to say to a reader of the log.
func (l *layout) says(other *layout) bool {
	return l.takesToken == other.takesToken && l.facts == other.facts &&
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

// rows checks and converts n items but for those in left; each view is of one column. Unfit are the items that a column
// would not take; an error means that no item could be taken at all, whatever its values.
func (l *layout) rows(n int, views []view, left map[int]error) (_ *rows, unfit map[int]error, _ error) {
	r, err := l.take()
	if err != nil {
		return nil, nil, err
	}
	unfit = make(map[int]error)
	for i := range n {
		switch {
		case left[i] != nil:
		case !views[0].has(i):
			unfit[i] = &RowError{Row: i, Reason: "the row is a nil pointer"}
		default:
			r.items = append(r.items, i)
		}
	}
	for {
		known := len(unfit)
		if err := r.fill(views, unfit); err != nil {
			r.release()
			return nil, nil, err
		}
		if len(unfit) == known {
			return r, unfit, nil
		}
		// A row that one column refused is in others: begin again without it.
		r.items = slices.DeleteFunc(r.items, func(item int) bool { return unfit[item] != nil })
		r.reset()
	}
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

// fill takes every item into every column, and notes those that a column refuses. It ends with a column that can take none.
func (r *rows) fill(views []view, unfit map[int]error) (mismatch error) {
	for k, c := range r.cells {
		f := r.layout.fields[k]
		c.fill(views[k], r.items, func(item int, err error) {
			switch {
			case errors.Is(err, errMismatch):
				mismatch = r.layout.columnError(k, err)
			case unfit[item] == nil:
				unfit[item] = &RowError{
					Row: item, Column: f.column, Type: r.layout.types[k].name, Kind: f.goType.String(), Reason: reason(err), Err: err,
				}
			}
		})
		if mismatch != nil {
			return mismatch
		}
	}
	return nil
}

// reason never repeats a value, as the driver's own texts do.
func reason(err error) string {
	for _, known := range []error{errNull, errOutOfRange, errInexact, errWrongType, errPanicked, errEndless} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "not a value of this column"
}

// send gives the rows [from, to) to the columns of a fresh batch.
func (r *rows) send(columns []column.Interface, from, to int) error {
	w := newWire()
	for k, c := range r.cells {
		if err := c.send(columns[k], w, from, to); err != nil {
			return r.layout.columnError(k, err)
		}
	}
	return nil
}

// size is how many bytes the rows [from, to) are on the wire, near enough.
func (r *rows) size(from, to int) int {
	n := 0
	for _, c := range r.cells {
		n += c.size(from, to)
	}
	return n
}

func (r *rows) reset() {
	for _, c := range r.cells {
		c.reset()
	}
}

func (r *rows) release() {
	r.reset()
	r.items = r.items[:0]
	r.layout.free.Put(r)
}
