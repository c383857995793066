package clickhousex_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

// marked is a server whose table of orders has the columns of Offsets, and remembers nothing.
func marked(t *testing.T, test func(t *testing.T, s *testkit.ClickHouseServer)) {
	t.Helper()
	bubble(t, testkit.ClickHouseConfig{Tables: []string{markedDDL + "MergeTree PARTITION BY name ORDER BY id"}, DedupWindow: -1}, test)
}

var byMessage = clickhousex.InserterConfig{Offsets: clickhousex.OffsetsOfMessages, Timeout: time.Second, Retry: retry.Policy{Attempts: 2, Delay: time.Second, Jitter: -1}}

// wantOnce fails unless the table holds each of the ids once, in whatever order.
func wantOnce(t *testing.T, s *testkit.ClickHouseServer, n int) {
	t.Helper()
	seen := make(map[any]int)
	for _, id := range s.Values("orders", "id") {
		seen[id]++
	}
	for i := range uint64(n) {
		if seen[i] != 1 {
			t.Errorf("id %d is stored %d times", i, seen[i])
		}
		delete(seen, i)
	}
	if len(seen) > 0 {
		t.Errorf("%v are stored as well", slices.Collect(maps.Keys(seen)))
	}
}

func TestOffsetColumnsAreFilled(t *testing.T) {
	marked(t, func(t *testing.T, s *testkit.ClickHouseServer) {
		cfg := byMessage
		cfg.Offsets = clickhousex.OffsetsOfValues
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", cfg)
		b := batchOf(5, 3)
		b.Items[2].Source.Offset, b.Items[2].Index = 6, 1
		bad := 300
		b.Items[0].Value.N = &bad // Refused: its neighbours keep their places.
		_ = refusals(t, in.Write(t.Context(), b))
		for column, want := range map[string]string{"_topic": "[orders orders]", "_partition": "[0 0]", "_offset": "[6 6]", "_index": "[0 1]", "id": "[6 7]"} {
			if got := fmt.Sprint(s.Values("orders", column)); got != want {
				t.Errorf("%s is %s, want %s", column, got, want)
			}
		}
		letter := batchOf(9, 1)
		letter.Items[0].Source.Topic, letter.Items[0].Source.Partition = "first life", 3
		letter.Items[0].Source.Letter = &holdfast.Letter{Topic: "orders", Offset: 9}
		letter.Items[0].Source.Offset = 77
		if err := in.Write(t.Context(), letter); err != nil {
			t.Fatal(err)
		}
		if topic, offset := s.Values("orders", "_topic")[2], s.Values("orders", "_offset")[2]; topic != "first life" || offset != uint64(77) {
			t.Errorf("a letter's row says it comes from %v %v", topic, offset)
		}
	})
}

// TestOffsetsAreRequired: where the columns cannot tell rows apart, nothing is written.
func TestOffsetsAreRequired(t *testing.T) {
	sourceless, second := batchOf(0, 1), batchOf(0, 1)
	sourceless.Items[0].Source = nil
	second.Items[0].Index = 1
	for name, b := range map[string]holdfast.Batch[order]{"no source": sourceless, "a second value": second} {
		marked(t, func(t *testing.T, s *testkit.ClickHouseServer) {
			in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", byMessage)
			if err := in.Write(t.Context(), b); !holdfast.IsHold(err) || holdfast.IsAmbiguous(err) || s.Count("orders") != 0 {
				t.Errorf("%s: got %v, %d rows", name, err, s.Count("orders"))
			}
		})
	}
	narrow := strings.Replace(markedDDL, "_partition UInt32", "_partition UInt8", 1) + "MergeTree ORDER BY id"
	bubble(t, testkit.ClickHouseConfig{Tables: []string{narrow}}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", byMessage)
		b := batchOf(0, 1)
		b.Spans[0].Partition, b.Items[0].Source.Partition = 300, 300
		if err := in.Write(t.Context(), b); !holdfast.IsHold(err) || holdfast.IsPermanent(err) {
			t.Errorf("a column too narrow for the partition: got %v, want Hold", err)
		}
	})
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", byMessage)
		if err := in.Write(t.Context(), batchOf(0, 1)); !holdfast.IsHold(err) {
			t.Errorf("no such columns: got %v, want Hold", err)
		}
		type own struct {
			Offset int64 `ch:"_offset"`
		}
		_, err := clickhousex.NewInserter[own](open(t, options(s), clickhousex.Config{}), "orders", byMessage)
		if err == nil || !strings.Contains(err.Error(), `"_offset"`) {
			t.Errorf("a column of the row's own: got %v", err)
		}
	})
}

