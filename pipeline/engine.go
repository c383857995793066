package pipeline

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/retry"
)

// contextStage is the name of Config.Context where stages have theirs.
const contextStage = "context"

var errNilContext = errors.New("pipeline: Config.Context returned a nil context")

// engine is what all claims and lanes of a pipeline share.
type engine struct {
	cfg      Config
	group    string
	log      *slog.Logger
	started  time.Time
	limit    limiter
	troubles *troubles
	teller   *teller
	claims   registry
	counts   counts
}

type counts struct {
	stored, skipped, redriven, late, batches atomic.Uint64

	mu      sync.Mutex
	letters map[dlq.Reason]uint64
}

func (c *counts) letter(reason dlq.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.letters[reason]++
}

func newEngine(cfg Config, group string) *engine {
	log := cfg.Logger.With(slog.String("pipeline", cfg.Name))
	e := &engine{
		cfg:     cfg,
		group:   group,
		log:     log,
		started: time.Now(),
		limit:   newLimiter(cfg.MaxLettersPerSecond),
		teller:  newTeller(cfg.OnEvent, log),
		counts:  counts{letters: make(map[dlq.Reason]uint64)},
	}
	e.troubles = newTroubles(log, e.teller)
	return e
}

func (e *engine) tell(event Event) { e.teller.line()(event) }

// now is the engine's monotonic clock, in nanoseconds.
func (e *engine) now() int64 { return int64(time.Since(e.started)) }

// context asks Config.Context. A panic there, and a nil context, are the message's failure.
func (e *engine) context(ctx context.Context, m holdfast.Message) (traced context.Context, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &failure{reason: dlq.Panicked, stage: contextStage, err: newPanicError(r)}
		}
	}()
	if traced = e.cfg.Context(ctx, m); traced == nil {
		return nil, &failure{reason: dlq.Panicked, stage: contextStage, err: errNilContext}
	}
	return traced, nil
}

// backoff is the wait before the next try of what is held, no shorter than err asks for. Half of it is jitter, so that
// many members do not come back at once and none comes back without having waited.
func backoff(tries int, err error) time.Duration {
	d := retry.Policy{Jitter: 0.5}.Backoff(tries)
	if asked, ok := holdfast.RetryDelay(err); ok {
		d = max(d, asked)
	}
	return d
}
