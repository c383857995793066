package clickhousex_test

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/column"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/testkit"
)

type cell[V any] struct {
	V V `ch:"v"`
}

// insertCells writes one row for each value into a table of one column, and gives Write's error and what was stored.
func insertCells[V any](t *testing.T, column string, values ...V) (stored []any, err error) {
	t.Helper()
	cfg := testkit.ClickHouseConfig{Tables: []string{"CREATE TABLE cells (v " + column + ") ENGINE = Memory"}}
	bubble(t, cfg, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[cell[V]](t, open(t, options(s), clickhousex.Config{}), "cells", clickhousex.InserterConfig{})
		var b holdfast.Batch[cell[V]]
		for _, v := range values {
			b.Items = append(b.Items, holdfast.Item[cell[V]]{Value: cell[V]{v}})
		}
		err = in.Write(t.Context(), b)
		stored = s.Values("cells", "v")
	})
	return stored, err
}

// takes fails unless every value is stored, as want says.
func takes[V any](t *testing.T, column string, values []V, want ...any) {
	t.Helper()
	stored, err := insertCells(t, column, values...)
	if err != nil {
		t.Errorf("%s from %T: %v", column, values, err)
	}
	if fmt.Sprintf("%T %v", stored, stored) != fmt.Sprintf("%T %v", want, want) {
		t.Errorf("%s from %T: stored %v, want %v", column, values, stored, want)
	}
}

// refuses fails unless every value is refused, with an error that names the column and not the value.
func refuses[V any](t *testing.T, column string, values ...V) {
	t.Helper()
	stored, err := insertCells(t, column, values...)
	if len(stored) != 0 {
		t.Errorf("%s from %T: stored %v of %v", column, values, stored, values)
	}
	items := refusals(t, err)
	for i, v := range values {
		var fault *clickhousex.RowError
		if !errors.As(items[i], &fault) || fault.Row != i || fault.Column != "v" || fault.Type != column {
			t.Errorf("%s from %T: %v was refused with %v", column, values, v, items[i])
			continue
		}
		if text := fmt.Sprint(v); len(text) > 2 && strings.Contains(fault.Error(), text) {
			t.Errorf("%q repeats the value", fault)
		}
	}
}

// holds fails unless the column is refused as such, whatever the rows.
func holds[V any](t *testing.T, column string, value V) {
	t.Helper()
	_, err := insertCells(t, column, value)
	var fault *clickhousex.ColumnError
	if !errors.As(err, &fault) || !holdfast.IsHold(err) || holdfast.IsPermanent(err) {
		t.Errorf("%s from %T: got %v, want a ColumnError that holds", column, value, err)
	}
}

