package clickhousex

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// field is one field of a row struct and the column that it fills.
type field struct {
	column string
	offset uintptr // In the row's struct.
	goType reflect.Type
}

// fieldsOf lists the fields of a row type as the driver's AppendStruct would: exported ones, named by their ch tag or
// else by their own name, ch:"-" left out, embedded structs flattened. Two fields of one column are refused, where the
// driver silently takes one of them. The row type is a struct or a pointer to one.
func fieldsOf(row reflect.Type) ([]field, error) {
	t := row
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("clickhousex: the row type must be a struct or a pointer to one, got %s", row)
	}
	fields := appendFields(nil, t, 0)
	if len(fields) == 0 {
		return nil, fmt.Errorf("clickhousex: row type %s has no field to fill a column from: export some, named by `ch` tags", row)
	}
	var faults []error
	seen := make(map[string]bool, len(fields))
	for _, f := range fields {
		if strings.ContainsAny(f.column, "`\\") { // Could end its quotes.
			faults = append(faults, fmt.Errorf("clickhousex: row type %s names a column with a backtick or backslash: %q", row, f.column))
		}
		if seen[f.column] {
			faults = append(faults, fmt.Errorf("clickhousex: row type %s has two fields for column %q", row, f.column))
		}
		seen[f.column] = true
	}
	return fields, errors.Join(faults...)
}

func appendFields(fields []field, t reflect.Type, offset uintptr) []field {
	for f := range t.Fields() {
		name, tagged := f.Tag.Lookup("ch")
		switch {
		case name == "-":
		case f.Anonymous && !tagged && f.Type.Kind() == reflect.Struct:
			fields = appendFields(fields, f.Type, offset+f.Offset)
		case !f.IsExported():
		default:
			if name == "" {
				name = f.Name
			}
			fields = append(fields, field{column: name, offset: offset + f.Offset, goType: f.Type})
		}
	}
	return fields
}
