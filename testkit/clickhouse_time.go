package testkit

import (
	"math"
	"strconv"
	"time"
)

// chDate counts days since 1970.
func chDate(name string, size int) *chScalar {
	day := func(n int64) time.Time { return time.Unix(n*86_400, 0).UTC() }
	return &chScalar{
		typeName: name, size: size, none: day(0),
		get: func(b []byte) any {
			if size == 2 {
				return day(int64(littleEndian(b)))
			}
			return day(int64(int32(littleEndian(b))))
		},
		put:  func(b []byte, v any) { putLittleEndian(b, uint64(v.(time.Time).Unix()/86_400)) },
		text: func(s string, _ *time.Location) (any, error) { return time.Parse(time.DateOnly, s) },
	}
}

func chZonedTime(name, quoted string, size, precision int) (chType, error) {
	zone, err := unquoteSQL(quoted)
	if err != nil {
		return nil, chErrorf(chUnknownType, "Unknown data type: %s", name)
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return nil, chErrorf(chBadArguments, "Cannot load time zone %s", zone)
	}
	return chTime(name, size, precision, location), nil
}

// chTime counts ticks of 10^-precision seconds since 1970.
func chTime(name string, size, precision int, zone *time.Location) *chScalar {
	perSecond := int64(math.Pow10(precision))
	nanos := int64(time.Second) / perSecond
	return &chScalar{
		typeName: name, size: size, none: time.Unix(0, 0).In(zone),
		get: func(b []byte) any {
			ticks := int64(littleEndian(b))
			return time.Unix(ticks/perSecond, ticks%perSecond*nanos).In(zone)
		},
		put: func(b []byte, v any) {
			at := v.(time.Time)
			putLittleEndian(b, uint64(at.Unix()*perSecond+int64(at.Nanosecond())/nanos))
		},
		text: func(s string, in *time.Location) (any, error) {
			if seconds, err := strconv.ParseInt(s, 10, 64); err == nil {
				return time.Unix(seconds, 0).In(zone), nil
			}
			if in == nil {
				in = zone
			}
			layout := time.DateTime
			if len(s) == len(time.DateOnly) {
				layout = time.DateOnly
			}
			at, err := time.ParseInLocation(layout, s, in) // Takes a fraction after the seconds as well.
			return at.Truncate(time.Duration(nanos)).In(zone), err
		},
	}
}
