package kafkax

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 2 * time.Second
)

// trouble is one run of failures of one thing: it spaces the attempts, and logs the first failure and the recovery, not
// what lies between. The zero value is no trouble.
type trouble struct {
	failures int
}

// failed logs the first failure of a run.
func (t *trouble) failed(ctx context.Context, log *slog.Logger, msg string, err error) {
	if t.failures == 0 {
		log.LogAttrs(ctx, slog.LevelWarn, msg, slog.Any("err", err))
	}
	t.failures++
}

// over ends a run of failures and logs that, if there was one.
func (t *trouble) over(ctx context.Context, log *slog.Logger, msg string) {
	if t.failures > 0 {
		log.LogAttrs(ctx, slog.LevelInfo, msg, slog.Int("failures", t.failures))
	}
	t.failures = 0
}

// backoff is how long to wait after the failures so far: doubling, with a jitter of a half.
func (t *trouble) backoff() time.Duration {
	d := min(minBackoff<<min(max(t.failures-1, 0), 10), maxBackoff)
	return d/2 + rand.N(d/2)
}

// wait waits for the backoff and reports whether ctx still goes on.
func (t *trouble) wait(ctx context.Context) bool {
	return sleep(ctx, t.backoff())
}

// sleep reports whether ctx still goes on after d.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