func TestRowsTaken(t *testing.T) {
	type myString string
	type myInt int32
	day := time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)
	second := time.Date(2024, 2, 29, 13, 14, 15, 0, time.UTC)
	milli := second.Add(123 * time.Millisecond)

	takes(t, "Int8", []int{-128, 127}, int8(-128), int8(127))
	takes(t, "UInt8", []uint64{0, 255}, uint8(0), uint8(255))
	takes(t, "UInt8", []bool{true, false}, uint8(1), uint8(0))
	takes(t, "Int64", []uint64{math.MaxInt64}, int64(math.MaxInt64))
	takes(t, "UInt64", []uint64{math.MaxUint64}, uint64(math.MaxUint64))
	takes(t, "Int16", []myInt{-5}, int16(-5))
	takes(t, "Int64", []time.Duration{time.Second}, int64(time.Second))
	takes(t, "Float32", []float64{0.5, math.Inf(1)}, float32(0.5), float32(math.Inf(1)))
	takes(t, "Float64", []int{1 << 53}, float64(1<<53))
	takes(t, "Bool", []bool{true}, true)
	takes(t, "String", []myString{"a", ""}, "a", "")
	takes(t, "String", [][]byte{[]byte("a"), nil}, "a", "")
	takes(t, "FixedString(3)", []string{"abc", "a"}, "abc", "a\x00\x00")
	takes(t, "FixedString(3)", [][3]byte{{1, 2, 3}}, "\x01\x02\x03")
	takes(t, "Enum8('on' = 1, 'off' = -2)", []string{"off", "on", "off"}, "off", "on", "off")
	takes(t, "Date", []time.Time{day}, day)
	takes(t, "Date32", []time.Time{time.Date(1969, 12, 31, 12, 0, 0, 0, time.UTC)}, time.Date(1969, 12, 31, 0, 0, 0, 0, time.UTC))
	takes(t, "DateTime", []time.Time{second}, second)
	takes(t, "DateTime64(3)", []time.Time{milli}, milli)
	takes(t, "Array(Int16)", [][]int16{{1, 2}, nil}, []any{int16(1), int16(2)}, []any{})
	takes(t, "Map(String, UInt8)", []map[string]uint8{{"a": 1}}, map[any]any{"a": uint8(1)})
	takes(t, "Tuple(Int8, String)", [][]any{{127, "a"}}, []any{int8(127), "a"})
	takes(t, "Tuple(a UInt8, b Array(Int8))", []any{pair{A: 255, B: []int{-128}}}, []any{uint8(255), []any{int8(-128)}})
	takes(t, "UUID", []string{"61f0c404-5cb3-11e7-907b-a6006ad3dba0"}, "61f0c404-5cb3-11e7-907b-a6006ad3dba0")

	takes(t, "Nullable(Int32)", []*int{new(5), nil, new(0)}, int32(5), nil, int32(0))
	takes(t, "Nullable(Date)", []*time.Time{nil, &day}, nil, day)
	takes(t, "Nullable(Date)", []time.Time{day}, day)
	takes(t, "Nullable(Bool)", []bool{true}, true)
	takes(t, "Nullable(String)", []sql.NullString{{String: "a", Valid: true}, {}}, "a", nil)
	takes(t, "Nullable(DateTime)", []sql.NullTime{{}, {Time: second, Valid: true}}, nil, second)
	takes(t, "LowCardinality(String)", []string{"a", "b", "a"}, "a", "b", "a")
	takes(t, "LowCardinality(String)", [][]byte{[]byte("a")}, "a")
	takes(t, "LowCardinality(Nullable(String))", []*string{nil, new("a"), new("a"), new("")}, nil, "a", "a", "")
	takes(t, "Decimal(9, 2)", []string{"1.23", "-0.10", "1234567.89", "12e3", "1.230"}, "1.23", "-0.10", "1234567.89", "12000.00", "1.23")
	takes(t, "Decimal(38, 10)", []decimalValue{"0.0000000001"}, "0.0000000001")
	takes(t, "IPv4", []net.IP{net.IPv4(1, 2, 3, 4)}, "1.2.3.4")
	takes(t, "Nullable(IPv4)", []net.IP{nil}, nil)
	takes(t, "IPv6", []net.IP{net.ParseIP("2001:db8::1")}, "2001:db8::1")
	takes(t, "Map(String, UInt8)", []*orderedMap{{"a", 1}}, map[any]any{"a": uint8(1)})
	takes(t, "Map(String, UInt8)", []orderedMap{{"a", 1}}, map[any]any{"a": uint8(1)})

	// Before 1970 the driver's division would make the next day of it.
	noon, midnight := time.Date(1969, 12, 30, 12, 0, 0, 0, time.UTC), time.Date(1969, 12, 30, 0, 0, 0, 0, time.UTC)
	takes(t, "Date32", []any{noon, &noon}, midnight, midnight)
	takes(t, "Nullable(Date32)", []sql.NullTime{{Time: noon, Valid: true}}, midnight)
	takes(t, "Array(Date32)", [][]time.Time{{midnight, day}}, []any{midnight, day})

	takes(t, "Int8", []*int{new(5)}, int8(5))
	takes(t, "Int8", []any{int64(5)}, int8(5))
}

