package breaker_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

// A database pool behind a breaker. The circuit admits as many calls as the pool has connections, so that a slow database
// makes callers fail fast instead of queueing for a connection; a row that is not there is no failure of the database;
// and when the database is away, nobody dials.
func Example_databasePool() {
	server := &server{}
	pool := sql.OpenDB(server)
	defer pool.Close()
	pool.SetMaxOpenConns(10)
	circuit, err := breaker.New(breaker.Config{
		Name:               "users-db",
		MaxFailures:        2,
		Jitter:             -1,
		SlowCallDuration:   2 * time.Second,
		MaxConcurrentCalls: 10,
		Classify: func(err error) breaker.Outcome {
			if errors.Is(err, sql.ErrNoRows) {
				return breaker.Success
			}
			return breaker.DefaultClassify(err)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	userName := func(ctx context.Context, id int) (string, error) {
		return breaker.ExecuteValue(ctx, circuit, func(ctx context.Context) (name string, err error) {
			err = pool.QueryRowContext(ctx, "SELECT name FROM users WHERE id = ?", id).Scan(&name)
			return name, err
		})
	}

	for _, id := range []int{1, 2} {
		name, err := userName(context.Background(), id)
		fmt.Printf("%q %v\n", name, err)
	}
	server.down = true
	for range 3 {
		_, err := userName(context.Background(), 1)
		fmt.Println(err)
	}
	fmt.Printf("failures %d, rejected %d, connections in use %d\n",
		circuit.Stats().Totals.Failures, circuit.Stats().Totals.RejectedOpen, pool.Stats().InUse)
	// Output:
	// "Ada" <nil>
	// "" sql: no rows in result set
	// connection reset by peer
	// connection reset by peer
	// breaker: circuit "users-db" open, retry after 1m0s
	// failures 2, rejected 1, connections in use 0
}

// server stands for a database with one user, number 1. It is the least that database/sql can pool.
type server struct{ down bool }

func (s *server) Connect(context.Context) (driver.Conn, error) { return conn{s}, nil }
func (s *server) Driver() driver.Driver                        { return nil }

type conn struct{ server *server }

func (c conn) QueryContext(_ context.Context, _ string, args []driver.NamedValue) (driver.Rows, error) {
	switch {
	case c.server.down:
		return nil, errors.New("connection reset by peer")
	case args[0].Value == int64(1):
		return &rows{"Ada"}, nil
	}
	return &rows{}, nil
}

func (c conn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (c conn) Begin() (driver.Tx, error)           { return nil, errors.ErrUnsupported }
func (c conn) Close() error                        { return nil }

// rows are the names that are left to read.
type rows []string

func (r *rows) Columns() []string { return []string{"name"} }
func (r *rows) Close() error      { return nil }

func (r *rows) Next(dest []driver.Value) error {
	if len(*r) == 0 {
		return io.EOF
	}
	dest[0], *r = (*r)[0], (*r)[1:]
	return nil
}
