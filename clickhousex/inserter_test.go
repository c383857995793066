package clickhousex_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

var _ pipeline.Sink[order] = (*clickhousex.Inserter[order])(nil)

func TestWriteStores(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "default.orders", clickhousex.InserterConfig{})
		b := batchOf(0, 3)
		seven := 7
		b.Items[1].Value.N = &seven
		for _, b := range []holdfast.Batch[order]{{}, b, batchOf(3, 2)} {
			if err := in.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		wantIDs(t, s, upTo(5)...)
		if got := s.Values("orders", "n"); got[0] != nil || got[1] != int8(7) {
			t.Errorf("n is %v", got)
		}
		if got := s.Values("orders", "name"); got[4] != "order 4" {
			t.Errorf("name is %v", got)
		}
		if got, want := in.Stats(), (clickhousex.InserterStats{Rows: 5, Inserts: 2}); got != want {
			t.Errorf("Stats = %+v, want %+v", got, want)
		}
	})
}

// TestLostAck is the heart: an insert whose acknowledgement is lost, whether the rows landed or not, leaves each row once.
func TestLostAck(t *testing.T) {
	faults := map[string]testkit.ClickHouseFault{
		"stored, ack lost":     {On: testkit.ClickHouseInsert, LoseAck: true, Times: 2},
		"cut before storing":   {On: testkit.ClickHouseInsert, Cut: true, Times: 2},
		"stored, answer hangs": {On: testkit.ClickHouseInsert, HangStored: true},
		"timeout on server":    {On: testkit.ClickHouseInsert, Code: 159},
		"quorum unknown":       {On: testkit.ClickHouseInsert, Code: 286},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
				in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{Timeout: time.Second})
				defer s.Inject(fault)()
				if err := in.Write(t.Context(), batchOf(0, 4)); err != nil {
					t.Fatal(err)
				}
				wantIDs(t, s, upTo(4)...)
				log := s.Inserts()
				for _, insert := range log {
					if insert.Token == "" || insert.Token != log[0].Token {
						t.Errorf("tokens differ: %q and %q", insert.Token, log[0].Token)
					}
				}
				if stats := in.Stats(); stats.Ambiguous == 0 || stats.Retries != stats.Ambiguous {
					t.Errorf("Stats = %+v", stats)
				}
			})
		})
	}
}

// TestLostAckAndOpenCircuit: what may be stored is ambiguous even when the circuit rejects the repetition, and stays so
// until the same batch has been written.
func TestLostAckAndOpenCircuit(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		b := tightBreaker(t, 2)
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{Breaker: b}), "orders", clickhousex.InserterConfig{})
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true, Times: 2})()

		err := in.Write(t.Context(), batchOf(0, 3))
		if !errors.Is(err, breaker.ErrCircuitOpen) || !holdfast.IsAmbiguous(err) || holdfast.IsPermanent(err) || holdfast.IsHold(err) {
			t.Fatalf("got %v, want ambiguous and circuit open only", err)
		}
		if !in.IsOpen() {
			t.Error("IsOpen is false")
		}
		err = in.Write(t.Context(), batchOf(3, 3))
		if !errors.Is(err, breaker.ErrCircuitOpen) || holdfast.IsAmbiguous(err) {
			t.Fatalf("got %v, want circuit open and not ambiguous", err)
		}
		if err := in.WaitUntilReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, first := range []int{0, 3} {
			if err := in.Write(t.Context(), batchOf(first, 3)); err != nil {
				t.Fatal(err)
			}
		}
		wantIDs(t, s, upTo(6)...)
	})
}

// TestAmbiguityStays: a definite failure after an ambiguous one clears nothing.
func TestAmbiguityStays(t *testing.T) {
	for _, code := range []int32{60, 252, 469} {
		bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
			in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{})
			defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true})()
			remove := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: code, Times: -1})
			if err := in.Write(t.Context(), batchOf(0, 4)); !holdfast.IsAmbiguous(err) || holdfast.IsHold(err) != (code == 60) {
				t.Errorf("code %d: got %v, want it ambiguous", code, err)
			}
			if n := in.Stats().Splits; n != 0 {
				t.Errorf("code %d: an ambiguous batch was split", code)
			}
			remove()
			if err := in.Write(t.Context(), batchOf(0, 4)); err != nil {
				t.Fatal(err)
			}
			wantIDs(t, s, upTo(4)...)
		})
	}
}

