package clickhousex_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/testkit"
)

// FuzzRows writes one value of any Go type into a column of any type and reads it back: what is stored must be that value,
// and what no such column can hold must be refused. It reckons apart from the code under test, with big numbers and texts.
// The server is the real one where HOLDFAST_CLICKHOUSE has its address, or else the stand-in.
func FuzzRows(f *testing.F) {
	server := newRowServer(f)
	cases := rowCases()
	known := 0
	for i, c := range cases {
		if !server.create(f, i, c) {
			continue
		}
		known++
		seeds := numberSeeds()
		if strings.Contains(c.column, "Date") {
			seeds = timeSeeds()
		}
		for _, seed := range append(seeds, nil, []byte("a"), []byte("bb"), []byte("b'c"), []byte("\xff\x00\xfe"), []byte("longer than five")) {
			f.Add(uint(i), seed)
		}
	}
	if known < len(cases)*2/3 { // Those that 18.16 lacks are few.
		f.Fatalf("the server knows the columns of %d of %d cases only", known, len(cases))
	}
	f.Fuzz(func(t *testing.T, which uint, data []byte) {
		i := int(which % uint(len(cases)))
		write := server.writes[i]
		if write == nil {
			t.Skip("a column that this server does not know")
		}
		c := cases[i]
		want, fits, err := write(data)
		if _, refused := errors.AsType[*clickhousex.RowError](err); refused && !fits {
			return
		}
		if err != nil || !fits {
			t.Fatalf("case %d, %s from %x: %v, want it stored: %v", i, c.column, data, err, fits)
		}
		stored := server.take(t, i, c.column)
		if !sameText(c.column, stored, want) {
			t.Errorf("case %d, %s from %x: stored %s, want %s", i, c.column, data, stored, want)
		}
	})
}

// rowCase is one type of column and one Go type.
type rowCase struct {
	column string
	writer func(ch *clickhousex.Conn, table string) (rowWriter, error)
}

// rowWriter writes what it makes of data, and says what of it must be stored, in ClickHouse's text form, if anything.
type rowWriter func(data []byte) (want string, fits bool, err error)

func rowCaseOf[V any](column string, value func(data []byte) V, want func(V) (text string, fits bool)) rowCase {
	return rowCase{column, func(ch *clickhousex.Conn, table string) (rowWriter, error) {
		in, err := clickhousex.NewInserter[cell[V]](ch, table, clickhousex.InserterConfig{})
		return func(data []byte) (string, bool, error) {
			v := value(data)
			text, fits := want(v)
			return text, fits, in.Write(context.Background(), holdfast.Batch[cell[V]]{Items: []holdfast.Item[cell[V]]{{Value: cell[V]{v}}}})
		}, err
	}}
}

const textNull = "NULL"

