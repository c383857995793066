package clickhousex

import (
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"
	"unsafe"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
)

// encoder appends the value at p as a column of the Native format has it. An error says why it would not be stored as it
// is, errNull that there is no value; what it returns beside an error is of no use. Not safe for concurrent use.
type encoder func(dst []byte, p unsafe.Pointer) ([]byte, error)

// newEncoder makes the encoder from a Go type to a column whose values follow one another without more: isFlat. The
// scratch is a column of its element type.
func newEncoder(goType reflect.Type, t colType, scratch column.Interface) encoder {
	if !bringsValue(goType) {
		if encode := scalarEncoder(goType, t); encode != nil {
			return encode
		}
		if (t.base == "Enum8" || t.base == "Enum16") && isText(goType) {
			return nameEncoder(textLoader(goType), scratch)
		}
		if goType.Kind() == reflect.Pointer && !bringsValue(goType.Elem()) && goType.Elem().Kind() != reflect.Pointer {
			return pointerEncoder(newEncoder(goType.Elem(), t, scratch))
		}
	}
	return driverEncoder(goType, t, scratch)
}

// scalarEncoder is nil for types that it does not know.
func scalarEncoder(goType reflect.Type, t colType) encoder {
	if bringsValue(goType) {
		return nil
	}
	kind := goType.Kind()
	switch t.base {
	case "Int8":
		return integerEncoder[int8](kind)
	case "Int16":
		return integerEncoder[int16](kind)
	case "Int32":
		return integerEncoder[int32](kind)
	case "Int64":
		return integerEncoder[int64](kind)
	case "UInt8":
		return integerEncoder[uint8](kind)
	case "UInt16":
		return integerEncoder[uint16](kind)
	case "UInt32":
		return integerEncoder[uint32](kind)
	case "UInt64":
		return integerEncoder[uint64](kind)
	case "Float32":
		return floatEncoder[float32](kind)
	case "Float64":
		return floatEncoder[float64](kind)
	case "Bool":
		if kind == reflect.Bool {
			return encodeByte
		}
	case "String":
		if isText(goType) {
			return textEncoder(textLoader(goType))
		}
	case "FixedString":
		size, ok := sizeParam(t)
		switch {
		case ok && isText(goType):
			return fixedEncoder(textLoader(goType), size)
		case ok && kind == reflect.Array && goType.Elem().Kind() == reflect.Uint8:
			n := goType.Len()
			return fixedEncoder(func(p unsafe.Pointer) string { return unsafe.String((*byte)(p), n) }, size)
		}
	case "Date", "Date32", "DateTime", "DateTime64":
		if goType == reflect.TypeFor[time.Time]() {
			return timeEncoder(t)
		}
	}
	return nil
}

// encodeByte serves all that is stored as the byte that it is.
func encodeByte(dst []byte, p unsafe.Pointer) ([]byte, error) { return append(dst, *(*byte)(p)), nil }

func encode2(dst []byte, p unsafe.Pointer) ([]byte, error) {
	return binary.LittleEndian.AppendUint16(dst, *(*uint16)(p)), nil
}

func encode4(dst []byte, p unsafe.Pointer) ([]byte, error) {
	return binary.LittleEndian.AppendUint32(dst, *(*uint32)(p)), nil
}

func encode8(dst []byte, p unsafe.Pointer) ([]byte, error) {
	return binary.LittleEndian.AppendUint64(dst, *(*uint64)(p)), nil
}

// sameEncoder serves what is stored in the bits that it has in memory.
func sameEncoder(size uintptr) encoder {
	switch size {
	case 1:
		return encodeByte
	case 2:
		return encode2
	case 4:
		return encode4
	default:
		return encode8
	}
}

func integerEncoder[E integer](kind reflect.Kind) encoder {
	if isSame[E](kind) {
		return sameEncoder(unsafe.Sizeof(E(0)))
	}
	if load := intLoader(kind); load != nil {
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
			e, err := fromInt[E](load(p))
			return appendBits(dst, uint64(e), unsafe.Sizeof(e)), err
		}
	}
	if load := uintLoader(kind); load != nil {
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
			e, err := fromUint[E](load(p))
			return appendBits(dst, uint64(e), unsafe.Sizeof(e)), err
		}
	}
	return nil
}