func TestRetriesTransient(t *testing.T) {
	tests := map[string]testkit.ClickHouseFault{
		"too many parts":     {On: testkit.ClickHouseInsert, Code: 252, Times: 3},
		"prepare cut":        {On: testkit.ClickHousePrepare, Cut: true, Times: 3},
		"prepare overloaded": {On: testkit.ClickHousePrepare, Code: 202, Times: 3},
		"refused":            {On: testkit.ClickHouseConnect, Reject: true, Times: 2},
	}
	for name, fault := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
				opts := options(s)
				opts.ConnMaxLifetime = 100 * time.Millisecond
				in := newInserter[order](t, open(t, opts, clickhousex.Config{}), "orders", clickhousex.InserterConfig{})
				if err := in.Write(t.Context(), batchOf(0, 2)); err != nil {
					t.Fatal(err)
				}
				defer s.Inject(fault)()
				time.Sleep(time.Second) // So that the next one dials.
				if err := in.Write(t.Context(), batchOf(2, 2)); err != nil {
					t.Fatal(err)
				}
				wantIDs(t, s, upTo(4)...)
				if stats := in.Stats(); stats.Ambiguous != 0 || stats.Retries == 0 {
					t.Errorf("Stats = %+v", stats)
				}
			})
		})
	}
}

// TestAttemptsUsedUp: when nothing can be stored, the error says so by being neither ambiguous nor a verdict.
func TestAttemptsUsedUp(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		b := tightBreaker(t, 4)
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{Breaker: b}), "orders", clickhousex.InserterConfig{
			Retry: retry.Policy{Attempts: 3},
		})
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 252, Times: -1})()
		err := in.Write(t.Context(), batchOf(0, 2))
		var exception *clickhouse.Exception
		if !errors.As(err, &exception) || holdfast.IsAmbiguous(err) || holdfast.IsHold(err) || holdfast.IsPermanent(err) ||
			errors.Is(err, breaker.ErrCircuitOpen) {
			t.Errorf("got %v", err)
		}
		// Prepared well, sent badly: each insert is one failure, and no success in between resets them.
		if got := b.Stats().Counts; got.ConsecutiveFailures != 3 || got.Successes != 0 {
			t.Errorf("Counts = %+v, want 3 failures in a row", got)
		}
	})
}

func TestHangIsBounded(t *testing.T) {
	for _, on := range []testkit.ClickHouseEvent{testkit.ClickHousePrepare, testkit.ClickHouseInsert} {
		bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
			b := tightBreaker(t, 100)
			in := newInserter[order](t, open(t, options(s), clickhousex.Config{Breaker: b}), "orders", clickhousex.InserterConfig{
				Timeout: 3 * time.Second, Retry: retry.Policy{Attempts: -1},
			})
			if err := in.Write(t.Context(), batchOf(0, 1)); err != nil {
				t.Fatal(err)
			}
			defer s.Inject(testkit.ClickHouseFault{On: on, Hang: true, Times: -1})()
			began := time.Now()
			err := in.Write(t.Context(), batchOf(1, 1))
			if took := time.Since(began); took != 3*time.Second {
				t.Errorf("%s: took %v, want the timeout of 3s", on, took)
			}
			if want := on == testkit.ClickHouseInsert; err == nil || holdfast.IsAmbiguous(err) != want {
				t.Errorf("%s: got %v, want ambiguous to be %v", on, err, want)
			}
			if on == testkit.ClickHousePrepare && (clickhousex.Classify(err) != clickhousex.ClassTransient || !clickhousex.SafeToRetry(err)) {
				t.Errorf("%s: %v is %v, want transient", on, err, clickhousex.Classify(err))
			}
			if got := b.Stats().Totals; got.Failures != 1 || got.Timeouts != 1 {
				t.Errorf("%s: Totals = %+v, want one timeout", on, got)
			}
		})
	}
}