func rowCases() []rowCase {
	var cases []rowCase
	for _, bits := range []uint{8, 16, 32, 64} {
		high := new(big.Int).Lsh(big.NewInt(1), bits)
		half := new(big.Int).Rsh(high, 1)
		cases = append(cases, intCases(fmt.Sprint("UInt", bits), new(big.Int), high)...)
		cases = append(cases, intCases(fmt.Sprint("Int", bits), new(big.Int).Neg(half), half)...)
	}
	at := func(layout string, first, last time.Time) func(time.Time) (string, bool) {
		return func(v time.Time) (string, bool) {
			return v.UTC().Format(layout), !v.Before(first) && v.Unix() <= last.Unix()
		}
	}
	day := func(first, last time.Time) func(time.Time) (string, bool) {
		return func(v time.Time) (string, bool) {
			wall := time.Date(v.Year(), v.Month(), v.Day(), 0, 0, 0, 0, time.UTC)
			return v.Format(time.DateOnly), !wall.Before(first) && !wall.After(last)
		}
	}
	date := day(time.Unix(0, 0), time.Date(2149, 6, 6, 0, 0, 0, 0, time.UTC))
	dateTime := at(time.DateTime, time.Unix(0, 0), time.Unix(math.MaxUint32, 0))
	dateTime64 := func(layout string) func(time.Time) (string, bool) {
		return at(layout, time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2262, 4, 11, 23, 47, 15, 0, time.UTC))
	}
	text := func(v string) (string, bool) { return v, true }
	fixed := func(v string) (string, bool) { return strings.TrimRight(v, "\x00"), len(v) <= 5 }
	toString := func(data []byte) string { return string(data) }
	toBytes := func(data []byte) []byte { return data }
	ofBytes := func(want func(string) (string, bool)) func([]byte) (string, bool) {
		return func(v []byte) (string, bool) { return want(string(v)) }
	}
	type myString string
	return append(cases,
		rowCaseOf("Float64", dataFloat, func(v float64) (string, bool) { return floatText(v), true }),
		rowCaseOf("Float64", dataInt, func(v int64) (string, bool) { return exactFloat(big.NewInt(v), 53) }),
		rowCaseOf("Float32", dataInt, func(v int64) (string, bool) { return exactFloat(big.NewInt(v), 24) }),
		rowCaseOf("Float64", dataUint, func(v uint64) (string, bool) { return exactFloat(new(big.Int).SetUint64(v), 53) }),
		rowCaseOf("Float32", dataFloat, func(v float64) (string, bool) {
			return floatText(float64(float32(v))), math.IsInf(v, 0) || !math.IsInf(float64(float32(v)), 0)
		}),
		rowCaseOf("Nullable(Float32)", func(data []byte) any { return dataFloat(data) }, func(v any) (string, bool) {
			f := v.(float64)
			return floatText(float64(float32(f))), math.IsInf(f, 0) || !math.IsInf(float64(float32(f)), 0)
		}),

		rowCaseOf("String", toString, text),
		rowCaseOf("String", toBytes, ofBytes(text)),
		rowCaseOf("String", func(data []byte) any { return myString(data) }, func(v any) (string, bool) { return string(v.(myString)), true }),
		rowCaseOf("Nullable(String)", func(data []byte) *string { return unlessEmpty(string(data)) }, nullable(text)),
		rowCaseOf("Nullable(String)", func(data []byte) sql.NullString { return sql.NullString{String: string(data), Valid: len(data) > 0} },
			func(v sql.NullString) (string, bool) { return orNull(v.String, v.Valid), true }),
		rowCaseOf("LowCardinality(String)", toString, text),
		rowCaseOf("LowCardinality(Nullable(String))", func(data []byte) *string { return unlessEmpty(string(data)) }, nullable(text)),
		rowCaseOf("FixedString(5)", toString, fixed),
		rowCaseOf("FixedString(5)", toBytes, ofBytes(fixed)),
		rowCaseOf("FixedString(5)", func(data []byte) any { return data }, func(v any) (string, bool) { return fixed(string(v.([]byte))) }),
		rowCaseOf("FixedString(5)", func(data []byte) [3]byte { return [3]byte(binary.BigEndian.AppendUint64(nil, dataUint(data))) },
			func(v [3]byte) (string, bool) { return fixed(string(v[:])) }),
		rowCaseOf("Enum8('' = -128, 'a' = 0, 'b\\'c' = 127)", toString, oneOf("", "a", "b'c")),
		rowCaseOf("Enum16('a' = -32768, 'bb' = 300)", toBytes, ofBytes(oneOf("a", "bb"))),
		rowCaseOf("Enum8('a' = 1, 'b' = 2)", func(data []byte) int { return int(dataInt(data)) }, func(v int) (string, bool) {
			return map[int]string{1: "a", 2: "b"}[v], v == 1 || v == 2
		}),

		rowCaseOf("Date", dataTime, date),
		rowCaseOf("Nullable(Date)", func(data []byte) any { return new(dataTime(data)) }, func(v any) (string, bool) { return date(*v.(*time.Time)) }),
		rowCaseOf("Date32", dataTime, day(time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2299, 12, 31, 0, 0, 0, 0, time.UTC))),
		rowCaseOf("DateTime('UTC')", dataTime, dateTime),
		rowCaseOf("Nullable(DateTime('UTC'))", func(data []byte) sql.NullTime { return sql.NullTime{Time: dataTime(data), Valid: len(data) > 9} },
			func(v sql.NullTime) (string, bool) {
				text, fits := dateTime(v.Time)
				return orNull(text, v.Valid), fits || !v.Valid
			}),
		rowCaseOf("DateTime64(3, 'UTC')", dataTime, dateTime64("2006-01-02 15:04:05.000")),
		rowCaseOf("DateTime64(9, 'UTC')", dataTime, dateTime64("2006-01-02 15:04:05.000000000")),
		rowCaseOf("DateTime64(0, 'UTC')", func(data []byte) *time.Time { return new(dataTime(data)) },
			func(v *time.Time) (string, bool) { return dateTime64(time.DateTime)(*v) }),

		rowCaseOf("Decimal(9, 2)", dataDecimal, decimalOf(9, 2)),
		rowCaseOf("Decimal(18, 0)", dataDecimal, decimalOf(18, 0)),
		rowCaseOf("Decimal(38, 20)", dataDecimal, decimalOf(38, 20)),
		rowCaseOf("UUID", func(data []byte) string { return dataUUID(data) }, text),
		rowCaseOf("Array(Int8)", func(data []byte) []int { return []int{int(dataInt(data)), 1} }, func(v []int) (string, bool) {
			return fmt.Sprintf("[%d,%d]", v[0], v[1]), v[0] >= -128 && v[0] < 128
		}),
		rowCaseOf("Array(Array(UInt16))", func(data []byte) [][]int64 { return [][]int64{{}, {dataInt(data)}} }, func(v [][]int64) (string, bool) {
			return fmt.Sprintf("[[],[%d]]", v[1][0]), v[1][0] >= 0 && v[1][0] < 65536
		}),
		rowCaseOf("Tuple(Int8, UInt16)", func(data []byte) []any { return []any{dataInt(data), dataInt(data)} }, func(v []any) (string, bool) {
			n := v[0].(int64)
			return fmt.Sprintf("(%d,%d)", n, n), n >= 0 && n < 128
		}),
	)
}

