package testkit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/ClickHouse/ch-go/proto"
)

// ClickHouseConfig says what server to start. The zero value is a server on a free loopback port, without tables.
type ClickHouseConfig struct {
	// Listen is the address, "host:port". Default: a free port on 127.0.0.1.
	Listen string

	// Network is the network to listen on. Default, nil: the machine's own, with real sockets.
	Network *Network

	// Tables are CREATE TABLE statements to begin with.
	Tables []string

	// DedupWindow is how many inserts with a deduplication token a table of the MergeTree family remembers whose own
	// SETTINGS say nothing. Default: 1000. -1: none, as a real server has it for tables that are not replicated.
	DedupWindow int

	// Revision is the newest revision of the native protocol that the server speaks, from 54412 (ClickHouse 18.16) to
	// 54460. Default: 54460. Settings with string values, insert_deduplication_token for one, need more than 54429:
	// below, the driver refuses them by itself.
	Revision int
}

const (
	chDefaultDatabase = "default"
	chDefaultWindow   = 1000
	// chVersion is what the server says it is: old enough for its protocol revision to be believed, new enough for
	// clickhouse-go not to warn.
	chVersion = "25.8.1"

	chMinRevision = 54412
	chMaxRevision = 54460
)

// Validate joins everything that is wrong with c. Of Tables it checks only that each is a CREATE TABLE statement that the
// server knows.
func (c ClickHouseConfig) Validate() error {
	var faults []error
	if c.Revision != 0 && (c.Revision < chMinRevision || c.Revision > chMaxRevision) {
		faults = append(faults, fmt.Errorf("testkit: ClickHouseConfig.Revision must be in [%d, %d], got %d", chMinRevision, chMaxRevision, c.Revision))
	}
	if c.DedupWindow < -1 {
		faults = append(faults, fmt.Errorf("testkit: ClickHouseConfig.DedupWindow must be -1 or more, got %d", c.DedupWindow))
	}
	for i, ddl := range c.Tables {
		stmt, err := parseSQL(ddl, nil)
		if _, ok := stmt.(*chCreate); err == nil && !ok {
			err = errors.New("it is another statement")
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("testkit: ClickHouseConfig.Tables[%d] must be a CREATE TABLE statement, got %q: %w", i, ddl, err))
		}
	}
	return errors.Join(faults...)
}

// ClickHouseServer is a stand-in for a ClickHouse server, inside the process. It speaks the native protocol, with and
// without compression, as clickhouse-go v2 does; it takes everybody in, whatever user and password; and it keeps what
// is inserted.
//
// It knows
//
//   - CREATE, DROP, TRUNCATE, DESCRIBE, EXISTS and SHOW CREATE TABLE; CREATE and DROP DATABASE (every database exists);
//   - INSERT of blocks, of VALUES with literals, and of SELECT with literals;
//   - SELECT of columns, literals and count, uniq, uniqExact, min, max, sum and any over one table, with WHERE
//     (comparisons with literals, IN, BETWEEN, IS NULL, AND, OR, NOT), DISTINCT, ORDER BY, LIMIT and, on a
//     ReplacingMergeTree, FINAL;
//   - system.tables, system.columns, system.databases, system.merge_tree_settings, system.settings (insert_deduplicate),
//     system.processes (the INSERTs' query_id) and system.one.
//
// All else is answered with exception 62 and a text that says whose limit it is. There are no joins, no GROUP BY, no views,
// no mutations, no HTTP, no merges and no parts: an INSERT is stored as a whole or not at all, in every engine, in the
// order of arrival. Settings are taken and shown in the log of inserts, and none has an effect but
// insert_deduplication_token and insert_deduplicate. Defaults that are no literals, constraints and TTL are not
// computed: an INSERT must bring such a column, and a MATERIALIZED or ALIAS one has its type's zero value.
//
// Deduplication: an INSERT with an insert_deduplication_token that its table (of the MergeTree family) remembers is
// acknowledged and not stored, unless insert_deduplicate is 0. Where the engine is Replicated, or the table's SETTINGS
// set non_replicated_deduplication_window, an INSERT without a token is recognised by its rows, as on a real server.
//
// All methods may be called by many goroutines at once.
type ClickHouseServer struct {
	network  *Network
	addr     string
	revision int
	window   int

	mu      sync.Mutex
	tables  map[string]*chTable // By "database.table".
	inserts []*Insert
	working map[*chSession]string // The ids of the INSERTs that are carried out.
	armed   []*chArmed
	dialed  []*chDialed // The connections that Dial has announced, in order.
	running *chRun      // nil while stopped.
	closed  bool
}

