package clickhousex_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

const markedDDL = "CREATE TABLE orders (id UInt64, n Nullable(Int8), name String, _topic LowCardinality(String), _partition UInt32, " +
	"_offset UInt64, _index UInt16) ENGINE = "

// TestGuarantee: one line of the log says what a table's rows can rely on, and Check says the same.
func TestGuarantee(t *testing.T) {
	const (
		plain      = markedDDL + "MergeTree ORDER BY id"
		windowed   = plain + " SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 7"
		windowless = plain + " SETTINGS non_replicated_deduplication_window = 0"
		replicated = markedDDL + "ReplicatedMergeTree('/orders', '1') ORDER BY id SETTINGS replicated_deduplication_window = 5"
	)
	token := clickhousex.InserterConfig{}
	off := clickhousex.InserterConfig{Dedup: clickhousex.DedupOff}
	columns := clickhousex.InserterConfig{Offsets: clickhousex.OffsetsOfMessages}
	values := clickhousex.InserterConfig{Offsets: clickhousex.OffsetsOfValues, Dedup: clickhousex.DedupOff}
	async := func(dedup string) clickhousex.InserterConfig {
		return clickhousex.InserterConfig{Settings: clickhouse.Settings{"async_insert": 1, "async_insert_deduplicate": dedup}}
	}
	asyncColumns := async("0")
	asyncColumns.Offsets = clickhousex.OffsetsOfMessages
	tests := []struct {
		name   string
		ddl    string
		window int // The server's default.
		cfg    clickhousex.InserterConfig
		want   clickhousex.Guarantee
		says   []string
	}{
		{"plain", plain, -1, token, clickhousex.GuaranteeNone, []string{"engine=MergeTree", "window=0", "offset_columns=false"}},
		{"server's window", plain, 3, token, clickhousex.GuaranteeWindow, []string{"window=3", "deduplication_token=true"}},
		{"table's window", windowed, -1, token, clickhousex.GuaranteeWindow, []string{"window=7"}},
		{"table's none", windowless, 3, token, clickhousex.GuaranteeNone, []string{"window=0"}},
		{"window unused", windowed, -1, off, clickhousex.GuaranteeNone, []string{"window=7", "deduplication_token=false"}},
		{"replicated", replicated, -1, token, clickhousex.GuaranteeReplicated, []string{"engine=ReplicatedMergeTree", "window=5"}},
		{"replicated unused", replicated, -1, off, clickhousex.GuaranteeNone, nil},
		{"columns", plain, -1, columns, clickhousex.GuaranteeColumns, []string{"columns=6", "offset_columns=true"}},
		{"columns only", replicated, -1, values, clickhousex.GuaranteeColumns, nil},
		{"columns of nothing", markedDDL + "Null", -1, columns, clickhousex.GuaranteeNone, []string{"engine=Null"}},
		{"both", windowed, -1, columns, clickhousex.GuaranteeWindow, []string{"offset_columns=true"}},
		{"asynchronous", windowed, -1, async("0"), clickhousex.GuaranteeNone, nil},
		{"asynchronous, deduplicated", windowed, -1, async("1"), clickhousex.GuaranteeWindow, nil},
		{"asynchronous columns", plain, -1, asyncColumns, clickhousex.GuaranteeNone, []string{"offset_columns=true"}},
		{"no MergeTree", markedDDL + "Memory", 3, token, clickhousex.GuaranteeNone, []string{"engine=Memory", "window=0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, testkit.ClickHouseConfig{Tables: []string{tt.ddl}, DedupWindow: tt.window}, func(t *testing.T, s *testkit.ClickHouseServer) {
				var log bytes.Buffer
				ch := open(t, options(s), clickhousex.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
				in := newInserter[order](t, ch, "orders", tt.cfg)
				if got, err := in.Check(t.Context()); err != nil || got != tt.want {
					t.Errorf("Check = %s, %v, want %s", got, err, tt.want)
				}
				for i := range 3 {
					if err := in.Write(t.Context(), batchOf(i, 1)); err != nil {
						t.Fatal(err)
					}
				}
				for _, want := range append(tt.says, "guarantee="+string(tt.want)) {
					if strings.Count(log.String(), want) != 1 {
						t.Errorf("the log must have %s in one line:\n%s", want, &log)
					}
				}
			})
		})
	}
}

// TestUnreadableTable: whoever may insert only has no word on the guarantee, and inserts all the same.
func TestUnreadableTable(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Code: 497, Times: -1})()
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{})
		if got, err := in.Check(t.Context()); err != nil || got != clickhousex.GuaranteeUnknown {
			t.Errorf("Check = %s, %v", got, err)
		}
		if err := in.Write(t.Context(), batchOf(0, 2)); err != nil {
			t.Fatal(err)
		}
		wantIDs(t, s, upTo(2)...)
	})
}

