package clickhousex_test

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestOpenDefaults: what a call without a deadline waits for, and for how long a connection is used, when the options say
// nothing. The driver's own values are 5 minutes, 30 seconds and an hour.
func TestOpenDefaults(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		dials := 0
		opts := options(s)
		opts.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
			dials++
			return s.Dial(ctx, addr)
		}
		opts.MaxOpenConns = 1
		ch := open(t, opts, clickhousex.Config{})
		for _, tt := range []struct {
			idle  time.Duration
			dials int
		}{{0, 1}, {4 * time.Minute, 1}, {2 * time.Minute, 2}} {
			time.Sleep(tt.idle)
			if err := ch.Ping(t.Context()); err != nil || dials != tt.dials {
				t.Errorf("%d connections made, want %d; %v", dials, tt.dials, err)
			}
		}
		hang := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Hang: true})
		began := time.Now()
		if err := ch.Exec(context.Background(), "TRUNCATE TABLE orders"); err == nil || time.Since(began) != 30*time.Second {
			t.Errorf("a silent server was waited for %v: %v", time.Since(began), err)
		}
		hang()
		held, err := ch.PrepareBatch(t.Context(), "INSERT INTO orders (id)")
		if err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		if err := ch.Ping(context.Background()); clickhousex.Classify(err) != clickhousex.ClassPool || time.Since(began) != 5*time.Second {
			t.Errorf("a connection was waited for %v: %v", time.Since(began), err)
		}
		if err := held.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// strict is a connection on which nobody may do what leaves an insert neither atomic nor whole.
type strict struct {
	driver.Conn
	t *testing.T
}

func (c strict) PrepareBatch(ctx context.Context, query string, opts ...driver.PrepareBatchOption) (driver.Batch, error) {
	b, err := c.Conn.PrepareBatch(ctx, query, opts...)
	return &strictBatch{Batch: b, t: c.t}, err
}

type strictBatch struct {
	driver.Batch
	t    *testing.T
	sent bool
}

func (b *strictBatch) Flush() error {
	b.t.Error("Flush: what it sends stays, whatever comes of the batch")
	return b.Batch.Flush()
}

func (b *strictBatch) Send() error {
	if b.sent || b.Rows() == 0 && b.Columns()[0].Rows() == 0 {
		b.t.Error("a batch is sent a second time, or without rows")
	}
	b.sent = true
	return b.Batch.Send()
}

// TestBatchesAreFresh: each attempt has a batch of its own, sent once and never flushed; what has no rows is not sent.
func TestBatchesAreFresh(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		raw, err := clickhouse.Open(options(s))
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		ch, err := clickhousex.Wrap(strict{raw, t}, clickhousex.Config{})
		if err != nil {
			t.Fatal(err)
		}
		in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{})
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Cut: true, Times: 2})()
		if err := in.Write(t.Context(), batchOf(0, 4)); err != nil {
			t.Fatal(err)
		}
		bad, b := 300, batchOf(4, 2)
		for i := range b.Items {
			b.Items[i].Value.N = &bad
		}
		if n := len(refusals(t, in.Write(t.Context(), b))); n != 2 {
			t.Errorf("%d rows refused, want 2", n)
		}
		wantIDs(t, s, upTo(4)...)
	})
}

// brokenEnd is a result whose connection breaks when it is closed.
type brokenEnd struct{ driver.Conn }

func (brokenEnd) Query(context.Context, string, ...any) (driver.Rows, error) {
	return brokenRows{}, nil
}

type brokenRows struct{ driver.Rows }

func (brokenRows) Close() error { return io.ErrUnexpectedEOF }
func (brokenRows) Err() error   { return nil }

// TestBrokenEndCounts: rows whose end never came are a failure, even for a reader who has seen enough.
func TestBrokenEndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := tightBreaker(t, 5)
		ch, err := clickhousex.Wrap(brokenEnd{}, clickhousex.Config{Breaker: b})
		if err != nil {
			t.Fatal(err)
		}
		rows, err := ch.Query(t.Context(), "SELECT 1")
		if err != nil {
			t.Fatal(err)
		}
		if err := rows.Close(); err == nil || b.Stats().Totals.Failures != 1 {
			t.Errorf("got %v, %d failures", err, b.Stats().Totals.Failures)
		}
	})
}