// chRun is the server's life from a start to the next stop.
type chRun struct {
	ctx      context.Context // Ends with the stop.
	cancel   context.CancelFunc
	listener net.Listener
	conns    map[net.Conn]struct{} // Guarded by the server's mutex.
	work     sync.WaitGroup
}

// ClickHouse starts a server for the test and closes it at the test's end. It fails the test when it cannot.
func ClickHouse(t TB, cfg ClickHouseConfig) *ClickHouseServer {
	t.Helper()
	s, err := StartClickHouse(cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// StartClickHouse starts a server, for programs that are no tests; the caller closes it.
func StartClickHouse(cfg ClickHouseConfig) (*ClickHouseServer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &ClickHouseServer{
		network:  cfg.Network,
		addr:     cmp.Or(cfg.Listen, "127.0.0.1:0"),
		revision: cmp.Or(cfg.Revision, chMaxRevision),
		window:   cmp.Or(cfg.DedupWindow, chDefaultWindow),
		tables:   make(map[string]*chTable), working: make(map[*chSession]string),
	}
	for _, ddl := range cfg.Tables {
		if err := s.CreateTable(ddl); err != nil {
			return nil, err
		}
	}
	if err := s.Start(); err != nil {
		return nil, err
	}
	return s, nil
}

// Addr is where the server listens, "host:port". It stays the same over Stop and Start.
func (s *ClickHouseServer) Addr() string { return s.addr }

// Dial opens a connection to addr over the server's network. It fits clickhouse.Options.DialContext, which a client of a
// server on a [Network] must set; on real sockets it is needed only for faults that reject.
func (s *ClickHouseServer) Dial(ctx context.Context, addr string) (net.Conn, error) {
	dial := (&net.Dialer{}).DialContext
	if s.network != nil {
		dial = s.network.Dial
	}
	if addr != s.addr {
		return dial(ctx, "tcp", addr)
	}
	s.mu.Lock()
	away := s.running == nil
	s.mu.Unlock()
	if away {
		return dial(ctx, "tcp", addr) // Refused, and no event.
	}
	hit := s.strike(ClickHouseConnect, "")
	if hit != nil && hit.Reject {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	announced := &chDialed{hit: hit}
	s.mu.Lock()
	s.dialed = append(s.dialed, announced)
	s.mu.Unlock()
	conn, err := dial(ctx, "tcp", addr)
	if err != nil {
		s.mu.Lock()
		s.dialed = slices.DeleteFunc(s.dialed, func(d *chDialed) bool { return d == announced })
		s.mu.Unlock()
	}
	return conn, err
}

// chDialed is a connection on its way through Dial: its event is counted there, for a refusal to be seen as one, and
// must not be counted a second time where it arrives.
type chDialed struct{ hit *chArmed }

// arrived counts the event of a connection that has come, unless Dial has, and gives the fault that strikes it.
func (s *ClickHouseServer) arrived() *chArmed {
	s.mu.Lock()
	var announced *chDialed
	if len(s.dialed) > 0 {
		announced, s.dialed = s.dialed[0], s.dialed[1:]
	}
	s.mu.Unlock()
	if announced != nil {
		return announced.hit
	}
	return s.strike(ClickHouseConnect, "")
}

// Stop takes the server away: all connections are cut and new ones refused, its tables and faults stay. It returns when
// nothing of the server runs. Stopping a stopped server does nothing.
func (s *ClickHouseServer) Stop() {
	s.mu.Lock()
	run := s.running
	s.running = nil
	s.dialed = nil
	s.mu.Unlock()
	if run == nil {
		return
	}
	_ = run.listener.Close()
	run.cancel()
	s.mu.Lock()
	for conn := range run.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	run.work.Wait()
}

// Start brings a stopped server back at its old address with its old tables. It fails when the address has been taken in
// the meantime, and after Close with [net.ErrClosed]. Starting a running server does nothing.
func (s *ClickHouseServer) Start() error {
	listen := net.Listen
	if s.network != nil {
		listen = s.network.Listen
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("testkit: ClickHouse: %w", net.ErrClosed)
	}
	if s.running != nil {
		return nil
	}
	listener, err := listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("testkit: ClickHouse: %w", err)
	}
	if addr := listener.Addr().String(); addr != s.addr {
		s.addr = addr // Of the first start, when nobody knows the server yet. Later ones leave it to be read.
	}
	run := &chRun{listener: listener, conns: make(map[net.Conn]struct{})}
	run.ctx, run.cancel = context.WithCancel(context.Background())
	s.running = run
	run.work.Go(func() { s.serve(run) })
	return nil
}

// Close stops the server for good. It may be called more than once.
func (s *ClickHouseServer) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.Stop()
}

// serve accepts connections until the run ends.
func (s *ClickHouseServer) serve(run *chRun) {
	for {
		conn, err := run.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		ended := s.running != run
		if !ended {
			run.conns[conn] = struct{}{}
		}
		s.mu.Unlock()
		if ended {
			_ = conn.Close()
			return
		}
		run.work.Go(func() {
			defer func() {
				s.mu.Lock()
				delete(run.conns, conn)
				s.mu.Unlock()
				_ = conn.Close()
			}()
			newChSession(s, run, conn).serve()
		})
	}
}

// CreateTable carries out a CREATE TABLE statement.
func (s *ClickHouseServer) CreateTable(ddl string) error {
	stmt, err := parseSQL(ddl, nil)
	if err != nil {
		return fmt.Errorf("testkit: ClickHouse: %w", err)
	}
	create, ok := stmt.(*chCreate)
	if !ok {
		return fmt.Errorf("testkit: ClickHouse: %q is no CREATE TABLE statement", ddl)
	}
	if _, err := s.execute(create, chDefaultDatabase); err != nil {
		return fmt.Errorf("testkit: ClickHouse: %w", err)
	}
	return nil
}

// DropTable drops a table, "table" or "database.table", with its rows. It is an error when there is none.
func (s *ClickHouseServer) DropTable(name string) error {
	if _, err := s.execute(chDrop{name: parseChTableName(name)}, chDefaultDatabase); err != nil {
		return fmt.Errorf("testkit: ClickHouse: %w", err)
	}
	return nil
}

func parseChTableName(name string) chTableName {
	if database, table, ok := strings.Cut(name, "."); ok {
		return chTableName{database, table}
	}
	return chTableName{chDefaultDatabase, name}
}

// Count gives the number of rows in a table, "table" or "database.table"; 0 when there is no such table.
func (s *ClickHouseServer) Count(table string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tables[parseChTableName(table).key("")]; t != nil {
		return t.rows
	}
	return 0
}

// Values gives all values of a table's column in the order of their arrival, nil when there is no such table or column.
//
// The Go values are: (u)int8 to (u)int64, *big.Int for wider integers, float32 and float64, bool, string for String,
// FixedString (with its zero bytes), UUID, Enum (the name) and Decimal (with all its decimals, "12.50"), [time.Time] for
// dates and times (in the column's zone, or UTC), [net/netip.Addr] for addresses, nil for NULL, []any for Array and
// Tuple, and map[any]any for Map. They belong to the server: read them only.
func (s *ClickHouseServer) Values(table, column string) []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tables[parseChTableName(table).key("")]; t != nil {
		if c := t.column(column); c != nil {
			return slices.Clone(c.values)
		}
	}
	return nil
}

// Insert tells of an INSERT whose rows have reached the server.
type Insert struct {
	Table    string // "database.table".
	Columns  []string
	Rows     int
	Token    string            // The insert_deduplication_token.
	Settings map[string]string // All that came with it.

	Stored       bool // The rows are in the table, or went into a Null table.
	Deduplicated bool // They were recognised as a repetition and not stored.
	Acknowledged bool // Success was answered. Whether the client has seen it is its own affair.

	Fault *ClickHouseFault // What struck it, nil for nothing.
}

// Inserts is the log of all INSERTs that brought rows, in the order in which their data came.
func (s *ClickHouseServer) Inserts() []Insert {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := make([]Insert, len(s.inserts))
	for i, ins := range s.inserts {
		log[i] = *ins
	}
	return log
}

// hello is the server's part of the handshake.
func (s *ClickHouseServer) hello(w *chWriter) {
	h := proto.ServerHello{
		Name: "ClickHouse", Revision: s.revision, Timezone: "UTC", DisplayName: "testkit",
	}
	_, _ = fmt.Sscanf(chVersion, "%d.%d.%d", &h.Major, &h.Minor, &h.Patch)
	h.EncodeAware(&w.Buffer, w.revision)
}
