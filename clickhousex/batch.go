package clickhousex

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast/breaker"
)

// detach gives a context that ends at the deadline, unless that is zero, or when ctx is cancelled, until release is called;
// after a release without an error it ends a second later. The driver watches a batch's context for as long as Send runs
// and closes the connection when it ends; a cancel just after Send may still hit the connection, which by then is in the
// pool or in another call's hands (clickhouse-go#2032).
//
// The deadline's cause is the pool's timeout, which the driver reports for a deadline that passes while it waits for a free
// connection, and for no other. Ctx's own deadline must be no earlier: nobody sees which of two came first.
func detach(ctx context.Context, deadline time.Time) (inner context.Context, release func(error)) {
	var cancel context.CancelFunc
	if deadline.IsZero() {
		inner, cancel = context.WithCancel(context.WithoutCancel(ctx))
	} else {
		inner, cancel = context.WithDeadlineCause(context.WithoutCancel(ctx), deadline, clickhouse.ErrAcquireConnTimeout)
	}
	stop := context.AfterFunc(ctx, func() {
		if deadline.IsZero() || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			cancel()
		}
	})
	return inner, func(err error) {
		stop()
		if err != nil {
			cancel()
			return
		}
		time.AfterFunc(time.Second, cancel)
	}
}

// bounded is detach to ctx's own deadline.
func bounded(ctx context.Context) (inner context.Context, release func(error)) {
	deadline, _ := ctx.Deadline()
	return detach(ctx, deadline)
}

// callerError adds the end of the caller's context to an error that came of it. The driver may say only that the
// connection is closed.
func callerError(ctx context.Context, err error) error {
	if cause := ctx.Err(); err != nil && cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// batch is a driver.Batch whose Send and Flush ask the breaker. Like the driver's, it is not safe for concurrent use.
type batch struct {
	conn    *Conn
	ctx     context.Context
	batch   driver.Batch
	release func(error)
	sent    atomic.Bool
}

var _ driver.Batch = (*batch)(nil)

// Send ends the insert. When the circuit rejects it, nothing is sent and Send may be called again, or Close. Otherwise it
// is sent once, whatever comes of it: the driver's own would send the rows once more.
func (b *batch) Send() error {
	if b.sent.Load() {
		return fmt.Errorf("clickhousex: prepare a new batch to send the rows again: %w", clickhouse.ErrBatchAlreadySent)
	}
	permit, err := b.conn.allow(b.ctx)
	if err != nil {
		return err
	}
	defer permit.DoneAs(breaker.Failure, nil) // Only a panic comes here without a report.
	b.sent.Store(true)
	err = callerError(b.ctx, b.batch.Send())
	b.release(err)
	report(b.ctx, permit, err)
	return err
}

// Flush sends what was appended so far. It makes the insert neither atomic nor repeatable: what was flushed stays, even
// when the batch is aborted.
func (b *batch) Flush() error {
	return b.conn.call(b.ctx, func(context.Context) error { return b.batch.Flush() })
}

// Close and Abort free the connection and ask no breaker: a rejection would leak it.
func (b *batch) Close() error {
	err := b.batch.Close()
	b.release(err)
	return err
}

func (b *batch) Abort() error {
	err := b.batch.Abort()
	b.release(err)
	return err
}

func (b *batch) Append(v ...any) error           { return b.batch.Append(v...) }
func (b *batch) AppendStruct(v any) error        { return b.batch.AppendStruct(v) }
func (b *batch) Column(i int) driver.BatchColumn { return b.batch.Column(i) }
func (b *batch) Columns() []column.Interface     { return b.batch.Columns() }
func (b *batch) IsSent() bool                    { return b.batch.IsSent() }
func (b *batch) Rows() int                       { return b.batch.Rows() }
