package pipeline

import (
	"errors"
	"maps"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-io/holdfast"
)

// sinkStage is the sink's name where stages have theirs.
const sinkStage = "sink"

var errNoDeadLetters = errors.New("pipeline: Config.DeadLetters is nil, so nothing can be dead-lettered")

// behindHeldError rejects a batch while one before it is held aside because of an open circuit.
type behindHeldError struct{ open error }

func (e *behindHeldError) Error() string {
	return "pipeline: behind a batch whose fate is not known: " + e.open.Error()
}
func (e *behindHeldError) Unwrap() error { return e.open }

// limiter bounds the letters per second.
type limiter struct {
	rate *rate.Limiter
}

func newLimiter(perSecond int) *limiter {
	if perSecond < 0 {
		return &limiter{rate.NewLimiter(rate.Inf, letterBatch)}
	}
	return &limiter{rate.NewLimiter(rate.Limit(perSecond), min(perSecond, letterBatch))}
}

// burst is how many letters may be written together.
func (l *limiter) burst() int { return l.rate.Burst() }

// step is how many letters are written before the circuit is looked at again.
func (l *limiter) step() int { return max(1, l.rate.Burst()/5) }

// reserve makes room for n letters, at most burst, after delay. Without use it is cancelled.
func (l *limiter) reserve(n int) (delay time.Duration, cancel func()) {
	r := l.rate.ReserveN(time.Now(), n)
	return r.Delay(), r.Cancel
}

// unwritten gives the indexes of the n letters that err, from DeadLetters.Write, leaves unwritten.
func unwritten(err error, n int) map[int]error {
	var partly *holdfast.BatchError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &partly):
		return partly.Items
	}
	all := make(map[int]error, n)
	for i := range n {
		all[i] = err
	}
	return all
}

// pick returns the graves whose letters are unwritten, in order.
func pick(graves []grave, failed map[int]error) []grave {
	picked := make([]grave, 0, len(failed))
	for _, i := range slices.Sorted(maps.Keys(failed)) {
		if i >= 0 && i < len(graves) {
			picked = append(picked, graves[i])
		}
	}
	return picked
}

// releaseGraves hands back the messages of claims that are gone or being drained.
func releaseGraves(graves []grave) []grave {
	return slices.DeleteFunc(graves, func(g grave) bool {
		if !g.claim.gone() && !g.claim.draining() {
			return false
		}
		g.claim.handBack(g.n)
		return true
	})
}
