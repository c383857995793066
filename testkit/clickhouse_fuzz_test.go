package testkit_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"sync"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast/testkit"
)

// recorder keeps what a client writes.
type recorder struct {
	net.Conn
	mu      *sync.Mutex
	written *[]byte
}

func (r recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	*r.written = append(*r.written, p...)
	r.mu.Unlock()
	return r.Conn.Write(p)
}

// clientBytes is what the driver writes in a short life: handshake, ping, an insert and a query.
func clientBytes(tb testing.TB, ddl string, compression *clickhouse.Compression, row ...any) []byte {
	tb.Helper()
	s := testkit.ClickHouse(tb, testkit.ClickHouseConfig{Tables: []string{ddl}})
	var mu sync.Mutex
	var written []byte
	o := options(s)
	o.Compression = compression
	o.MaxOpenConns = 1
	o.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := s.Dial(ctx, addr)
		return recorder{conn, &mu, &written}, err
	}
	conn, err := clickhouse.Open(&o)
	if err != nil {
		tb.Fatal(err)
	}
	ctx := clickhouse.Context(context.Background(), clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": "a"}))
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO t")
	if err != nil {
		tb.Fatal(err)
	}
	if err := batch.Append(row...); err != nil {
		tb.Fatal(err)
	}
	if err := batch.Send(); err != nil {
		tb.Fatal(err)
	}
	if err := conn.QueryRow(ctx, "SELECT count() FROM t WHERE 1").Scan(new(uint64)); err != nil {
		tb.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		tb.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return written
}

const fuzzDDL = `CREATE TABLE t (a UInt64, b Nullable(String), c LowCardinality(String), d Array(Array(UInt8)), e Map(String, Int32),
	f Tuple(x Float64, y FixedString(3)), g Decimal(10, 2), h DateTime64(3, 'UTC'), i Enum8('x' = 1), j UUID) ENGINE = ReplicatedMergeTree ORDER BY a`

// speak sends bytes to a server as its client, hangs up, and returns when the server has done with them.
func speak(t *testing.T, data []byte) {
	t.Helper()
	network := new(testkit.Network)
	s, err := testkit.StartClickHouse(testkit.ClickHouseConfig{Network: network, Tables: []string{fuzzDDL}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := s.Dial(context.Background(), s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	var answers sync.WaitGroup
	answers.Go(func() {
		for buf := make([]byte, 4096); ; {
			if _, err := conn.Read(buf); err != nil {
				return
			}
		}
	})
	_, _ = conn.Write(data)
	_ = conn.Close()
	answers.Wait()
	s.Close()
}

// FuzzClickHouseClient sends nonsense that begins as a real client's bytes. The server must close the connection, and
// neither panic nor stay.
func FuzzClickHouseClient(f *testing.F) {
	row := []any{
		uint64(1), "b", "c",
		[][]uint8{{1}, {2, 3}},
		map[string]int32{"k": -1},
		map[string]any{"x": 1.5, "y": "abc"},
		"1.50",
		int64(5), "x", "01234567-89ab-cdef-0123-456789abcdef",
	}
	f.Add(clientBytes(f, fuzzDDL, nil, row...))
	f.Add(clientBytes(f, fuzzDDL, &clickhouse.Compression{Method: clickhouse.CompressionLZ4}, row...))
	f.Add([]byte{})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(speak)
}

// FuzzClickHouseStatement sends any text as a query.
func FuzzClickHouseStatement(f *testing.F) {
	s := testkit.ClickHouse(f, testkit.ClickHouseConfig{Tables: []string{fuzzDDL}})
	o := options(s)
	conn, err := clickhouse.Open(&o)
	if err != nil {
		f.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.Exec(context.Background(), "INSERT INTO t (a, b, d, f) VALUES (1, 'b', [[1], []], (1.5, 'abc')), (2, NULL, [], (2, ''))"); err != nil {
		f.Fatal(err)
	}
	for _, query := range []string{
		"SELECT count(), min(a), uniqExact(a, b) FROM t WHERE a IN (1, 2) AND (b IS NULL OR b = 'b') OR (a, b) IN ((1, 'b'))",
		"SELECT * FROM t FINAL WHERE a BETWEEN 1 AND 2 ORDER BY a DESC LIMIT 1 OFFSET 1 SETTINGS x = 1",
		"SELECT DISTINCT d, f FROM t ORDER BY d, e, f, g, h, i, j",
		"SELECT min(d), max(e), any(f), sum(a) FROM t",
		"CREATE TABLE IF NOT EXISTS t (a UInt8 DEFAULT 1, b Enum8('x' = 1, 'y')) ENGINE = MergeTree ORDER BY (a, b) SETTINGS x = 1",
		"INSERT INTO t (a, h) SETTINGS x = 1 VALUES (1, toDateTime('2024-01-01 00:00:00', 'UTC'))",
		"SELECT -1, 'x', 1.5, true, cast(1, 'UInt8'), toDate('2024-01-01') -- end",
		"CREATE TABLE IF NOT EXISTS u(b Int8 DEFAULT ,  U", // It has crashed the parser once.
		"DESCRIBE t", "SHOW CREATE TABLE t", "EXISTS t", "SELECT {x:String}",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		rows, err := conn.Query(t.Context(), query)
		if err == nil {
			for rows.Next() {
			}
			_ = rows.Close()
		}
	})
}

// Every beginning of a real client's bytes, and every one with a byte changed, ends its connection quietly.
func TestClickHouseBrokenClients(t *testing.T) {
	t.Parallel()
	data := clientBytes(t, fuzzDDL, nil,
		uint64(1), "b", "c", [][]uint8{{1}, {2, 3}}, map[string]int32{"k": -1}, map[string]any{"x": 1.5, "y": "abc"}, "1.50",
		int64(5), "x", "01234567-89ab-cdef-0123-456789abcdef")
	for i := range data {
		speak(t, data[:i])
		changed := append([]byte(nil), data...)
		changed[i] ^= byte(1 << (i % 8))
		speak(t, changed)
	}
}

// A length costs nothing before its bytes have come: a server that believed these would take the test process with it.
func TestClickHouseDoesNotBelieveLengths(t *testing.T) {
	t.Parallel()
	huge := binary.AppendUvarint(nil, 1<<46)
	for _, believed := range [][]byte{
		{0}, // Hello, and the client's name.
		bytes.ReplaceAll(clientBytes(t, "CREATE TABLE t (a String)", nil, "marker"), []byte("\x06marker"), append(huge, "marker"...)),
		bytes.ReplaceAll(clientBytes(t, "CREATE TABLE t (a Array(UInt64))", nil, []uint64{1, 2}), // The array's end.
			[]byte("\x02\x00\x00\x00\x00\x00\x00\x00"), []byte("\x00\xe1\xf5\x05\x00\x00\x00\x00")),
	} {
		speak(t, append(believed, huge...))
	}
}