func TestConfigurationHolds(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{Tables: []string{}}, func(t *testing.T, s *testkit.ClickHouseServer) {
		b := tightBreaker(t, 1)
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{Breaker: b}), "orders", clickhousex.InserterConfig{})
		hold := func(why string) {
			t.Helper()
			err := in.Write(t.Context(), batchOf(0, 2))
			if !holdfast.IsHold(err) || holdfast.IsAmbiguous(err) || holdfast.IsPermanent(err) {
				t.Fatalf("%s: got %v, want Hold", why, err)
			}
			if got := b.Stats().Totals; got.Failures != 0 {
				t.Fatalf("%s: counted as a failure", why)
			}
		}
		create := func(ddl string) {
			t.Helper()
			if err := s.CreateTable(ddl); err != nil {
				t.Fatal(err)
			}
		}
		hold("no table")
		create("CREATE TABLE orders (id UInt64, n Nullable(Int8)) ENGINE = MergeTree ORDER BY id")
		hold("no column")
		if err := s.DropTable("orders"); err != nil {
			t.Fatal(err)
		}
		create("CREATE TABLE orders (id UInt64, n Nullable(Int8), name Int32) ENGINE = MergeTree ORDER BY id")
		hold("a string into an integer column")
		if err := s.DropTable("orders"); err != nil {
			t.Fatal(err)
		}
		create(ordersDDL)
		remove := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHousePrepare, Code: 497})
		hold("access denied")
		remove()
		remove = s.Inject(testkit.ClickHouseFault{On: testkit.ClickHousePrepare, Code: 53})
		hold("a data code before any row was sent")
		remove()
		if err := in.Write(t.Context(), batchOf(0, 2)); err != nil {
			t.Fatal(err)
		}
		wantIDs(t, s, upTo(2)...)
	})
}

// TestTableChanges: a column that grows between two Writes takes what it could not hold before, and one that shrinks is
// checked by its new type.
func TestTableChanges(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		ch := open(t, options(s), clickhousex.Config{})
		in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{})
		b := batchOf(0, 2)
		big := 300
		b.Items[1].Value.N = &big
		if items := refusals(t, in.Write(t.Context(), b)); len(items) != 1 || items[1] == nil {
			t.Errorf("refused %v, want item 1", items)
		}
		if err := s.DropTable("orders"); err != nil {
			t.Fatal(err)
		}
		if err := s.CreateTable("CREATE TABLE orders (id UInt64, n Int16, name String) ENGINE = MergeTree ORDER BY id"); err != nil {
			t.Fatal(err)
		}
		if items := refusals(t, in.Write(t.Context(), b)); len(items) != 1 || items[0] == nil {
			t.Errorf("refused %v, want item 0: nil into a column that is not nullable", items)
		}
		wantIDs(t, s, 1)
		if open := ch.Stats().Open; open != 0 {
			t.Errorf("%d connections in use", open)
		}
	})
}

// TestKnownToTheServer: a server that says it has the insert already is believed.
func TestKnownToTheServer(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{})
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true})()
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Nth: 2, Code: 389})()
		if err := in.Write(t.Context(), batchOf(0, 2)); err != nil {
			t.Errorf("got %v, want nil", err)
		}
		wantIDs(t, s, upTo(2)...)
	})
}

// TestBadRowsAreFound: the server refuses what holds row 5, and the inserts that did not hold it are stored, each with a
// token of its own.
func TestBadRowsAreFound(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		b := tightBreaker(t, 1)
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{Breaker: b}), "orders", clickhousex.InserterConfig{})
		// 0-8 no, 0-4 yes, 4-8 no, 4-6 no, 4 yes, 5 no, 6-8 yes.
		for _, nth := range []int{1, 3, 4, 6} {
			defer s.Inject(testkit.ClickHouseFault{
				On: testkit.ClickHouseInsert, Nth: nth, Code: 469, Message: "Constraint violated. Column values: name = 'order 5'",
			})()
		}
		items := refusals(t, in.Write(t.Context(), batchOf(0, 8)))
		if len(items) != 1 || items[5] == nil {
			t.Fatalf("refused %v, want item 5", items)
		}
		if text := items[5].Error(); strings.Contains(text, "order 5") || !strings.Contains(text, "469") {
			t.Errorf("%q repeats the row, or lacks the code", text)
		}
		wantIDs(t, s, 0, 1, 2, 3, 4, 6, 7)
		tokens := make(map[string]int)
		for _, insert := range s.Inserts() {
			tokens[insert.Token]++
		}
		if len(tokens) != 7 {
			t.Errorf("%d tokens for 7 inserts", len(tokens))
		}
		if n := b.Stats().Totals.Failures; n != 0 {
			t.Errorf("bad rows counted as %d failures", n)
		}
	})
}

