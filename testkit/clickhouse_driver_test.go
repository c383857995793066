package testkit_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast/testkit"
)

func TestClickHouseDatabaseSQL(t *testing.T) {
	t.Parallel()
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Tables: []string{eventsDDL}})
	o := options(s)
	db := clickhouse.OpenDB(&o)
	defer func() { wantNone(t, db.Close()) }()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	stmt, err := tx.PrepareContext(t.Context(), "INSERT INTO events VALUES (?, ?)")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := stmt.ExecContext(t.Context(), uint64(i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	wantNone(t, tx.Commit())
	var n int
	wantNone(t, db.QueryRowContext(t.Context(), "SELECT count() FROM events WHERE name = ?", "x").Scan(&n))
	if n != 5 {
		t.Errorf("count() = %d, want 5", n)
	}
}

func TestClickHouseBatchEnds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		end  func(driver.Batch) error
		rows int
	}{
		{"send", driver.Batch.Send, 1},
		{"close", driver.Batch.Close, 0},
		{"abort", driver.Batch.Abort, 0},
		{"flush and send", func(b driver.Batch) error { return errors.Join(b.Flush(), b.Append(uint64(2), "b"), b.Send()) }, 2},
		{"flush and abort", func(b driver.Batch) error { return errors.Join(b.Flush(), b.Abort()) }, 0},
		{"send twice", func(b driver.Batch) error { return errors.Join(b.Send(), b.Send()) }, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Tables: []string{eventsDDL}})
			conn := open(t, options(s))
			batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO events (id, name)")
			if err != nil {
				t.Fatal(err)
			}
			wantNone(t, batch.Append(uint64(1), "a"))
			wantNone(t, test.end(batch))
			wantNone(t, conn.Ping(t.Context()))
			if n := s.Count("events"); n != test.rows {
				t.Errorf("%d rows, want %d", n, test.rows)
			}
			if log := s.Inserts(); test.rows == 0 && len(log) != 0 {
				t.Errorf("the log is %+v, want none", log)
			}
		})
	}
}

func TestClickHouseLogsSettings(t *testing.T) {
	t.Parallel()
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Tables: []string{eventsDDL}})
	o := options(s)
	o.Settings = clickhouse.Settings{"max_execution_time": 60, "insert_quorum": 1}
	conn := open(t, o)
	ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplication_token": "it's", "SQL_mine": clickhouse.CustomSetting{Value: "own"},
	}))
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO events (name) SETTINGS insert_quorum = 2")
	if err != nil {
		t.Fatal(err)
	}
	wantNone(t, batch.Append("a"))
	wantNone(t, batch.Send())
	got := s.Inserts()[0]
	for name, want := range map[string]string{
		"max_execution_time": "60", "insert_quorum": "2", "insert_deduplication_token": "it's", "SQL_mine": "own",
	} {
		if got.Settings[name] != want {
			t.Errorf("setting %s is %q, want %q", name, got.Settings[name], want)
		}
	}
	if got.Token != "it's" || strings.Join(got.Columns, ",") != "name" {
		t.Errorf("the insert is %+v", got)
	}
	if ids := s.Values("events", "id"); !equalValues(ids, []any{uint64(0)}) {
		t.Errorf("the column left out holds %v, want 0", ids)
	}
}

func TestClickHouseRevisions(t *testing.T) {
	t.Parallel()
	for _, revision := range []int{54412, 54420, 54429, 54430, 54441, 54442, 54448, 54449, 54453, 54454, 54458, 54459, 54460, 0} {
		t.Run(fmt.Sprint(revision), func(t *testing.T) {
			s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Revision: revision, Tables: []string{eventsDDL}})
			o := options(s)
			o.Settings = clickhouse.Settings{"max_execution_time": 60, "allow_suspicious_codecs": true}
			o.Compression = &clickhouse.Compression{Method: clickhouse.CompressionLZ4}
			conn := open(t, o)
			wantNone(t, send(t.Context(), conn, 0, 10))
			if n := count(t, conn, "SELECT count() FROM events WHERE id > ?", 4); n != 5 {
				t.Errorf("count() = %d, want 5", n)
			}
			if got := s.Inserts()[0].Settings["max_execution_time"]; got != "60" {
				t.Errorf("max_execution_time came as %q, want 60", got)
			}
			err := insertToken(t, conn, "a")
			if old := revision != 0 && revision <= 54429; old != (err != nil) {
				t.Errorf("an insert with a token: %v", err)
			}
		})
	}
}

func TestClickHouseSeveralServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(testkit.Network)
		first := testkit.ClickHouse(t, testkit.ClickHouseConfig{Network: network, Listen: "ch-1:9000", Tables: []string{eventsDDL}})
		second := testkit.ClickHouse(t, testkit.ClickHouseConfig{Network: network, Listen: "ch-2:9000", Tables: []string{eventsDDL}})
		o := options(first)
		o.Addr = []string{first.Addr(), second.Addr()}
		conn := open(t, o)
		wantNone(t, send(t.Context(), conn, 0, 1))
		first.Stop()
		_ = conn.Ping(t.Context()) // Finds the dead connection.
		wantNone(t, send(t.Context(), conn, 1, 1))
		if first.Count("events") != 1 || second.Count("events") != 1 {
			t.Errorf("rows are %d and %d, want 1 and 1", first.Count("events"), second.Count("events"))
		}
	})
}

