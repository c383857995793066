package clickhousex_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestValuesOfOneMessage: a message that became more values than a batch takes is stored whole.
func TestValuesOfOneMessage(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{})
		m := &holdfast.Message{Topic: "orders"}
		for first := 0; first < 6; first += 2 {
			b := holdfast.Batch[order]{Spans: []holdfast.Span{{Topic: "orders", First: 0, Next: 1}}}
			for i := first; i < first+2; i++ {
				b.Items = append(b.Items, holdfast.Item[order]{Source: m, Index: i, Value: order{ID: uint64(i)}})
			}
			for range 2 { // The second is a repetition, as after a crash.
				if err := in.Write(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
		}
		wantIDs(t, s, upTo(6)...)
	})
}

// TestPermutedParts: messages of two partitions that come in another order, after a crash in the middle of a split, are
// split into other parts, and each of these is stored.
func TestPermutedParts(t *testing.T) {
	interleaved := func(first int) holdfast.Batch[order] {
		b := holdfast.Batch[order]{Spans: []holdfast.Span{
			{Topic: "orders", Partition: 0, First: 0, Next: 4}, {Topic: "orders", Partition: 1, First: 0, Next: 4},
		}}
		for k := range 2 {
			p := (first + k) % 2
			for i := range 4 {
				b.Items = append(b.Items, holdfast.Item[order]{
					Source: &holdfast.Message{Topic: "orders", Partition: p, Offset: int64(i)}, Value: order{ID: uint64(p*4 + i)},
				})
			}
		}
		return b
	}
	for _, restart := range []bool{true, false} {
		bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
			ch := open(t, options(s), clickhousex.Config{})
			cfg := clickhousex.InserterConfig{Retry: retry.Policy{Attempts: -1}}
			in := newInserter[order](t, ch, "orders", cfg)
			defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 469})()
			defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Nth: 3, Code: 252})()
			if err := in.Write(t.Context(), interleaved(0)); !holdfast.IsAmbiguous(err) {
				t.Fatalf("got %v, want it ambiguous, since a half is stored", err)
			}
			if restart {
				in = newInserter[order](t, ch, "orders", cfg)
			}
			defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 469})()
			if err := in.Write(t.Context(), interleaved(1)); err != nil {
				t.Fatal(err)
			}
			stored := make(map[any]bool)
			for _, id := range s.Values("orders", "id") {
				stored[id] = true
			}
			if len(stored) != 8 {
				t.Errorf("restart %v: only %d of 8 rows are stored", restart, len(stored))
			}
		})
	}
}

// TestAmbiguityIsRemembered: whatever the second Write of a batch meets, it stays ambiguous, whole and with its token
// until it is stored, and then each row is there once.
func TestAmbiguityIsRemembered(t *testing.T) {
	narrow := func(t *testing.T, s *testkit.ClickHouseServer) func() {
		t.Helper()
		replace := func(ddl string) {
			if err := errors.Join(s.DropTable("orders"), s.CreateTable(ddl)); err != nil {
				t.Fatal(err)
			}
		}
		replace("CREATE TABLE orders (id UInt64, n Int8, name String) ENGINE = MergeTree ORDER BY id") // The n are nil.
		return func() { replace(ordersDDL) }
	}
	inject := func(f testkit.ClickHouseFault) func(*testing.T, *testkit.ClickHouseServer) func() {
		return func(_ *testing.T, s *testkit.ClickHouseServer) func() { return s.Inject(f) }
	}
	tests := map[string]struct {
		trouble func(*testing.T, *testkit.ClickHouseServer) (remove func())
		open    bool // The circuit, by the lost acknowledgement.
		hold    bool
	}{
		"data":          {inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 469, Times: -1}), false, false},
		"schema":        {inject(testkit.ClickHouseFault{On: testkit.ClickHousePrepare, Code: 60, Times: -1}), false, true},
		"overload":      {inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 252, Times: -1}), false, false},
		"other columns": {narrow, false, true},
		"open circuit":  {func(*testing.T, *testkit.ClickHouseServer) func() { return func() {} }, true, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
				failures := 100
				if tt.open {
					failures = 1
				}
				cfg := clickhousex.Config{Breaker: tightBreaker(t, failures)}
				in := newInserter[order](t, open(t, options(s), cfg), "orders", clickhousex.InserterConfig{Retry: retry.Policy{Attempts: -1}})
				// Two others before, so that it is not the only one to be remembered.
				if !tt.open {
					lost := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Cut: true, Times: -1})
					for _, first := range []int{10, 20} {
						if err := in.Write(t.Context(), batchOf(first, 4)); !holdfast.IsAmbiguous(err) {
							t.Fatal(err)
						}
					}
					lost()
				}
				defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true})()
				if err := in.Write(t.Context(), batchOf(0, 4)); !holdfast.IsAmbiguous(err) {
					t.Fatal(err)
				}
				remove := tt.trouble(t, s)
				for range 3 {
					err := in.Write(t.Context(), batchOf(0, 4))
					if !holdfast.IsAmbiguous(err) || holdfast.IsHold(err) != tt.hold || errors.Is(err, breaker.ErrCircuitOpen) != tt.open {
						t.Errorf("got %v, want it ambiguous, hold %v", err, tt.hold)
					}
				}
				remove()
				if err := in.WaitUntilReady(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := in.Write(t.Context(), batchOf(0, 4)); err != nil {
					t.Fatal(err)
				}
				wantIDs(t, s, upTo(4)...)
				tokens := make(map[string]bool)
				for _, insert := range s.Inserts() {
					tokens[insert.Token] = true
				}
				if want := map[bool]int{true: 1, false: 3}[tt.open]; len(tokens) != want {
					t.Errorf("%d tokens for %d batches", len(tokens), want)
				}
				if n := in.Stats().Splits; n != 0 {
					t.Errorf("split %d times", n)
				}
			})
		})
	}
}