// TestBadRowsAfterAmbiguousPart: a part whose fate was unknown for a while does not keep the other one whole.
func TestBadRowsAfterAmbiguousPart(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{})
		// 0-4 no, 0-2 unknown and then yes, 2-4 no, 2 no, 3 yes.
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Nth: 2, LoseAck: true})()
		for _, nth := range []int{1, 4, 5} {
			defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Nth: nth, Code: 469})()
		}
		if items := refusals(t, in.Write(t.Context(), batchOf(0, 4))); len(items) != 1 || items[2] == nil {
			t.Errorf("refused %v, want item 2", items)
		}
		wantIDs(t, s, 0, 1, 3)
	})
}

// TestSplitIsResumed: when the circuit opens in the middle of a split, on a table that deduplicates nothing, the parts
// that are stored are not sent again.
func TestSplitIsResumed(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{DedupWindow: -1}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{Breaker: tightBreaker(t, 1)}), "orders", clickhousex.InserterConfig{})
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 469})()
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Nth: 3, Code: 252})()
		err := in.Write(t.Context(), batchOf(0, 4))
		if !holdfast.IsAmbiguous(err) || !errors.Is(err, breaker.ErrCircuitOpen) {
			t.Fatalf("got %v, want circuit open and ambiguous, since a half is stored", err)
		}
		wantIDs(t, s, 0, 1)
		if err := in.WaitUntilReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := in.Write(t.Context(), batchOf(0, 4)); err != nil {
			t.Fatal(err)
		}
		wantIDs(t, s, upTo(4)...)
	})
}

// TestTooManyBadRows: a server that refuses everything does not empty the topic into the dead-letter queue.
func TestTooManyBadRows(t *testing.T) {
	for _, maxSplits := range []int{0, 8, -1} {
		bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
			in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{MaxSplits: maxSplits})
			defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 53, Message: "name = 'order 5'", Times: -1})()
			err := in.Write(t.Context(), batchOf(0, 50))
			if !holdfast.IsHold(err) || holdfast.IsAmbiguous(err) || strings.Contains(err.Error(), "order 5") {
				t.Errorf("MaxSplits %d: got %v, want Hold and no row's values", maxSplits, err)
			}
			if n := len(s.Inserts()); maxSplits == 8 && n > 9 || maxSplits == -1 && n != 1 {
				t.Errorf("MaxSplits %d: %d inserts", maxSplits, n)
			}
		})
	}
}

// refusingRows is a connection to a server that refuses every insert with one of these ids.
type refusingRows struct {
	driver.Conn
	bad map[uint64]bool
}

func (c refusingRows) PrepareBatch(ctx context.Context, query string, opts ...driver.PrepareBatchOption) (driver.Batch, error) {
	b, err := c.Conn.PrepareBatch(ctx, query, opts...)
	return refusingBatch{b, c.bad}, err
}

type refusingBatch struct {
	driver.Batch
	bad map[uint64]bool
}

func (b refusingBatch) Send() error {
	ids := b.Columns()[0]
	for row := range ids.Rows() {
		if b.bad[ids.Row(row, false).(uint64)] {
			_ = b.Abort()
			return &proto.Exception{Code: 469}
		}
	}
	return b.Batch.Send()
}

// TestBadShare: up to a fifth of the rows are the rows' own fault, more of them are the table's.
func TestBadShare(t *testing.T) {
	for _, bad := range []int{1, 20, 21, 60} {
		bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
			raw, err := clickhouse.Open(options(s))
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			ids := make(map[uint64]bool)
			for i := range bad {
				ids[uint64(i*97%100)] = true
			}
			ch, err := clickhousex.Wrap(refusingRows{raw, ids}, clickhousex.Config{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			err = newInserter[order](t, ch, "orders", clickhousex.InserterConfig{}).Write(t.Context(), batchOf(0, 100))
			if hold := bad > 20; holdfast.IsHold(err) != hold {
				t.Errorf("%d of 100 rows are bad: got %v, want Hold %v", bad, err, hold)
			}
			if bad <= 20 && (len(refusals(t, err)) != bad || s.Count("orders") != 100-bad) {
				t.Errorf("%d bad rows: %v, %d stored", bad, err, s.Count("orders"))
			}
		})
	}
}

