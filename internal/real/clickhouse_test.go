package real_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
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

// sale is a row of these tests.
type sale struct {
	ID   uint64 `ch:"id"`
	Note string `ch:"note"`
}

const (
	saleColumns = "id UInt64, note String, _topic String, _partition Int32, _offset Int64"
	plainTable  = "(" + saleColumns + ") ENGINE = MergeTree ORDER BY id"
)

// slowTable takes its time before and after the rows of an insert are stored.
var slowTable = fmt.Sprintf("(%s, pause UInt8 DEFAULT sleep(%g)) ENGINE = MergeTree ORDER BY id", saleColumns, slow.Seconds())

// shop is one test's table, and how it is written.
type shop struct {
	t       *testing.T
	servers *testkit.RealServers
	table   string
	db      driver.Conn // The driver's own, to look from outside.
	breaker *breaker.Breaker
	ch      *clickhousex.Conn
	options *clickhouse.Options
	log     bytes.Buffer
}

func newShop(t *testing.T, definition string) *shop {
	t.Helper()
	s := &shop{t: t, servers: testkit.Servers(t)}
	s.table = strings.ToLower(strings.ReplaceAll(t.Name(), "/", "_")) + time.Now().UTC().Format("_20060102_150405")
	s.options = &clickhouse.Options{Addr: []string{s.servers.ClickHouse}, DialTimeout: askTimeout, ReadTimeout: askTimeout}
	var err error
	if s.db, err = clickhouse.Open(s.options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.db.Close() })
	s.exec("CREATE TABLE " + s.table + " " + definition)
	t.Cleanup(func() { s.drop(s.table) })
	cfg := clickhousex.BreakerConfig("shop")
	cfg.MaxFailures = 1000 // Open circuits are the other tests' affair.
	if s.breaker, err = breaker.New(cfg); err != nil {
		t.Fatal(err)
	}
	s.ch = s.open(s.options)
	return s
}

func (s *shop) open(opts *clickhouse.Options) *clickhousex.Conn {
	s.t.Helper()
	ch, err := clickhousex.Open(opts, clickhousex.Config{Breaker: s.breaker, Logger: slog.New(slog.NewTextHandler(&s.log, nil))})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = ch.Close() })
	return ch
}

func (s *shop) exec(query string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	if err := s.db.Exec(ctx, query); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
}

// drop deletes a table, as soon as a server that has just been started has the time for it.
func (s *shop) drop(table string) {
	s.t.Helper()
	s.until("dropped", func(ctx context.Context) bool { return s.db.Exec(ctx, "DROP TABLE IF EXISTS "+table) == nil })
}

// inserter makes one whose rows say where they come from.
func (s *shop) inserter(ch *clickhousex.Conn, cfg clickhousex.InserterConfig) *clickhousex.Inserter[sale] {
	s.t.Helper()
	if cfg.Timeout == 0 {
		cfg.Timeout = 4 * time.Second
	}
	in, err := clickhousex.NewInserter[sale](ch, s.table, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return in
}

func (s *shop) marked() clickhousex.InserterConfig {
	return clickhousex.InserterConfig{Offsets: clickhousex.OffsetsOfMessages, Retry: retry.Policy{Attempts: 2}}
}

// sales is n rows at the offsets from first on, each with a note of so many bytes.
func sales(first, n, note int) holdfast.Batch[sale] {
	b := holdfast.Batch[sale]{Spans: []holdfast.Span{{Topic: "sales", First: int64(first), Next: int64(first + n)}}}
	for i := first; i < first+n; i++ {
		b.Items = append(b.Items, holdfast.Item[sale]{
			Source: &holdfast.Message{Topic: "sales", Offset: int64(i)},
			Value:  sale{ID: uint64(i), Note: strings.Repeat("x", note)},
		})
	}
	return b
}

// count asks for a number until the server answers.
func (s *shop) count(query string) (n uint64) {
	s.t.Helper()
	s.until("an answer to "+query, func(ctx context.Context) bool { return s.db.QueryRow(ctx, query).Scan(&n) == nil })
	return n
}

func (s *shop) until(what string, holds func(context.Context) bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		held := holds(ctx)
		cancel()
		if held {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not %s in %v", what, patience)
		}
	}
}

