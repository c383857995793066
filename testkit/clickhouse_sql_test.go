package testkit_test

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast/testkit"
)

// shop is a server with a table of four rows.
func shop(t *testing.T) (*testkit.ClickHouseServer, driver.Conn) {
	t.Helper()
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Tables: []string{`
		CREATE TABLE IF NOT EXISTS shop.orders -- what was bought
		(
			id UInt64 CODEC(Delta, ZSTD(1)),
			` + "`customer name`" + ` LowCardinality(String) COMMENT 'who, (where)',
			price Decimal(10, 2) DEFAULT 9.99,
			note Nullable(String),
			at DateTime64(3, 'UTC') DEFAULT now64(3),
			"twice" UInt64 MATERIALIZED id * 2,
			INDEX by_price price TYPE minmax GRANULARITY 4,
			CONSTRAINT positive CHECK price > 0
		)
		ENGINE = ReplacingMergeTree(at) PARTITION BY toYYYYMM(at) PRIMARY KEY id ORDER BY (id, ` + "`customer name`" + `)
		TTL toDateTime(at) + INTERVAL 1 DAY SETTINGS index_granularity = 8192, storage_policy = 'hot'`}})
	o := options(s)
	o.Auth.Database = "shop"
	conn := open(t, o)
	err := conn.Exec(t.Context(), `INSERT INTO orders (id, "customer name", price, note, at) VALUES
		(1, 'ann', 10.5, NULL, '2024-05-01 10:00:00.250'), (2, 'bob', 3, 'it''s \'late\'', toDateTime64('2024-05-02 10:00:00', 3, 'UTC')),
		(3, 'ann', 7.25, 'gift', 1714730400), (3, 'ann', 7.25, 'gift wrapped', '2024-05-04 10:00:00');`)
	if err != nil {
		t.Fatal(err)
	}
	return s, conn
}

// resultOf gives a query's rows, one a line, and its columns in the first.
func resultOf(ctx context.Context, conn driver.Conn, query string, args ...any) (string, error) {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return "", err
	}
	defer func() { _ = rows.Close() }()
	lines := []string{strings.Join(rows.Columns(), "|")}
	for rows.Next() {
		values := make([]any, len(rows.Columns()))
		for i, c := range rows.ColumnTypes() {
			values[i] = reflect.New(c.ScanType()).Interface()
		}
		if err := rows.Scan(values...); err != nil {
			return "", err
		}
		cells := make([]string, len(values))
		for i, v := range values {
			cells[i] = cell(reflect.ValueOf(v))
		}
		lines = append(lines, strings.Join(cells, "|"))
	}
	return strings.Join(lines, "\n"), rows.Err()
}

func cell(v reflect.Value) string {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return "NULL"
		}
		v = v.Elem()
	}
	if at, ok := reflect.TypeAssert[time.Time](v); ok {
		return at.UTC().Format(time.RFC3339)
	}
	return fmt.Sprint(v.Interface())
}

