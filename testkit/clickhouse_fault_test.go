package testkit_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast/testkit"
)

// insertToken inserts ten rows under a deduplication token.
func insertToken(t *testing.T, conn driver.Conn, token string) error {
	t.Helper()
	return send(clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": token})), conn, 0, 10)
}

func wantCode(t *testing.T, err error, code int32, text string) {
	t.Helper()
	e, ok := errors.AsType[*clickhouse.Exception](err)
	if !ok || e.Code != code || !strings.Contains(e.Message, text) {
		t.Errorf("error is %v, want exception %d with %q", err, code, text)
	}
}

func wantBroken(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("error is %v, want a broken connection", err)
	}
}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want a timeout", err)
	}
}

func wantRefused(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error is %v, want ECONNREFUSED", err)
	}
}

func wantNone(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func TestClickHouseFaults(t *testing.T) {
	insert := func(t *testing.T, conn driver.Conn) error { t.Helper(); return insertToken(t, conn, "a") }
	ping := func(t *testing.T, conn driver.Conn) error { t.Helper(); return conn.Ping(t.Context()) }
	query := func(t *testing.T, conn driver.Conn) error {
		t.Helper()
		return conn.QueryRow(t.Context(), "SELECT count() FROM events").Scan(new(uint64))
	}
	truncate := func(t *testing.T, conn driver.Conn) error {
		t.Helper()
		return conn.Exec(t.Context(), "TRUNCATE TABLE events")
	}
	exception := func(code int32, text string) func(*testing.T, error) {
		return func(t *testing.T, err error) { t.Helper(); wantCode(t, err, code, text) }
	}
	none := wantNone
	for _, test := range []struct {
		name  string
		fault testkit.ClickHouseFault
		do    func(*testing.T, driver.Conn) error
		want  func(*testing.T, error)
		rows  int // In the table afterwards; it has 5 before.
	}{
		{"exception at connect", testkit.ClickHouseFault{On: testkit.ClickHouseConnect, Code: 516, Message: "who are you"}, ping, exception(516, "who are you"), 5},
		{"exception at ping", testkit.ClickHouseFault{On: testkit.ClickHousePing, Code: 210}, ping, exception(210, "injected at ping"), 5},
		{"exception at query", testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Code: 159}, query, exception(159, "injected at query"), 5},
		{"exception at prepare", testkit.ClickHouseFault{On: testkit.ClickHousePrepare, Code: 242}, insert, exception(242, "injected at prepare"), 5},
		{"exception at insert", testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 252, Message: "Too many parts"}, insert, exception(252, "Too many parts"), 5},
		{"cut at connect", testkit.ClickHouseFault{On: testkit.ClickHouseConnect, Cut: true}, ping, wantBroken, 5},
		{"cut at ping", testkit.ClickHouseFault{On: testkit.ClickHousePing, Cut: true}, ping, wantBroken, 5},
		{"cut at query", testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Cut: true}, truncate, wantBroken, 5},
		{"cut at prepare", testkit.ClickHouseFault{On: testkit.ClickHousePrepare, Cut: true}, insert, wantBroken, 5},
		{"cut at insert", testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Cut: true}, insert, wantBroken, 5},
		{"hang at connect", testkit.ClickHouseFault{On: testkit.ClickHouseConnect, Hang: true}, ping, wantTimeout, 5},
		{"hang at ping", testkit.ClickHouseFault{On: testkit.ClickHousePing, Hang: true}, ping, wantTimeout, 5},
		{"hang at query", testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Hang: true}, truncate, wantTimeout, 5},
		{"hang at prepare", testkit.ClickHouseFault{On: testkit.ClickHousePrepare, Hang: true}, insert, wantTimeout, 5},
		{"hang at insert", testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Hang: true}, insert, wantTimeout, 5},
		{"lost answer at query", testkit.ClickHouseFault{On: testkit.ClickHouseQuery, LoseAck: true}, truncate, wantBroken, 0},
		{"lost answer at insert", testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true}, insert, wantBroken, 15},
		{"hang after query", testkit.ClickHouseFault{On: testkit.ClickHouseQuery, HangStored: true}, truncate, wantTimeout, 0},
		{"hang after insert", testkit.ClickHouseFault{On: testkit.ClickHouseInsert, HangStored: true}, insert, wantTimeout, 15},
		{"rejected", testkit.ClickHouseFault{On: testkit.ClickHouseConnect, Reject: true}, ping, wantRefused, 5},
		{"late connect", testkit.ClickHouseFault{On: testkit.ClickHouseConnect, Delay: time.Second}, ping, none, 5},
		{"late ping", testkit.ClickHouseFault{On: testkit.ClickHousePing, Delay: time.Second}, ping, none, 5},
		{"late insert", testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Delay: time.Second}, insert, none, 15},
		{"too late insert", testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Delay: 6 * time.Minute}, insert, wantTimeout, 5},
		{"of another table", testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Table: "other", Code: 60}, insert, none, 15},
		{"of this table", testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Table: "default.events", Code: 60}, insert, exception(60, ""), 5},
		{"prepare of this table", testkit.ClickHouseFault{On: testkit.ClickHousePrepare, Table: "events", Code: 60}, insert, exception(60, ""), 5},
		{"query on this table", testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Table: "events", Code: 60}, query, exception(60, ""), 5},
		{"query on another table", testkit.ClickHouseFault{On: testkit.ClickHouseQuery, Table: "other", Code: 60}, query, none, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Network: new(testkit.Network), Tables: []string{eventsDDL}})
				if err := send(t.Context(), open(t, options(s)), 100, 5); err != nil {
					t.Fatal(err)
				}
				conn := open(t, options(s)) // A connection of its own, so that it must connect.
				start := time.Now()
				remove := s.Inject(test.fault)
				defer remove()
				test.want(t, test.do(t, conn))
				if n := s.Count("events"); n != test.rows {
					t.Errorf("%d rows, want %d", n, test.rows)
				}
				if d := test.fault.Delay; time.Since(start) < min(d, 5*time.Minute) {
					t.Errorf("it took %s, want %s at least", time.Since(start), d)
				}
				// A fault strikes once, and the server goes on.
				if err := test.do(t, conn); err != nil {
					t.Errorf("the second time: %v", err)
				}
			})
		})
	}
}