func TestCancelIsNotCounted(t *testing.T) {
	for _, on := range []testkit.ClickHouseEvent{testkit.ClickHousePrepare, testkit.ClickHouseInsert} {
		bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
			b := tightBreaker(t, 1)
			in := newInserter[order](t, open(t, options(s), clickhousex.Config{Breaker: b}), "orders", clickhousex.InserterConfig{})
			if err := in.Write(t.Context(), batchOf(0, 1)); err != nil {
				t.Fatal(err)
			}
			defer s.Inject(testkit.ClickHouseFault{On: on, Hang: true})()
			ctx, cancel := context.WithCancel(t.Context())
			began := time.Now()
			done := make(chan error)
			go func() { done <- in.Write(ctx, batchOf(1, 1)) }()
			synctest.Wait()
			cancel()
			err := <-done
			if !errors.Is(err, context.Canceled) || holdfast.IsAmbiguous(err) != (on == testkit.ClickHouseInsert) {
				t.Errorf("%s: got %v", on, err)
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("%s: returned %v after the cancel", on, took)
			}
			if got := b.Stats().Totals; got.Failures != 0 || got.Ignored == 0 {
				t.Errorf("%s: Totals = %+v, want the call ignored", on, got)
			}
		})
	}
}

func TestOwnPoolIsNotCounted(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		b := tightBreaker(t, 1)
		opts := options(s)
		opts.MaxOpenConns = 1
		ch := open(t, opts, clickhousex.Config{Breaker: b})
		in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{Retry: retry.Policy{Attempts: 2}})
		held, err := ch.PrepareBatch(t.Context(), "INSERT INTO orders (id)")
		if err != nil {
			t.Fatal(err)
		}
		err = in.Write(t.Context(), batchOf(0, 1))
		if !errors.Is(err, clickhouse.ErrAcquireConnTimeout) || holdfast.IsAmbiguous(err) || holdfast.IsHold(err) {
			t.Errorf("got %v, want the pool's timeout", err)
		}
		// The attempt's timeout or the caller's deadline may pass before the pool's, even while the table is described.
		impatient := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{Timeout: time.Second, Retry: retry.Policy{Attempts: -1}})
		if err := impatient.Write(t.Context(), batchOf(0, 1)); clickhousex.Classify(err) != clickhousex.ClassPool {
			t.Errorf("got %v, want the pool's timeout", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := in.Write(ctx, batchOf(0, 1)); clickhousex.Classify(err) != clickhousex.ClassPool || time.Since(began) != time.Second {
			t.Errorf("got %v after %v, want the pool's timeout when ctx ends", err, time.Since(began))
		}
		if got := b.Stats().Totals.Failures; got != 0 {
			t.Errorf("counted as %d failures", got)
		}
		if err := held.Close(); err != nil {
			t.Fatal(err)
		}
		for i, in := range []*clickhousex.Inserter[order]{in, impatient} {
			if err := in.Write(t.Context(), batchOf(i, 1)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestConnectionsComeBack: no path keeps one.
func TestConnectionsComeBack(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		opts := options(s)
		opts.MaxOpenConns = 2
		ch := open(t, opts, clickhousex.Config{})
		in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{Timeout: time.Second})
		for _, fault := range []testkit.ClickHouseFault{
			{On: testkit.ClickHousePrepare, Cut: true},
			{On: testkit.ClickHousePrepare, Code: 60},
			{On: testkit.ClickHouseInsert, LoseAck: true},
			{On: testkit.ClickHouseInsert, Code: 469, Times: -1},
			{On: testkit.ClickHouseInsert, Hang: true},
		} {
			remove := s.Inject(fault)
			_ = in.Write(t.Context(), batchOf(0, 2)) // Whatever comes of it.
			if open := ch.Stats().Open; open != 0 {
				t.Errorf("after %+v: %d connections in use", fault, open)
			}
			remove()
		}
	})
}

func TestWithoutToken(t *testing.T) {
	spanless := batchOf(0, 2)
	spanless.Spans = nil
	tests := []struct {
		name     string
		revision int
		batch    holdfast.Batch[order]
		dedup    clickhousex.Dedup
		token    bool
	}{
		{"token", 0, batchOf(0, 2), clickhousex.DedupToken, true},
		{"no spans", 0, spanless, clickhousex.DedupToken, false},
		{"off", 0, batchOf(0, 2), clickhousex.DedupOff, false},
		{"old server", 54412, batchOf(0, 2), clickhousex.DedupToken, false},
		{"old server, newest without", 54429, batchOf(0, 2), clickhousex.DedupToken, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, testkit.ClickHouseConfig{Revision: tt.revision, DedupWindow: -1}, func(t *testing.T, s *testkit.ClickHouseServer) {
				in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{Dedup: tt.dedup})
				if err := in.Write(t.Context(), tt.batch); err != nil {
					t.Fatal(err)
				}
				insert := s.Inserts()[0]
				if off := insert.Settings["insert_deduplicate"] == "0"; (insert.Token != "") != tt.token || off == tt.token {
					t.Errorf("token %q, insert_deduplicate off %v", insert.Token, off)
				}
			})
		})
	}
}

