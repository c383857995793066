package clickhousex_test

import (
	"context"
	"testing"

	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestReadsAreRetried: whatever happened to the first attempts, but for a fault of the query.
func TestReadsAreRetried(t *testing.T) {
	type count struct {
		N uint64 `ch:"n"`
	}
	const query = "SELECT count() AS n FROM orders"
	reads := map[string]func(t *testing.T, ch *clickhousex.Conn) (uint64, error){
		"Query": func(t *testing.T, ch *clickhousex.Conn) (n uint64, err error) {
			rows, err := ch.QueryWithRetries(t.Context(), query)
			if err != nil {
				return 0, err
			}
			for rows.Next() {
				err = rows.Scan(&n)
			}
			return n, err
		},
		"QueryRow": func(t *testing.T, ch *clickhousex.Conn) (n uint64, err error) {
			return n, ch.QueryRowWithRetries(t.Context(), query).Scan(&n)
		},
		"Select": func(t *testing.T, ch *clickhousex.Conn) (uint64, error) {
			var counts []count
			if err := ch.SelectWithRetries(t.Context(), &counts, query); err != nil || len(counts) != 1 {
				return 0, err
			}
			return counts[0].N, nil
		},
	}
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
				ch := open(t, options(s), clickhousex.Config{})
				if err := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{}).Write(t.Context(), batchOf(0, 5)); err != nil {
					t.Fatal(err)
				}
				defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Cut: true, Times: 3})()
				if n, err := read(t, ch); err != nil || n != 5 {
					t.Errorf("read %d, %v", n, err)
				}
				before := ch.Breaker().Stats().Totals.Calls
				defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Code: 60, Times: -1})()
				if _, err := read(t, ch); err == nil {
					t.Error("no error")
				}
				if made := ch.Breaker().Stats().Totals.Calls - before; made != 1 {
					t.Errorf("%d attempts at what no retry helps, want 1", made)
				}
			})
		})
	}
}

// TestStatementsAreRetriedWhenSafe: not after an answer was lost, unless the caller said that they may run twice.
func TestStatementsAreRetriedWhenSafe(t *testing.T) {
	const (
		refused = 202
		failed  = 60
	)
	exec := (*clickhousex.Conn).ExecWithRetries
	idempotent := (*clickhousex.Conn).ExecIdempotent
	for _, tt := range []struct {
		fault testkit.ClickHouseFault
		exec  func(*clickhousex.Conn, context.Context, string, ...any) error
		calls uint64
	}{
		{testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Code: refused}, exec, 2},
		{testkit.ClickHouseFault{On: testkit.ClickHouseQuery, LoseAck: true}, exec, 1},
		{testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Code: refused}, idempotent, 2},
		{testkit.ClickHouseFault{On: testkit.ClickHouseQuery, LoseAck: true}, idempotent, 2},
		{testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Code: failed}, idempotent, 1},
	} {
		bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
			ch := open(t, options(s), clickhousex.Config{})
			defer s.Inject(tt.fault)()
			err := tt.exec(ch, t.Context(), "TRUNCATE TABLE orders")
			if calls := ch.Breaker().Stats().Totals.Calls; calls != tt.calls || (err == nil) != (tt.calls == 2) {
				t.Errorf("%+v: %d calls, %v, want %d", tt.fault, calls, err, tt.calls)
			}
		})
	}
}
