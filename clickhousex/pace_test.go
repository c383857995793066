package clickhousex_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

// smallMemory is a connection to a server that has memory for so many rows.
type smallMemory struct {
	driver.Conn
	rows    int
	refused []int // The rows of each insert that was too large.
}

func (c *smallMemory) PrepareBatch(ctx context.Context, query string, opts ...driver.PrepareBatchOption) (driver.Batch, error) {
	b, err := c.Conn.PrepareBatch(ctx, query, opts...)
	return smallBatch{b, c}, err
}

type smallBatch struct {
	driver.Batch
	memory *smallMemory
}

func (b smallBatch) Send() error {
	if n := b.Columns()[0].Rows(); n > b.memory.rows {
		b.memory.refused = append(b.memory.refused, n)
		_ = b.Abort()
		return &proto.Exception{Code: 241, Message: "Memory limit exceeded"}
	}
	return b.Batch.Send()
}

// wideBatch is batchOf with rows so wide that ten of them are a little more than what is halved.
func wideBatch(first, n int) holdfast.Batch[order] {
	b := batchOf(first, n)
	for i := range b.Items {
		b.Items[i].Value.Name = strings.Repeat("x", 110<<10)
	}
	return b
}

// smallMemoryConn is a Conn to a server that has memory for so many rows.
func smallMemoryConn(t *testing.T, s *testkit.ClickHouseServer, rows int) (*clickhousex.Conn, *smallMemory) {
	t.Helper()
	raw, err := clickhouse.Open(options(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	memory := &smallMemory{Conn: raw, rows: rows}
	ch, err := clickhousex.Wrap(memory, clickhousex.Config{Breaker: tightBreaker(t, 100), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return ch, memory
}

// TestTooLarge: a batch that the server has not the memory for is made smaller where nothing of it can be stored, or the
// table can be asked for it, and the next ones are small from the start. Where neither is so, it stays as it is.
func TestTooLarge(t *testing.T) {
	tests := map[string]struct {
		ddl    string
		cfg    clickhousex.InserterConfig
		halves bool
	}{
		"one partition":             {markedDDL + "MergeTree ORDER BY id", clickhousex.InserterConfig{}, true},
		"many partitions":           {markedDDL + "MergeTree PARTITION BY n ORDER BY id", clickhousex.InserterConfig{}, false},
		"many partitions, columns":  {markedDDL + "MergeTree PARTITION BY n ORDER BY id", byMessage, true},
		"replicated, columns":       {markedDDL + "ReplicatedMergeTree('/o', '1') ORDER BY id", byMessage, false},
		"one partition, replicated": {markedDDL + "ReplicatedMergeTree('/o', '1') ORDER BY id", clickhousex.InserterConfig{}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, testkit.ClickHouseConfig{Tables: []string{tt.ddl}, DedupWindow: 0}, func(t *testing.T, s *testkit.ClickHouseServer) {
				ch, _ := smallMemoryConn(t, s, 10)
				in := newInserter[order](t, ch, "orders", tt.cfg)
				err := in.Write(t.Context(), wideBatch(0, 40))
				if !tt.halves {
					if !holdfast.IsAmbiguous(err) || in.Stats().Splits != 0 || s.Count("orders") != 0 {
						t.Errorf("got %v, %d splits, want it ambiguous and whole", err, in.Stats().Splits)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				before := in.Stats()
				if err := in.Write(t.Context(), wideBatch(40, 40)); err != nil {
					t.Fatal(err)
				}
				if after := in.Stats(); after.Splits != before.Splits || after.Inserts != before.Inserts+4 {
					t.Errorf("%+v, then %+v, want four inserts more and no splits", before, after)
				}
				wantOnce(t, s, 80)
				// After a while it tries larger ones.
				time.Sleep(2 * time.Minute)
				for first := 80; first < 160; first += 40 {
					if err := in.Write(t.Context(), wideBatch(first, 40)); err != nil {
						t.Fatal(err)
					}
				}
				if after := in.Stats(); after.Splits == before.Splits {
					t.Errorf("%+v: it never tried larger ones", after)
				}
				wantOnce(t, s, 160)
			})
		})
	}
}

// TestTooLargeHasAFloor: a server without any memory is overloaded, however small the insert, and small ones are not made
// smaller. When it has memory again inserts grow back, minute by minute.
func TestTooLargeHasAFloor(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		ch, memory := smallMemoryConn(t, s, 0)
		in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{Retry: retry.Policy{Attempts: 4}})
		began := time.Now()
		err := in.Write(t.Context(), wideBatch(0, 40))
		if clickhousex.Classify(err) != clickhousex.ClassOverload || holdfast.IsAmbiguous(err) || holdfast.IsHold(err) {
			t.Errorf("got %v, want overload", err)
		}
		if want := []int{40, 40, 20, 10, 5, 5, 5, 5}; !slices.Equal(memory.refused, want) {
			t.Errorf("inserts of %v rows, want %v", memory.refused, want)
		}
		if took := time.Since(began); took < 10*time.Second {
			t.Errorf("that took %v, want the waits of an overload", took)
		}
		if n := ch.Breaker().Stats().Totals.Failures; n != uint64(len(memory.refused)) {
			t.Errorf("%d failures counted of %d", n, len(memory.refused))
		}

		memory.rows = 1000
		for first, inserts := range []uint64{8, 4, 2, 1, 1} {
			before := in.Stats()
			if err := in.Write(t.Context(), wideBatch(first*40, 40)); err != nil {
				t.Fatal(err)
			}
			if got := in.Stats().Inserts - before.Inserts; got != inserts {
				t.Errorf("Write %d made %d inserts, want %d", first, got, inserts)
			}
			time.Sleep(time.Minute)
		}
		// Rows of a few bytes do not suffer for wide ones: they are far below the floor.
		memory.rows = 10
		if err := in.Write(t.Context(), wideBatch(200, 40)); err != nil {
			t.Fatal(err)
		}
		memory.rows = 1000
		before := in.Stats()
		if err := in.Write(t.Context(), batchOf(240, 400)); err != nil || in.Stats().Inserts != before.Inserts+1 {
			t.Errorf("%v, %d inserts of small rows, want one", err, in.Stats().Inserts-before.Inserts)
		}
		wantOnce(t, s, 640)
	})
}

// TestOverloadSlowsDown: the more often in a row the server is overloaded, the longer the Inserter waits, from one Write to
// the next as well.
func TestOverloadSlowsDown(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{Breaker: tightBreaker(t, 100)}), "orders", clickhousex.InserterConfig{
			Retry: retry.Policy{Attempts: 3},
		})
		if err := in.Write(t.Context(), batchOf(0, 1)); err != nil {
			t.Fatal(err)
		}
		remove := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 252, Times: -1})
		for i, want := range []time.Duration{3 * time.Second, 24 * time.Second, time.Minute} {
			began := time.Now()
			err := in.Write(t.Context(), batchOf(1, 1))
			if took := time.Since(began); took != want {
				t.Errorf("Write %d took %v, want %v", i, took, want)
			}
			if asked, ok := holdfast.RetryDelay(err); !ok || asked < 4*time.Second {
				t.Errorf("the caller is asked to wait %v", asked)
			}
		}
		remove()
		if err := in.Write(t.Context(), batchOf(1, 1)); err != nil {
			t.Fatal(err)
		}
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 252})()
		began := time.Now()
		if err := in.Write(t.Context(), batchOf(2, 1)); err != nil || time.Since(began) != time.Second {
			t.Errorf("after a success it took %v, %v, want the first wait again", time.Since(began), err)
		}
	})
}

