package clickhousex_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

// callCounter is a driver's connection that fails every call to the server, and counts them.
type callCounter struct {
	driver.Conn
	calls int
}

func (c *callCounter) fail() error { c.calls++; return io.EOF }

func (c *callCounter) ServerVersion() (*driver.ServerVersion, error)     { return nil, c.fail() }
func (c *callCounter) Select(context.Context, any, string, ...any) error { return c.fail() }
func (c *callCounter) Query(context.Context, string, ...any) (driver.Rows, error) {
	return nil, c.fail()
}

func (c *callCounter) QueryRow(context.Context, string, ...any) driver.Row {
	return failingRow{c.fail()}
}

func (c *callCounter) PrepareBatch(context.Context, string, ...driver.PrepareBatchOption) (driver.Batch, error) {
	return nil, c.fail()
}
func (c *callCounter) Exec(context.Context, string, ...any) error { return c.fail() }
func (c *callCounter) QueryFormat(context.Context, string, string, ...any) (io.ReadCloser, error) {
	return nil, c.fail()
}

func (c *callCounter) InsertFormat(context.Context, string, string, io.Reader) error { return c.fail() }

func (c *callCounter) AsyncInsert(context.Context, string, bool, ...any) error { return c.fail() }

func (c *callCounter) Ping(context.Context) error { return c.fail() }
func (c *callCounter) Contributors() []string     { return nil }
func (c *callCounter) Stats() driver.Stats        { return driver.Stats{} }
func (c *callCounter) Close() error               { return nil }

type failingRow struct{ err error }

func (r failingRow) Err() error           { return r.err }
func (r failingRow) Scan(...any) error    { return r.err }
func (r failingRow) ScanStruct(any) error { return r.err }

// TestEveryMethodAsksTheBreaker calls whatever methods the driver's connection has, so that one added by a later driver
// fails here until someone has said what it means to the circuit.
func TestEveryMethodAsksTheBreaker(t *testing.T) {
	local := map[string]bool{"Contributors": true, "Stats": true, "Close": true} // These do not call the server.
	conn := reflect.TypeFor[driver.Conn]()
	for method := range conn.Methods() {
		inner := &callCounter{}
		b := tightBreaker(t, 1)
		ch, err := clickhousex.Wrap(inner, clickhousex.Config{Breaker: b})
		if err != nil {
			t.Fatal(err)
		}
		call := func() {
			args := []reflect.Value{reflect.ValueOf(ch)}
			for k := range method.Type.NumIn() {
				in := method.Type.In(k)
				if method.Type.IsVariadic() && k == method.Type.NumIn()-1 {
					continue
				}
				arg := reflect.Zero(in)
				if in == reflect.TypeFor[context.Context]() {
					arg = reflect.ValueOf(t.Context())
				}
				args = append(args, arg)
			}
			reflect.ValueOf(ch).MethodByName(method.Name).Call(args[1:])
		}
		call()
		if local[method.Name] {
			if got := b.Stats().Totals.Calls; got != 0 {
				t.Errorf("%s asked the breaker", method.Name)
			}
			continue
		}
		if got := b.Stats().Totals; inner.calls != 1 || got.Failures != 1 {
			t.Errorf("%s: %d calls, %d failures counted, want 1 and 1", method.Name, inner.calls, got.Failures)
		}
		call()
		if inner.calls != 1 {
			t.Errorf("%s: called the driver through an open circuit", method.Name)
		}
	}
	for _, wrapped := range []reflect.Type{reflect.TypeFor[clickhousex.Conn]()} {
		for field := range wrapped.Fields() {
			if field.Anonymous {
				t.Errorf("%s embeds %s: a method added there would bypass the breaker", wrapped, field.Name)
			}
		}
	}
}