func TestClickHouseRejectsOnRealSockets(t *testing.T) {
	t.Parallel()
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{})
	o := options(s)
	o.DialContext = nil
	s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseConnect, Nth: 2, Reject: true})
	wantNone(t, open(t, o).Ping(t.Context()))
	if err := open(t, o).Ping(t.Context()); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("error is %v, want a reset connection", err)
	}
	wantNone(t, open(t, o).Ping(t.Context()))
}

// A connection through Dial is one event, whether it is refused or not, and one that fails on its own way is none left over.
func TestClickHouseCountsADialOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Network: new(testkit.Network)})
		s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseConnect, Nth: 3, Reject: true})
		s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseConnect, Nth: 5, Code: 516})
		got := ""
		for range 6 {
			switch err := open(t, options(s)).Ping(t.Context()); {
			case err == nil:
				got += "."
			case errors.Is(err, syscall.ECONNREFUSED):
				got += "r"
			default:
				got += "e"
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if c, err := s.Dial(ended, "elsewhere:1"); err == nil {
				_ = c.Close()
			}
		}
		if got != "..r.e." {
			t.Errorf("connections went %s, want ..r.e.", got)
		}
	})
}

func TestClickHouseLargeInsertAndSelect(t *testing.T) {
	t.Parallel()
	const rows = 100_000
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Tables: []string{eventsDDL}})
	o := options(s)
	o.Compression = &clickhouse.Compression{Method: clickhouse.CompressionLZ4}
	o.MaxCompressionBuffer = 1 << 16
	conn := open(t, o)
	wantNone(t, send(t.Context(), conn, 0, rows))
	got, err := conn.Query(t.Context(), "SELECT id, name FROM events")
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(0)
	for ; got.Next(); next++ {
		var id uint64
		var name string
		wantNone(t, got.Scan(&id, &name))
		if id != next || name != "event" {
			t.Fatalf("row %d is %d, %s", next, id, name)
		}
	}
	wantNone(t, got.Err())
	if next != rows {
		t.Errorf("%d rows came back, want %d", next, rows)
	}
}

func TestClickHouseRefusesBlocksThatDoNotFit(t *testing.T) {
	t.Parallel()
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{Tables: []string{eventsDDL}})
	conn := open(t, options(s))
	batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO events (id, name)")
	if err != nil {
		t.Fatal(err)
	}
	wantNone(t, batch.Append(uint64(1), "a"))
	wantNone(t, s.DropTable("events"))
	wantCode(t, batch.Send(), 60, "default.events")
	if log := s.Inserts(); len(log) != 1 || log[0].Stored || log[0].Acknowledged {
		t.Errorf("the log is %+v", log)
	}
}

func TestClickHouseConfigValidate(t *testing.T) {
	t.Parallel()
	cfg := testkit.ClickHouseConfig{
		Revision: 60000, DedupWindow: -2, Tables: []string{eventsDDL, "DROP TABLE x", "CREATE TABLE x (a Nonsense)"},
	}
	_, err := testkit.StartClickHouse(cfg)
	for _, want := range []string{
		"ClickHouseConfig.Revision must be in [54412, 54460], got 60000", "DedupWindow must be -1 or more, got -2",
		`Tables[1] must be a CREATE TABLE statement, got "DROP TABLE x"`, "Tables[2]", "Nonsense",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q in it", err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), "Tables[0]") {
		t.Errorf("a good statement is refused: %v", err)
	}
	if _, err := testkit.StartClickHouse(testkit.ClickHouseConfig{Tables: []string{eventsDDL, eventsDDL}}); err == nil {
		t.Error("the same table was taken twice")
	}
	s := testkit.ClickHouse(t, testkit.ClickHouseConfig{})
	if _, err := testkit.StartClickHouse(testkit.ClickHouseConfig{Listen: s.Addr()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second server at the same address: %v", err)
	}
	for _, ddl := range []string{"SELECT 1", "nonsense", ""} {
		if err := s.CreateTable(ddl); err == nil {
			t.Errorf("CreateTable took %q", ddl)
		}
	}
	if err := s.DropTable("nothing"); err == nil {
		t.Error("DropTable dropped a table that is not there")
	}
	if s.Count("nothing") != 0 || s.Values("nothing", "x") != nil {
		t.Error("a table that is not there has rows")
	}
}

// A bubble ends only when all its goroutines have: this one leaves connections open on the client's side, in the middle of
// everything.
func TestClickHouseLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := testkit.StartClickHouse(testkit.ClickHouseConfig{Network: new(testkit.Network), Tables: []string{eventsDDL}})
		if err != nil {
			t.Fatal(err)
		}
		s.Inject(testkit.ClickHouseFault{On: testkit.ClickHousePing, Hang: true})
		s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Delay: time.Hour})
		s.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseConnect, Nth: 4, Hang: true})
		var idle net.Conn
		if idle, err = s.Dial(t.Context(), s.Addr()); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = idle.Close() }()
		prepared := open(t, options(s))
		batch, err := prepared.PrepareBatch(t.Context(), "INSERT INTO events")
		if err != nil {
			t.Fatal(err)
		}
		conn := open(t, options(s))
		wantTimeout(t, conn.Ping(t.Context()))
		wantTimeout(t, conn.Ping(t.Context()))
		wantTimeout(t, send(t.Context(), conn, 0, 1))
		s.Close()
		wantNone(t, batch.Append(uint64(1), "a"))
		wantBroken(t, batch.Send())
	})
}