func TestRowsRefused(t *testing.T) {
	var zero time.Time
	at := func(year int) time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }

	refuses(t, "UInt8", 300, -1, 256)
	refuses(t, "Int8", uint64(128), uint64(math.MaxUint64))
	refuses(t, "Int64", uint64(math.MaxUint64), uint64(math.MaxInt64)+1)
	refuses(t, "UInt64", int64(-1), int64(math.MinInt64))
	refuses(t, "UInt32", int64(1)<<32)
	refuses(t, "Float32", math.MaxFloat64)
	refuses(t, "Float64", int64(1)<<53+1, math.MaxInt64)
	refuses(t, "FixedString(3)", "abcd")
	refuses(t, "FixedString(3)", []byte("abcd"))
	refuses(t, "Enum8('on' = 1)", "offline")
	refuses(t, "Enum8('on' = 1)", 257)
	refuses(t, "Date", zero, at(1969), at(2150))
	refuses(t, "Date32", zero, at(1899), at(2300))
	refuses(t, "DateTime", zero, at(1969), at(2107))
	refuses(t, "DateTime64(3)", zero, at(1899), at(2263))
	refuses[*int](t, "Int32", nil)
	refuses[*string](t, "String", nil)
	refuses[any](t, "Int32", nil, "text", 1<<40)
	refuses(t, "String", sql.NullString{})
	refuses(t, "UInt8", sql.NullInt64{Int64: 300, Valid: true})
	refuses(t, "Nullable(UInt8)", new(300))
	refuses(t, "LowCardinality(FixedString(2))", "abc")
	refuses(t, "Array(UInt8)", []int{1, 300})
	refuses(t, "Array(Array(Int8))", [][]int{{1}, {2, 128}})
	refuses(t, "Array(String)", []*string{nil})
	refuses(t, "Map(String, UInt8)", map[string]int{"a": 300})
	refuses(t, "UUID", "not a uuid")
	refuses(t, "Tuple(Int8, String)", []any{128, "a"}, []any{nil, "a"}, []any{1}, []any{1, nil})
	refuses(t, "Tuple(a UInt8, b Array(Int8))", map[string]any{"a": -1, "b": []int8{1}}, map[string]any{"a": 1, "b": []int{128}})
	refuses(t, "Tuple(a UInt8, b Array(Int8))", pair{A: 300})
	refuses(t, "Array(Tuple(a UInt8, b Array(Int8)))", []pair{{A: 1}, {B: []int{-129}}})
	refuses(t, "Array(Tuple(a UInt8, b Array(Int8)))", []map[string]any{{"a": 256, "b": []int{}}})
	refuses(t, "Array(Date32)", []time.Time{time.Date(1969, 12, 30, 12, 0, 0, 0, time.UTC)})
	refuses(t, "Map(String, Date32)", map[string]time.Time{"a": time.Date(1969, 12, 30, 12, 0, 0, 0, time.UTC)})
	refuses(t, "Decimal(9, 2)", "1.239", "12345678.9", "1e8", "0.001", "100e-5", "text")
	refuses[decimalValue](t, "Decimal(4, 2)", "100", "123.45")
	refuses(t, "Array(Decimal(4, 2))", []string{"0.999"})
	refuses(t, "IPv4", net.IP(nil), net.ParseIP("2001:db8::1"), net.IP{1, 2, 3})
	refuses(t, "IPv4", netip.Addr{}, netip.MustParseAddr("2001:db8::1"))
	refuses(t, "IPv6", net.IP(nil))
	refuses(t, "IPv6", netip.Addr{})
	refuses(t, "Array(IPv4)", []net.IP{nil})
	refuses(t, "Map(String, UInt8)", &orderedMap{"a", 300})
	refuses(t, "Map(String, UInt8)", orderedMap{"a", -1})
	refuses(t, "Int64", panics{}, panics{})
	refuses(t, "Int64", endless{}, endless{})
	refuses(t, "Array(Int64)", []endless{{}})
	refuses(t, "Map(String, UInt8)", panickingMap{}, panickingMap{})
	refuses(t, "Array(Map(String, UInt8))", []panickingMap{{}})
	refuses(t, "Map(String, UInt8)", panickingKeys{}, panickingKeys{})
	refuses(t, "Int64", ring())
}