// intCases are the ways for whole numbers into a column that holds those from low on, below high.
func intCases(column string, low, high *big.Int) []rowCase {
	want := func(n *big.Int) (string, bool) { return n.String(), n.Cmp(low) >= 0 && n.Cmp(high) < 0 }
	ofInt := func(n int64) (string, bool) { return want(big.NewInt(n)) }
	ofUint := func(n uint64) (string, bool) { return want(new(big.Int).SetUint64(n)) }
	return []rowCase{
		rowCaseOf(column, dataInt, ofInt),
		rowCaseOf(column, dataUint, ofUint),
		rowCaseOf(column, func(data []byte) int16 { return int16(dataInt(data)) }, func(v int16) (string, bool) { return ofInt(int64(v)) }),
		rowCaseOf(column, func(data []byte) uint8 { return uint8(dataUint(data)) }, func(v uint8) (string, bool) { return ofUint(uint64(v)) }),
		rowCaseOf(column, func(data []byte) any { return dataInt(data) }, func(v any) (string, bool) { return ofInt(v.(int64)) }),
		rowCaseOf("Nullable("+column+")", func(data []byte) *int64 { return unlessEmpty(dataInt(data)) }, nullable(ofInt)),
		rowCaseOf("Nullable("+column+")", func(data []byte) sql.NullInt64 { return sql.NullInt64{Int64: dataInt(data), Valid: len(data) > 0} },
			func(v sql.NullInt64) (string, bool) {
				text, fits := ofInt(v.Int64)
				return orNull(text, v.Valid), fits || !v.Valid
			}),
		rowCaseOf(column, func(data []byte) *uint64 { return unlessEmpty(dataUint(data)) }, func(v *uint64) (string, bool) {
			if v == nil {
				return "", false
			}
			return ofUint(*v)
		}),
	}
}

// numberSeeds have the edges of all widths, of both signs.
func numberSeeds() [][]byte {
	var seeds [][]byte
	for _, bits := range []uint{0, 7, 8, 15, 16, 24, 31, 32, 53, 63} {
		for _, n := range []uint64{1<<bits - 1, 1 << bits, 1<<bits + 1, -(1 << bits), -(1 << bits) - 1} {
			seeds = append(seeds, binary.BigEndian.AppendUint64([]byte{0}, n))
		}
	}
	for _, f := range []float64{0.5, math.Copysign(0, -1), math.NaN(), math.Inf(-1), math.MaxFloat32, math.MaxFloat64, math.SmallestNonzeroFloat64} {
		seeds = append(seeds, binary.BigEndian.AppendUint64([]byte{0}, math.Float64bits(f)))
	}
	return seeds
}

// timeSeeds have the first and last moments of years at which a range begins or ends.
func timeSeeds() [][]byte {
	var seeds [][]byte
	for _, year := range []int{1, 1899, 1900, 1969, 1970, 2024, 2105, 2106, 2149, 2261, 2262, 2299, 2300} {
		for _, at := range []time.Time{time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(year, 12, 31, 23, 59, 59, 0, time.UTC)} {
			seed := binary.BigEndian.AppendUint64([]byte{0}, uint64(at.Unix()))
			seeds = append(seeds, append(seed, 0, 0), append(seed, 0x85, 238)) // In UTC, and far from it in a second's last part.
		}
	}
	return seeds
}

