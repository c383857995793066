package clickhousex

import (
	"errors"
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
	errEndless    = errors.New("its own code leads to itself")
)

type integer interface {
	~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

// fromInt refuses what the driver would cut down to E's bits.
func fromInt[E integer](i int64) (E, error) {
	e := E(i)
	if int64(e) != i || (e < 0) != (i < 0) {
		return 0, errOutOfRange
	}
	return e, nil
}

func fromUint[E integer](u uint64) (E, error) {
	e := E(u)
	if uint64(e) != u || e < 0 {
		return 0, errOutOfRange
	}
	return e, nil
}

// fromFloat rounds where the column is narrower.
func fromFloat[E float32 | float64](f float64) (E, error) {
	e := E(f)
	if math.IsInf(float64(e), 0) && !math.IsInf(f, 0) {
		return 0, errOutOfRange
	}
	return e, nil
}

// wholeFromInt takes such integers as a float can hold exactly.
func wholeFromInt[E float32 | float64](i int64) (E, error) {
	e := E(i)
	if float64(e) >= 1<<63 || int64(e) != i { // 2^63 as a float does not fit an int64 again.
		return 0, errInexact
	}
	return e, nil
}

func wholeFromUint[E float32 | float64](u uint64) (E, error) {
	e := E(u)
	if float64(e) >= 1<<64 || uint64(e) != u {
		return 0, errInexact
	}
	return e, nil
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

func (r timeRange) check(t time.Time) error {
	at := t.Unix()
	if r.day {
		at = wallSeconds(t)
	}
	if at < r.first || at > r.last {
		return errOutOfRange
	}
	return nil
}

const secondsOfDay = 24 * 60 * 60

// wallSeconds counts from 1970 as clocks in the time's own zone do.
func wallSeconds(t time.Time) int64 {
	_, offset := t.Zone()
	return t.Unix() + int64(offset)
}

// ticksOf gives how a time column counts, and in how many bytes. Times are cut to the tick that they lie in, before 1970
// too, where the driver's divisions would make the next one of it.
func ticksOf(t colType) (ticks func(time.Time) int64, size uintptr) {
	day := func(t time.Time) int64 { return floorDiv(wallSeconds(t), secondsOfDay) }
	switch t.base {
	case "Date":
		return day, 2
	case "Date32":
		return day, 4
	case "DateTime":
		return time.Time.Unix, 4
	default:
		precision, _ := strconv.Atoi(t.params[0])
		perSecond := int64(math.Pow10(precision))
		return func(t time.Time) int64 { return t.Unix()*perSecond + int64(t.Nanosecond())/(1e9/perSecond) }, 8
	}
}

func floorDiv(n, by int64) int64 {
	q := n / by
	if n%by < 0 {
		q--
	}
	return q
}

// endsUpNextDay is true of a time that the driver, whose division rounds towards 1970, would store as the next day.
func endsUpNextDay(t time.Time) bool {
	at := wallSeconds(t)
	return at < 0 && at%secondsOfDay != 0
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