// TestLowCardinality: places in the dictionary take one byte, two or four, and the rows keep their values.
func TestLowCardinality(t *testing.T) {
	for _, n := range []int{1, 255, 256, 257, 65_535, 65_536, 65_537} {
		values := make([]*string, 0, n+2)
		for i := range n {
			values = append(values, new(fmt.Sprint("value ", i)))
		}
		values = append(values, nil, new("value 0"), new(""))
		stored, err := insertCells(t, "LowCardinality(Nullable(String))", values...)
		if err != nil || len(stored) != len(values) {
			t.Fatalf("%d values: stored %d rows, error %v", n, len(stored), err)
		}
		for i, v := range values {
			if v == nil && stored[i] != nil || v != nil && stored[i] != *v {
				t.Fatalf("%d values: row %d is %v", n, i, stored[i])
			}
		}
	}
	days := []time.Time{time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC), time.Unix(0, 0).UTC()}
	takes(t, "LowCardinality(Date)", append(days, days[0]), days[0], days[1], days[0])
	takes(t, "LowCardinality(UInt16)", []int{7, 0, 7, 65535}, uint16(7), uint16(0), uint16(7), uint16(65535))
	takes(t, "LowCardinality(FixedString(2))", []any{"a", []byte("b"), "a\x00"}, "a\x00", "b\x00", "a\x00")
	refuses[*string](t, "LowCardinality(String)", nil)
}

// TestMaxBytes: a batch of more bytes is stored in several inserts, each with a token of its own, and a row of more in one.
func TestMaxBytes(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{MaxBytes: 1000})
		b := batchOf(0, 100) // 8 bytes each, 2 for nil, and names of up to 9.
		b.Items[99].Value.Name = strings.Repeat("x", 2000)
		if err := in.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		wantIDs(t, s, upTo(100)...)
		tokens := make(map[string]bool)
		for _, insert := range s.Inserts() {
			tokens[insert.Token] = true
			if insert.Rows > 1000/(8+2+8) {
				t.Errorf("%d rows in one insert", insert.Rows)
			}
		}
		if n := len(s.Inserts()); len(tokens) != n || n > 16 {
			t.Errorf("%d inserts with %d tokens", n, len(tokens))
		}
		if stats := in.Stats(); stats.Splits != 0 {
			t.Errorf("Stats = %+v: bytes are no refusal", stats)
		}
	})
}

// TestLowCardinalityInParts: each of several inserts has a dictionary of its own rows' values.
func TestLowCardinalityInParts(t *testing.T) {
	for column, cfg := range map[string]clickhousex.InserterConfig{
		"LowCardinality(String)":           {MaxBytes: 1 << 20},
		"LowCardinality(Nullable(String))": {MaxRows: 10},
	} {
		tables := testkit.ClickHouseConfig{Tables: []string{"CREATE TABLE cells (v " + column + ") ENGINE = Memory"}}
		bubble(t, tables, func(t *testing.T, s *testkit.ClickHouseServer) {
			in := newInserter[cell[*string]](t, open(t, options(s), clickhousex.Config{}), "cells", cfg)
			var b holdfast.Batch[cell[*string]]
			var want []any
			for i := range 80 {
				v := new(fmt.Sprint(i/2) + strings.Repeat("x", 64<<10)) // Together more than MaxBytes.
				b.Items, want = append(b.Items, holdfast.Item[cell[*string]]{Value: cell[*string]{v}}), append(want, *v)
			}
			if cfg.MaxRows > 0 {
				b.Items[33].Value.V, want[33] = nil, nil
			}
			if err := in.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(s.Values("cells", "v"), want) {
				t.Errorf("%s: other values are stored", column)
			}
			if n := len(s.Inserts()); n > 16 {
				t.Errorf("%s: %d inserts", column, n)
			}
		})
	}
}

