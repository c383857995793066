package clickhousex

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
)

// plain gives the value to hand to the driver's AppendRow: what resolve makes of it, nil only where the column takes it,
// and what the driver would coerce refused, in arrays and maps too.
func plain(t colType, v reflect.Value) (_ any, err error) {
	defer catch(&err)
	v, err = resolve(t, v)
	switch {
	case err != nil:
		return nil, err
	case v.IsValid():
		return v.Interface(), refuse(t, v)
	case !t.nullable && !selfTyped(t.base):
		return nil, errNull
	default:
		return nil, nil
	}
}

// catch makes an error of a panic in a value's own methods. It is to be deferred.
func catch(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", errPanicked, p)
	}
}

// maxSteps is how far pointers and Valuers are followed: some lead to themselves.
const maxSteps = 100

// resolve follows pointers and asks Valuers. The zero Value stands for nil.
func resolve(t colType, v reflect.Value) (_ reflect.Value, err error) {
	defer catch(&err)
	for steps := 0; v.IsValid(); steps++ {
		if steps == maxSteps {
			return reflect.Value{}, errEndless
		}
		pointer := v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface
		if pointer && v.IsNil() || isNoAddress(v) {
			break
		}
		if isOrdered(t, v) {
			return v, nil
		}
		if valuer, ok := reflect.TypeAssert[driver.Valuer](v); ok && !selfTyped(t.base) {
			value, err := valuer.Value()
			if err != nil {
				return reflect.Value{}, err
			}
			v = reflect.ValueOf(value)
			continue
		}
		if !pointer {
			return v, nil
		}
		v = v.Elem()
	}
	return reflect.Value{}, nil
}

// isNoAddress is true of a net.IP without bytes, which the driver would store as 0.0.0.0.
func isNoAddress(v reflect.Value) bool {
	return v.Type() == reflect.TypeFor[net.IP]() && v.Len() == 0
}

// selfTyped is true of columns whose values carry their own type, nil included. The driver knows these wrappers.
func selfTyped(base string) bool {
	switch base {
	case "Variant", "Dynamic", "JSON", "Object", "Nothing":
		return true
	default:
		return false
	}
}

// refuse says why the driver would not store v as it is. Types that are not named here are the driver's to judge.
func refuse(t colType, v reflect.Value) error {
	switch t.base {
	case "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64", "Bool",
		"Date", "Date32", "DateTime", "DateTime64":
		encode := scalarEncoder(v.Type(), t)
		if encode == nil {
			return errMismatch
		}
		_, err := encode(nil, pointerTo(v))
		return err
	case "FixedString":
		if encode := scalarEncoder(v.Type(), t); encode != nil {
			_, err := encode(nil, pointerTo(v))
			return err
		}
	case "Enum8": // The driver looks an integer up by its lowest bits.
		if v.CanInt() {
			_, err := fromInt[int8](v.Int())
			return err
		}
	case "Enum16":
		if v.CanInt() {
			_, err := fromInt[int16](v.Int())
			return err
		}
	case "Decimal":
		if v.Kind() == reflect.String {
			return checkDecimal(t, v.String())
		}
	case "IPv4", "IPv6":
		return checkAddress(t, v)
	case "Array":
		return refuseElements(t, v)
	case "Tuple":
		return refuseTuple(t, v)
	case "Nested":
		return refuseNested(t, v)
	case "Map":
		if isOrdered(t, v) {
			return refuseOrdered(t, v)
		}
		return refuseEntries(t, v)
	}
	return nil
}

func refuseElements(t colType, v reflect.Value) error {
	if len(t.elements) != 1 || v.Kind() != reflect.Slice && v.Kind() != reflect.Array {
		return nil
	}
	for i := range v.Len() {
		if err := refuseInside(t.elements[0], v.Index(i)); err != nil {
			return err
		}
	}
	return nil
}

func refuseEntries(t colType, v reflect.Value) error {
	if len(t.elements) != 2 || v.Kind() != reflect.Map {
		return nil
	}
	for entry := v.MapRange(); entry.Next(); {
		if err := errors.Join(refuseInside(t.elements[0], entry.Key()), refuseInside(t.elements[1], entry.Value())); err != nil {
			return err
		}
	}
	return nil
}

// refuseTuple looks into the forms that the driver takes: slices in the elements' order, maps and structs by their names.
// What is missing there is the driver's to refuse.
func refuseTuple(t colType, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Slice:
		for i := range min(v.Len(), len(t.elements)) {
			if err := refuseInside(t.elements[i], v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for entry := v.MapRange(); entry.Next(); {
			i := slices.Index(t.names, entry.Key().String())
			if i < 0 {
				continue
			}
			if err := refuseInside(t.elements[i], entry.Value()); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i, name := range t.names {
			if f, found := fieldNamed(v.Type(), name); found {
				if err := refuseInside(t.elements[i], v.FieldByIndex(f.Index)); err != nil {
					return err
				}
			}
		}
	default:
	}
	return nil
}

// fieldNamed finds a struct's field as the driver does for the elements of a tuple.
func fieldNamed(t reflect.Type, name string) (reflect.StructField, bool) {
	for f := range t.Fields() {
		tag := strings.Trim(f.Tag.Get("ch"), "`")
		if f.IsExported() && (tag == name || tag == "" && f.Name == name) {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// refuseNested takes a slice of tuples.
func refuseNested(t colType, v reflect.Value) error {
	if v.Kind() != reflect.Slice {
		return nil
	}
	for i := range v.Len() {
		element := v.Index(i)
		for element.Kind() == reflect.Interface || element.Kind() == reflect.Pointer {
			element = element.Elem()
		}
		if err := refuseTuple(t, element); err != nil {
			return err
		}
	}
	return nil
}

// isOrdered is true of the maps of the driver's interfaces, which may be pointers.
func isOrdered(t colType, v reflect.Value) bool {
	if t.base != "Map" || len(t.elements) != 2 {
		return false
	}
	switch v.Interface().(type) {
	case column.IterableOrderedMap, column.OrderedMap:
		return true
	default:
		return false
	}
}

// refuseOrdered does for them what refuseEntries does for Go's maps.
func refuseOrdered(t colType, v reflect.Value) (err error) {
	entry := func(k, v any) {
		if err == nil {
			err = errors.Join(refuseInside(t.elements[0], reflect.ValueOf(k)), refuseInside(t.elements[1], reflect.ValueOf(v)))
		}
	}
	switch m := v.Interface().(type) {
	case column.IterableOrderedMap:
		for entries := m.Iterator(); entries.Next(); {
			entry(entries.Key(), entries.Value())
		}
	case column.OrderedMap:
		keys := m.Keys()
		defer func() {
			for range keys { // Its sender would wait for ever.
			}
		}()
		for k := range keys {
			v, _ := m.Get(k)
			entry(k, v)
		}
	}
	return err
}

// refuseInside checks a value that cannot be replaced where it is.
func refuseInside(t colType, v reflect.Value) error {
	value, err := plain(t, v)
	if day, ok := value.(time.Time); ok && err == nil && t.base == "Date32" && endsUpNextDay(day) {
		return errInexact
	}
	return err
}