// TestInFlight: a large batch is several inserts, so many at a time, and each is remembered for itself.
func TestInFlight(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{DedupWindow: -1}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{
			MaxRows: 10, InFlight: 3, Retry: retry.Policy{Attempts: -1},
		})
		if err := in.Write(t.Context(), batchOf(0, 1)); err != nil {
			t.Fatal(err)
		}
		slow := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Delay: time.Second, Times: -1})
		began := time.Now()
		if err := in.Write(t.Context(), batchOf(1, 80)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("8 inserts of a second took %v with 3 in flight", took)
		}
		slow()
		wantOnce(t, s, 81)
		// The second insert is stored and unknown, the others are not sent again.
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Nth: 2, Cut: true})()
		n := len(s.Inserts())
		if err := in.Write(t.Context(), batchOf(81, 80)); !holdfast.IsAmbiguous(err) {
			t.Fatalf("got %v", err)
		}
		if err := in.Write(t.Context(), batchOf(81, 80)); err != nil {
			t.Fatal(err)
		}
		if sent := len(s.Inserts()) - n; sent != 9 {
			t.Errorf("%d inserts for 8 parts, one of them lost, want 9", sent)
		}
		wantOnce(t, s, 161)
	})
}

// TestFailureInFlight: after an insert has failed no further one is begun, and those on their way are waited for. What is
// certainly not stored is not made less than ambiguous by what may be.
func TestFailureInFlight(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		b := tightBreaker(t, 100)
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{Breaker: b}), "orders", clickhousex.InserterConfig{
			MaxRows: 10, InFlight: 2, Retry: retry.Policy{Attempts: -1},
		})
		if err := in.Write(t.Context(), batchOf(0, 1)); err != nil {
			t.Fatal(err)
		}
		calls := b.Stats().Totals.Calls
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 60})()
		slow := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Delay: time.Second, Times: -1})
		if err := in.Write(t.Context(), batchOf(1, 80)); !holdfast.IsAmbiguous(err) || !holdfast.IsHold(err) {
			t.Errorf("got %v, want it held, and ambiguous for what is stored", err)
		}
		if n := b.Stats().Totals.Calls - calls; n > 3 || s.Count("orders") != 1+10*(int(n)-1) {
			t.Errorf("%d inserts, %d rows, want two or three, and all but one stored", n, s.Count("orders"))
		}
		slow()
		if err := in.Write(t.Context(), batchOf(1, 80)); err != nil {
			t.Fatal(err)
		}
		wantOnce(t, s, 81)
	})
}