func TestClickHouseFaultTiming(t *testing.T) {
	for _, test := range []struct {
		name   string
		faults []testkit.ClickHouseFault
		want   string // One letter an insert: f for a failure.
	}{
		{"next", []testkit.ClickHouseFault{{Code: 252}}, "f....."},
		{"third", []testkit.ClickHouseFault{{Code: 252, Nth: 3}}, "..f..."},
		{"twice", []testkit.ClickHouseFault{{Code: 252, Nth: 2, Times: 2}}, ".ff..."},
		{"from the fourth on", []testkit.ClickHouseFault{{Code: 252, Nth: 4, Times: -1}}, "...fff"},
		{"one after the other", []testkit.ClickHouseFault{{Code: 252}, {Code: 241}}, "ff...."},
		{"both count", []testkit.ClickHouseFault{{Code: 252, Nth: 2}, {Code: 241, Nth: 4}}, ".f.f.."},
		{"other events do not count", []testkit.ClickHouseFault{{On: testkit.ClickHousePing, Code: 252, Times: -1}}, "......"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Tables: []string{eventsDDL}})
			conn := open(t, options(s))
			var remove []func()
			for _, f := range test.faults {
				if f.On == "" {
					f.On = testkit.ClickHouseInsert
				}
				remove = append(remove, s.Inject(f))
			}
			got := ""
			for i := range len(test.want) {
				letter := "."
				if err := send(t.Context(), conn, i, 1); err != nil {
					letter = "f"
				}
				got += letter
			}
			if got != test.want {
				t.Errorf("inserts went %s, want %s", got, test.want)
			}
			for _, r := range remove {
				r()
				r() // Once more does nothing.
			}
			if err := send(t.Context(), conn, 0, 1); err != nil {
				t.Errorf("after the faults were removed: %v", err)
			}
		})
	}
}

func TestClickHouseInjectRefusesNonsense(t *testing.T) {
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{})
	for _, test := range []struct {
		fault testkit.ClickHouseFault
		want  string
	}{
		{testkit.ClickHouseFault{Cut: true}, "On must be one of"},
		{testkit.ClickHouseFault{On: "merge", Cut: true}, `got "merge"`},
		{testkit.ClickHouseFault{On: testkit.ClickHouseInsert}, "one at a time, got 0"},
		{testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Cut: true, Code: 1}, "one at a time, got 2"},
		{testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Reject: true}, "Reject must be for"},
		{testkit.ClickHouseFault{On: testkit.ClickHousePing, LoseAck: true}, "LoseAck and HangStored must be for"},
		{testkit.ClickHouseFault{On: testkit.ClickHousePing, Table: "t", Cut: true}, "Table must be empty"},
		{testkit.ClickHouseFault{On: testkit.ClickHousePing, Cut: true, Nth: -1, Times: -2}, "Times must be -1 or more, got -2"},
		{testkit.ClickHouseFault{On: testkit.ClickHousePing, Cut: true, Message: "m"}, "Message must come with a Code"},
		{testkit.ClickHouseFault{On: testkit.ClickHousePing, Code: -5}, "Code must not be negative, got -5"},
		{testkit.ClickHouseFault{On: testkit.ClickHousePing, Delay: -5}, "Delay must not be negative"},
	} {
		if err := test.fault.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: error is %v, want %q", test.fault, err, test.want)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("Inject took a fault without an effect")
		}
	}()
	s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert})
}

