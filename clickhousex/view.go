package clickhousex

import (
	"reflect"
	"unsafe"
)

// view is where one column's values lie: in a field of each row, or one after the other in a slice. It keeps them alive.
type view struct {
	first    unsafe.Pointer
	stride   uintptr
	pointers bool    // Each row is a pointer to where its fields are.
	offset   uintptr // Of the field in its row.
}

// viewOf is a view of the rows themselves, of which first is the first and the others follow at the same distance.
func viewOf[T any](first *T, stride uintptr) view {
	return view{first: unsafe.Pointer(first), stride: stride, pointers: reflect.TypeFor[T]().Kind() == reflect.Pointer}
}

// field is a view of one field of the rows.
func (v view) field(f field) view {
	v.offset = f.offset
	return v
}

// has is false of a row that is a nil pointer.
func (v view) has(i int) bool { return v.row(i) != nil }

// at is where the i-th value is. The row must be there.
func (v view) at(i int) unsafe.Pointer { return unsafe.Add(v.row(i), v.offset) }

func (v view) row(i int) unsafe.Pointer {
	row := unsafe.Add(v.first, uintptr(i)*v.stride)
	if v.pointers {
		row = *(*unsafe.Pointer)(row)
	}
	return row
}