func TestQueryOutcomes(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		b := tightBreaker(t, 1)
		ch := open(t, options(s), clickhousex.Config{Breaker: b})
		in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{})
		if err := in.Write(t.Context(), batchOf(0, 3)); err != nil {
			t.Fatal(err)
		}
		before := b.Stats().Totals

		rows, err := ch.Query(t.Context(), "SELECT id FROM orders")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for rows.Next() {
			if running := b.Stats().RunningCalls; running != 1 {
				t.Fatalf("%d running calls while reading, want 1", running)
			}
			n++
		}
		if running := b.Stats().RunningCalls; running != 0 {
			t.Errorf("%d running calls after the last row, want none", running)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil || n != 3 {
			t.Fatal(n, err)
		}
		var count uint64
		if err := ch.QueryRow(t.Context(), "SELECT count() FROM orders").Scan(&count); err != nil || count != 3 {
			t.Fatal(count, err)
		}
		if got := b.Stats().Totals; got.Successes != before.Successes+2 || got.Failures != 0 {
			t.Errorf("Totals = %+v, want two more successes than %+v", got, before)
		}

		// No rows, and a value that does not fit, are not the server's fault.
		var wrong time.Time
		_ = ch.QueryRow(t.Context(), "SELECT id FROM orders WHERE id = 77").Scan(&count)
		_ = ch.QueryRow(t.Context(), "SELECT id FROM orders").Scan(&wrong)
		_ = ch.Exec(t.Context(), "SELECT id FROM nowhere")
		if got := b.Stats(); got.Totals.Failures != 0 || got.RunningCalls != 0 {
			t.Errorf("Stats = %+v, want no failure and nothing running", got)
		}

		// Rows that are left open free their permit with the context.
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := ch.Query(ctx, "SELECT id FROM orders"); err != nil {
			t.Fatal(err)
		}
		_ = ch.QueryRow(ctx, "SELECT id FROM orders")
		cancel()
		synctest.Wait()
		if got := b.Stats(); got.Totals.Failures != 0 || got.RunningCalls != 0 {
			t.Errorf("Stats = %+v, want nothing running", got)
		}

		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Cut: true})()
		if _, err := ch.Query(t.Context(), "SELECT id FROM orders"); err == nil || b.Stats().Totals.Failures != 1 {
			t.Errorf("got %v, want a failure that counts", err)
		}
		if err := ch.QueryRow(t.Context(), "SELECT 1").Scan(&count); !errors.Is(err, breaker.ErrCircuitOpen) {
			t.Errorf("got %v, want circuit open", err)
		}
	})
}

func TestBatchOutcomes(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		b := tightBreaker(t, 2)
		ch := open(t, options(s), clickhousex.Config{Breaker: b})
		prepare := func(id uint64) driver.Batch {
			t.Helper()
			batch, err := ch.PrepareBatch(t.Context(), "INSERT INTO orders (id, name)")
			if err != nil {
				t.Fatal(err)
			}
			if err := batch.Append(id, "name"); err != nil {
				t.Fatal(err)
			}
			return batch
		}
		// A rejected Send leaves the batch as it was.
		batch := prepare(1)
		b.ForceOpen()
		if err := batch.Send(); !errors.Is(err, breaker.ErrCircuitOpen) || batch.IsSent() {
			t.Fatalf("got %v, sent %v", err, batch.IsSent())
		}
		wantIDs(t, s)
		b.Reset()
		if err := batch.Send(); err != nil {
			t.Fatal(err)
		}
		// The driver's own batch would store the row again.
		if err := batch.Send(); !errors.Is(err, clickhouse.ErrBatchAlreadySent) {
			t.Errorf("second Send: %v", err)
		}
		wantIDs(t, s, 1)
		cut := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 60})
		failed := prepare(2)
		if err := failed.Send(); clickhousex.Classify(err) != clickhousex.ClassConfig {
			t.Errorf("got %v, want the server's error", err)
		}
		if err := failed.Send(); !errors.Is(err, clickhouse.ErrBatchAlreadySent) {
			t.Errorf("Send after a failed one: %v", err)
		}
		cut()

		// Prepared well, sent badly, twice: that opens the circuit.
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 252, Times: -1})()
		for range 2 {
			batch := prepare(2)
			if err := batch.Send(); err == nil {
				t.Fatal("no error")
			}
			_ = batch.Close()
		}
		if !ch.IsOpen() {
			t.Error("the circuit is closed after two failed inserts")
		}
		if open := ch.Stats().Open; open != 0 {
			t.Errorf("%d connections in use", open)
		}
	})
}

func TestOpenLeavesOptionsAlone(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		opts := options(s)
		open(t, opts, clickhousex.Config{})
		if opts.DialTimeout != 0 || opts.ReadTimeout != 0 || opts.ConnMaxLifetime != 0 || opts.DialStrategy != nil {
			t.Errorf("options were changed: %+v", opts)
		}
	})
}

