package clickhousex_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/testkit"
)

const ordersDDL = "CREATE TABLE orders (id UInt64, n Nullable(Int8), name String) ENGINE = MergeTree ORDER BY id"

type order struct {
	ID   uint64 `ch:"id"`
	N    *int   `ch:"n"`
	Name string `ch:"name"`
}

// bubble runs a test with a server inside of a synctest bubble.
func bubble(t *testing.T, cfg testkit.ClickHouseConfig, test func(t *testing.T, s *testkit.ClickHouseServer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.Network = new(testkit.Network)
		if cfg.Tables == nil {
			cfg.Tables = []string{ordersDDL}
		}
		test(t, testkit.ClickHouse(t, cfg))
	})
}

func options(s *testkit.ClickHouseServer) *clickhouse.Options {
	return &clickhouse.Options{Addr: []string{s.Addr()}, DialContext: s.Dial}
}

func open(t *testing.T, opts *clickhouse.Options, cfg clickhousex.Config) *clickhousex.Conn {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	ch, err := clickhousex.Open(opts, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ch.Close(); err != nil {
			t.Error(err)
		}
	})
	return ch
}

func newInserter[T any](t *testing.T, ch *clickhousex.Conn, table string, cfg clickhousex.InserterConfig) *clickhousex.Inserter[T] {
	t.Helper()
	in, err := clickhousex.NewInserter[T](ch, table, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// tightBreaker opens with the n-th failure in a row, for a minute.
func tightBreaker(t *testing.T, n int) *breaker.Breaker {
	t.Helper()
	cfg := clickhousex.BreakerConfig("tight")
	cfg.MaxFailures, cfg.Timeout, cfg.SuccessThreshold = n, time.Minute, 1
	b, err := breaker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// batchOf is n orders at the offsets from first on.
func batchOf(first, n int) holdfast.Batch[order] {
	b := holdfast.Batch[order]{Spans: []holdfast.Span{{Topic: "orders", Partition: 0, First: int64(first), Next: int64(first + n)}}}
	for i := first; i < first+n; i++ {
		b.Items = append(b.Items, holdfast.Item[order]{
			Source: &holdfast.Message{Topic: "orders", Offset: int64(i)},
			Value:  order{ID: uint64(i), Name: fmt.Sprint("order ", i)},
		})
	}
	return b
}

// wantIDs fails unless the table holds exactly these ids in this order.
func wantIDs(t *testing.T, s *testkit.ClickHouseServer, ids ...uint64) {
	t.Helper()
	got := s.Values("orders", "id")
	want := make([]any, len(ids))
	for i, id := range ids {
		want[i] = id
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("stored ids are %v, want %v", got, want)
	}
}

func upTo(n int) []uint64 {
	ids := make([]uint64, n)
	for i := range ids {
		ids[i] = uint64(i)
	}
	return ids
}

// refusals gives the errors of a *holdfast.BatchError, which err must be.
func refusals(t *testing.T, err error) map[int]error {
	t.Helper()
	var batch *holdfast.BatchError
	if !errors.As(err, &batch) {
		t.Fatalf("got %v, want a BatchError", err)
	}
	for i, fault := range batch.Items {
		if !holdfast.IsPermanent(fault) {
			t.Errorf("item %d: %v is not permanent", i, fault)
		}
	}
	return batch.Items
}

// watchedRows is a connection on which scanned is called with every row that is read, and may change it.
type watchedRows struct {
	driver.Conn
	scanned func(query string, dest []any)
}

func (c watchedRows) Query(ctx context.Context, query string, args ...any) (driver.Rows, error) {
	rows, err := c.Conn.Query(ctx, query, args...)
	return scannedRows{rows, func(dest []any) { c.scanned(query, dest) }}, err
}

type scannedRows struct {
	driver.Rows
	scanned func(dest []any)
}

func (r scannedRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	r.scanned(dest)
	return err
}
