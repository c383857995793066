package clickhousex

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/holdfast-io/holdfast"
)

// Inserter writes batches of structs into one table. Fields fill columns by their ch tag or name; a column that no field
// names gets its default. Safe for concurrent use.
//
// Each row is checked against the table's column types before it is sent, since the driver coerces silently: 300 into a
// UInt8 becomes 44. A value that would not be stored as it is refuses its row, in arrays, maps and tuples, too. Taken are
// floats rounded to the column's width, times cut to its precision, days cut to their beginning in the value's own zone, and
// strings padded to a FixedString's length; bytes that are no UTF-8 are stored as they are, and a NaN as a NaN. The zero
// time.Time is out of every range, and no address is not 0.0.0.0. The ranges are those of ClickHouse's documentation: 18.16
// reads a Date after 2105 as another day. Columns of types that the checks do not know, such as JSON, are the driver's to
// check. A value whose own methods panic, or lead to themselves, refuses its row.
type Inserter[T any] struct {
	table *table
}

// table is what an Inserter is apart from its row type.
type table struct {
	conn   *Conn
	name   string
	quoted string
	query  string  // The INSERT.
	fields []field // The row type's, and behind them those of origin that have columns.
	cfg    InserterConfig
	counts counts

	layout   atomic.Pointer[layout] // Nil until the table was described.
	suspect  atomic.Bool            // The layout is not to be relied on, after a fault of the configuration.
	distrust atomic.Int64           // The rows that the server refused since it stored one.
	records  records
	passed   passed
	pace     pace
}

// NewInserter makes an Inserter for a table, given as "table" or "database.table". T is a struct or a pointer to one. It
// does not call the server: what is wrong with the table shows in the first Write.
func NewInserter[T any](ch *Conn, name string, cfg InserterConfig) (*Inserter[T], error) {
	fields, err := fieldsOf(reflect.TypeFor[T]())
	marks, marksErr := marksOf(cfg.Offsets, fields)
	t, err := newTable(ch, name, slices.Concat(fields, marks), errors.Join(err, marksErr), cfg)
	if err != nil {
		return nil, err
	}
	return &Inserter[T]{t}, nil
}

func newTable(ch *Conn, name string, fields []field, fieldsErr error, cfg InserterConfig) (*table, error) {
	quoted, tableErr := quoteTable(name)
	if err := errors.Join(connFault(ch), tableErr, fieldsErr, cfg.Validate()); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults(ch)
	if err := retryFault("InserterConfig", cfg.Retry); err != nil { // Joined with the Conn's policy it may be another one.
		return nil, err
	}
	columns := make([]string, len(fields))
	for i, f := range fields {
		columns[i] = "`" + f.column + "`"
	}
	query := fmt.Sprintf("INSERT INTO %s (%s)", quoted, strings.Join(columns, ", "))
	return &table{conn: ch, name: name, quoted: quoted, query: query, fields: fields, cfg: cfg}, nil
}

func connFault(ch *Conn) error {
	if ch == nil {
		return errors.New("clickhousex: an Inserter needs a Conn, got nil")
	}
	return nil
}

// quoteTable takes no name that could end its quotes, or that the driver's parsing of INSERT would trip over.
func quoteTable(name string) (string, error) {
	database, table, qualified := strings.Cut(name, ".")
	if name == "" || qualified && (database == "" || table == "") || strings.ContainsAny(name, " \t\r\n`'\"\\(),;") {
		return "", fmt.Errorf("clickhousex: the table must be given as \"table\" or \"database.table\" without quotes, got %q", name)
	}
	if !qualified {
		return "`" + name + "`", nil
	}
	return "`" + database + "`.`" + table + "`", nil
}

// Write inserts the batch's items in one insert, or in several when the server refuses rows. An empty batch is nil.
//
//   - nil: all items are stored.
//   - *holdfast.BatchError: those items were refused, each with a *RowError, which is holdfast.Permanent. All others are
//     stored.
//   - holdfast.IsHold: table, rights or settings are at fault, or the server refuses so many rows, or with a code so new,
//     that they may well be. Nothing is stored, unless it is ambiguous too.
//   - holdfast.IsAmbiguous: something of the batch is stored, or may be. Write the same batch again, items and spans as
//     they are, until it succeeds: it then sends the same rows with the same token, refuses none that may be stored, and
//     repeats no part that is known to be. Every error is ambiguous until then.
//   - breaker.ErrCircuitOpen: the circuit let no attempt pass, or no further one. Nothing is stored, unless it is
//     ambiguous too.
//   - any other error, of ctx for one: nothing is stored, and the attempts, if there were any, have failed.
//
// What the Inserter remembers of an ambiguous batch goes by its items' places: each Source's claim offset, which must lie
// in one of the batch's Spans, and each Index. Without these it neither remembers anything nor sends a token. No two items
// ever written may share a place unless they are the same row.
//
// Between attempts it waits by the retry policy. It returns no later than ctx ends, but for a connection that is just
// being made: that may take the driver's DialTimeout. Settings that ctx carries by clickhouse.WithSettings are replaced
// by InserterConfig.Settings.
func (in *Inserter[T]) Write(ctx context.Context, b holdfast.Batch[T]) error {
	if len(b.Items) == 0 {
		return nil
	}
	w := insertion{
		table: in.table,
		items: len(b.Items),
		views: in.table.views(viewOf(&b.Items[0].Value, unsafe.Sizeof(b.Items[0]))),
	}
	if hasPlaces(b) {
		w.spans = b.Spans
		w.mark(func(i int) origin { return originOf(&b.Items[i]) })
		w.key = func() string { return batchKey(b) }
		w.token = func(items []int) string { return rowsToken(in.table.cfg.Epoch, b, items) }
	}
	return w.run(ctx)
}

// views are the columns' views of rows, but for those of origin.
func (t *table) views(rows view) []view {
	views := make([]view, len(t.fields)-t.cfg.Offsets.columns())
	for k := range views {
		views[k] = rows.field(t.fields[k])
	}
	return views
}

// Check reads the table and says which guarantee its rows have, in the log too. A Write does so by itself, again after a
// while: Check is for a program that wants to know at its start. Its error is that of a Write.
func (in *Inserter[T]) Check(ctx context.Context) (Guarantee, error) { return in.table.check(ctx) }

// IsOpen says that the circuit of the Inserter's connection is open.
func (in *Inserter[T]) IsOpen() bool { return in.table.conn.IsOpen() }

// WaitUntilReady returns nil when the connection's circuit would let a Write pass, and ctx's error when that ends first.
func (in *Inserter[T]) WaitUntilReady(ctx context.Context) error {
	return in.table.conn.WaitUntilReady(ctx)
}

// Stats gives a snapshot.
func (in *Inserter[T]) Stats() InserterStats { return in.table.counts.stats() }
