package clickhousex

import (
	"database/sql/driver"
	"reflect"
)

// plain gives the value that the driver's AppendRow would store unchanged: pointers followed, Valuers asked, and refused
// what it would coerce, in arrays and maps too.
func plain(t colType, v reflect.Value) (any, error) {
	for v.IsValid() {
		pointer := v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface
		if pointer && v.IsNil() {
			break
		}
		if valuer, ok := v.Interface().(driver.Valuer); ok && !selfTyped(t.base) {
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
		if _, err := plain(element, v.Index(i)); err != nil {
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
		if _, err := plain(key, entry.Key()); err != nil {
			return err
		}
		if _, err := plain(value, entry.Value()); err != nil {
			return err
		}
	}
	return nil
}