// once fails unless the table has each of the rows [0, n) once.
func (s *shop) once(n int) {
	s.t.Helper()
	rows, ids := s.count("SELECT count() FROM "+s.table), s.count("SELECT uniqExact(id) FROM "+s.table)
	if rows != uint64(n) || ids != uint64(n) {
		s.t.Errorf("%d rows with %d ids are stored, want %d", rows, ids, n)
	}
}

// stored writes the batch until it is, as a pipeline would, and returns the errors on the way.
func (s *shop) stored(in *clickhousex.Inserter[sale], b holdfast.Batch[sale]) (errs []error) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := in.Write(context.Background(), b)
		if err == nil {
			return errs
		}
		if errs = append(errs, err); time.Now().After(deadline) || holdfast.IsPermanent(err) {
			s.t.Fatalf("not stored: %v", errs)
		}
	}
}

// inserting waits until the server is at work on an insert into the table.
func (s *shop) inserting() {
	s.t.Helper()
	s.until("inserting", func(ctx context.Context) bool {
		var n uint64
		err := s.db.QueryRow(ctx, "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO%"+s.table+"%'").Scan(&n)
		return err == nil && n > 0
	})
}

// TestInsertKilled: the server is killed while an insert is on its way, before its rows are stored and after. On a table
// that remembers nothing each row is there once, since the Inserter asks before it repeats.
func TestInsertKilled(t *testing.T) {
	s := newShop(t, slowTable)
	s.servers.NeedScript(t)
	s.exec(fmt.Sprintf("CREATE MATERIALIZED VIEW %s_slow ENGINE = Null AS SELECT id, sleep(%g) AS pause FROM %[1]s", s.table, slow.Seconds()))
	t.Cleanup(func() { s.drop(s.table + "_slow") })
	in := s.inserter(s.ch, s.marked())
	const n = 500
	s.stored(in, sales(0, n, 10))
	rounds := 1
	if long, err := strconv.Atoi(os.Getenv("HOLDFAST_CLICKHOUSE_KILLS")); err == nil {
		rounds = long
	}
	next := n
	for range rounds {
		for name, kill := range map[string]func(){
			"before": func() { s.kill() },
			"during": func() { s.inserting(); s.kill() },
			"after": func() {
				s.until("the rows are stored", func(ctx context.Context) bool {
					var rows uint64
					return s.db.QueryRow(ctx, "SELECT count() FROM "+s.table).Scan(&rows) == nil && rows > uint64(next)
				})
				s.kill()
			},
		} {
			b := sales(next, n, 10)
			var errs []error
			killed := make(chan struct{})
			if name == "before" {
				kill()
				close(killed)
			} else {
				go func() {
					defer close(killed)
					kill()
				}()
			}
			errs = s.stored(in, b)
			<-killed
			next += n
			t.Logf("killed %s: %d errors on the way, %+v", name, len(errs), in.Stats())
			s.once(next)
		}
	}
	if in.Stats().Ambiguous == 0 {
		t.Error("no insert was ambiguous: nothing was hit in its middle")
	}
}

// kill kills the server, and starts it again after a moment.
func (s *shop) kill() {
	ctx := context.Background()
	if err := errors.Join(s.servers.Kill(ctx, "clickhouse"), s.servers.Up(ctx, "clickhouse")); err != nil {
		s.t.Error(err)
	}
}