// TestRefusedRowsStayRefused: rows that were refused before a batch became ambiguous are not among it later, though the
// table would take them by then.
func TestRefusedRowsStayRefused(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{Retry: retry.Policy{Attempts: -1}})
		b := batchOf(0, 3)
		big := 300
		b.Items[1].Value.N = &big
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Cut: true})()
		if err := in.Write(t.Context(), b); !holdfast.IsAmbiguous(err) {
			t.Fatal(err)
		}
		ddl := "CREATE TABLE orders (id UInt64, n Nullable(Int16), name String) ENGINE = MergeTree ORDER BY id"
		if err := errors.Join(s.DropTable("orders"), s.CreateTable(ddl)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if items := refusals(t, in.Write(t.Context(), b)); len(items) != 1 || items[1] == nil {
			t.Errorf("refused %v, want item 1", items)
		}
		wantIDs(t, s, 0, 2)
		if log := s.Inserts(); log[0].Token != log[1].Token {
			t.Error("the token has changed")
		}
	})
}

// TestCodesAfterSend: what the server says when rows were on their way, and what that means.
func TestCodesAfterSend(t *testing.T) {
	const (
		counted   = true
		ambiguous = true
		hold      = true
	)
	tests := []struct {
		on        testkit.ClickHouseEvent
		code      int32
		message   string
		ambiguous bool
		hold      bool
		counted   bool
		attempts  int
	}{
		{testkit.ClickHouseInsert, 241, "", !ambiguous, !hold, counted, 3}, // Halved after two.
		{testkit.ClickHouseInsert, 242, "", ambiguous, !hold, counted, 3},
		{testkit.ClickHouseInsert, 243, "", ambiguous, !hold, counted, 3},
		{testkit.ClickHouseInsert, 285, "", ambiguous, !hold, counted, 3},
		{testkit.ClickHouseInsert, 439, "", ambiguous, !hold, counted, 3},
		{testkit.ClickHouseInsert, 574, "", ambiguous, !hold, counted, 3},
		{testkit.ClickHouseInsert, 319, "", ambiguous, !hold, counted, 3},
		{testkit.ClickHouseInsert, 252, "", !ambiguous, !hold, counted, 3},
		{testkit.ClickHouseInsert, 202, "", !ambiguous, !hold, counted, 3},
		{testkit.ClickHouseInsert, 60, "", !ambiguous, hold, !counted, 1},
		{testkit.ClickHouseInsert, 16, "", !ambiguous, hold, !counted, 1},
		{testkit.ClickHouseInsert, 252, "Received from shard2:9000. DB::Exception: Too many parts", ambiguous, !hold, counted, 3},
		{testkit.ClickHouseInsert, 6, "Cannot parse 'SECRET': while pushing to view default.v", ambiguous, hold, !counted, 1},
		{testkit.ClickHouseInsert, 241, "Memory limit: SECRET: while pushing to view default.v", ambiguous, hold, !counted, 1},
		{testkit.ClickHouseInsert, 4242, "something new about SECRET", ambiguous, hold, !counted, 3},
		{testkit.ClickHousePrepare, 4242, "", !ambiguous, hold, !counted, 3},
		{testkit.ClickHousePrepare, 241, "", !ambiguous, !hold, counted, 3},
		{testkit.ClickHousePrepare, 701, "", !ambiguous, hold, !counted, 1},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %d %s", tt.on, tt.code, tt.message), func(t *testing.T) {
			bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
				b := tightBreaker(t, 100)
				in := newInserter[order](t, open(t, options(s), clickhousex.Config{Breaker: b}), "orders", clickhousex.InserterConfig{
					Retry: retry.Policy{Attempts: 3},
				})
				if err := in.Write(t.Context(), batchOf(0, 1)); err != nil {
					t.Fatal(err)
				}
				calls := b.Stats().Totals.Calls
				remove := s.Inject(testkit.ClickHouseFault{On: tt.on, Code: tt.code, Message: tt.message, Times: -1})
				err := in.Write(t.Context(), batchOf(1, 2))
				if holdfast.IsAmbiguous(err) != tt.ambiguous || holdfast.IsHold(err) != tt.hold || holdfast.IsPermanent(err) {
					t.Errorf("got %v, want ambiguous %v, hold %v", err, tt.ambiguous, tt.hold)
				}
				if strings.Contains(err.Error(), "SECRET") {
					t.Errorf("%q repeats a row", err)
				}
				got := b.Stats().Totals
				if attempts := int(got.Calls - calls); attempts != tt.attempts || (got.Failures != 0) != tt.counted {
					t.Errorf("%d attempts, %d failures, want %d attempts, counted %v", attempts, got.Failures, tt.attempts, tt.counted)
				}
				remove()
				if err := in.Write(t.Context(), batchOf(1, 2)); err != nil {
					t.Fatal(err)
				}
				wantIDs(t, s, upTo(3)...)
			})
		})
	}
}

