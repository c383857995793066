package clickhousex

import (
	"context"
	"sync/atomic"

	"github.com/holdfast-io/holdfast/breaker"
)

// report ends a permit with what err says. A breaker that someone else configured is told outright what this package
// knows to be no failure, and judges the failures itself.
func report(ctx context.Context, permit *breaker.Permit, err error) {
	outcome := outcomeOf(err)
	if err != nil && ctx.Err() == context.Canceled { //nolint:errorlint // Err returns this very value by contract.
		outcome = breaker.Ignore // The driver closes a cancelled call's connection, and may say only that.
	}
	if outcome == breaker.Failure {
		permit.Done(err)
		return
	}
	permit.DoneAs(outcome, err)
}

// pending is an admitted call whose outcome shows after it has returned: rows that are still to be read. It ends with
// its context at the latest.
type pending struct {
	ctx     context.Context
	permit  *breaker.Permit
	reading atomic.Bool
	stop    func() bool
}

// watch frees the permit when the context ends while nobody reads. Rows that lie unread say nothing about the server;
// those who read see the error and end with it.
func watch(ctx context.Context, permit *breaker.Permit) *pending {
	p := &pending{ctx: ctx, permit: permit}
	p.stop = context.AfterFunc(ctx, func() {
		if !p.reading.Load() {
			p.permit.DoneAs(breaker.Ignore, nil)
		}
	})
	return p
}

func (p *pending) end(err error) {
	p.stop()
	report(p.ctx, p.permit, err)
}
