package testkit_test

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast/testkit"
)

const eventsDDL = "CREATE TABLE events (id UInt64, name String) ENGINE = MergeTree ORDER BY id"

// overAll runs a test on real sockets and in a bubble on a virtual network, with and without compression.
func overAll(t *testing.T, cfg testkit.ClickHouseConfig, test func(t *testing.T, s *testkit.ClickHouseServer, o clickhouse.Options)) {
	t.Helper()
	for _, compression := range []struct {
		name   string
		method *clickhouse.Compression
	}{
		{"plain", nil},
		{"lz4", &clickhouse.Compression{Method: clickhouse.CompressionLZ4}},
		{"zstd", &clickhouse.Compression{Method: clickhouse.CompressionZSTD}},
	} {
		run := func(t *testing.T, cfg testkit.ClickHouseConfig) {
			t.Helper()
			s := testkit.ClickHouse(t, cfg)
			o := options(s)
			o.Compression = compression.method
			test(t, s, o)
		}
		t.Run(compression.name+"/sockets", func(t *testing.T) { run(t, cfg) })
		t.Run(compression.name+"/bubble", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := cfg
				cfg.Network = new(testkit.Network)
				run(t, cfg)
			})
		})
	}
}

func options(s *testkit.ClickHouseServer) clickhouse.Options {
	return clickhouse.Options{
		Addr:        []string{s.Addr()},
		DialContext: s.Dial,
		DialTimeout: time.Minute, // Nobody waits for them but in bubbles.
		ReadTimeout: 5 * time.Minute,
		Logger:      slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func open(t *testing.T, o clickhouse.Options) driver.Conn {
	t.Helper()
	conn, err := clickhouse.Open(&o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// send inserts rows from first on in one batch.
func send(ctx context.Context, conn driver.Conn, first, rows int) error {
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO events (id, name)")
	if err != nil {
		return err
	}
	defer func() { _ = batch.Close() }()
	for i := range rows {
		if err := batch.Append(uint64(first+i), "event"); err != nil {
			return err
		}
	}
	return batch.Send()
}

func count(t *testing.T, conn driver.Conn, query string, args ...any) uint64 {
	t.Helper()
	var n uint64
	if err := conn.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func TestClickHouseStoresBatches(t *testing.T) {
	overAll(t, testkit.ClickHouseConfig{Tables: []string{eventsDDL}}, func(t *testing.T, s *testkit.ClickHouseServer, o clickhouse.Options) {
		conn := open(t, o)
		if err := conn.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		for first := range 3 {
			if err := send(t.Context(), conn, first*1000, 1000); err != nil {
				t.Fatal(err)
			}
		}
		if n := count(t, conn, "SELECT count() FROM events"); n != 3000 {
			t.Errorf("count() = %d, want 3000", n)
		}
		if n := count(t, conn, "SELECT uniqExact(id) FROM events WHERE id BETWEEN ? AND ?", 500, 1499); n != 1000 {
			t.Errorf("uniqExact over 500 to 1499 = %d, want 1000", n)
		}
		if n := s.Count("events"); n != 3000 {
			t.Errorf("Count = %d, want 3000", n)
		}
	})
}