// failingSend is a connection on which Send says this, if it is not nil.
type failingSend struct {
	driver.Conn
	err *error
}

func (c failingSend) PrepareBatch(ctx context.Context, query string, opts ...driver.PrepareBatchOption) (driver.Batch, error) {
	b, err := c.Conn.PrepareBatch(ctx, query, opts...)
	return failingBatch{b, c.err}, err
}

type failingBatch struct {
	driver.Batch
	err *error
}

func (b failingBatch) Send() error {
	if *b.err == nil {
		return b.Batch.Send()
	}
	_ = b.Abort() // Else the insertion would give back what it has to close.
	return *b.err
}

// TestOnlyTheServerIsBelieved: an error that is not the server's own says nothing of what is stored, whatever it looks like.
func TestOnlyTheServerIsBelieved(t *testing.T) {
	for _, fault := range []error{
		tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"},
		&clickhouse.HTTPError{StatusCode: 503, Err: errors.New("service unavailable")},
		&clickhouse.HTTPError{StatusCode: 404, Err: errors.New("not found")},
		&clickhouse.OpError{Op: "Append", Err: errors.New("anything")},
		clickhouse.ErrBatchAlreadySent,
		errors.New("something new"),
	} {
		bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
			raw, err := clickhouse.Open(options(s))
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			ch, err := clickhousex.Wrap(failingSend{raw, &fault}, clickhousex.Config{})
			if err != nil {
				t.Fatal(err)
			}
			in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{Retry: retry.Policy{Attempts: -1}})
			if err := in.Write(t.Context(), batchOf(0, 4)); !holdfast.IsAmbiguous(err) || holdfast.IsHold(err) {
				t.Errorf("%v: got %v, want it ambiguous", fault, err)
			}
			fault = nil
			if err := in.Write(t.Context(), batchOf(0, 4)); err != nil {
				t.Fatal(err)
			}
			wantIDs(t, s, upTo(4)...)
		})
	}
}