// TestLookBeforeRepeating: on a table that remembers nothing, an insert whose acknowledgement was lost leaves each row
// once, whether it was stored, or a part of it, or nothing.
func TestLookBeforeRepeating(t *testing.T) {
	insert := testkit.ClickHouseInsert
	tests := map[string]struct {
		fault  testkit.ClickHouseFault
		stored []int // What the table has of the batch by the time it is asked, beside what the fault leaves.
		sent   []int // The rows of the further inserts.
	}{
		"stored":             {testkit.ClickHouseFault{On: insert, LoseAck: true}, nil, nil},
		"nothing stored":     {testkit.ClickHouseFault{On: insert, Cut: true}, nil, []int{6}},
		"a part stored":      {testkit.ClickHouseFault{On: insert, Cut: true}, []int{1, 2, 5}, []int{3}},
		"too large":          {testkit.ClickHouseFault{On: insert, Code: 241}, []int{0}, []int{5}},
		"unknown to servers": {testkit.ClickHouseFault{On: insert, Code: 4242}, nil, []int{6}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			marked(t, func(t *testing.T, s *testkit.ClickHouseServer) {
				ch := open(t, options(s), clickhousex.Config{})
				in := newInserter[order](t, ch, "orders", byMessage)
				// It comes when the batch has been tried once.
				for _, i := range tt.stored {
					row := batchOf(i, 1)
					time.AfterFunc(50*time.Millisecond, func() {
						other := newInserter[order](t, ch, "orders", byMessage)
						if err := other.Write(context.Background(), row); err != nil {
							t.Error(err)
						}
					})
				}
				defer s.Inject(tt.fault)()
				if err := in.Write(t.Context(), batchOf(0, 6)); err != nil {
					t.Fatal(err)
				}
				wantOnce(t, s, 6)
				var sent []int
				for _, i := range s.Inserts()[1:] {
					if i.Rows > 1 {
						sent = append(sent, i.Rows)
					}
				}
				if fmt.Sprint(sent) != fmt.Sprint(tt.sent) {
					t.Errorf("sent %v rows again, want %v", sent, tt.sent)
				}
				if got := in.Stats(); got.Rows != 6 {
					t.Errorf("Stats = %+v, want 6 rows", got)
				}
			})
		})
	}
}

// TestAtWork: nothing is sent again while the server is at work on an earlier attempt, of which nothing can be seen yet.
func TestAtWork(t *testing.T) {
	marked(t, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", byMessage)
		end := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Hang: true})
		for range 3 {
			if err := in.Write(t.Context(), batchOf(0, 4)); !holdfast.IsAmbiguous(err) {
				t.Fatalf("got %v, want it ambiguous", err)
			}
		}
		end() // The server stores it now.
		if err := in.Write(t.Context(), batchOf(0, 4)); err != nil {
			t.Fatal(err)
		}
		wantOnce(t, s, 4)
		if n := len(s.Inserts()); n != 1 {
			t.Errorf("%d inserts, want 1", n)
		}
	})
}

// TestLookFails: a table that cannot be asked leaves the batch ambiguous, and a server that does not tell what it is at
// work on is believed to be done.
func TestLookFails(t *testing.T) {
	for _, tt := range []struct {
		table string
		code  int32
		hold  bool
		fails bool
	}{
		{"default.orders", 497, true, true},
		{"default.orders", 241, false, true},
		{"system.processes", 497, false, false},
		{"system.processes", 202, false, true}, // It may well be at work.
	} {
		marked(t, func(t *testing.T, s *testkit.ClickHouseServer) {
			in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", byMessage)
			if err := in.Write(t.Context(), batchOf(0, 1)); err != nil {
				t.Fatal(err)
			}
			defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true})()
			remove := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Table: tt.table, Code: tt.code, Times: -1})
			for range 2 {
				err := in.Write(t.Context(), batchOf(1, 4))
				if holdfast.IsAmbiguous(err) != tt.fails || holdfast.IsHold(err) != tt.hold {
					t.Errorf("%+v: got %v", tt, err)
				}
			}
			remove()
			if err := in.Write(t.Context(), batchOf(1, 4)); err != nil {
				t.Fatal(err)
			}
			if tt.fails {
				wantOnce(t, s, 5)
			}
		})
	}
}