// TestMaxBytesAndAmbiguity: what may be stored is written again in the same insert, even if it has become too large for one.
func TestMaxBytesAndAmbiguity(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		ch := open(t, options(s), clickhousex.Config{})
		in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{MaxBytes: 4 * (8 + 1 + 8)})
		remove := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true, Times: -1})
		if err := in.Write(t.Context(), batchOf(0, 4)); !holdfast.IsAmbiguous(err) {
			t.Fatalf("got %v, want it ambiguous", err)
		}
		remove()
		for _, ddl := range []string{"DROP TABLE orders", strings.Replace(ordersDDL, "Int8", "Int64", 1)} {
			if err := ch.Exec(t.Context(), ddl); err != nil {
				t.Fatal(err)
			}
		}
		if err := in.Write(t.Context(), batchOf(0, 4)); err != nil {
			t.Fatal(err)
		}
		log := s.Inserts()
		if last := log[len(log)-1]; last.Rows != 4 || last.Token != log[0].Token || log[0].Rows != 4 {
			t.Errorf("%d rows with token %s, then %d with %s", log[0].Rows, log[0].Token, last.Rows, last.Token)
		}
		if err := in.Write(t.Context(), batchOf(4, 4)); err != nil {
			t.Fatal(err)
		}
		if log = s.Inserts(); log[len(log)-1].Rows != 2 {
			t.Errorf("%d rows in one insert, want the next batch in halves", log[len(log)-1].Rows)
		}
	})
}

// decimalValue brings its text as the known decimal types do.
type decimalValue string

func (d decimalValue) Value() (driver.Value, error) { return string(d), nil }

// pair fills a tuple by the names of its elements.
type pair struct {
	A int   `ch:"a"`
	B []int `ch:"b"`
}

type panics struct{}

func (panics) Value() (driver.Value, error) { panic("in the program's own code") }

type endless struct{}

func (e endless) Value() (driver.Value, error) { return e, nil }

// pointer may point to itself.
type pointer *pointer

func ring() any {
	p := new(pointer)
	*p = p
	return p
}

type panickingMap struct{ orderedMap }

func (panickingMap) Iterator() column.MapIterator { panic("in the program's own code") }

// panickingKeys is a map of the older interface, which hands its keys out from a goroutine.
type panickingKeys struct{}

func (panickingKeys) Get(any) (any, bool) { panic("in the program's own code") }
func (panickingKeys) Put(any, any)        {}
func (panickingKeys) Keys() <-chan any {
	keys := make(chan any)
	go func() {
		defer close(keys)
		for key := range 3 {
			keys <- fmt.Sprint(key)
		}
	}()
	return keys
}

// fickleMap panics from the n-th time on that somebody reads it.
type fickleMap struct {
	orderedMap
	reads, n *int
}

func (m fickleMap) Iterator() column.MapIterator {
	if *m.reads++; *m.reads >= *m.n {
		panic("in the program's own code")
	}
	return m.orderedMap.Iterator()
}

