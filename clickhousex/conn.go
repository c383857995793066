package clickhousex

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

// Conn is a driver.Conn whose every call to the server asks a circuit breaker first and reports how it ended. It takes
// the place of the driver's own in a program. Safe for concurrent use; make it with Open or Wrap.
//
// A rejected call returns an error that is breaker.ErrCircuitOpen, and has done nothing. A call that the driver made
// returns the driver's error as it is; Classify says what it means. No method retries.
type Conn struct {
	conn    driver.Conn
	breaker *breaker.Breaker
	retry   retry.Policy
	logger  *slog.Logger
}

var _ driver.Conn = (*Conn)(nil)

// Wrap protects a connection of the driver's. It does not call the server. Closing the Conn closes conn.
func Wrap(conn driver.Conn, cfg Config) (*Conn, error) {
	if conn == nil {
		return nil, errors.New("clickhousex: Wrap needs a connection, got nil")
	}
	if _, wrapped := conn.(*Conn); wrapped {
		return nil, errors.New("clickhousex: Wrap needs the driver's own connection, got a *Conn, which would ask two breakers")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Breaker == nil {
		b, err := breaker.New(BreakerConfig("clickhouse"))
		if err != nil {
			return nil, err
		}
		cfg.Breaker = b
	}
	return &Conn{
		conn: conn, breaker: cfg.Breaker, retry: retryOr(cfg.Retry, RetryPolicy()), logger: cmp.Or(cfg.Logger, slog.Default()),
	}, nil
}

// Breaker is the circuit that guards this connection.
func (c *Conn) Breaker() *breaker.Breaker { return c.breaker }

// IsOpen says that a call made now would be rejected.
func (c *Conn) IsOpen() bool { return c.breaker.IsOpen() }

// WaitUntilReady returns nil when a call made now would be let through, and ctx's error when that ends first.
func (c *Conn) WaitUntilReady(ctx context.Context) error { return c.breaker.WaitUntilReady(ctx) }

// call makes one call whose outcome is known when it returns.
func (c *Conn) call(ctx context.Context, fn func(context.Context) error) error {
	permit, err := c.allow(ctx)
	if err != nil {
		return err
	}
	defer permit.DoneAs(breaker.Failure, nil) // Only a panic comes here without a report.
	inner, release := bounded(ctx)
	err = callerError(ctx, fn(inner))
	release(err)
	report(ctx, permit, err)
	return err
}

// begin makes a call whose outcome, when it has begun well, shows later.
func (c *Conn) begin(ctx context.Context, fn func(context.Context) error) (*pending, error) {
	permit, err := c.allow(ctx)
	if err != nil {
		return nil, err
	}
	begun := false
	defer func() {
		if !begun {
			permit.DoneAs(breaker.Failure, nil) // Only a panic comes here without a report.
		}
	}()
	inner, release := bounded(ctx)
	if err := callerError(ctx, fn(inner)); err != nil {
		release(err)
		report(ctx, permit, err)
		return nil, err
	}
	begun = true
	permit.Answered()
	return watch(ctx, permit, release), nil
}

// allow does not spend a probe on a caller who has gone already.
func (c *Conn) allow(ctx context.Context) (*breaker.Permit, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	permit, err := c.breaker.Allow()
	return &permit, err
}

// Contributors asks the driver, not the server.
func (c *Conn) Contributors() []string { return c.conn.Contributors() }

// ServerVersion gives what the server said of itself when the connection was made. It may have to make one.
func (c *Conn) ServerVersion() (version *driver.ServerVersion, err error) {
	err = c.call(context.Background(), func(context.Context) error {
		version, err = c.version()
		return err
	})
	return version, err
}

// version finds the pool's timeout behind the driver's own bound for this call, which is as long and hides it.
func (c *Conn) version() (*driver.ServerVersion, error) {
	version, err := c.conn.ServerVersion()
	if err == context.DeadlineExceeded { //nolint:errorlint // A timeout of the network's is one too, this very value is not.
		err = clickhouse.ErrAcquireConnTimeout
	}
	return version, err
}

// Select reads all rows into dest, a pointer to a slice of structs.
func (c *Conn) Select(ctx context.Context, dest any, query string, args ...any) error {
	return c.call(ctx, func(ctx context.Context) error { return c.conn.Select(ctx, dest, query, args...) })
}

// Query begins to read rows. The call ends for the breaker when the rows are closed, read to their end, or failed: an
// error in their middle counts. Slow it is by the time to the first block; the rest may be the reader's. Rows that are
// left open end with ctx, so give it an end; for the breaker they end after ten minutes at the latest.
func (c *Conn) Query(ctx context.Context, query string, args ...any) (driver.Rows, error) {
	var inner driver.Rows
	p, err := c.begin(ctx, func(ctx context.Context) (err error) {
		inner, err = c.conn.Query(ctx, query, args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &resultRows{rows: inner, pending: p}, nil
}

// QueryRow reads one row. The call ends for the breaker with Scan or ScanStruct, or with ctx.
func (c *Conn) QueryRow(ctx context.Context, query string, args ...any) driver.Row {
	var inner driver.Row
	p, err := c.begin(ctx, func(ctx context.Context) error {
		inner = c.conn.QueryRow(ctx, query, args...)
		return inner.Err()
	})
	if err != nil {
		return failedRow{err}
	}
	return &resultRow{row: inner, pending: p}
}

// PrepareBatch begins an insert. Name the columns in the query: servers before 20.1 need it. PrepareBatch and Send are
// two calls; only failures of the first count, since a server may take every INSERT and fail every block.
//
// The batch ends with ctx until Send has returned. Cancelling ctx after that harms nothing, where the driver's own batch
// may close a connection that is back in the pool by then.
func (c *Conn) PrepareBatch(ctx context.Context, query string, opts ...driver.PrepareBatchOption) (driver.Batch, error) {
	permit, err := c.allow(ctx)
	if err != nil {
		return nil, err
	}
	defer permit.DoneAs(breaker.Failure, nil) // Only a panic comes here without a report.
	inner, release := bounded(ctx)
	b, err := c.conn.PrepareBatch(inner, query, opts...)
	if err != nil {
		release(err)
		err = callerError(ctx, err)
		report(ctx, permit, err)
		return nil, err
	}
	permit.DoneAs(breaker.Ignore, nil)
	return &batch{conn: c, ctx: ctx, batch: b, release: release}, nil
}

// Exec runs a statement.
func (c *Conn) Exec(ctx context.Context, query string, args ...any) error {
	return c.call(ctx, func(ctx context.Context) error { return c.conn.Exec(ctx, query, args...) })
}

// QueryFormat reads a result as a stream of bytes, over HTTP only. The call ends for the breaker when the stream is
// closed, read to its end, or failed, and with ctx at the latest.
func (c *Conn) QueryFormat(ctx context.Context, format, query string, args ...any) (io.ReadCloser, error) {
	var inner io.ReadCloser
	p, err := c.begin(ctx, func(ctx context.Context) (err error) {
		inner, err = c.conn.QueryFormat(ctx, format, query, args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &resultStream{stream: inner, pending: p}, nil
}

// InsertFormat inserts encoded data, over HTTP only. An error of data's own Read counts as the server's unless
// holdfast.IsPermanent is true of it.
func (c *Conn) InsertFormat(ctx context.Context, format, query string, data io.Reader) error {
	return c.call(ctx, func(ctx context.Context) error { return c.conn.InsertFormat(ctx, format, query, data) })
}

// AsyncInsert leaves the batching to the server. Without wait, nil does not mean stored.
//
// Deprecated: the driver wants clickhouse.WithAsync instead.
func (c *Conn) AsyncInsert(ctx context.Context, query string, wait bool, args ...any) error {
	return c.call(ctx, func(ctx context.Context) error {
		return c.conn.AsyncInsert(ctx, query, wait, args...)
	})
}

// Ping asks the server for a sign of life.
func (c *Conn) Ping(ctx context.Context) error {
	return c.call(ctx, func(ctx context.Context) error { return c.conn.Ping(ctx) })
}

// Stats tells of the driver's pool.
func (c *Conn) Stats() driver.Stats { return c.conn.Stats() }

// Close closes the driver's pool. It asks no breaker.
func (c *Conn) Close() error { return c.conn.Close() }