func TestClickHouseLostAckAndReplay(t *testing.T) {
	overAll(t, testkit.ClickHouseConfig{Tables: []string{eventsDDL}}, func(t *testing.T, s *testkit.ClickHouseServer, o clickhouse.Options) {
		conn := open(t, o)
		s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true})
		wantBroken(t, insertToken(t, conn, "span-1"))
		wantNone(t, insertToken(t, conn, "span-1"))
		wantNone(t, insertToken(t, conn, "span-2"))
		if n := s.Count("events"); n != 20 {
			t.Errorf("%d rows, want 20", n)
		}
		log := s.Inserts()
		if len(log) != 3 {
			t.Fatalf("%d inserts in the log, want 3: %+v", len(log), log)
		}
		type outcome struct {
			token                      string
			stored, deduplicated, told bool
			fault                      bool
		}
		for i, want := range []outcome{
			{"span-1", true, false, false, true},
			{"span-1", false, true, true, false},
			{"span-2", true, false, true, false},
		} {
			got := outcome{log[i].Token, log[i].Stored, log[i].Deduplicated, log[i].Acknowledged, log[i].Fault != nil}
			if got != want {
				t.Errorf("insert %d is %+v, want %+v", i, got, want)
			}
			if log[i].Table != "default.events" || log[i].Rows != 10 || strings.Join(log[i].Columns, ",") != "id,name" {
				t.Errorf("insert %d is of %d rows into %s %v", i, log[i].Rows, log[i].Table, log[i].Columns)
			}
		}
		if log[0].Fault == nil || !log[0].Fault.LoseAck {
			t.Errorf("the first insert's fault is %+v, want LoseAck", log[0].Fault)
		}
	})
}

func TestClickHouseHungInsertLandsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Network: new(testkit.Network), Tables: []string{eventsDDL}})
		conn := open(t, options(s))
		remove := s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Hang: true})
		wantTimeout(t, insertToken(t, conn, "a"))
		if n := s.Count("events"); n != 0 {
			t.Errorf("%d rows while the insert hangs, want 0", n)
		}
		remove()
		synctest.Wait()
		if n := s.Count("events"); n != 10 {
			t.Errorf("%d rows after the fault, want 10", n)
		}
		if log := s.Inserts(); len(log) != 1 || !log[0].Stored {
			t.Errorf("the log is %+v, want one stored insert", log)
		}
	})
}

func TestClickHouseDeduplication(t *testing.T) {
	const columns = "(id UInt64, name String)"
	for _, test := range []struct {
		name     string
		window   int
		engine   string
		settings clickhouse.Settings
		tokens   []string // One an insert of the same rows.
		want     int      // How many of them are stored.
	}{
		{"same token", 0, "ENGINE = MergeTree ORDER BY id", nil, []string{"a", "a", "b", "a"}, 2},
		{"no engine", 0, "", nil, []string{"a", "a"}, 1},
		{"no token", 0, "ENGINE = MergeTree ORDER BY id", nil, []string{"", ""}, 2},
		{"switched off", 0, "ENGINE = MergeTree ORDER BY id", clickhouse.Settings{"insert_deduplicate": 0}, []string{"a", "a"}, 2},
		{"as on a real server", -1, "ENGINE = MergeTree ORDER BY id", nil, []string{"a", "a"}, 2},
		{"window of two", 2, "ENGINE = MergeTree ORDER BY id", nil, []string{"a", "b", "c", "a"}, 4},
		{"window of the table", -1, "ENGINE = MergeTree ORDER BY id SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 100", nil, []string{"a", "a"}, 1},
		{"equal rows in a table with a window", -1, "ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100", nil, []string{"", "", "a"}, 2},
		{"equal rows in a replicated table", 0, "ENGINE = ReplicatedMergeTree('/t', 'r1') ORDER BY id", nil, []string{"", ""}, 1},
		{"table without a window", 0, "ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 0", nil, []string{"a", "a"}, 2},
		{"memory", 0, "ENGINE = Memory", nil, []string{"a", "a"}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := testkit.ClickHouse(t, testkit.ClickHouseConfig{
				DedupWindow: test.window, Tables: []string{"CREATE TABLE events " + columns + test.engine},
			})
			conn := open(t, options(s))
			for _, token := range test.tokens {
				settings := clickhouse.Settings{}
				maps.Copy(settings, test.settings)
				if token != "" {
					settings["insert_deduplication_token"] = token
				}
				wantNone(t, send(clickhouse.Context(t.Context(), clickhouse.WithSettings(settings)), conn, 0, 10))
			}
			if n := s.Count("events"); n != test.want*10 {
				t.Errorf("%d rows, want %d", n, test.want*10)
			}
		})
	}
}

