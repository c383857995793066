package testkit

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// chScalar is a type whose values have a fixed width, and String.
type chScalar struct {
	noPrefix
	typeName string
	size     int // 0 for String.
	none     any
	get      func(b []byte) any
	put      func(b []byte, v any)
	text     func(s string, zone *time.Location) (any, error)
	order    func(a, b any) int // nil means by the Go value.
}

func (t *chScalar) name() string { return t.typeName }
func (t *chScalar) zero() any    { return t.none }

func (t *chScalar) decode(r *chReader, rows int) ([]any, error) {
	if t.size == 0 {
		var values []any
		for range rows {
			s, err := r.str()
			if err != nil {
				return nil, err
			}
			values = append(values, s)
		}
		return values, nil
	}
	raw, err := r.bytes(rows * t.size)
	if err != nil {
		return nil, err
	}
	values := make([]any, rows)
	for i := range values {
		values[i] = t.get(raw[i*t.size : (i+1)*t.size])
	}
	return values, nil
}

func (t *chScalar) encode(b *proto.Buffer, values []any) {
	if t.size == 0 {
		for _, v := range values {
			b.PutString(v.(string))
		}
		return
	}
	for _, v := range values {
		start := len(b.Buf)
		b.Buf = slices.Grow(b.Buf, t.size)[:start+t.size]
		clear(b.Buf[start:])
		t.put(b.Buf[start:], v)
	}
}

func (t *chScalar) literal(l chLiteral) (any, error) {
	if l.kind == chNumberLiteral || l.kind == chStringLiteral {
		if v, err := t.text(l.text, l.zone); err == nil {
			return v, nil
		}
	}
	return nil, chErrorf(chTypeMismatch, "%s is no literal of type %s", l, t.typeName)
}

func (t *chScalar) compare(a, b any) int {
	if t.order != nil {
		return t.order(a, b)
	}
	return compareScalars(a, b)
}

func parseChScalar(base string, args []string) (chType, error) {
	if len(args) > 0 {
		return parseChParametric(base, args)
	}
	switch base {
	case "Int8":
		return chSigned[int8](base, 1), nil
	case "Int16":
		return chSigned[int16](base, 2), nil
	case "Int32":
		return chSigned[int32](base, 4), nil
	case "Int64":
		return chSigned[int64](base, 8), nil
	case "UInt8":
		return chUnsigned[uint8](base, 1), nil
	case "UInt16":
		return chUnsigned[uint16](base, 2), nil
	case "UInt32":
		return chUnsigned[uint32](base, 4), nil
	case "UInt64":
		return chUnsigned[uint64](base, 8), nil
	case "Int128", "UInt128":
		return chWide(base, 16), nil
	case "Int256", "UInt256":
		return chWide(base, 32), nil
	case "Float32":
		return &chScalar{
			typeName: base, size: 4, none: float32(0),
			get: func(b []byte) any { return math.Float32frombits(uint32(littleEndian(b))) },
			put: func(b []byte, v any) { putLittleEndian(b, uint64(math.Float32bits(v.(float32)))) },
			text: func(s string, _ *time.Location) (any, error) {
				f, err := strconv.ParseFloat(s, 32)
				return float32(f), err
			},
		}, nil
	case "Float64":
		return &chScalar{
			typeName: base, size: 8, none: float64(0),
			get:  func(b []byte) any { return math.Float64frombits(littleEndian(b)) },
			put:  func(b []byte, v any) { putLittleEndian(b, math.Float64bits(v.(float64))) },
			text: func(s string, _ *time.Location) (any, error) { return strconv.ParseFloat(s, 64) },
		}, nil
	case "Bool", "Boolean":
		return &chScalar{
			typeName: "Bool", size: 1, none: false,
			get: func(b []byte) any { return b[0] != 0 },
			put: func(b []byte, v any) {
				if v.(bool) {
					b[0] = 1
				}
			},
			text: func(s string, _ *time.Location) (any, error) { return strconv.ParseBool(s) },
		}, nil
	case "String":
		return &chScalar{
			typeName: base, none: "",
			text: func(s string, _ *time.Location) (any, error) { return s, nil },
		}, nil
	case "UUID":
		return chUUID(), nil
	case "IPv4":
		return &chScalar{
			typeName: base, size: 4, none: netip.AddrFrom4([4]byte{}),
			get: func(b []byte) any { return netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}) },
			put: func(b []byte, v any) {
				a := v.(netip.Addr).As4()
				slices.Reverse(a[:])
				copy(b, a[:])
			},
			text: func(s string, _ *time.Location) (any, error) {
				a, err := netip.ParseAddr(s)
				if err == nil && !a.Is4() {
					err = fmt.Errorf("%s is no IPv4 address", s)
				}
				return a, err
			},
		}, nil
	case "IPv6":
		return &chScalar{
			typeName: base, size: 16, none: netip.IPv6Unspecified(),
			get: func(b []byte) any { return netip.AddrFrom16([16]byte(b)) },
			put: func(b []byte, v any) {
				a := v.(netip.Addr).As16()
				copy(b, a[:])
			},
			text: func(s string, _ *time.Location) (any, error) { return netip.ParseAddr(s) },
		}, nil
	case "Date":
		return chDate(base, 2), nil
	case "Date32":
		return chDate(base, 4), nil
	case "DateTime":
		return chTime(base, 4, 0, time.UTC), nil
	case "DateTime64":
		return chTime(base+"(3)", 8, 3, time.UTC), nil
	case "Decimal":
		return chDecimal(10, 0)
	}
	return nil, chErrorf(chUnknownType, "Unknown data type family: %s (or one the stand-in does not have)", base)
}

