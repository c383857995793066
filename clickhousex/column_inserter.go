package clickhousex

import (
	"context"
	"errors"
	"fmt"
	"reflect"
)

// ColumnInserter writes batches that are there column by column already: T is a struct, or a pointer to one, whose fields
// are slices of the same length, named as an Inserter's fields are. All else is as with an Inserter: the checks, the
// retries, what errors mean. Safe for concurrent use.
//
//	type Columns struct {
//		ID   []uint64  `ch:"id"`
//		Name []*string `ch:"name"` // A column of Nullable(String).
//	}
type ColumnInserter[T any] struct {
	table *table
}

// NewColumnInserter makes a ColumnInserter for a table, given as "table" or "database.table". It does not call the server.
func NewColumnInserter[T any](ch *Conn, name string, cfg InserterConfig) (*ColumnInserter[T], error) {
	fields, err := columnsOf(reflect.TypeFor[T]())
	if cfg.Offsets != OffsetsNone {
		err = errors.Join(err, errors.New("clickhousex: InserterConfig.Offsets must be OffsetsNone for a ColumnInserter, whose rows bring all their columns"))
	}
	t, err := newTable(ch, name, fields, err, cfg)
	if err != nil {
		return nil, err
	}
	return &ColumnInserter[T]{t}, nil
}

// columnsOf lists the fields as fieldsOf does, with the slices' element types for theirs.
func columnsOf(columns reflect.Type) ([]field, error) {
	fields, err := fieldsOf(columns)
	faults := []error{err}
	for k, f := range fields {
		if f.goType.Kind() != reflect.Slice {
			faults = append(faults, fmt.Errorf("clickhousex: column %q of %s must be a slice, got %s", f.column, columns, f.goType))
			continue
		}
		fields[k].goType = f.goType.Elem()
	}
	return fields, errors.Join(faults...)
}

// Write inserts the rows that the columns make up, as Inserter.Write inserts those of a batch; Items of a
// *holdfast.BatchError are the row numbers. Slices of different lengths are refused as a whole, without rows it does nothing.
//
// The id stands for the rows: it must be the same when, and only when, the same rows are written in the same order, after a
// crash as well. From it come the deduplication tokens, and by it an ambiguous batch is known when it is written again.
// Where rows come from Kafka, it is their topic, partition, first and last offset. An empty id stands for nothing: then
// nothing is remembered, and the insert is as with DedupOff.
func (in *ColumnInserter[T]) Write(ctx context.Context, columns T, id string) error {
	n, views, err := in.table.columnViews(viewOf(&columns, 0))
	if err != nil || n == 0 {
		return err
	}
	w := insertion{table: in.table, items: n, views: views}
	if id != "" {
		w.key = func() string { return id }
		w.token = func(rows []int) string { return columnsToken(in.table.cfg.Epoch, id, rows) }
	}
	return w.run(ctx)
}

// columnViews gives the number of rows and the columns' views, from the struct that holds the slices.
func (t *table) columnViews(slices view) (n int, views []view, err error) {
	if !slices.has(0) {
		return 0, nil, fmt.Errorf("clickhousex: insert into %s: the columns are a nil pointer", t.name)
	}
	views = make([]view, len(t.fields))
	for k, f := range t.fields {
		slice := reflect.NewAt(reflect.SliceOf(f.goType), slices.field(f).at(0)).Elem()
		if k > 0 && slice.Len() != n {
			return 0, nil, fmt.Errorf("clickhousex: insert into %s: column %s has %d values, but %s has %d",
				t.name, f.column, slice.Len(), t.fields[0].column, n)
		}
		n = slice.Len()
		views[k] = view{first: slice.UnsafePointer(), stride: f.goType.Size()}
	}
	return n, views, nil
}

// columnsToken is the deduplication token of some of the rows that an id stands for.
func columnsToken(epoch, id string, rows []int) string {
	d := digest{}.text(epoch).text(id)
	for _, row := range rows {
		d = d.number(int64(row))
	}
	return tokenVersion + "-columns-" + d.sum()
}

// Check reads the table and says which guarantee its rows have, as Inserter.Check does.
func (in *ColumnInserter[T]) Check(ctx context.Context) (Guarantee, error) {
	return in.table.check(ctx)
}

// IsOpen says that the circuit of the connection is open.
func (in *ColumnInserter[T]) IsOpen() bool { return in.table.conn.IsOpen() }

// WaitUntilReady returns nil when the connection's circuit would let a Write pass, and ctx's error when that ends first.
func (in *ColumnInserter[T]) WaitUntilReady(ctx context.Context) error {
	return in.table.conn.WaitUntilReady(ctx)
}

// Stats gives a snapshot.
func (in *ColumnInserter[T]) Stats() InserterStats { return in.table.counts.stats() }