// saysVersion is a connection to a server that says it is another version.
type saysVersion struct {
	driver.Conn
	major, minor uint64
}

func (c saysVersion) ServerVersion() (*driver.ServerVersion, error) {
	v, err := c.Conn.ServerVersion()
	if err == nil {
		v.Version = proto.Version{Major: c.major, Minor: c.minor}
	}
	return v, err
}

// TestSettingsByVersion: a server is told all that it knows and nothing else, which it would refuse.
func TestSettingsByVersion(t *testing.T) {
	unknown := "not sent"
	tests := []struct {
		major, minor                   uint64
		dedup                          clickhousex.Dedup
		own                            clickhouse.Settings
		deduplicate, mode, async, wait string
	}{
		{26, 2, clickhousex.DedupOff, nil, "0", "disable", "0", "1"},
		{26, 2, clickhousex.DedupToken, nil, unknown, unknown, "0", "1"},
		{26, 2, clickhousex.DedupToken, clickhouse.Settings{"async_insert": 1}, unknown, unknown, "1", "1"},
		{26, 1, clickhousex.DedupOff, nil, "0", unknown, "0", "1"},
		{22, 2, clickhousex.DedupToken, nil, unknown, unknown, "0", "1"},
		{22, 1, clickhousex.DedupToken, nil, "0", unknown, "0", "1"},
		{21, 10, clickhousex.DedupToken, nil, "0", unknown, unknown, unknown},
	}
	for _, tt := range tests {
		bubble(t, testkit.ClickHouseConfig{DedupWindow: -1}, func(t *testing.T, s *testkit.ClickHouseServer) {
			raw, err := clickhouse.Open(options(s))
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			ch, err := clickhousex.Wrap(saysVersion{raw, tt.major, tt.minor}, clickhousex.Config{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{Dedup: tt.dedup, Settings: tt.own})
			if err := in.Write(t.Context(), batchOf(0, 1)); err != nil {
				t.Fatal(err)
			}
			insert := s.Inserts()[0]
			for name, want := range map[string]string{
				"insert_deduplicate": tt.deduplicate, "deduplicate_insert": tt.mode, "async_insert": tt.async, "wait_for_async_insert": tt.wait,
			} {
				if got, sent := insert.Settings[name]; got != want && (sent || want != unknown) {
					t.Errorf("%d.%d: %s is %q, want %q", tt.major, tt.minor, name, got, want)
				}
			}
			if want := tt.deduplicate == unknown; (insert.Token != "") != want {
				t.Errorf("%d.%d: token %q, want one: %v", tt.major, tt.minor, insert.Token, want)
			}
		})
	}
}

// TestServersOfTwoVersions: a token is sent to the one that takes it, soon after the connections go there, and none to the
// other, at once.
func TestServersOfTwoVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(testkit.Network)
		server := func(revision int) *testkit.ClickHouseServer {
			return testkit.ClickHouse(t, testkit.ClickHouseConfig{Network: network, Revision: revision, Tables: []string{ordersDDL}})
		}
		older, newer, oldest := server(54412), server(0), server(54412)
		opts := options(older)
		opts.Addr = []string{older.Addr(), newer.Addr(), oldest.Addr()}
		in := newInserter[order](t, open(t, opts, clickhousex.Config{}), "orders", clickhousex.InserterConfig{})
		write := func(first int) {
			t.Helper()
			if err := in.Write(t.Context(), batchOf(first, 1)); err != nil {
				t.Fatal(err)
			}
		}
		write(0)
		older.Stop()
		write(1)
		time.Sleep(2 * time.Minute)
		write(2)
		if log := newer.Inserts(); len(log) != 2 || log[1].Token == "" {
			t.Errorf("no token in %+v", log)
		}
		newer.Stop()
		write(3)
		if n := oldest.Count("orders"); n != 1 {
			t.Errorf("%d rows stored, want 1", n)
		}
	})
}