func TestClickHouseSelects(t *testing.T) {
	_, conn := shop(t)
	for _, test := range []struct {
		query string
		args  []any
		want  string
	}{
		{"SELECT 1", nil, "1\n1"},
		{"SELECT 1 AS one, -1, 300, 1.5, 'x', true", nil, "one|-1|300|1.5|'x'|true\n1|-1|300|1.5|x|true"},
		{"SELECT version(), currentDatabase(), timezone()", nil, "version()|currentDatabase()|timezone()\n25.8.1|shop|UTC"},
		{"SELECT count() FROM orders", nil, "count()\n4"},
		{"select count(*) as n from `shop`.\"orders\" FORMAT Native", nil, "n\n4"},
		{"SELECT count(note), uniqExact(id), uniqExact(id, note), count(DISTINCT note) FROM orders", nil, "count(note)|uniqExact(id)|uniqExact(id, note)|count(DISTINCT note)\n3|3|3|3"},
		{"SELECT min(id), max(id), sum(id), max(note), any(id) FROM orders WHERE id > 1", nil, "min(id)|max(id)|sum(id)|max(note)|any(id)\n2|3|8|it's 'late'|2"},
		{"SELECT min(id), sum(id), count() FROM orders WHERE id = 99", nil, "min(id)|sum(id)|count()\n0|0|0"},
		{"SELECT id, note FROM orders", nil, "id|note\n1|NULL\n2|it's 'late'\n3|gift\n3|gift wrapped"},
		{"SELECT * FROM orders LIMIT 1", nil, "id|customer name|price|note|at\n1|ann|10.5|NULL|2024-05-01T10:00:00Z"},
		{"SELECT id FROM orders ORDER BY price DESC, id LIMIT 2", nil, "id\n1\n3"},
		{"SELECT id FROM orders ORDER BY id ASC LIMIT 2 OFFSET 1", nil, "id\n2\n3"},
		{"SELECT id FROM orders LIMIT 1, 1", nil, "id\n2"},
		{"SELECT id FROM orders LIMIT 5 OFFSET 9", nil, "id"},
		{"SELECT DISTINCT `customer name` AS who FROM orders", nil, "who\nann\nbob"},
		{"SELECT id, note FROM orders FINAL WHERE id = 3", nil, "id|note\n3|gift wrapped"},
		{"SELECT id FROM orders WHERE id = ? AND note = ?", []any{3, "gift"}, "id\n3"},
		{"SELECT id FROM orders WHERE note = ?", []any{"it's 'late'"}, "id\n2"},
		{"SELECT id FROM orders WHERE id IN (?, ?)", []any{1, 2}, "id\n1\n2"},
		{"SELECT id FROM orders WHERE id IN ?", []any{[]uint64{1, 2}}, "id\n1\n2"},
		{"SELECT id FROM orders WHERE id NOT IN (1, 2) SETTINGS max_threads = 1, log_comment = 'x'", nil, "id\n3\n3"},
		{"SELECT id FROM orders WHERE id BETWEEN 2 AND 3 AND note != 'gift'", nil, "id\n2\n3"},
		{"SELECT id FROM orders WHERE id NOT BETWEEN 2 AND 3", nil, "id\n1"},
		{"SELECT id FROM orders WHERE (id, note) IN ((2, 'it''s \\'late\\''), (3, 'gift'))", nil, "id\n2\n3"},
		{"SELECT id FROM orders WHERE (id, note) = (3, 'gift')", nil, "id\n3"},
		{"SELECT id FROM orders WHERE note IS NULL OR (id >= 3 AND NOT note = 'gift')", nil, "id\n1\n3"},
		{"SELECT id FROM orders WHERE note IS NOT NULL AND id < 3 AND id <> 1", nil, "id\n2"},
		{"SELECT id FROM orders WHERE note = NULL", nil, "id"},
		{"SELECT id FROM orders WHERE at > ?", []any{time.Date(2024, 5, 3, 0, 0, 0, 0, time.UTC)}, "id\n3\n3"},
		{"SELECT id FROM orders WHERE at >= toDateTime('2024-05-04 12:00:00', 'Europe/Berlin')", nil, "id\n3"},
		{"SELECT id FROM orders WHERE price > 7.5 AND `customer name` = 'ann'", nil, "id\n1"},
		{"SELECT id FROM orders WHERE price < 3.01", nil, "id\n2"},
		{"SELECT id FROM orders WHERE 1", nil, "id\n1\n2\n3\n3"},
		{"SELECT id FROM orders WHERE 0 /* none */", nil, "id"},
		{"SELECT id FROM orders WHERE id = {id:UInt64} AND note = {note:String}", []any{clickhouse.Named("id", "3"), clickhouse.Named("note", "gift")}, "id\n3"},
		{
			"SELECT name, type, default_kind FROM system.columns WHERE database = ? AND table = ? ORDER BY position",
			[]any{"shop", "orders"},
			"name|type|default_kind\nid|UInt64|\ncustomer name|LowCardinality(String)|\nprice|Decimal(10, 2)|DEFAULT\nnote|Nullable(String)|\nat|DateTime64(3, 'UTC')|DEFAULT\ntwice|UInt64|MATERIALIZED",
		},
		{
			"SELECT engine, sorting_key, total_rows FROM system.tables WHERE database = currentDatabase() AND name = 'orders'", nil,
			"engine|sorting_key|total_rows\nReplacingMergeTree|id, customer name|4",
		},
		{"SELECT name FROM system.databases", nil, "name\ndefault\nshop\nsystem"},
		{"SELECT value FROM system.merge_tree_settings WHERE name = 'non_replicated_deduplication_window'", nil, "value\n1000"},
		{"SELECT dummy FROM system.one", nil, "dummy\n0"},
		{"EXISTS TABLE orders", nil, "result\n1"},
		{"EXISTS TABLE shop.nothing", nil, "result\n0"},
		{"DESCRIBE TABLE orders", nil, "name|type|default_type|default_expression|comment|codec_expression|ttl_expression\n" +
			"id|UInt64|||||\ncustomer name|LowCardinality(String)|||||\nprice|Decimal(10, 2)|DEFAULT|9.99|||\n" +
			"note|Nullable(String)|||||\nat|DateTime64(3, 'UTC')|DEFAULT|now64(3)|||\ntwice|UInt64|MATERIALIZED|id * 2|||"},
	} {
		got, err := resultOf(t.Context(), conn, test.query, test.args...)
		if err != nil {
			t.Errorf("%s: %v", test.query, err)
		} else if got != test.want {
			t.Errorf("%s:\n%s\nwant\n%s", test.query, got, test.want)
		}
	}
}