func floatEncoder[E float32 | float64](kind reflect.Kind) encoder {
	bits := func(dst []byte, e E) []byte {
		if unsafe.Sizeof(e) == 4 {
			return binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(e)))
		}
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(float64(e)))
	}
	switch {
	case isSame[E](kind): // Bit by bit: a NaN stays the same one.
		return sameEncoder(unsafe.Sizeof(E(0)))
	case kind == reflect.Float32:
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) { return bits(dst, E(*(*float32)(p))), nil }
	case kind == reflect.Float64:
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
			e, err := fromFloat[E](*(*float64)(p))
			return bits(dst, e), err
		}
	case kind == reflect.Bool:
		return nil
	}
	if load := intLoader(kind); load != nil {
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
			e, err := wholeFromInt[E](load(p))
			return bits(dst, e), err
		}
	}
	if load := uintLoader(kind); load != nil {
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
			e, err := wholeFromUint[E](load(p))
			return bits(dst, e), err
		}
	}
	return nil
}

// isSame says whether values of the kind have the bits of an E.
func isSame[E any](kind reflect.Kind) bool {
	t := reflect.TypeFor[E]()
	switch kind {
	case reflect.Int:
		return t.Kind() == reflect.Int64 && unsafe.Sizeof(int(0)) == 8
	case reflect.Uint:
		return t.Kind() == reflect.Uint64 && unsafe.Sizeof(uint(0)) == 8
	case reflect.Bool:
		return t.Kind() == reflect.Uint8
	default:
		return t.Kind() == kind
	}
}

func appendBits(dst []byte, bits uint64, size uintptr) []byte {
	switch size {
	case 1:
		return append(dst, byte(bits))
	case 2:
		return binary.LittleEndian.AppendUint16(dst, uint16(bits))
	case 4:
		return binary.LittleEndian.AppendUint32(dst, uint32(bits))
	default:
		return binary.LittleEndian.AppendUint64(dst, bits)
	}
}

func intLoader(kind reflect.Kind) func(unsafe.Pointer) int64 {
	switch kind {
	case reflect.Int:
		return func(p unsafe.Pointer) int64 { return int64(*(*int)(p)) }
	case reflect.Int8:
		return func(p unsafe.Pointer) int64 { return int64(*(*int8)(p)) }
	case reflect.Int16:
		return func(p unsafe.Pointer) int64 { return int64(*(*int16)(p)) }
	case reflect.Int32:
		return func(p unsafe.Pointer) int64 { return int64(*(*int32)(p)) }
	case reflect.Int64:
		return func(p unsafe.Pointer) int64 { return *(*int64)(p) }
	default:
		return nil
	}
}

func uintLoader(kind reflect.Kind) func(unsafe.Pointer) uint64 {
	switch kind {
	case reflect.Uint:
		return func(p unsafe.Pointer) uint64 { return uint64(*(*uint)(p)) }
	case reflect.Uint8, reflect.Bool:
		return func(p unsafe.Pointer) uint64 { return uint64(*(*uint8)(p)) }
	case reflect.Uint16:
		return func(p unsafe.Pointer) uint64 { return uint64(*(*uint16)(p)) }
	case reflect.Uint32:
		return func(p unsafe.Pointer) uint64 { return uint64(*(*uint32)(p)) }
	case reflect.Uint64:
		return func(p unsafe.Pointer) uint64 { return *(*uint64)(p) }
	default:
		return nil
	}
}

// isText is true of strings and bytes, but for those that the driver would print.
func isText(t reflect.Type) bool {
	return (t.Kind() == reflect.String || t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8) &&
		!t.Implements(reflect.TypeFor[fmt.Stringer]())
}

// textLoader reads strings and bytes without copying them; nil bytes are the empty string.
func textLoader(t reflect.Type) func(unsafe.Pointer) string {
	if t.Kind() == reflect.String {
		return func(p unsafe.Pointer) string { return *(*string)(p) }
	}
	return func(p unsafe.Pointer) string {
		b := *(*[]byte)(p)
		return unsafe.String(unsafe.SliceData(b), len(b))
	}
}

