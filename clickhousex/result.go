package clickhousex

import (
	"errors"
	"io"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// resultRows are rows whose end the breaker waits for.
type resultRows struct {
	rows    driver.Rows
	pending *pending
}

var _ driver.Rows = (*resultRows)(nil)

func (r *resultRows) Next() bool {
	defer r.pending.read()()
	if r.rows.Next() {
		return true
	}
	r.pending.end(r.rows.Err())
	return false
}

func (r *resultRows) HasData() bool {
	defer r.pending.read()()
	return r.rows.HasData()
}

func (r *resultRows) Close() error {
	defer r.pending.read()()
	err := r.rows.Close()
	r.pending.end(errors.Join(err, r.rows.Err()))
	return err
}

func (r *resultRows) Scan(dest ...any) error           { return r.rows.Scan(dest...) }
func (r *resultRows) ScanStruct(dest any) error        { return r.rows.ScanStruct(dest) }
func (r *resultRows) Totals(dest ...any) error         { return r.rows.Totals(dest...) }
func (r *resultRows) ColumnTypes() []driver.ColumnType { return r.rows.ColumnTypes() }
func (r *resultRows) Columns() []string                { return r.rows.Columns() }
func (r *resultRows) Err() error                       { return r.rows.Err() }

// resultRow is a row whose scan the breaker waits for.
type resultRow struct {
	row     driver.Row
	pending *pending
}

func (r *resultRow) Err() error { return r.row.Err() }
func (r *resultRow) Scan(dest ...any) error {
	return r.scan(func() error { return r.row.Scan(dest...) })
}

func (r *resultRow) ScanStruct(dest any) error {
	return r.scan(func() error { return r.row.ScanStruct(dest) })
}

func (r *resultRow) scan(fn func() error) error {
	defer r.pending.read()()
	err := fn()
	r.pending.end(err)
	return err
}

// failedRow is what a rejected QueryRow gives.
type failedRow struct{ err error }

func (r failedRow) Err() error           { return r.err }
func (r failedRow) Scan(...any) error    { return r.err }
func (r failedRow) ScanStruct(any) error { return r.err }

// resultStream is an encoded result whose end the breaker waits for.
type resultStream struct {
	stream  io.ReadCloser
	pending *pending
}

func (s *resultStream) Read(p []byte) (int, error) {
	defer s.pending.read()()
	n, err := s.stream.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		s.pending.end(nil)
	case err != nil:
		s.pending.end(err)
	}
	return n, err
}

func (s *resultStream) Close() error {
	err := s.stream.Close()
	s.pending.end(err)
	return err
}