// TestBadRowsAmongFound: rows that the table has are not among what is halved.
func TestBadRowsAmongFound(t *testing.T) {
	marked(t, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", byMessage)
		for _, i := range []int{0, 3} { // An earlier process has come so far.
			if err := in.Write(t.Context(), batchOf(i, 1)); err != nil {
				t.Fatal(err)
			}
		}
		in = newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", byMessage)
		// 1 2 no, 1 no, 2 yes.
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 469, Times: 2})()
		if items := refusals(t, in.Write(t.Context(), batchOf(0, 4))); len(items) != 1 || items[1] == nil {
			t.Errorf("refused %v, want item 1", items)
		}
		if got := fmt.Sprint(s.Values("orders", "id")); got != "[0 3 2]" {
			t.Errorf("stored %s", got)
		}
	})
}

// TestResume: after a crash the batches are cut otherwise, and nothing is stored twice, on a table that remembers nothing.
// A partition that has moved on is not asked about again.
func TestResume(t *testing.T) {
	marked(t, func(t *testing.T, s *testkit.ClickHouseServer) {
		ch := open(t, options(s), clickhousex.Config{})
		write := func(in *clickhousex.Inserter[order], first, n int) (queries uint64) {
			t.Helper()
			before := ch.Breaker().Stats().Totals.Calls
			if err := in.Write(t.Context(), batchOf(first, n)); err != nil {
				t.Fatal(err)
			}
			return ch.Breaker().Stats().Totals.Calls - before
		}
		in := newInserter[order](t, ch, "orders", byMessage)
		write(in, 0, 10)
		write(in, 10, 10)
		if n := write(in, 20, 5); n != 1 {
			t.Errorf("%d calls for an insert of a partition that goes on, want 1", n)
		}
		in = newInserter[order](t, ch, "orders", byMessage) // Committed were 4.
		write(in, 4, 7)
		write(in, 11, 11)
		write(in, 22, 8)
		if n := write(in, 30, 8); n != 1 {
			t.Errorf("%d calls beyond what the table had, want 1", n)
		}
		write(newInserter[order](t, ch, "orders", byMessage), 38, 20) // Another member has the partition, and commits 41.
		write(in, 41, 20)
		wantOnce(t, s, 61)
	})
}

// TestResumeValues: values of one message are told apart.
func TestResumeValues(t *testing.T) {
	marked(t, func(t *testing.T, s *testkit.ClickHouseServer) {
		cfg := byMessage
		cfg.Offsets = clickhousex.OffsetsOfValues
		for _, n := range []int{3, 5} {
			b := batchOf(0, n)
			b.Spans[0].Next = 1
			for i := range b.Items {
				b.Items[i].Source.Offset, b.Items[i].Index = 0, i
			}
			in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", cfg)
			if err := in.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			wantOnce(t, s, n)
		}
	})
}

// TestLettersAreLookedUp: a letter that lies in the queue twice, or whose row was stored before it was written, is one row.
func TestLettersAreLookedUp(t *testing.T) {
	marked(t, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", byMessage)
		if err := in.Write(t.Context(), batchOf(0, 3)); err != nil {
			t.Fatal(err)
		}
		for at := range 2 {
			b := batchOf(2, 2)
			b.Spans[0] = holdfast.Span{Topic: "orders.dlq", First: int64(2 * at), Next: int64(2*at + 2)}
			for i := range b.Items {
				b.Items[i].Source.Letter = &holdfast.Letter{Topic: "orders.dlq", Offset: int64(2*at + i)}
			}
			if err := in.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		wantOnce(t, s, 4)
	})
}

// TestFarLetters: of letters that come from far apart, what lies in between is not read; and one that lies in the queue
// twice is one row, in one batch as well.
func TestFarLetters(t *testing.T) {
	marked(t, func(t *testing.T, s *testkit.ClickHouseServer) {
		const far = 2000
		read := 0
		raw, err := clickhouse.Open(options(s))
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		ch, err := clickhousex.Wrap(watchedRows{raw, func(string, []any) { read++ }}, clickhousex.Config{})
		if err != nil {
			t.Fatal(err)
		}
		in := newInserter[order](t, ch, "orders", byMessage)
		if err := in.Write(t.Context(), batchOf(1, far-1)); err != nil {
			t.Fatal(err)
		}
		b := batchOf(0, 5)
		for i, offset := range []int{0, far, far - 1, 5, far} {
			b.Items[i] = batchOf(offset, 1).Items[0]
			b.Items[i].Source.Letter = &holdfast.Letter{Topic: "orders.dlq", Offset: int64(i)}
		}
		b.Spans[0] = holdfast.Span{Topic: "orders.dlq", First: 0, Next: 5}
		read = 0
		if err := in.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if read > far/4 {
			t.Errorf("%d rows are read for 4 letters", read)
		}
		wantOnce(t, s, far+1)
	})
}
