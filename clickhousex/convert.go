package clickhousex

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// What a checked conversion says. errMismatch is about types and true of every row, the others about one value.
var (
	errMismatch   = errors.New("types do not fit")
	errNull       = errors.New("nil into a column that is not nullable")
	errOutOfRange = errors.New("out of the column's range")
	errInexact    = errors.New("not exactly representable")
	errWrongType  = errors.New("of a type that the column does not take")
	errPanicked   = errors.New("its own code panicked")
)

type integer interface {
	~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

// toInt refuses what the driver would cut down to E's bits.
func toInt[E integer](v reflect.Value) (E, error) {
	switch {
	case v.CanInt():
		i := v.Int()
		e := E(i)
		if int64(e) != i || (e < 0) != (i < 0) {
			return 0, errOutOfRange
		}
		return e, nil
	case v.CanUint():
		u := v.Uint()
		e := E(u)
		if uint64(e) != u || e < 0 {
			return 0, errOutOfRange
		}
		return e, nil
	case v.Kind() == reflect.Bool:
		if v.Bool() {
			return 1, nil
		}
		return 0, nil
	default:
		return 0, errMismatch
	}
}

// toFloat takes floats, rounded where the column is narrower, and such integers as it can hold exactly.
func toFloat[E float32 | float64](v reflect.Value) (E, error) {
	switch {
	case v.CanFloat():
		f := v.Float()
		e := E(f)
		if math.IsInf(float64(e), 0) && !math.IsInf(f, 0) {
			return 0, errOutOfRange
		}
		return e, nil
	case v.CanInt():
		i := v.Int()
		e := E(i)
		// 2^63 as a float does not fit an int64 again.
		if float64(e) >= 1<<63 || int64(e) != i {
			return 0, errInexact
		}
		return e, nil
	case v.CanUint():
		u := v.Uint()
		e := E(u)
		if float64(e) >= 1<<64 || uint64(e) != u {
			return 0, errInexact
		}
		return e, nil
	default:
		return 0, errMismatch
	}
}

func toBool(v reflect.Value) (bool, error) {
	if v.Kind() != reflect.Bool {
		return false, errMismatch
	}
	return v.Bool(), nil
}

// toString takes strings and bytes; nil bytes are the empty string.
func toString(v reflect.Value) (string, error) {
	switch {
	case v.Kind() == reflect.String:
		return v.String(), nil
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		return string(v.Bytes()), nil
	default:
		return "", errMismatch
	}
}

// toFixedString also takes byte arrays, and refuses what the driver would cut off.
func toFixedString(size int) func(reflect.Value) (string, error) {
	return func(v reflect.Value) (string, error) {
		var (
			s   string
			err error
		)
		if v.Kind() == reflect.Array && v.Type().Elem().Kind() == reflect.Uint8 {
			b := make([]byte, v.Len())
			reflect.Copy(reflect.ValueOf(b), v)
			s = string(b)
		} else if s, err = toString(v); err != nil {
			return "", err
		}
		if len(s) > size {
			return "", fmt.Errorf("%d bytes are %w", len(s), errOutOfRange)
		}
		return s, nil
	}
}

// timeRange is what a time column can hold, both ends included, in seconds since 1970. The driver wraps everything else
// around, and stores the zero time.Time as 1970.
type timeRange struct {
	first, last int64
	day         bool // Counted in days of the value's own zone.
}

// timeRangeOf gives the ranges of ClickHouse's documentation, but for DateTime64, which the driver takes through
// UnixNano and so ends in 2262 at any precision.
func timeRangeOf(base string) (timeRange, bool) {
	switch base {
	case "Date":
		return timeRange{0, time.Date(2149, time.June, 6, 23, 59, 59, 0, time.UTC).Unix(), true}, true
	case "Date32":
		return timeRange{
			time.Date(1900, time.January, 1, 0, 0, 0, 0, time.UTC).Unix(),
			time.Date(2299, time.December, 31, 23, 59, 59, 0, time.UTC).Unix(),
			true,
		}, true
	case "DateTime":
		return timeRange{0, math.MaxUint32, false}, true
	case "DateTime64":
		return timeRange{
			time.Date(1900, time.January, 1, 0, 0, 0, 0, time.UTC).Unix(),
			time.Date(2262, time.April, 11, 23, 47, 15, 0, time.UTC).Unix(),
			false,
		}, true
	default:
		return timeRange{}, false
	}
}

// toTime takes a time.Time, cut to whole days or seconds or ticks as the column has them.
func (r timeRange) toTime(v reflect.Value) (time.Time, error) {
	if !v.CanAddr() || v.Type() != reflect.TypeFor[time.Time]() {
		t, ok := reflect.TypeAssert[time.Time](v)
		if !ok {
			return time.Time{}, errMismatch
		}
		return r.check(t)
	}
	return r.check(*v.Addr().Interface().(*time.Time)) // Without copying it into an interface.
}

func (r timeRange) check(t time.Time) (time.Time, error) {
	at := t.Unix()
	if r.day {
		_, offset := t.Zone()
		at += int64(offset)
	}
	if at < r.first || at > r.last {
		return time.Time{}, errOutOfRange
	}
	if r.day {
		t = beginningOfDay(t)
	}
	return t, nil
}

// beginningOfDay keeps the driver, whose division rounds towards 1970, from storing a time before that as the next day.
func beginningOfDay(t time.Time) time.Time {
	if !endsUpNextDay(t) {
		return t
	}
	year, month, day := t.Date()
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

func endsUpNextDay(t time.Time) bool {
	const day = 24 * 60 * 60
	_, offset := t.Zone()
	at := t.Unix() + int64(offset)
	return at < 0 && at%day != 0
}

// checkDecimal takes what has no more decimal places than the column, and no more digits before them. The driver cuts the
// first, and lets the second overflow into what the column's bytes can hold. Text that is no number is the driver's to refuse.
func checkDecimal(t colType, text string) error {
	precision, scale, ok := decimalParams(t)
	if !ok {
		return nil
	}
	mantissa, exponent := text, 0
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		var err error
		if exponent, err = strconv.Atoi(text[i+1:]); err != nil {
			return errWrongType
		}
		mantissa = text[:i]
	}
	whole, fraction, _ := strings.Cut(strings.TrimLeft(mantissa, "+-"), ".")
	digits := strings.TrimRight(whole+fraction, "0")
	places := len(fraction) - exponent - (len(whole) + len(fraction) - len(digits))
	digits = strings.TrimLeft(digits, "0")
	switch {
	case digits == "":
		return nil
	case places > scale:
		return errInexact
	case len(digits)-places > precision-scale:
		return errOutOfRange
	default:
		return nil
	}
}

func decimalParams(t colType) (precision, scale int, ok bool) {
	if len(t.params) != 2 {
		return 0, 0, false
	}
	precision, precisionErr := strconv.Atoi(t.params[0])
	scale, scaleErr := strconv.Atoi(t.params[1])
	return precision, scale, precisionErr == nil && scaleErr == nil
}

// checkAddress takes what the driver would not store as another address.
func checkAddress(t colType, v reflect.Value) error {
	switch address := v.Interface().(type) {
	case net.IP:
		if t.base == "IPv4" && address.To4() == nil || address.To16() == nil {
			return errOutOfRange
		}
	case netip.Addr:
		if !address.IsValid() {
			return errNull
		}
		if t.base == "IPv4" && !address.Unmap().Is4() {
			return errOutOfRange
		}
	}
	return nil
}

func sizeParam(t colType) (int, bool) {
	if len(t.params) != 1 {
		return 0, false
	}
	size, err := strconv.Atoi(t.params[0])
	return size, err == nil
}
