package clickhousex

import "fmt"

// RowError says why one row was refused, before it was sent or by the server. It is the row's own fault
// (holdfast.IsPermanent), and it never repeats the row's value.
type RowError struct {
	Row    int    // The item's index in its batch.
	Column string // Empty when the server did not say.
	Type   string // The column's type in the table.
	Kind   string // The Go type of the value.
	Reason string // What is wrong, without the value.
	Err    error  // What the driver or the server said; it may repeat values. Nil for the Inserter's own checks.
}

// Error names row, column and reason.
func (e *RowError) Error() string {
	if e.Column == "" {
		return fmt.Sprintf("clickhousex: row %d: %s", e.Row, e.Reason)
	}
	return fmt.Sprintf("clickhousex: row %d: column %s %s: %s: %s", e.Row, e.Column, e.Type, e.Kind, e.Reason)
}

// Unwrap gives the driver's or the server's error.
func (e *RowError) Unwrap() error { return e.Err }

// Permanent says that no retry helps.
func (e *RowError) Permanent() bool { return true }

// ColumnError says that a field of the row type can never fill its column, whatever its value. It is nobody's row that
// is at fault: holdfast.IsHold is true of it.
type ColumnError struct {
	Table  string
	Column string
	Type   string // The column's type in the table.
	Field  string // The Go type of the field.
	Err    error  // What the driver said, nil for the Inserter's own checks.
}

// Error names table, column and both types.
func (e *ColumnError) Error() string {
	return fmt.Sprintf("clickhousex: table %s: column %s %s cannot be filled from a field of type %s",
		e.Table, e.Column, e.Type, e.Field)
}

// Unwrap gives the driver's error.
func (e *ColumnError) Unwrap() error { return e.Err }

// Hold says that the pipeline should wait until table and program fit.
func (e *ColumnError) Hold() bool { return true }