func TestClickHouseShowCreateTableCanBeRead(t *testing.T) {
	s, conn := shop(t)
	text, err := resultOf(t.Context(), conn, "SHOW CREATE TABLE orders")
	if err != nil {
		t.Fatal(err)
	}
	ddl := strings.TrimPrefix(text, "statement\n")
	wantNone(t, s.DropTable("shop.orders"))
	wantNone(t, s.CreateTable(ddl))
	if again, err := resultOf(t.Context(), conn, "SHOW CREATE TABLE orders"); err != nil || again != text {
		t.Errorf("the second time it is %s, %v, was %s", again, err, text)
	}
}

func TestClickHouseRefusesStatements(t *testing.T) {
	_, conn := shop(t)
	for _, test := range []struct {
		query string
		code  int32
		text  string
	}{
		{"SELECT a FROM nothing", 60, "shop.nothing does not exist"},
		{"SELECT a FROM system.nothing", 60, "system.nothing"},
		{"SELECT nothing FROM orders", 47, "'nothing'"},
		{"SELECT id FROM orders WHERE nothing = 1", 47, "'nothing'"},
		{"SELECT id FROM orders ORDER BY nothing", 47, "'nothing'"},
		{"SELECT count(nothing) FROM orders", 47, "'nothing'"},
		{"SELECT nothing(1)", 62, "stand-in"},
		{"SELECT nothing()", 46, "nothing"},
		{"SELECT id, count() FROM orders", 215, "id"},
		{"SELECT id FROM orders GROUP BY id", 62, "GROUP BY id"},
		{"SELECT id FROM orders JOIN x USING id", 62, "JOIN"},
		{"SELECT id + 1 FROM orders", 62, "+ 1"},
		{"SELECT id FROM orders WHERE id = 'x'", 53, `"x" is no literal of type UInt64`},
		{"SELECT id FROM orders WHERE (((", 62, "end of query"},
		{"SELECT id FROM orders WHERE " + strings.Repeat("(", 1000) + "id = 1" + strings.Repeat(")", 1000), 306, "Too deep"},
		{"SELECT id FROM orders WHERE " + strings.Repeat("NOT ", 1000) + "id = 1", 306, "Too deep"},
		{"SELECT " + strings.Repeat("[", 1000), 306, "Too deep"},
		{"SELECT 'x", 62, "quote"},
		{"SELECT /* x", 62, "comment"},
		{"SELECT {x:String}", 456, "not set"},
		{"GRANT ALL ON x TO y", 62, "stand-in for ClickHouse"},
		{"", 62, "end of query"},
		{"CREATE TABLE orders (a UInt8)", 57, "already exists"},
		{"CREATE TABLE other (a Nonsense)", 50, "Nonsense"},
		{"CREATE TABLE other (a UInt8, a UInt8)", 15, "already exists"},
		{"CREATE TABLE other (a UInt8 DEFAULT 'x')", 53, "UInt8"},
		{"CREATE TABLE other (a UInt8 DEFAULT , b UInt8)", 62, ", b"},
		{"CREATE TABLE other ()", 36, "column"},
		{"CREATE TABLE other", 62, "end of query"},
		{"DROP TABLE nothing", 60, "nothing"},
		{"TRUNCATE TABLE nothing", 60, "nothing"},
		{"DESCRIBE nothing", 60, "nothing"},
		{"SHOW CREATE TABLE nothing", 60, "nothing"},
		{"INSERT INTO nothing VALUES (1)", 60, "nothing"},
		{"INSERT INTO orders (id, nothing) VALUES (1, 2)", 16, "nothing"},
		{"INSERT INTO orders (id, twice) VALUES (1, 2)", 44, "MATERIALIZED"},
		{"INSERT INTO orders (id, id) VALUES (1, 2)", 15, "more than once"},
		{"INSERT INTO orders (id, at) VALUES (1)", 7, "1 values for 2"},
		{"INSERT INTO orders (id, at) VALUES ('x', 1)", 53, "UInt64"},
		{"INSERT INTO orders (id) VALUES (1)", 62, "cannot compute DEFAULT now64(3) of column at"},
		{"INSERT INTO orders (id)", 62, "end of query"},
		{"INSERT INTO orders SELECT id FROM orders", 62, "id FROM"},
	} {
		wantCode(t, conn.Exec(t.Context(), test.query), test.code, test.text)
	}
	// What was refused has left nothing behind.
	if got, err := resultOf(t.Context(), conn, "SELECT count() FROM orders"); err != nil || got != "count()\n4" {
		t.Errorf("count() is %q, %v, want 4", got, err)
	}
}

