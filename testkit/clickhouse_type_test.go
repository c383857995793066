package testkit_test

import (
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast/testkit"
)

// typeCases are column types with values as the driver takes them, and as Values gives them.
func typeCases(t *testing.T) []typeCase {
	t.Helper()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	day := time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)
	moment := time.Date(2024, 2, 29, 23, 59, 58, 123456789, time.UTC)
	old := time.Date(1925, 3, 4, 5, 6, 7, 891000000, time.UTC)
	huge, _ := new(big.Int).SetString("-170141183460469231731687303715884105728", 10)
	wide, _ := new(big.Int).SetString("57896044618658097711785492504343953926634992332820282019728792003956564819967", 10)
	word, null := "word", (*string)(nil)
	seven, no := int32(7), (*int32)(nil)
	return []typeCase{
		{"Int8", []any{int8(-128), int8(127)}, nil},
		{"Int16", []any{int16(-32768), int16(32767)}, nil},
		{"Int32", []any{int32(-1 << 31), int32(1<<31 - 1)}, nil},
		{"Int64", []any{int64(-1 << 63), int64(1<<63 - 1)}, nil},
		{"Int128", []any{huge, big.NewInt(7)}, nil},
		{"Int256", []any{wide, big.NewInt(-1)}, nil},
		{"UInt8", []any{uint8(0), uint8(255)}, nil},
		{"UInt16", []any{uint16(1), uint16(65535)}, nil},
		{"UInt32", []any{uint32(1), uint32(1<<32 - 1)}, nil},
		{"UInt64", []any{uint64(1), uint64(1<<64 - 1)}, nil},
		{"UInt128", []any{big.NewInt(0), big.NewInt(1 << 40)}, nil},
		{"Float32", []any{float32(1.5), float32(-0.25)}, nil},
		{"Float64", []any{3.14159, -1e300}, nil},
		{"Bool", []any{true, false}, nil},
		{"String", []any{"", "Grüße \x00 'quoted'"}, nil},
		{"FixedString(5)", []any{"abcde", "xy"}, []any{"abcde", "xy\x00\x00\x00"}},
		{"UUID", []any{"01234567-89ab-cdef-0123-456789abcdef", "ffffffff-0000-1111-2222-333333333333"}, nil},
		{"IPv4", []any{net.IPv4(192, 168, 1, 2).To4(), net.IPv4(8, 8, 4, 4).To4()}, []any{netip.MustParseAddr("192.168.1.2"), netip.MustParseAddr("8.8.4.4")}},
		{"IPv6", []any{net.ParseIP("2001:db8::1"), net.ParseIP("::1")}, []any{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::1")}},
		{"Date", []any{day, day.AddDate(1, 0, 0)}, nil},
		{"Date32", []any{time.Date(1925, 1, 2, 0, 0, 0, 0, time.UTC), day}, nil},
		{"DateTime", []any{moment.Truncate(time.Second), day}, nil},
		{"DateTime('Europe/Berlin')", []any{moment.Truncate(time.Second).In(berlin), day.In(berlin)}, nil},
		{"DateTime64(3)", []any{moment.Truncate(time.Millisecond), old}, nil},
		{"DateTime64(9, 'UTC')", []any{moment, old}, nil},
		{"Decimal(9, 2)", []any{"12.50", "-0.01"}, nil},
		{"Decimal(18, 4)", []any{"99999999999999.9999", "0.0000"}, nil},
		{"Decimal(38, 0)", []any{"-12345678901234567890123456789012345678", "1"}, nil},
		{"Decimal(76, 3)", []any{"-1234567890123456789012345678901234567890.125", "0.000"}, nil},
		{"Enum8('low' = -5, 'high' = 5)", []any{"low", "high"}, nil},
		{"Enum16('a, (b' = 1, 'it\\'s' = 3000)", []any{"a, (b", "it's"}, nil},
		{"Nullable(String)", []any{&word, null}, []any{"word", nil}},
		{"Nullable(Int32)", []any{no, &seven}, []any{nil, int32(7)}},
		{"Nullable(Enum8('x' = 1))", []any{&[]string{"x"}[0], null}, []any{"x", nil}},
		{"LowCardinality(String)", []any{"red", "blue", "red", ""}, nil},
		{"LowCardinality(Nullable(String))", []any{&word, null, &word}, []any{"word", nil, "word"}},
		{"Array(UInt16)", []any{[]uint16{1, 2}, []uint16{}, []uint16{3}}, []any{[]any{uint16(1), uint16(2)}, []any{}, []any{uint16(3)}}},
		{"Array(Nullable(String))", []any{[]*string{&word, nil}, []*string{}}, []any{[]any{"word", nil}, []any{}}},
		{"Array(Array(String))", []any{[][]string{{"a"}, {"b", "c"}}, [][]string{}}, []any{[]any{[]any{"a"}, []any{"b", "c"}}, []any{}}},
		{"Array(LowCardinality(String))", []any{[]string{"a", "b", "a"}, []string{}}, []any{[]any{"a", "b", "a"}, []any{}}},
		{"Map(String, UInt64)", []any{map[string]uint64{"a": 1, "b": 2}, map[string]uint64{}}, []any{map[any]any{"a": uint64(1), "b": uint64(2)}, map[any]any{}}},
		{"Map(LowCardinality(String), Array(String))", []any{map[string][]string{"k": {"v", "w"}}}, []any{map[any]any{"k": []any{"v", "w"}}}},
		{"Tuple(a UInt8, b String)", []any{map[string]any{"a": uint8(1), "b": "x"}}, []any{[]any{uint8(1), "x"}}},
		{"Tuple(UInt8, Nullable(String))", []any{[]any{uint8(1), &word}, []any{uint8(2), null}}, []any{[]any{uint8(1), "word"}, []any{uint8(2), nil}}},
		{"SimpleAggregateFunction(sum, UInt64)", []any{uint64(3)}, nil},
	}
}

type typeCase struct {
	name   string
	in     []any
	stored []any // nil where it is as inserted.
}

func TestClickHouseTypes(t *testing.T) {
	t.Parallel()
	for _, compression := range []*clickhouse.Compression{nil, {Method: clickhouse.CompressionLZ4}} {
		s := testkit.ClickHouse(t, testkit.ClickHouseConfig{})
		o := options(s)
		o.Compression = compression
		conn := open(t, o)
		// The driver closes a pooled connection when the context of a finished Send is cancelled right behind it: so not the
		// subtests' own.
		ctx := t.Context()
		for i, test := range typeCases(t) {
			t.Run(test.name, func(t *testing.T) {
				ddl := fmt.Sprintf("CREATE TABLE t%d (id UInt32, v %s) ENGINE = Memory", i, test.name)
				if err := conn.Exec(ctx, ddl); err != nil {
					t.Fatal(err)
				}
				table := fmt.Sprintf("t%d", i)
				batch, err := conn.PrepareBatch(ctx, "INSERT INTO "+table)
				if err != nil {
					t.Fatal(err)
				}
				for id, v := range test.in {
					if err := batch.Append(uint32(id), v); err != nil {
						t.Fatal(err)
					}
				}
				if err := batch.Send(); err != nil {
					t.Fatal(err)
				}

				want := test.stored
				if want == nil {
					want = test.in
				}
				if got := s.Values(table, "v"); !equalValues(got, want) {
					t.Errorf("Values = %#v, want %#v", got, want)
				}

				// What comes back through the driver must be what a second insert of it stores.
				rows, err := conn.Query(ctx, "SELECT v FROM "+table+" ORDER BY id")
				if err != nil {
					t.Fatal(err)
				}
				again, err := conn.PrepareBatch(ctx, "INSERT INTO "+table+" (v)")
				if err != nil {
					t.Fatal(err)
				}
				for rows.Next() {
					v := reflect.New(rows.ColumnTypes()[0].ScanType())
					if err := rows.Scan(v.Interface()); err != nil {
						t.Fatal(err)
					}
					if err := again.Append(v.Elem().Interface()); err != nil {
						t.Fatal(err)
					}
				}
				if err := rows.Err(); err != nil {
					t.Fatal(err)
				}
				if err := again.Send(); err != nil {
					t.Fatal(err)
				}
				if got := s.Values(table, "v"); !equalValues(got, append(slices.Clone(want), want...)) {
					t.Errorf("after a second insert of what was read, Values = %#v, want twice %#v", got, want)
				}
			})
		}
	}
}

func equalValues(a, b []any) bool {
	return slices.EqualFunc(a, b, func(x, y any) bool {
		if at, ok := x.(time.Time); ok {
			other, ok := y.(time.Time)
			return ok && at.Equal(other)
		}
		if n, ok := x.(*big.Int); ok {
			other, ok := y.(*big.Int)
			return ok && n.Cmp(other) == 0
		}
		return reflect.DeepEqual(x, y)
	})
}

func TestClickHouseRefusesUnknownTypes(t *testing.T) {
	t.Parallel()
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{})
	for _, typ := range []string{
		"Nothing9", "Nullable(Array(UInt8))", "LowCardinality(Array(String))", "Map(Array(String), UInt8)", "Array(UInt8, UInt8)",
		"Decimal(80, 1)", "Enum8(low)", "Enum8('x' = 300)", "FixedString(0)", "DateTime('Nowhere/City')", "Map(String)", "Tuple()",
		strings.Repeat("Array(", 100) + "UInt8" + strings.Repeat(")", 100),
	} {
		if err := s.CreateTable("CREATE TABLE t (v " + typ + ")"); err == nil {
			t.Errorf("a column of type %s was taken", typ)
		}
	}
}
