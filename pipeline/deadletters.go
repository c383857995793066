package pipeline

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/internal/mutant"
)

const (
	// letterBatch is how many letters are written together at the most, and how many of a claim's may wait to be.
	letterBatch = 500

	// sinkStage is the sink's name where stages have theirs.
	sinkStage = "sink"

	// lettersStage is that of the dead-letter queue.
	lettersStage = "dead letters"
)

var errNoDeadLetters = errors.New("pipeline: Config.DeadLetters is nil, so nothing can be dead-lettered")

// letter is what is to be written about a message that failed.
func (e *engine) letter(m *holdfast.Message, f *failure) dlq.Letter {
	l := dlq.Letter{
		Message:       *m,
		Reason:        f.reason,
		Group:         e.group,
		Handler:       e.cfg.Name,
		Stage:         f.stage,
		Circuit:       f.circuit,
		Attempts:      f.attempts,
		FirstFailedAt: f.first,
		DeadAt:        time.Now(),
	}
	l.LastFailedAt = l.DeadAt
	l.Blame(f.err)
	if open, ok := errors.AsType[*breaker.OpenError](f.err); ok && f.circuit != "" {
		l.CircuitState = open.State.String()
	}
	if panicked, ok := errors.AsType[*PanicError](f.err); ok && e.cfg.Stacks {
		l.Stack = string(panicked.Stack)
	}
	if l.FirstFailedAt.IsZero() {
		l.FirstFailedAt = l.DeadAt
	}
	if m.Letter != nil {
		l.Message.Letter = nil
		l.Group = cmp.Or(dlq.GroupOf(m), e.group) // Whoever took it home.
		l.Redrives = m.Letter.Redrives + 1
		if !m.Letter.FirstFailedAt.IsZero() {
			l.FirstFailedAt = m.Letter.FirstFailedAt
		}
	}
	return l
}

// bury writes letters once and settles their messages, a message only after its letter is acknowledged. It returns the
// graves that are still open, and why.
func (e *engine) bury(ctx context.Context, graves []grave) (left []grave, err error) {
	err = e.write(ctx, graves)
	failed := unwritten(err, len(graves))
	for i, g := range graves {
		if _, bad := failed[i]; bad && !mutant.Is("4 a letter that could not be written settles its message") {
			left = append(left, g)
			continue
		}
		e.counts.letter(g.letter.Reason)
		g.claim.settle(slices.Repeat([]mark{g.mark}, g.values)...)
		if g.rejection != nil {
			g.rejection.resolve(g.mark, false)
		}
		m := &g.letter.Message
		e.tell(Event{
			Kind: DeadLettered, Topic: m.Topic, Partition: m.Partition, Offset: m.Offset, Stage: g.letter.Stage, Reason: g.letter.Reason,
		})
	}
	if len(left) == 0 {
		return nil, nil // Whatever it said, it named none.
	}
	return left, err
}

// write hands letters to the dead-letter queue. A panic there leaves all of them unwritten.
func (e *engine) write(ctx context.Context, graves []grave) error {
	if e.cfg.DeadLetters == nil {
		return errNoDeadLetters
	}
	letters := make([]dlq.Letter, len(graves))
	for i, g := range graves {
		letters[i] = g.letter
	}
	return guarded(func() error { return e.cfg.DeadLetters.Write(ctx, letters...) })
}

// unwritten gives the indexes of the n letters that err, from DeadLetters.Write, leaves unwritten.
func unwritten(err error, n int) map[int]error {
	if err == nil {
		return nil
	}
	if partly, _ := verdict(err, n); partly != nil {
		return partly.Items
	}
	all := make(map[int]error, n)
	for i := range n {
		all[i] = err
	}
	return all
}

// limiter bounds the letters per second.
type limiter struct{ *rate.Limiter }

func newLimiter(perSecond int) limiter {
	if perSecond < 0 || mutant.Is("8 letters are written without bound") {
		return limiter{rate.NewLimiter(rate.Inf, letterBatch)}
	}
	return limiter{rate.NewLimiter(rate.Limit(perSecond), min(perSecond, letterBatch))}
}

// reserve makes room for n letters, at most the burst, after delay. Without use it is cancelled.
func (l limiter) reserve(n int) (delay time.Duration, cancel func()) {
	r := l.ReserveN(time.Now(), n)
	return r.Delay(), r.Cancel
}