// TestOpenRefusesNonsense: one error that names field and value, before anybody is called.
func TestOpenRefusesNonsense(t *testing.T) {
	for want, try := range map[string]struct {
		opts clickhouse.Options
		cfg  clickhousex.Config
	}{
		"clickhouse.Options.DialTimeout must be positive, or 0 for the default, got -1ns": {opts: clickhouse.Options{DialTimeout: -1}},
		"clickhouse.Options.ReadTimeout must be positive, or 0 for the default, got -2ns": {opts: clickhouse.Options{ReadTimeout: -2}},
		"clickhousex: Config.Retry: retry: Policy.Attempts":                               {cfg: clickhousex.Config{Retry: retry.Policy{Attempts: -2}}},
	} {
		if _, err := clickhousex.Open(&try.opts, try.cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	err := clickhousex.InserterConfig{Retry: retry.Policy{Attempts: -2}}.Validate()
	if want := "clickhousex: InserterConfig.Retry: retry: Policy.Attempts"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v lacks %q", err, want)
	}
}

// TestOpenUnreachable: within ten seconds an error names every address and what came of it, and no password.
func TestOpenUnreachable(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseConnect, Hang: true, Times: -1})()
		_, err := func() (*clickhousex.Conn, error) {
			began := time.Now()
			defer func() {
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("took %v", took)
				}
			}()
			return clickhousex.Open(&clickhouse.Options{
				Addr: []string{"nobody:9000", s.Addr()},
				Auth: clickhouse.Auth{Username: "writer", Password: "s3cret"},
				DialContext: func(ctx context.Context, addr string) (net.Conn, error) {
					if addr == s.Addr() {
						return s.Dial(ctx, addr) // Connects, and never says hello.
					}
					<-ctx.Done() // A host that answers nothing.
					return nil, ctx.Err()
				},
				DialTimeout: time.Minute,
			}, clickhousex.Config{})
		}()
		if err == nil {
			t.Fatal("no error")
		}
		for _, want := range []string{"nobody:9000", s.Addr(), "ping", "handshake", "deadline"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q lacks %q", err, want)
			}
		}
		if strings.Contains(fmt.Sprintf("%v %+v", err, err), "s3cret") {
			t.Errorf("%q shows the password", err)
		}
	})
}

// TestOpenFailsOver: a first address that does not answer leaves time for the second.
func TestOpenFailsOver(t *testing.T) {
	for _, strategy := range []clickhouse.ConnOpenStrategy{
		clickhouse.ConnOpenInOrder, clickhouse.ConnOpenRoundRobin, clickhouse.ConnOpenRandom,
	} {
		bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
			opts := options(s)
			opts.Addr = []string{"nobody:9000", s.Addr()}
			opts.ConnOpenStrategy = strategy
			opts.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
				if addr == s.Addr() {
					return s.Dial(ctx, addr)
				}
				<-ctx.Done()
				return nil, ctx.Err()
			}
			ch := open(t, opts, clickhousex.Config{})
			if err := ch.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWrapRefuses(t *testing.T) {
	if _, err := clickhousex.Wrap(nil, clickhousex.Config{}); err == nil {
		t.Error("nil: no error")
	}
	ch, err := clickhousex.Wrap(&callCounter{}, clickhousex.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := clickhousex.Wrap(ch, clickhousex.Config{}); err == nil {
		t.Error("a Conn of our own: no error")
	}
}

// TestSlowReader: what the reader takes for the rows does not make the server slow; what the server takes for the first
// of them does.
func TestSlowReader(t *testing.T) {
	for _, slowServer := range []bool{false, true} {
		bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
			cfg := clickhousex.BreakerConfig("slow")
			cfg.SlowCallDuration, cfg.SlowMinCalls = time.Second, 1
			b, err := breaker.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			ch := open(t, options(s), clickhousex.Config{Breaker: b})
			if slowServer {
				defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Delay: time.Minute / 4})()
			}
			b.Reset()
			rows, err := ch.Query(t.Context(), "SELECT id FROM orders")
			if err != nil {
				t.Fatal(err)
			}
			if !slowServer {
				time.Sleep(time.Minute)
			}
			if err := rows.Close(); err != nil || b.IsOpen() != slowServer {
				t.Errorf("slow server %v: open %v, %v", slowServer, b.IsOpen(), err)
			}
		})
	}
}

// slowServer is a driver's connection whose answers wait for the end of the context.
type slowServer struct{ driver.Conn }

func (slowServer) Exec(ctx context.Context, _ string, _ ...any) error {
	<-ctx.Done()
	return net.ErrClosed // As the driver does at times, with the context's end as the cause.
}

func (slowServer) Query(ctx context.Context, _ string, _ ...any) (driver.Rows, error) {
	return &slowRows{ctx: ctx}, nil
}

type slowRows struct {
	driver.Rows
	ctx context.Context
}

func (r *slowRows) Next() bool { <-r.ctx.Done(); return false }
func (r *slowRows) Err() error { return net.ErrClosed }

// lastRows have one more row just when the context ends, and then nobody asks again.
type lastRows struct{ slowRows }