// TestInsertStopped: the server hangs in the middle of an insert, goes on after the client has given up, and finishes it.
// Nothing is sent again before that.
func TestInsertStopped(t *testing.T) {
	s := newShop(t, slowTable)
	s.servers.NeedScript(t)
	cfg := s.marked()
	cfg.Timeout = time.Second
	in := s.inserter(s.ch, cfg)
	s.stored(in, sales(0, 10, 10))
	outcome := make(chan error, 1)
	go func() { outcome <- in.Write(context.Background(), sales(10, 1000, 10)) }()
	s.inserting()
	ctx := context.Background()
	if err := s.servers.Stop(ctx, "clickhouse"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := <-outcome; !holdfast.IsAmbiguous(err) || time.Since(began) > 15*time.Second {
		t.Errorf("got %v after %v, want it ambiguous", err, time.Since(began))
	}
	if err := s.servers.Continue(ctx, "clickhouse"); err != nil {
		t.Fatal(err)
	}
	s.stored(in, sales(10, 1000, 10))
	s.once(1010)
}

// TestRestartWhileIdle: nobody notices.
func TestRestartWhileIdle(t *testing.T) {
	s := newShop(t, plainTable)
	s.servers.NeedScript(t)
	in := s.inserter(s.ch, s.marked())
	s.stored(in, sales(0, 10, 10))
	s.kill()
	if errs := s.stored(in, sales(10, 10, 10)); errs != nil || in.Stats().Ambiguous != 0 {
		t.Errorf("errors %v, %+v", errs, in.Stats())
	}
	s.once(20)
}

// TestTooManyParts: with merges stopped the server refuses inserts, and takes them again later. None is ambiguous.
func TestTooManyParts(t *testing.T) {
	s := newShop(t, plainTable+" SETTINGS parts_to_delay_insert = 2, parts_to_throw_insert = 3, max_delay_to_insert = 1")
	in := s.inserter(s.ch, s.marked())
	s.exec("SYSTEM STOP MERGES " + s.table)
	next := 0
	var err error
	for ; next < 60 && err == nil; next += 10 {
		err = in.Write(context.Background(), sales(next, 10, 10))
	}
	if clickhousex.Classify(err) != clickhousex.ClassOverload || holdfast.IsAmbiguous(err) || holdfast.IsHold(err) {
		t.Errorf("got %v, want overload", err)
	}
	if asked, ok := holdfast.RetryDelay(err); !ok || asked < time.Second {
		t.Errorf("the caller is asked to wait %v", asked)
	}
	s.exec("SYSTEM START MERGES " + s.table)
	s.exec("OPTIMIZE TABLE " + s.table)
	s.stored(in, sales(next-10, 10, 10))
	s.once(next)
}

// TestMemoryLimit: what is too large for the server's memory is stored in smaller inserts.
func TestMemoryLimit(t *testing.T) {
	s := newShop(t, plainTable)
	cfg := s.marked()
	cfg.Settings = clickhouse.Settings{"max_memory_usage": 30_000_000}
	in := s.inserter(s.ch, cfg)
	if errs := s.stored(in, sales(0, 32_000, 1000)); errs != nil {
		t.Errorf("errors on the way: %v", errs)
	}
	if stats := in.Stats(); stats.Splits == 0 {
		t.Errorf("%+v: it fitted as a whole", stats)
	}
	s.once(32_000)
}

// TestTooManyQueries: refused for a while, then taken.
func TestTooManyQueries(t *testing.T) {
	s := newShop(t, plainTable)
	cfg := s.marked()
	in := s.inserter(s.ch, cfg)
	s.stored(in, sales(0, 10, 10)) // So that the table is known.
	cfg.Settings = clickhouse.Settings{"max_concurrent_queries_for_user": 1}
	limited := s.inserter(s.ch, cfg)
	done := make(chan error, 1)
	go func() { done <- s.db.Exec(context.Background(), "SELECT sleep(0.5)") }()
	s.until("another query runs", func(ctx context.Context) bool {
		var n uint64
		return s.db.QueryRow(ctx, "SELECT count() FROM system.processes WHERE query LIKE 'SELECT sleep%'").Scan(&n) == nil && n > 0
	})
	errs := s.stored(limited, sales(10, 10, 10))
	for _, err := range errs {
		if clickhousex.Classify(err) != clickhousex.ClassOverload || holdfast.IsAmbiguous(err) {
			t.Errorf("got %v, want overload", err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if s.breaker.Stats().Totals.Failures == 0 {
		t.Error("nothing was refused")
	}
	s.once(20)
}

// TestQueryTimesOut: what a limit of the server's ends may be half done.
func TestQueryTimesOut(t *testing.T) {
	s := newShop(t, plainTable)
	ctx := clickhouse.Context(context.Background(), clickhouse.WithSettings(clickhouse.Settings{"max_execution_time": 1}))
	var n uint64
	err := s.ch.QueryRow(ctx, "SELECT count() FROM system.numbers").Scan(&n)
	var exception *clickhouse.Exception
	if !errors.As(err, &exception) || exception.Code != 159 || clickhousex.Classify(err) != clickhousex.ClassAmbiguous {
		t.Errorf("got %v, a %v error, want code 159 and ambiguous", err, clickhousex.Classify(err))
	}
	if got := s.breaker.Stats().Totals; got.Failures != 1 {
		t.Errorf("Totals = %+v, want one failure", got)
	}
}

// TestReadOnlyUser: may read, and holds what it was to write. No circuit counts that.
func TestReadOnlyUser(t *testing.T) {
	s := newShop(t, plainTable)
	s.servers.NeedScript(t) // Its configuration has the user.
	s.options.Auth.Username = "reader"
	reader := s.open(s.options)
	var n uint64
	if err := reader.QueryRow(context.Background(), "SELECT count() FROM "+s.table).Scan(&n); err != nil {
		t.Error(err)
	}
	err := s.inserter(reader, s.marked()).Write(context.Background(), sales(0, 10, 10))
	if !holdfast.IsHold(err) || holdfast.IsAmbiguous(err) || holdfast.IsPermanent(err) || clickhousex.Classify(err) != clickhousex.ClassConfig {
		t.Errorf("got %v, want Hold", err)
	}
	if got := s.breaker.Stats().Totals; got.Failures != 0 {
		t.Errorf("Totals = %+v, want no failure", got)
	}
	s.once(0)
}

// deaf is a network that loses the server's answers while told to: the connection ends instead.
type deaf struct{ on atomic.Bool }

func (d *deaf) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &deafConn{conn, d}, nil
}

type deafConn struct {
	net.Conn
	network *deaf
}

// Read loses what has come: so the server has done its work.
func (c *deafConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.network.on.Load() {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// deafSends is a connection whose next Sends never hear of their success.
type deafSends struct {
	driver.Conn
	network *deaf
	lose    *atomic.Int32 // So many.
}

func (c deafSends) PrepareBatch(ctx context.Context, query string, opts ...driver.PrepareBatchOption) (driver.Batch, error) {
	b, err := c.Conn.PrepareBatch(ctx, query, opts...)
	return deafBatch{b, c}, err
}

type deafBatch struct {
	driver.Batch
	conn deafSends
}

func (b deafBatch) Send() error {
	if b.conn.lose.Add(-1) >= 0 {
		b.conn.network.on.Store(true)
		defer b.conn.network.on.Store(false)
	}
	return b.Batch.Send()
}

// replicatedTable is a table of one replica, of which nobody has heard before.
func replicatedTable(t *testing.T) string {
	path := strings.ToLower(t.Name()) + strconv.FormatInt(time.Now().UnixNano(), 36)
	return "(" + saleColumns + ") ENGINE = ReplicatedMergeTree('/" + path + "', '1') ORDER BY id"
}

// TestReplicated: on a replicated table an insert that was acknowledged, and whose acknowledgement was lost, leaves each
// row once when it is repeated, since the table knows the block again. Rows that are equal but for where they come from
// are two. What would take them for one refuses to start, where the server is too old for tokens.
func TestReplicated(t *testing.T) {
	if testkit.Servers(t).ZooKeeper == "" {
		t.Skip("replicated tables need ZooKeeper: scripts/servers up zookeeper")
	}
	s := newShop(t, replicatedTable(t))
	network, lose := new(deaf), new(atomic.Int32)
	opts := *s.options
	opts.DialContext = network.dial
	raw, err := clickhouse.Open(&opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	ch, err := clickhousex.Wrap(deafSends{raw, network, lose}, clickhousex.Config{Breaker: s.breaker, Logger: slog.New(slog.NewTextHandler(&s.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	in := s.inserter(ch, s.marked())
	if got, err := in.Check(t.Context()); err != nil || got != clickhousex.GuaranteeReplicated {
		t.Fatalf("Check = %s, %v\n%s", got, err, &s.log)
	}

	// The Inserter sees that the rows are there.
	lose.Store(1)
	s.stored(in, sales(0, 1000, 10))
	s.once(1000)
	if got := in.Stats(); got.Ambiguous != 1 {
		t.Errorf("%+v, want the acknowledgement lost", got)
	}

	// The driver's own batch sends them again, and the server knows the block.
	for range 2 {
		batch, err := s.db.PrepareBatch(t.Context(), "INSERT INTO "+s.table+" (id, note, _topic, _partition, _offset)")
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range sales(1000, 1000, 10).Items {
			if err := batch.Append(item.Value.ID, item.Value.Note, "sales", int32(0), item.Source.Offset); err != nil {
				t.Fatal(err)
			}
		}
		if err := batch.Send(); err != nil {
			t.Fatal(err)
		}
	}
	s.once(2000)

	// Equal rows from two places are two.
	for first := 5000; first < 5020; first += 10 {
		b := sales(first, 10, 10)
		for i := range b.Items {
			b.Items[i].Value.ID = 7777
		}
		s.stored(in, b)
	}
	if n := s.count("SELECT count() FROM " + s.table + " WHERE id = 7777"); n != 20 {
		t.Errorf("%d of 20 equal rows are stored", n)
	}

	version, err := s.ch.ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if version.Version.Major >= 22 {
		return // It takes tokens.
	}
	err = s.inserter(s.ch, clickhousex.InserterConfig{}).Write(t.Context(), sales(6000, 10, 10))
	if !holdfast.IsHold(err) || !strings.Contains(err.Error(), "DedupOff") {
		t.Errorf("without tokens and columns: got %v, want a refusal", err)
	}
	off := s.inserter(s.ch, clickhousex.InserterConfig{Dedup: clickhousex.DedupOff})
	for range 2 {
		s.stored(off, sales(6000, 10, 10))
	}
	if n := s.count("SELECT count() FROM " + s.table + " WHERE id >= 6000 AND id < 7000"); n != 20 {
		t.Errorf("DedupOff stored %d rows of two equal batches, want 20", n)
	}
}

// TestZooKeeperKilled: a replicated table loses its ZooKeeper while inserts are on their way. What the server says then is
// no row's fault and nothing to mend; when ZooKeeper is back all is stored, each row once.
func TestZooKeeperKilled(t *testing.T) {
	if testkit.Servers(t).ZooKeeper == "" {
		t.Skip("replicated tables need ZooKeeper: scripts/servers up zookeeper")
	}
	s := newShop(t, replicatedTable(t)+" SETTINGS zookeeper_session_expiration_check_period = 1")
	s.servers.NeedScript(t)
	in := s.inserter(s.ch, s.marked())
	s.stored(in, sales(0, 100, 10))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		time.Sleep(100 * time.Millisecond) // Some inserts later.
		ctx := context.Background()
		err := s.servers.Kill(ctx, "zookeeper")
		time.Sleep(2 * time.Second) // The outage.
		if err := errors.Join(err, s.servers.Up(ctx, "zookeeper")); err != nil {
			t.Error(err)
		}
	}()
	var failures []error
	next := 100
	for over := false; !over; next += 100 {
		select {
		case <-ended:
			over = true // One more.
		default:
		}
		failures = append(failures, s.stored(in, sales(next, 100, 10))...)
	}
	for _, err := range failures {
		switch class := clickhousex.Classify(err); class {
		case clickhousex.ClassTransient, clickhousex.ClassAmbiguous:
		default:
			t.Errorf("a %v error: %v", class, err)
		}
	}
	if len(failures) == 0 {
		t.Error("no insert met the outage")
	}
	s.once(next)
	t.Logf("%d rows, %d errors on the way", next, len(failures))
}

// TestProgramRestarts: on a table that remembers nothing a program begins again before where it had come to, cuts its
// batches otherwise, and each row is there once.
func TestProgramRestarts(t *testing.T) {
	s := newShop(t, "("+saleColumns+") ENGINE = MergeTree PARTITION BY id % 3 ORDER BY id")
	in := s.inserter(s.ch, s.marked())
	s.stored(in, sales(0, 1000, 10))
	s.stored(in, sales(1000, 500, 10))
	in = s.inserter(s.ch, s.marked()) // Committed were 600.
	for first := 600; first < 2400; first += 300 {
		s.stored(in, sales(first, 300, 10))
	}
	s.once(2400)
}
