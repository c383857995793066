package clickhousex

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

// report ends a permit with what err says. A breaker that someone else configured is told outright what this package
// knows to be no failure, and judges the failures itself.
func report(ctx context.Context, permit *breaker.Permit, err error) {
	outcome := outcomeOf(err)
	if err != nil && ctx.Err() == context.Canceled {
		outcome = breaker.Ignore // The driver closes a cancelled call's connection, and may say only that.
	}
	if outcome == breaker.Failure {
		permit.Done(err)
		return
	}
	permit.DoneAs(outcome, err)
}

// pending is an admitted call whose outcome shows after it has returned: rows that are still to be read. It ends with
// its context, and after abandonedAfter, at the latest.
type pending struct {
	ctx     context.Context
	permit  *breaker.Permit
	reading atomic.Bool
	over    atomic.Bool // The context has ended, or the time.
	stop    func() bool
	timer   *time.Timer
	release func(error)
}

// abandonedAfter is far longer than rows are read for.
const abandonedAfter = 10 * time.Minute

// watch frees the permit when the context ends while nobody reads, or nobody has read to the end for so long. Rows that
// lie unread say nothing about the server; those who read see the error and end with it.
func watch(ctx context.Context, permit *breaker.Permit, release func(error)) *pending {
	p := &pending{ctx: ctx, permit: permit, release: release}
	p.stop = context.AfterFunc(ctx, p.expire)
	p.timer = time.AfterFunc(abandonedAfter, p.expire)
	return p
}

func (p *pending) expire() {
	p.over.Store(true)
	if !p.reading.Load() {
		p.permit.DoneAs(breaker.Ignore, nil)
	}
}

// read is deferred around whatever may wait for the server: defer p.read()().
func (p *pending) read() (done func()) {
	p.reading.Store(true)
	return func() {
		p.reading.Store(false)
		if p.over.Load() { // Meanwhile, and the reader has not seen it.
			p.permit.DoneAs(breaker.Ignore, nil)
		}
	}
}

func (p *pending) end(err error) {
	p.stop()
	p.timer.Stop()
	p.release(err)
	report(p.ctx, p.permit, err)
}
