package pipeline

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/retry"
)

// engine is what all claims and lanes of a pipeline share.
type engine struct {
	cfg      Config
	group    string
	log      *slog.Logger
	started  time.Time
	limit    *limiter
	troubles *troubles
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
	return &engine{
		cfg:      cfg,
		group:    group,
		log:      log,
		started:  time.Now(),
		limit:    newLimiter(cfg.MaxLettersPerSecond),
		troubles: newTroubles(log),
		counts:   counts{letters: make(map[dlq.Reason]uint64)},
	}
}

// now is the engine's monotonic clock, in nanoseconds.
func (e *engine) now() int64 { return int64(time.Since(e.started)) }

// context asks Config.Context. A panic there is the message's failure.
func (e *engine) context(ctx context.Context, m holdfast.Message) (traced context.Context, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &failure{reason: dlq.Panicked, stage: "context", err: newPanicError(r)}
		}
	}()
	return e.cfg.Context(ctx, m), nil
}

// letter is what is to be written about a message that failed.
func (e *engine) letter(m *holdfast.Message, f *failure) dlq.Letter {
	l := dlq.Letter{
		Message:       *m,
		Reason:        f.reason,
		Group:         e.group,
		Stage:         f.stage,
		Circuit:       f.circuit,
		Error:         f.err.Error(),
		Attempts:      f.attempts,
		FirstFailedAt: f.first,
		DeadAt:        time.Now(),
	}
	if l.FirstFailedAt.IsZero() {
		l.FirstFailedAt = l.DeadAt
	}
	if m.Letter != nil {
		l.Message.Letter = nil
		l.Redrives = m.Letter.Redrives + 1
		if !m.Letter.FirstFailedAt.IsZero() {
			l.FirstFailedAt = m.Letter.FirstFailedAt
		}
	}
	return l
}

// bury writes letters and settles their messages, a message only after its letter is acknowledged, no faster than the
// configured rate. While the dead-letter queue is away it tries again, for as long as pause, which waits between two
// tries, returns nil. It returns the graves that are still open.
func (e *engine) bury(ctx context.Context, graves []grave, place string, pause func(time.Duration) error) []grave {
	for tries := 0; len(graves) > 0; {
		chunk := graves[:min(len(graves), e.limit.burst())]
		delay, cancel := e.limit.reserve(len(chunk))
		if delay > 0 && pause(delay) != nil {
			cancel()
			return graves
		}
		err := e.write(ctx, chunk)
		failed := unwritten(err, len(chunk))
		e.lay(chunk, failed)
		if err == nil {
			tries = 0
			e.troubles.clear(place)
			graves = graves[len(chunk):]
			continue
		}
		if ctx.Err() != nil {
			return append(pick(chunk, failed), graves[len(chunk):]...)
		}
		graves = append(pick(chunk, failed), graves[len(chunk):]...)
		e.troubles.set(place, "dead letters cannot be written", err)
		tries++
		if pause(backoff(tries, err)) != nil {
			return graves
		}
	}
	return nil
}

func (e *engine) write(ctx context.Context, graves []grave) error {
	if e.cfg.DeadLetters == nil {
		return errNoDeadLetters
	}
	letters := make([]dlq.Letter, len(graves))
	for i, g := range graves {
		letters[i] = g.letter
	}
	return e.cfg.DeadLetters.Write(ctx, letters...)
}

// lay settles the messages whose letters are written.
func (e *engine) lay(graves []grave, failed map[int]error) {
	for i, g := range graves {
		if failed[i] == nil {
			e.counts.letter(g.letter.Reason)
			g.claim.settle(slices.Repeat([]int{g.n}, g.values)...)
		}
	}
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
