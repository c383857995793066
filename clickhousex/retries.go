package clickhousex

import (
	"context"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast/retry"
)

// QueryWithRetries is Query, tried again by the Conn's policy until the server answers with a first block. An error in
// the middle of the rows is the reader's to handle.
func (c *Conn) QueryWithRetries(ctx context.Context, query string, args ...any) (driver.Rows, error) {
	return retry.DoValue(ctx, c.retry, func(ctx context.Context) (driver.Rows, error) {
		return c.Query(ctx, query, args...)
	})
}

// QueryRowWithRetries is QueryRow, tried again by the Conn's policy until the server answers with a first block.
func (c *Conn) QueryRowWithRetries(ctx context.Context, query string, args ...any) driver.Row {
	row, err := retry.DoValue(ctx, c.retry, func(ctx context.Context) (driver.Row, error) {
		row := c.QueryRow(ctx, query, args...)
		return row, row.Err()
	})
	if err != nil {
		return failedRow{err}
	}
	return row
}

// SelectWithRetries is Select, tried again by the Conn's policy. Each attempt begins with an empty dest.
func (c *Conn) SelectWithRetries(ctx context.Context, dest any, query string, args ...any) error {
	return retry.Do(ctx, c.retry, func(ctx context.Context) error { return c.Select(ctx, dest, query, args...) })
}

// ExecIdempotent is Exec, tried again by the Conn's policy whatever may have run of it: for a statement that leaves the
// same behind when it runs twice, such as CREATE TABLE IF NOT EXISTS.
func (c *Conn) ExecIdempotent(ctx context.Context, query string, args ...any) error {
	return retry.Do(ctx, c.retry, func(ctx context.Context) error { return c.Exec(ctx, query, args...) })
}

// ExecWithRetries is Exec, tried again by the Conn's policy for as long as the error is SafeToRetry: a statement that may
// have run is not repeated. See ExecIdempotent.
func (c *Conn) ExecWithRetries(ctx context.Context, query string, args ...any) error {
	policy := c.retry
	policy.Retryable = func(err error) bool { return SafeToRetry(err) && c.retry.Retryable(err) }
	return retry.Do(ctx, policy, func(ctx context.Context) error { return c.Exec(ctx, query, args...) })
}