// TestPanicInRows: whenever a map of the program's own panics, Write returns an error, nothing is stored, and no connection
// is lost.
func TestPanicInRows(t *testing.T) {
	tables := testkit.ClickHouseConfig{Tables: []string{"CREATE TABLE cells (v Map(String, UInt8)) ENGINE = Memory"}}
	bubble(t, tables, func(t *testing.T, s *testkit.ClickHouseServer) {
		ch := open(t, options(s), clickhousex.Config{})
		in := newInserter[cell[fickleMap]](t, ch, "cells", clickhousex.InserterConfig{})
		stored := 0
		for n := 1; stored == 0; n++ {
			value := fickleMap{orderedMap{"a", 1}, new(0), &n}
			err := in.Write(t.Context(), holdfast.Batch[cell[fickleMap]]{Items: []holdfast.Item[cell[fickleMap]]{{Value: cell[fickleMap]{value}}}})
			stored = s.Count("cells")
			if (err == nil) != (stored == 1) || n > 10 {
				t.Fatalf("panic at read %d: %v, %d rows stored", n, err, stored)
			}
			if err != nil && holdfast.IsAmbiguous(err) {
				t.Errorf("panic at read %d: %v is ambiguous", n, err)
			}
		}
		if open := ch.Stats().Open; open != 0 {
			t.Errorf("%d connections in use", open)
		}
	})
}

// orderedMap has one entry.
type orderedMap struct {
	key   string
	value int
}

func (m orderedMap) Put(any, any) {}

func (m orderedMap) Iterator() column.MapIterator { return &orderedMapIterator{orderedMap: m} }

type orderedMapIterator struct {
	orderedMap
	n int
}

func (i *orderedMapIterator) Next() bool { i.n++; return i.n == 1 }
func (i *orderedMapIterator) Key() any   { return i.key }
func (i *orderedMapIterator) Value() any { return i.value }

func TestColumnsHeld(t *testing.T) {
	holds(t, "Int32", 1.5)
	holds(t, "Int32", "1")
	holds(t, "String", 1)
	holds(t, "String", struct{ A int }{})
	holds(t, "Date", "2024-02-29")
	holds(t, "Bool", 1)
	holds(t, "Array(Int8)", 5)
}

// TestRefusedRowsLeaveNoTrace: a row that a later column refuses is in no column, and its neighbours keep their values.
func TestRefusedRowsLeaveNoTrace(t *testing.T) {
	type wide struct {
		A int      `ch:"a"`
		B *int     `ch:"b"`
		C []string `ch:"c"`
		D int      `ch:"d"`
	}
	cfg := testkit.ClickHouseConfig{Tables: []string{
		"CREATE TABLE wide (a Int8, b Nullable(Int8), c Array(String), d UInt8) ENGINE = MergeTree ORDER BY a",
	}}
	bubble(t, cfg, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[*wide](t, open(t, options(s), clickhousex.Config{}), "wide", clickhousex.InserterConfig{})
		rows := []*wide{
			{1, new(1), []string{"1"}, 1},
			{2, new(2), []string{"2"}, -2},
			nil,
			{3, nil, []string{"3"}, 3},
			{4, new(400), []string{"4"}, 4},
		}
		var b holdfast.Batch[*wide]
		for _, row := range rows {
			b.Items = append(b.Items, holdfast.Item[*wide]{Value: row})
		}
		items := refusals(t, in.Write(t.Context(), b))
		if len(items) != 3 || items[1] == nil || items[2] == nil || items[4] == nil {
			t.Errorf("refused %v, want items 1, 2 and 4", items)
		}
		for column, want := range map[string]string{"a": "[1 3]", "b": "[1 <nil>]", "c": "[[1] [3]]", "d": "[1 3]"} {
			if got := fmt.Sprint(s.Values("wide", column)); got != want {
				t.Errorf("column %s is %s, want %s", column, got, want)
			}
		}
		if got := in.Stats(); got.Rows != 2 || got.Refused != 3 {
			t.Errorf("Stats = %+v", got)
		}

		// Bad rows need no server: they are found with the circuit open.
		b.Items = b.Items[1:3]
		s.Stop()
		if items := refusals(t, in.Write(t.Context(), b)); len(items) != 2 {
			t.Errorf("refused %v, want both", items)
		}
	})
}