// TestWidenedColumn: what a column could not hold some time ago is not refused without asking again.
func TestWidenedColumn(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{})
		if err := in.Write(t.Context(), batchOf(0, 1)); err != nil {
			t.Fatal(err)
		}
		ddl := "CREATE TABLE orders (id UInt64, n Nullable(Int16), name String) ENGINE = MergeTree ORDER BY id"
		if err := errors.Join(s.DropTable("orders"), s.CreateTable(ddl)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		big := 300
		b := batchOf(1, 1)
		b.Items[0].Value.N = &big
		if err := in.Write(t.Context(), b); err != nil {
			t.Errorf("got %v", err)
		}
		wantIDs(t, s, 1)
	})
}

// TestServerThatRefusesAll: over small batches it does not empty the topic into the dead-letter queue either.
func TestServerThatRefusesAll(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{})
		for range 2 { // A stored row makes the server trusted again.
			remove := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 53, Times: -1})
			refused := 0
			for i := range 20 {
				err := in.Write(t.Context(), batchOf(3*i, 3))
				if holdfast.IsHold(err) {
					if holdfast.IsAmbiguous(err) {
						t.Errorf("got %v, want it not ambiguous", err)
					}
					continue
				}
				refused += len(refusals(t, err))
			}
			if refused != 9 {
				t.Errorf("%d rows refused, want no more than 10", refused)
			}
			remove()
			if err := in.Write(t.Context(), batchOf(1000, 1)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestCancelAfterWrite: a cancel right after Write must not reach a connection that is back in the pool.
func TestCancelAfterWrite(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		b := tightBreaker(t, 1)
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{Breaker: b}), "orders", clickhousex.InserterConfig{})
		for i := range 200 {
			ctx, cancel := context.WithCancel(t.Context())
			if err := in.Write(ctx, batchOf(i, 1)); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
		if stats := in.Stats(); stats.Retries != 0 || stats.Inserts != 200 {
			t.Errorf("Stats = %+v", stats)
		}
	})
}

func TestNewInserterRefuses(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		ch := open(t, options(s), clickhousex.Config{})
		type twice struct {
			A int `ch:"x"`
			B int `ch:"x"`
		}
		_, number := clickhousex.NewInserter[int](ch, "orders", clickhousex.InserterConfig{})
		_, empty := clickhousex.NewInserter[struct{ hidden int }](ch, "orders", clickhousex.InserterConfig{})
		_, both := clickhousex.NewInserter[twice](ch, "orders", clickhousex.InserterConfig{})
		_, all := clickhousex.NewInserter[order](nil, "a b", clickhousex.InserterConfig{
			Timeout: -1, Dedup: 7, MaxSplits: -2, MaxBytes: -3, Settings: clickhouse.Settings{
				"insert_deduplication_token": "x", "insert_deduplicate": 1, "deduplicate_insert": "enable", "wait_for_async_insert": 0,
			},
			Retry: retry.Policy{Attempts: -5},
		})
		for _, tt := range []struct {
			err  error
			want []string
		}{
			{number, []string{"struct", "int"}},
			{empty, []string{"no field"}},
			{both, []string{`two fields for column "x"`}},
			{all, []string{
				"got nil", `"a b"`, "Timeout", "-1ns", "Dedup", "7", "MaxSplits", "-2", "MaxBytes", "-3", "insert_deduplication_token", "Attempts", "-5",
				"insert_deduplicate", "deduplicate_insert", "wait_for_async_insert",
			}},
		} {
			if tt.err == nil {
				t.Errorf("no error, want one with %q", tt.want)
				continue
			}
			for _, want := range tt.want {
				if !strings.Contains(tt.err.Error(), want) {
					t.Errorf("%q lacks %q", tt.err, want)
				}
			}
		}
	})
}