// TestRefusesToStart: where a table compares blocks of rows, and the server is too old for tokens, two equal batches would
// be stored as one. Each of the ways out that the error names is one.
func TestRefusesToStart(t *testing.T) {
	const replicated = markedDDL + "ReplicatedMergeTree('/orders', '1') ORDER BY id"
	tests := []struct {
		name     string
		revision int
		cfg      clickhousex.InserterConfig
		refused  bool
	}{
		{"old server", 54412, clickhousex.InserterConfig{}, true},
		{"token", 0, clickhousex.InserterConfig{}, false},
		{"Offsets", 54412, clickhousex.InserterConfig{Offsets: clickhousex.OffsetsOfMessages}, false},
		{"DedupOff", 54412, clickhousex.InserterConfig{Dedup: clickhousex.DedupOff}, false},
	}
	for _, tt := range tests {
		bubble(t, testkit.ClickHouseConfig{Tables: []string{replicated}, Revision: tt.revision}, func(t *testing.T, s *testkit.ClickHouseServer) {
			in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", tt.cfg)
			_, err := in.Check(t.Context())
			if holdfast.IsHold(err) != tt.refused || (err == nil) == tt.refused {
				t.Errorf("%s: Check: %v", tt.name, err)
			}
			// Two batches whose rows are equal, but for where they come from.
			for i := range 2 {
				b := batchOf(i, 1)
				b.Items[0].Value = order{ID: 7}
				err := in.Write(t.Context(), b)
				if !tt.refused {
					if err != nil {
						t.Errorf("%s: %v", tt.name, err)
					}
					continue
				}
				if !holdfast.IsHold(err) || holdfast.IsAmbiguous(err) {
					t.Errorf("%s: got %v, want Hold", tt.name, err)
					continue
				}
				for _, way := range []string{"insert_deduplication_token", "Offsets", "DedupOff", "insert_deduplicate=0"} {
					if !strings.Contains(err.Error(), way) {
						t.Errorf("%q does not name %s", err, way)
					}
				}
			}
			for _, insert := range s.Inserts() {
				off := insert.Settings["insert_deduplicate"] == "0"
				if off != (tt.cfg.Dedup == clickhousex.DedupOff) {
					t.Errorf("%s: insert_deduplicate=0 is sent: %v", tt.name, off)
				}
			}
			if want := map[bool]int{true: 0, false: 2}[tt.refused]; s.Count("orders") != want {
				t.Errorf("%s: %d rows stored, want %d", tt.name, s.Count("orders"), want)
			}
		})
	}
}

// TestToldOfTheTable: a view that hangs on a table makes its inserts more than one, and a profile may keep the server from
// heeding what the table remembers.
func TestToldOfTheTable(t *testing.T) {
	tests := map[string]struct {
		told func(query string, dest []any)
		want clickhousex.Guarantee
		// Whether an insert that the server has not the memory for has stored nothing, and may be halved.
		atomic bool
		cfg    clickhousex.InserterConfig
	}{
		"nothing": {told: func(string, []any) {}, want: clickhousex.GuaranteeWindow, atomic: true},
		"an asynchronous insert": {
			told: func(string, []any) {}, want: clickhousex.GuaranteeNone,
			cfg: clickhousex.InserterConfig{Settings: clickhouse.Settings{"async_insert": true}},
		},
		"a view": {told: func(query string, dest []any) {
			if strings.Contains(query, "system.tables") {
				*dest[3].(*[]string) = []string{"view"}
			}
		}, want: clickhousex.GuaranteeWindow},
		"insert_deduplicate": {told: setting("insert_deduplicate", "0"), want: clickhousex.GuaranteeNone, atomic: true},
		"deduplicate_insert": {told: setting("deduplicate_insert", "disable"), want: clickhousex.GuaranteeNone, atomic: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
				raw, err := clickhouse.Open(options(s))
				if err != nil {
					t.Fatal(err)
				}
				defer raw.Close()
				ch, err := clickhousex.Wrap(watchedRows{raw, tt.told}, clickhousex.Config{Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				tt.cfg.Retry = retry.Policy{Attempts: -1}
				in := newInserter[order](t, ch, "orders", tt.cfg)
				if got, err := in.Check(t.Context()); err != nil || got != tt.want {
					t.Errorf("Check = %s, %v, want %s", got, err, tt.want)
				}
				defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 241})()
				if err := in.Write(t.Context(), batchOf(0, 4)); holdfast.IsAmbiguous(err) == tt.atomic {
					t.Errorf("after code 241: %v", err)
				}
			})
		})
	}
}

// setting has the server tell another value of a setting, whichever it is asked for first.
func setting(name, value string) func(query string, dest []any) {
	return func(query string, dest []any) {
		if strings.Contains(query, "system.settings") {
			*dest[0].(*string), *dest[1].(*string) = name, value
		}
	}
}

// TestBusyServerIsAskedAgain: a server at its limits has not said that it will not tell of the table.
func TestBusyServerIsAskedAgain(t *testing.T) {
	bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
		defer s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Code: 202})()
		in := newInserter[order](t, open(t, options(s), clickhousex.Config{}), "orders", clickhousex.InserterConfig{})
		if got, err := in.Check(t.Context()); err != nil || got != clickhousex.GuaranteeWindow {
			t.Errorf("Check = %s, %v, want it as the table is", got, err)
		}
	})
}