func TestClickHouseTablesComeAndGo(t *testing.T) {
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{})
	conn := open(t, options(s))
	exec := func(query string, args ...any) {
		t.Helper()
		if err := conn.Exec(t.Context(), query, args...); err != nil {
			t.Errorf("%s: %v", query, err)
		}
	}
	exec("CREATE DATABASE IF NOT EXISTS d")
	exec("CREATE TABLE d.t ON CLUSTER 'c' (a UInt8, b String DEFAULT 'none', c UInt8 NULL) ENGINE = Memory")
	exec("CREATE TABLE IF NOT EXISTS d.t (z UInt8)")
	exec("INSERT INTO d.t (a) SELECT ?", 1)
	exec("INSERT INTO d.t VALUES (2, 'two', 3)")
	if got := s.Values("d.t", "b"); !equalValues(got, []any{"none", "two"}) {
		t.Errorf("column b holds %v", got)
	}
	if got := s.Values("d.t", "c"); !equalValues(got, []any{nil, uint8(3)}) {
		t.Errorf("column c holds %v", got)
	}
	exec("TRUNCATE TABLE d.t")
	if n := s.Count("d.t"); n != 0 {
		t.Errorf("%d rows after TRUNCATE", n)
	}
	exec("CREATE OR REPLACE TABLE d.t (z UInt8) ENGINE Null")
	exec("INSERT INTO d.t VALUES (1)")
	if n := s.Count("d.t"); n != 0 {
		t.Errorf("%d rows in a Null table", n)
	}
	if log := s.Inserts(); len(log) != 3 || !log[2].Stored || log[2].Rows != 1 {
		t.Errorf("the log is %+v", log)
	}
	exec("CREATE TABLE d.defaults (a UInt8, b UInt16 DEFAULT 7, c DateTime DEFAULT now(), d UInt8 ALIAS a + 1, e Array(UInt8) DEFAULT [1, 2])")
	exec("INSERT INTO d.defaults (a) VALUES (1)")
	if got := s.Values("d.defaults", "b"); !equalValues(got, []any{uint16(7)}) {
		t.Errorf("the default of 7 is %v", got)
	}
	if got := s.Values("d.defaults", "e"); !equalValues(got, []any{[]any{uint8(1), uint8(2)}}) {
		t.Errorf("the default of [1, 2] is %v", got)
	}
	if at, ok := s.Values("d.defaults", "c")[0].(time.Time); !ok || time.Since(at) > time.Hour {
		t.Errorf("the default of now() is %v", at)
	}
	exec("DROP TABLE d.t SYNC")
	exec("DROP TABLE IF EXISTS d.t")
	exec("CREATE TABLE d.u (z UInt8)")
	exec("DROP DATABASE IF EXISTS d")
	if s.Values("d.u", "z") != nil || s.Count("d.u") != 0 {
		t.Error("the table has outlived its database")
	}
}