func TestClickHouseFailedInsertIsNotRemembered(t *testing.T) {
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Tables: []string{eventsDDL}})
	conn := open(t, options(s))
	s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Code: 241})
	wantCode(t, insertToken(t, conn, "a"), 241, "")
	wantNone(t, insertToken(t, conn, "a"))
	if n := s.Count("events"); n != 10 {
		t.Errorf("%d rows, want 10", n)
	}
}

func TestClickHouseStopAndStart(t *testing.T) {
	overAll(t, testkit.ClickHouseConfig{Tables: []string{eventsDDL}}, func(t *testing.T, s *testkit.ClickHouseServer, o clickhouse.Options) {
		conn := open(t, o)
		wantNone(t, send(t.Context(), conn, 0, 10))
		batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO events")
		if err != nil {
			t.Fatal(err)
		}
		wantNone(t, batch.Append(uint64(1), "in flight"))
		addr := s.Addr()
		s.Stop()
		s.Stop()
		wantBroken(t, batch.Send())
		// On a virtual network the driver cannot see that an idle connection is dead, so the first ping may find it.
		_ = conn.Ping(t.Context())
		wantRefused(t, conn.Ping(t.Context()))

		wantNone(t, s.Start())
		wantNone(t, s.Start())
		wantNone(t, conn.Ping(t.Context()))
		if s.Addr() != addr {
			t.Errorf("the address became %s, was %s", s.Addr(), addr)
		}
		if n := count(t, conn, "SELECT count() FROM events"); n != 10 {
			t.Errorf("%d rows, want 10", n)
		}
		s.Close()
		s.Close()
		if err := s.Start(); err == nil {
			t.Error("a closed server started")
		}
	})
}

func TestClickHouseStopEndsWhatHangs(t *testing.T) {
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Tables: []string{eventsDDL}})
	conn := open(t, options(s))
	s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Hang: true})
	failed := make(chan error, 1)
	go func() { failed <- send(context.Background(), conn, 0, 1) }()
	for len(s.Inserts()) == 0 {
		time.Sleep(time.Millisecond)
	}
	s.Stop()
	wantBroken(t, <-failed)
}

func TestClickHouseServesMany(t *testing.T) {
	overAll(t, testkit.ClickHouseConfig{Tables: []string{eventsDDL}}, func(t *testing.T, s *testkit.ClickHouseServer, o clickhouse.Options) {
		const workers, batches = 8, 20
		o.MaxOpenConns = workers
		conn := open(t, o)
		s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Nth: 7, Times: 10, LoseAck: true})
		s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseConnect, Nth: 10, Times: 3, Reject: true})
		var work sync.WaitGroup
		for w := range workers {
			work.Go(func() {
				for b := range batches {
					token := string(rune('a'+w)) + string(rune('a'+b))
					for insertToken(t, conn, token) != nil {
						_ = s.Count("events")
					}
				}
			})
		}
		work.Wait()
		if n := s.Count("events"); n != workers*batches*10 {
			t.Errorf("%d rows, want %d", n, workers*batches*10)
		}
	})
}

// The race detector speaks up when what Dial reads is written by Start.
func TestClickHouseDialDuringRestart(t *testing.T) {
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Network: new(testkit.Network)})
	var dialing sync.WaitGroup
	dialing.Go(func() {
		for range 100 {
			if conn, err := s.Dial(t.Context(), s.Addr()); err == nil {
				_ = conn.Close()
			}
		}
	})
	for range 20 {
		s.Stop()
		if err := s.Start(); err != nil {
			t.Error(err)
		}
	}
	dialing.Wait()
}