func (r *lastRows) Next() bool    { <-r.ctx.Done(); time.Sleep(time.Millisecond); return true }
func (r *lastRows) HasData() bool { return r.Next() }

type lastServer struct{ driver.Conn }

func (lastServer) Query(ctx context.Context, _ string, _ ...any) (driver.Rows, error) {
	return &lastRows{slowRows{ctx: ctx}}, nil
}

// TestAbandonedRows: they free their permit, even when the context ended in the middle of a read, or has no end.
func TestAbandonedRows(t *testing.T) {
	reads := map[string]func(driver.Rows) bool{"Next": driver.Rows.Next, "HasData": driver.Rows.HasData, "nothing": nil}
	for name, read := range reads {
		synctest.Test(t, func(t *testing.T) {
			b := tightBreaker(t, 3)
			ch, err := clickhousex.Wrap(lastServer{}, clickhousex.Config{Breaker: b})
			if err != nil {
				t.Fatal(err)
			}
			ctx := context.Background()
			if read != nil {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Second)
				defer cancel()
			}
			rows, err := ch.Query(ctx, "SELECT 1")
			if err != nil {
				t.Fatal(err)
			}
			if read != nil {
				read(rows)
			} else {
				time.Sleep(time.Hour)
			}
			synctest.Wait()
			if got := b.Stats(); got.RunningCalls != 0 || got.Totals.Failures != 0 {
				t.Errorf("%s: Stats = %+v, want nothing running and no failure", name, got)
			}
		})
	}
}

// TestFullPoolIsNotCounted: whatever ends first, the caller's deadline or the driver's wait.
func TestFullPoolIsNotCounted(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		b := tightBreaker(t, 1)
		opts := options(s)
		opts.MaxOpenConns = 1
		ch := open(t, opts, clickhousex.Config{Breaker: b})
		held, err := ch.PrepareBatch(t.Context(), "INSERT INTO orders (id)")
		if err != nil {
			t.Fatal(err)
		}
		var ids []struct {
			ID uint64 `ch:"id"`
		}
		for name, call := range map[string]func(context.Context) error{
			"Ping":   ch.Ping,
			"Exec":   func(ctx context.Context) error { return ch.Exec(ctx, "TRUNCATE TABLE orders") },
			"Select": func(ctx context.Context) error { return ch.Select(ctx, &ids, "SELECT id FROM orders") },
			"Query": func(ctx context.Context) error {
				_, err := ch.Query(ctx, "SELECT id FROM orders")
				return err
			},
			"PrepareBatch": func(ctx context.Context) error {
				_, err := ch.PrepareBatch(ctx, "INSERT INTO orders (id)")
				return err
			},
		} {
			for _, timeout := range []time.Duration{time.Second, time.Minute} {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				if err := call(ctx); clickhousex.Classify(err) != clickhousex.ClassPool {
					t.Errorf("%s within %v: %v, want the pool's timeout", name, timeout, err)
				}
				cancel()
			}
		}
		if got := b.Stats().Totals.Failures; got != 0 {
			t.Errorf("counted as %d failures", got)
		}
		if err := held.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestEndOfContext: a deadline that passes while the server is waited for counts, the caller's cancel does not, and a
// call whose caller has gone is not made.
func TestEndOfContext(t *testing.T) {
	calls := map[string]func(ctx context.Context, ch *clickhousex.Conn){
		"Exec": func(ctx context.Context, ch *clickhousex.Conn) { _ = ch.Exec(ctx, "SELECT 1") },
		"Rows": func(ctx context.Context, ch *clickhousex.Conn) {
			if rows, err := ch.Query(ctx, "SELECT 1"); err == nil {
				rows.Next()
			}
		},
	}
	for name, call := range calls {
		synctest.Test(t, func(t *testing.T) {
			b := tightBreaker(t, 100)
			ch, err := clickhousex.Wrap(slowServer{}, clickhousex.Config{Breaker: b})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			call(ctx, ch)
			cancel()
			if got := b.Stats().Totals; got.Calls != 1 || got.Failures != 1 {
				t.Errorf("%s: after a deadline Totals = %+v, want a failure", name, got)
			}
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			call(ctx, ch)
			if got := b.Stats().Totals; got.Calls != 2 || got.Failures != 1 || got.Ignored != 1 {
				t.Errorf("%s: after a cancel Totals = %+v, want it ignored", name, got)
			}
			call(ctx, ch)
			if got := b.Stats().Totals; got.Calls != 2 {
				t.Errorf("%s: called for a caller who has gone", name)
			}
		})
	}
}
