package clickhousex

import (
	"database/sql/driver"
	"errors"
	"net"
	"reflect"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
)

// plain gives the value to hand to the driver's AppendRow: pointers followed, Valuers asked, and what the driver would
// coerce refused, in arrays and maps too. A day before 1970 is the caller's to cut.
func plain(t colType, v reflect.Value) (any, error) {
	for v.IsValid() {
		pointer := v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface
		if pointer && v.IsNil() || isNoAddress(v) {
			break
		}
		if ordered, err := refuseOrdered(t, v); ordered {
			return v.Interface(), err
		}
		if valuer, ok := reflect.TypeAssert[driver.Valuer](v); ok && !selfTyped(t.base) {
			value, err := valuer.Value()
			if err != nil {
				return nil, err
			}
			return plain(t, reflect.ValueOf(value))
		}
		if !pointer {
			return v.Interface(), refuse(t, v)
		}
		v = v.Elem()
	}
	if !t.nullable && !selfTyped(t.base) {
		return nil, errNull
	}
	return nil, nil
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
func refuse(t colType, v reflect.Value) (err error) {
	switch t.base {
	case "Int8":
		_, err = toInt[int8](v)
	case "Int16":
		_, err = toInt[int16](v)
	case "Int32":
		_, err = toInt[int32](v)
	case "Int64":
		_, err = toInt[int64](v)
	case "UInt8":
		_, err = toInt[uint8](v)
	case "UInt16":
		_, err = toInt[uint16](v)
	case "UInt32":
		_, err = toInt[uint32](v)
	case "UInt64":
		_, err = toInt[uint64](v)
	case "Float32":
		_, err = toFloat[float32](v)
	case "Float64":
		_, err = toFloat[float64](v)
	case "Bool":
		_, err = toBool(v)
	case "FixedString":
		if size, ok := sizeParam(t); ok {
			_, err = toFixedString(size)(v)
		}
	case "Enum8": // The driver looks an integer up by its lowest bits.
		if v.CanInt() {
			_, err = toInt[int8](v)
		}
	case "Enum16":
		if v.CanInt() {
			_, err = toInt[int16](v)
		}
	case "Date", "Date32", "DateTime", "DateTime64":
		r, _ := timeRangeOf(t.base)
		_, err = r.toTime(v)
	case "Decimal":
		if v.Kind() == reflect.String {
			err = checkDecimal(t, v.String())
		}
	case "IPv4", "IPv6":
		err = checkAddress(t, v)
	case "Array":
		err = refuseElements(t, v)
	case "Map":
		err = refuseEntries(t, v)
	}
	return err
}

func refuseElements(t colType, v reflect.Value) error {
	if len(t.params) != 1 || v.Kind() != reflect.Slice && v.Kind() != reflect.Array {
		return nil
	}
	element := parseType(t.params[0])
	for i := range v.Len() {
		if err := refuseInside(element, v.Index(i)); err != nil {
			return err
		}
	}
	return nil
}

func refuseEntries(t colType, v reflect.Value) error {
	if len(t.params) != 2 || v.Kind() != reflect.Map {
		return nil
	}
	key, value := parseType(t.params[0]), parseType(t.params[1])
	for entry := v.MapRange(); entry.Next(); {
		if err := errors.Join(refuseInside(key, entry.Key()), refuseInside(value, entry.Value())); err != nil {
			return err
		}
	}
	return nil
}

// refuseOrdered does what refuseEntries does for the maps of the driver's interfaces, which may be pointers.
func refuseOrdered(t colType, v reflect.Value) (ordered bool, err error) {
	if t.base != "Map" || len(t.params) != 2 {
		return false, nil
	}
	key, value := parseType(t.params[0]), parseType(t.params[1])
	entry := func(k, v any) {
		if err == nil {
			err = errors.Join(refuseInside(key, reflect.ValueOf(k)), refuseInside(value, reflect.ValueOf(v)))
		}
	}
	switch m := v.Interface().(type) {
	case column.IterableOrderedMap:
		for entries := m.Iterator(); entries.Next(); {
			entry(entries.Key(), entries.Value())
		}
		return true, err
	case column.OrderedMap:
		for k := range m.Keys() { // To the end, or its sender would wait for ever.
			v, _ := m.Get(k)
			entry(k, v)
		}
		return true, err
	default:
		return false, nil
	}
}

// refuseInside checks a value that cannot be replaced where it is.
func refuseInside(t colType, v reflect.Value) error {
	value, err := plain(t, v)
	if day, ok := value.(time.Time); ok && err == nil && t.base == "Date32" && endsUpNextDay(day) {
		return errInexact
	}
	return err
}