// TestPanicInFlight: of the program's own code, it reaches the one who called Write.
func TestPanicInFlight(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{
			MaxRows: 1, InFlight: 2, Retry: retry.Policy{OnAttempt: func(a retry.Attempt) {
				if a.Err != nil {
					panic("in OnAttempt")
				}
			}},
		})
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 202})()
		defer func() {
			if v := recover(); v != "in OnAttempt" {
				t.Errorf("recovered %v", v)
			}
		}()
		err := in.Write(t.Context(), batchOf(0, 6))
		t.Errorf("got %v, want the panic", err)
	})
}

// TestConcurrentWrites: many at a time, with faults of all kinds, over few connections.
func TestConcurrentWrites(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		opts := options(s)
		opts.MaxOpenConns = 3
		ch := open(t, opts, clickhousex.Config{Breaker: tightBreaker(t, 1000)})
		in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{MaxRows: 4, InFlight: 2})
		var work sync.WaitGroup
		for g := range 6 {
			work.Go(func() {
				for i := range 10 {
					b := batchOf((g*10+i)*10, 10)
					bad := 300
					b.Items[3].Value.N = &bad
					if i%3 == 0 {
						s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true})
					}
					for tries := 0; ; tries++ {
						err := in.Write(t.Context(), b)
						var refused *holdfast.BatchError
						if errors.As(err, &refused) && len(refused.Items) == 1 && refused.Items[3] != nil {
							break
						}
						if tries > 50 {
							t.Errorf("batch %d of %d: %v", i, g, err)
							return
						}
						time.Sleep(time.Second)
					}
				}
			})
		}
		work.Wait()
		synctest.Wait()
		if n, open := s.Count("orders"), ch.Stats().Open; n != 540 || open != 0 {
			t.Errorf("%d rows, want 540; %d connections in use", n, open)
		}
		if n := ch.Breaker().Stats().RunningCalls; n != 0 {
			t.Errorf("%d permits in use", n)
		}
	})
}

// TestInserterConfigNames: every fault of the configuration's numbers, by name.
func TestInserterConfigNames(t *testing.T) {
	err := clickhousex.InserterConfig{MaxRows: 2_000_000, InFlight: -1, Offsets: 9, MaxBytes: -1}.Validate()
	for _, want := range []string{"MaxRows", "2000000", "InFlight", "-1", "Offsets", "9", "MaxBytes"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
}

// brokenPipe is a connection that breaks when so many bytes were written since the last answer.
type brokenPipe struct {
	net.Conn
	most, written int
}

func (c *brokenPipe) Read(p []byte) (int, error) {
	c.written = 0
	return c.Conn.Read(p)
}

func (c *brokenPipe) Write(p []byte) (int, error) {
	if c.written += len(p); c.written > c.most {
		_ = c.Close()
		return 0, syscall.ECONNRESET
	}
	return c.Conn.Write(p)
}

// TestCutShort: a server that hangs up in the middle of a large insert has stored nothing of it, and may take a smaller one.
func TestCutShort(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		opts := options(s)
		opts.MaxCompressionBuffer = 4 << 10
		opts.Compression = &clickhouse.Compression{Method: clickhouse.CompressionNone}
		opts.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
			conn, err := s.Dial(ctx, addr)
			return &brokenPipe{Conn: conn, most: 768 << 10}, err
		}
		in := newInserter[order](t, open(t, opts, clickhousex.Config{Breaker: tightBreaker(t, 100)}), "orders", clickhousex.InserterConfig{})
		if err := in.Write(t.Context(), wideBatch(0, 40)); err != nil {
			t.Fatal(err)
		}
		if got := in.Stats(); got.Ambiguous != 0 || got.Splits == 0 {
			t.Errorf("Stats = %+v, want splits, and nothing ambiguous", got)
		}
		wantOnce(t, s, 40)
	})
}