func parseChParametric(base string, args []string) (chType, error) {
	name := base + "(" + strings.Join(args, ", ") + ")"
	numbers := make([]int, len(args))
	for i, arg := range args {
		if n, err := strconv.Atoi(arg); err == nil {
			numbers[i] = n
		} else {
			numbers[i] = -1
		}
	}
	switch {
	case base == "FixedString" && len(args) == 1 && numbers[0] > 0 && numbers[0] <= chReadStep:
		return chFixedString(name, numbers[0]), nil
	case base == "DateTime" && len(args) == 1:
		return chZonedTime(name, args[0], 4, 0)
	case base == "DateTime64" && len(args) == 1 && numbers[0] >= 0 && numbers[0] <= 9:
		return chTime(name, 8, numbers[0], time.UTC), nil
	case base == "DateTime64" && len(args) == 2 && numbers[0] >= 0 && numbers[0] <= 9:
		return chZonedTime(name, args[1], 8, numbers[0])
	case base == "Decimal" && len(args) == 1:
		return chDecimal(numbers[0], 0)
	case base == "Decimal" && len(args) == 2:
		return chDecimal(numbers[0], numbers[1])
	case base == "Decimal32" && len(args) == 1:
		return chDecimal(9, numbers[0])
	case base == "Decimal64" && len(args) == 1:
		return chDecimal(18, numbers[0])
	case base == "Decimal128" && len(args) == 1:
		return chDecimal(38, numbers[0])
	case base == "Decimal256" && len(args) == 1:
		return chDecimal(76, numbers[0])
	case base == "Enum8", base == "Enum16", base == "Enum":
		return chEnum(base, args)
	}
	return nil, chErrorf(chUnknownType, "Unknown data type: %s (or one the stand-in does not have)", name)
}

func chSigned[T int8 | int16 | int32 | int64](name string, size int) *chScalar {
	return &chScalar{
		typeName: name, size: size, none: T(0),
		get: func(b []byte) any { return T(littleEndian(b)) },
		put: func(b []byte, v any) { putLittleEndian(b, uint64(v.(T))) },
		text: func(s string, _ *time.Location) (any, error) {
			i, err := strconv.ParseInt(s, 10, size*8)
			return T(i), err
		},
	}
}

func chUnsigned[T uint8 | uint16 | uint32 | uint64](name string, size int) *chScalar {
	return &chScalar{
		typeName: name, size: size, none: T(0),
		get: func(b []byte) any { return T(littleEndian(b)) },
		put: func(b []byte, v any) { putLittleEndian(b, uint64(v.(T))) },
		text: func(s string, _ *time.Location) (any, error) {
			u, err := strconv.ParseUint(s, 10, size*8)
			return T(u), err
		},
	}
}

// chUUID is kept as text. On the wire it is two numbers, each with its lowest byte first.
func chUUID() *chScalar {
	swap := func(b []byte) []byte {
		s := slices.Clone(b)
		slices.Reverse(s[:8])
		slices.Reverse(s[8:])
		return s
	}
	format := func(b []byte) string {
		h := hex.EncodeToString(b)
		return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
	}
	parse := func(s string) ([]byte, error) {
		b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
		if err == nil && len(b) != 16 {
			err = fmt.Errorf("%q is no UUID", s)
		}
		return b, err
	}
	return &chScalar{
		typeName: "UUID", size: 16, none: format(make([]byte, 16)),
		get: func(b []byte) any { return format(swap(b)) },
		put: func(b []byte, v any) {
			if id, err := parse(v.(string)); err == nil { // Always: it was made by format.
				copy(b, swap(id))
			}
		},
		text: func(s string, _ *time.Location) (any, error) {
			b, err := parse(s)
			if err != nil {
				return nil, err
			}
			return format(b), nil
		},
	}
}