func textEncoder(load func(unsafe.Pointer) string) encoder {
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		s := load(p)
		return append(binary.AppendUvarint(dst, uint64(len(s))), s...), nil
	}
}

func fixedEncoder(load func(unsafe.Pointer) string, size int) encoder {
	zeros := make([]byte, size)
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		s := load(p)
		if len(s) > size {
			return dst, fmt.Errorf("%d bytes are %w", len(s), errOutOfRange)
		}
		return append(append(dst, s...), zeros[len(s):]...), nil
	}
}

func timeEncoder(t colType) encoder {
	r, _ := timeRangeOf(t.base)
	ticks, size := ticksOf(t)
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		at := (*time.Time)(p)
		if err := r.check(*at); err != nil {
			return dst, err
		}
		return appendBits(dst, uint64(ticks(*at)), size), nil
	}
}

func pointerEncoder(element encoder) encoder {
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		if p = *(*unsafe.Pointer)(p); p == nil {
			return dst, errNull
		}
		return element(dst, p)
	}
}

// nameEncoder asks the driver once for each name of an enum.
func nameEncoder(load func(unsafe.Pointer) string, scratch column.Interface) encoder {
	known := make(map[string][]byte)
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		name := load(p)
		value, found := known[name]
		if !found {
			var err error
			if value, err = encodeByDriver(scratch, name); err != nil {
				return dst, fmt.Errorf("unknown name: %w", errOutOfRange) // The driver's text repeats the value.
			}
			known[strings.Clone(name)] = value // It may be bytes that are not ours.
		}
		return append(dst, value...), nil
	}
}

// driverEncoder takes what the driver's row interface takes, behind checks of our own.
func driverEncoder(goType reflect.Type, t colType, scratch column.Interface) encoder {
	dynamic := holdsInterface(goType)
	byType := make(map[reflect.Type]encoder) // What Valuers and interfaces have brought.
	encode := func(dst []byte, v reflect.Value) ([]byte, error) {
		known, found := byType[v.Type()]
		if !found {
			known = scalarEncoder(v.Type(), t)
			byType[v.Type()] = known
		}
		if known != nil {
			return known(dst, pointerTo(v))
		}
		if err := refuse(t, v); err != nil {
			return dst, err
		}
		value, err := encodeByDriver(scratch, v.Interface())
		return append(dst, value...), err
	}
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		v, err := resolve(t, reflect.NewAt(goType, p).Elem())
		switch {
		case err != nil:
			return dst, err
		case !v.IsValid():
			return dst, errNull
		}
		dst, err = encode(dst, v)
		return dst, unlessDynamic(err, dynamic)
	}
}

// unlessDynamic makes a type that does not fit the row's own fault where the field's type leaves it open.
func unlessDynamic(err error, dynamic bool) error {
	var converter *column.ColumnConverterError
	switch mismatch := errors.Is(err, errMismatch) || errors.As(err, &converter); {
	case mismatch && dynamic:
		return errWrongType
	case mismatch:
		return errMismatch
	default:
		return err
	}
}

// encodeByDriver lets the scratch column encode one value. Some of the driver's columns panic on values that they do not
// expect.
func encodeByDriver(scratch column.Interface, value any) (_ []byte, err error) {
	defer func() {
		scratch.Reset()
		if p := recover(); p != nil {
			err = fmt.Errorf("the driver panicked: %v", p)
		}
	}()
	if err := scratch.AppendRow(value); err != nil {
		return nil, err
	}
	var buffer proto.Buffer
	scratch.Encode(&buffer)
	return buffer.Buf, nil
}

// pointerTo is where v is, or a copy of it.
func pointerTo(v reflect.Value) unsafe.Pointer {
	if v.CanAddr() {
		return v.Addr().UnsafePointer()
	}
	p := reflect.New(v.Type())
	p.Elem().Set(v)
	return p.UnsafePointer()
}

// bringsValue is true of types whose stored form is not their Go kind's.
func bringsValue(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[driver.Valuer]())
}