// dataUint makes numbers of all sizes: the first byte says by how much to shift the next eight.
func dataUint(data []byte) uint64 {
	data = append(bytes.Clone(data), make([]byte, 9)...)
	return binary.BigEndian.Uint64(data[1:]) >> (data[0] % 64)
}

func dataInt(data []byte) int64 {
	data = append(bytes.Clone(data), make([]byte, 9)...)
	return int64(binary.BigEndian.Uint64(data[1:])) >> (data[0] % 64)
}

func dataFloat(data []byte) float64 { return math.Float64frombits(dataUint(data)) }

// dataTime makes times of four thousand years, to the nanosecond, in any zone.
func dataTime(data []byte) time.Time {
	const years = 4000 * 365 * 24 * 60 * 60
	data = append(bytes.Clone(data), make([]byte, 11)...)
	zone := time.FixedZone("", int(int8(data[9]))*15*60)
	return time.Unix(dataInt(data)%years, int64(data[10])<<22).In(zone)
}

func dataDecimal(data []byte) string {
	data = append(bytes.Clone(data), make([]byte, 10)...)
	digits, places := strconv.FormatInt(dataInt(data), 10), int(data[9]%8)
	if places == 0 {
		return digits
	}
	sign := ""
	if rest, negative := strings.CutPrefix(digits, "-"); negative {
		sign, digits = "-", rest
	}
	digits = strings.Repeat("0", places) + digits
	return sign + digits[:len(digits)-places] + "." + digits[len(digits)-places:]
}

func dataUUID(data []byte) string {
	b := append(bytes.Clone(data), make([]byte, 16)...)[:16]
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func unlessEmpty[V comparable](v V) *V {
	if v == *new(V) {
		return nil
	}
	return &v
}

func nullable[V any](want func(V) (string, bool)) func(*V) (string, bool) {
	return func(v *V) (string, bool) {
		if v == nil {
			return textNull, true
		}
		return want(*v)
	}
}

func orNull(text string, valid bool) string {
	if !valid {
		return textNull
	}
	return text
}

func oneOf(names ...string) func(string) (string, bool) {
	return func(v string) (string, bool) {
		return v, slices.Contains(names, v)
	}
}

func floatText(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// exactFloat fits when a mantissa of so many bits holds n.
func exactFloat(n *big.Int, bits uint) (string, bool) {
	magnitude := new(big.Int).Abs(n)
	exact := magnitude.Sign() == 0 || uint(magnitude.BitLen())-magnitude.TrailingZeroBits() <= bits
	f, _ := new(big.Float).SetInt(n).Float64()
	return floatText(f), exact
}

func decimalOf(precision, scale int64) func(string) (string, bool) {
	power := func(n int64) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(n), nil) }
	return func(v string) (string, bool) {
		r, _ := new(big.Rat).SetString(v)
		units := new(big.Rat).Mul(r, new(big.Rat).SetInt(power(scale)))
		return v, units.IsInt() && new(big.Int).Abs(units.Num()).Cmp(power(precision)) < 0
	}
}

// sameText compares numbers by their values, since there are several texts for one.
func sameText(column, stored, want string) bool {
	switch {
	case stored == want:
		return true
	case strings.Contains(column, "Float32"):
		return sameFloat(stored, want, 32)
	case strings.Contains(column, "Float64"):
		return sameFloat(stored, want, 64)
	case strings.HasPrefix(column, "Decimal"):
		x, storedOK := new(big.Rat).SetString(stored)
		y, wantOK := new(big.Rat).SetString(want)
		return storedOK && wantOK && x.Cmp(y) == 0
	case strings.HasPrefix(column, "FixedString"):
		return strings.TrimRight(stored, "\x00") == want
	default:
		return false
	}
}

func sameFloat(stored, want string, bits int) bool {
	x, err := strconv.ParseFloat(stored, bits)
	y, _ := strconv.ParseFloat(want, bits)
	return err == nil && (math.Float64bits(x) == math.Float64bits(y) || math.IsNaN(x) && math.IsNaN(y))
}