// chFixedString is kept with its zero bytes, as the driver gives it.
func chFixedString(name string, size int) *chScalar {
	return &chScalar{
		typeName: name, size: size, none: strings.Repeat("\x00", size),
		get: func(b []byte) any { return string(b) },
		put: func(b []byte, v any) { copy(b, v.(string)) },
		text: func(s string, _ *time.Location) (any, error) {
			if len(s) > size {
				return nil, fmt.Errorf("%d bytes for %s", len(s), name)
			}
			return s + strings.Repeat("\x00", size-len(s)), nil
		},
	}
}

// chEnum is kept as the value's name, or as the number where it has none: what stands under a NULL is often zero.
func chEnum(base string, args []string) (chType, error) {
	size, name := 1, "Enum8"
	if base == "Enum16" {
		size, name = 2, base
	}
	names, numbers := map[int64]string{}, map[string]int64{}
	parts := make([]string, len(args))
	none, next := "", int64(1)
	for i, arg := range args {
		quoted, set := arg, ""
		if at := strings.LastIndexByte(arg, '='); at > strings.LastIndexByte(arg, '\'') {
			quoted, set = strings.TrimSpace(arg[:at]), strings.TrimSpace(arg[at+1:])
		}
		value, err := unquoteSQL(quoted)
		if err != nil {
			return nil, chErrorf(chUnknownType, "%s is no element of an Enum", arg)
		}
		if set != "" {
			if next, err = strconv.ParseInt(set, 10, size*8); err != nil {
				return nil, chErrorf(chUnknownType, "%s is no element of %s", arg, name)
			}
		}
		if i == 0 {
			none = value
		}
		names[next], numbers[value] = value, next
		parts[i] = fmt.Sprintf("%s = %d", quoted, next)
		next++
	}
	number := func(v any) int64 {
		n, ok := numbers[v.(string)]
		if !ok {
			n, _ = strconv.ParseInt(v.(string), 10, 64) // It was made by get.
		}
		return n
	}
	signed := func(b []byte) int64 {
		if size == 1 {
			return int64(int8(b[0]))
		}
		return int64(int16(littleEndian(b)))
	}
	return &chScalar{
		typeName: name + "(" + strings.Join(parts, ", ") + ")", size: size, none: none,
		get: func(b []byte) any {
			n := signed(b)
			if value, ok := names[n]; ok {
				return value
			}
			return strconv.FormatInt(n, 10)
		},
		put: func(b []byte, v any) { putLittleEndian(b, uint64(number(v))) },
		text: func(s string, _ *time.Location) (any, error) {
			if _, ok := numbers[s]; !ok {
				return nil, fmt.Errorf("%q is no element of the Enum", s)
			}
			return s, nil
		},
		order: func(a, b any) int { return cmp.Compare(number(a), number(b)) },
	}, nil
}

// compareScalars orders two values of the same Go type.
func compareScalars(a, b any) int {
	switch x := a.(type) {
	case int8:
		return cmp.Compare(x, b.(int8))
	case int16:
		return cmp.Compare(x, b.(int16))
	case int32:
		return cmp.Compare(x, b.(int32))
	case int64:
		return cmp.Compare(x, b.(int64))
	case uint8:
		return cmp.Compare(x, b.(uint8))
	case uint16:
		return cmp.Compare(x, b.(uint16))
	case uint32:
		return cmp.Compare(x, b.(uint32))
	case uint64:
		return cmp.Compare(x, b.(uint64))
	case float32:
		return cmp.Compare(x, b.(float32))
	case float64:
		return cmp.Compare(x, b.(float64))
	case bool:
		return cmp.Compare(strconv.FormatBool(x), strconv.FormatBool(b.(bool)))
	case time.Time:
		return x.Compare(b.(time.Time))
	case *big.Int:
		return x.Cmp(b.(*big.Int))
	case netip.Addr:
		return x.Compare(b.(netip.Addr))
	default:
		return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b))
	}
}
