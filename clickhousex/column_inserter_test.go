package clickhousex_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/testkit"
)

type orderColumns struct {
	ID   []uint64 `ch:"id"`
	N    []*int   `ch:"n"`
	Name []string `ch:"name"`
}

func newColumnInserter[T any](t *testing.T, s *testkit.ClickHouseServer) *clickhousex.ColumnInserter[T] {
	t.Helper()
	in, err := clickhousex.NewColumnInserter[T](open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestColumnInserter(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newColumnInserter[orderColumns](t, s)
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true})()
		columns := orderColumns{ID: []uint64{5, 6, 7, 8}, N: []*int{new(1), nil, new(300), new(-128)}, Name: []string{"a", "b", "c", "d"}}
		items := refusals(t, in.Write(t.Context(), columns, "orders/0/5-8"))
		if len(items) != 1 || items[2] == nil || !strings.Contains(items[2].Error(), "row 2: column n Nullable(Int8)") {
			t.Errorf("refused %v, want row 2 for its n", items)
		}
		for column, want := range map[string]string{"id": "[5 6 8]", "n": "[1 <nil> -128]", "name": "[a b d]"} {
			if got := fmt.Sprint(s.Values("orders", column)); got != want {
				t.Errorf("column %s is %s, want %s", column, got, want)
			}
		}
		if got := in.Stats(); got.Rows != 3 || got.Refused != 1 || got.Ambiguous != 1 || in.IsOpen() || in.WaitUntilReady(t.Context()) != nil {
			t.Errorf("Stats = %+v", got)
		}

		if err := in.Write(t.Context(), orderColumns{}, "nothing"); err != nil {
			t.Errorf("no rows: %v", err)
		}
		columns.Name = columns.Name[:3]
		if err := in.Write(t.Context(), columns, "uneven"); err == nil || holdfast.IsPermanent(err) || !strings.Contains(err.Error(), "name has 3 values, but id has 4") {
			t.Errorf("uneven columns: got %v", err)
		}
	})
}

// TestColumnTokens: a token for each set of rows, and none without an id.
func TestColumnTokens(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		in := newColumnInserter[*orderColumns](t, s)
		good := &orderColumns{ID: []uint64{1, 2}, N: []*int{nil, nil}, Name: []string{"", ""}}
		part := &orderColumns{ID: []uint64{1, 2}, N: []*int{nil, new(1000)}, Name: []string{"", ""}}
		for _, write := range []struct {
			columns *orderColumns
			id      string
		}{{good, "a"}, {good, "a"}, {good, "b"}, {part, "a"}, {good, ""}} {
			if err := in.Write(t.Context(), write.columns, write.id); err != nil && write.columns == good {
				t.Fatal(err)
			}
		}
		log := s.Inserts()
		if len(log) != 5 {
			t.Fatalf("%d inserts, want 5", len(log))
		}
		a, again, b, ofPart, none := log[0].Token, log[1].Token, log[2].Token, log[3].Token, log[4].Token
		if a == "" || a != again || a == b || a == ofPart || b == ofPart || none != "" {
			t.Errorf("tokens are %q", []string{a, again, b, ofPart, none})
		}
		if !log[1].Deduplicated || log[4].Settings["insert_deduplicate"] != "0" {
			t.Errorf("inserts are %+v", log)
		}
		if err := in.Write(t.Context(), nil, "a"); err == nil || !strings.Contains(err.Error(), "nil pointer") {
			t.Errorf("nil columns: got %v", err)
		}
	})
}

func TestNewColumnInserterRefuses(t *testing.T) {
	type columns struct {
		ID   []uint64 `ch:"id"`
		Name string   `ch:"name"`
		Tags [2]int8  `ch:"tags"`
	}
	_, err := clickhousex.NewColumnInserter[columns](nil, "", clickhousex.InserterConfig{MaxBytes: -1})
	for _, want := range []string{"needs a Conn", `column "name"`, "must be a slice, got string", "got [2]int8", "table", "MaxBytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