// rowServer is where the values go, with a table for each case.
type rowServer struct {
	conn    *clickhousex.Conn
	standIn *testkit.ClickHouseServer // Nil when it is the real one.
	tables  map[int]string
	writes  map[int]rowWriter
}

func newRowServer(f *testing.F) *rowServer {
	f.Helper()
	s := &rowServer{tables: make(map[int]string), writes: make(map[int]rowWriter)}
	opts := &clickhouse.Options{Addr: []string{os.Getenv("HOLDFAST_CLICKHOUSE")}, Settings: clickhouse.Settings{
		"allow_experimental_low_cardinality_type": 1,
	}}
	if opts.Addr[0] == "" {
		s.standIn = testkit.ClickHouse(f, testkit.ClickHouseConfig{})
		opts = options(s.standIn)
	}
	var err error
	if s.conn, err = clickhousex.Open(opts, clickhousex.Config{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		for _, table := range s.tables {
			if err := s.conn.Exec(context.Background(), "DROP TABLE "+table); err != nil {
				f.Error(err)
			}
		}
		_ = s.conn.Close()
	})
	return s
}

// create says whether the server knows the column's type.
func (s *rowServer) create(f *testing.F, i int, c rowCase) bool {
	f.Helper()
	table := fmt.Sprintf("fuzz_rows_%d_%d", os.Getpid(), i) // Fuzzing goes on in several processes.
	err := s.conn.Exec(f.Context(), "CREATE TABLE "+table+" (v "+c.column+") ENGINE = Memory")
	if _, exception := errors.AsType[*clickhouse.Exception](err); exception {
		f.Logf("%s: %v", c.column, err)
		return false
	}
	if err == nil {
		s.tables[i] = table
		s.writes[i], err = c.writer(s.conn, table)
	}
	if err != nil {
		f.Fatal(err)
	}
	return true
}

// take reads the one row of a table, as text, and deletes it.
func (s *rowServer) take(t *testing.T, i int, column string) string {
	t.Helper()
	table := s.tables[i]
	var stored []string
	if s.standIn != nil {
		for _, v := range s.standIn.Values("default."+table, "v") {
			stored = append(stored, valueText(column, v))
		}
	} else {
		stored = s.selectTexts(t, table, column)
	}
	if err := s.conn.Exec(t.Context(), "TRUNCATE TABLE "+table); err != nil {
		t.Fatal(err)
	}
	if len(stored) != 1 {
		t.Fatalf("%d rows, want 1", len(stored))
	}
	return stored[0]
}

// selectTexts asks the real server. Old ones print 1970-01-01 as 0000-00-00, and days after 2105 as others, so dates are
// asked for as the numbers that they are stored as.
func (s *rowServer) selectTexts(t *testing.T, table, column string) (texts []string) {
	t.Helper()
	var rows []struct {
		V *string `ch:"v"`
	}
	text, unit := "toString(v)", int64(0)
	switch {
	case strings.Contains(column, "DateTime("):
		text, unit = "toString(toUInt32(v))", 1
	case strings.Contains(column, "Date)") || column == "Date":
		text, unit = "toString(toUInt16(v))", 24*60*60
	}
	if err := s.conn.Select(t.Context(), &rows, "SELECT "+text+" AS v FROM "+table); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		switch {
		case row.V == nil:
			texts = append(texts, textNull)
		case unit == 0:
			texts = append(texts, *row.V)
		default:
			n, err := strconv.ParseInt(*row.V, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, valueText(column, time.Unix(n*unit, 0).UTC()))
		}
	}
	return texts
}

// valueText prints a value as ClickHouse would.
func valueText(column string, v any) string {
	switch v := v.(type) {
	case nil:
		return textNull
	case float32:
		return floatText(float64(v))
	case float64:
		return floatText(v)
	case []any:
		var texts []string
		for _, element := range v {
			texts = append(texts, valueText("", element))
		}
		if strings.HasPrefix(column, "Tuple") {
			return "(" + strings.Join(texts, ",") + ")"
		}
		return "[" + strings.Join(texts, ",") + "]"
	case time.Time:
		switch {
		case strings.Contains(column, "DateTime64(3"):
			return v.Format("2006-01-02 15:04:05.000")
		case strings.Contains(column, "DateTime64(9"):
			return v.Format("2006-01-02 15:04:05.000000000")
		case strings.Contains(column, "DateTime"):
			return v.Format(time.DateTime)
		default:
			return v.Format(time.DateOnly)
		}
	default:
		return fmt.Sprint(v)
	}
}
