package pipeline

import (
	"context"
	"slices"

	"github.com/holdfast-io/holdfast/dlq"
)

// grave is a message in flight, the letter to be written about it, and how many of its values that settles.
type grave struct {
	mark
	letter dlq.Letter
	values int

	// rejection is set for what an open circuit rejected, and open tells whether that is open still, as far as anybody
	// can see; nil: nobody can.
	rejection *rejection
	open      func() bool
}

// bury has letters written, in the background. While letters cannot be written the claim takes no message on.
func (c *claim) bury(graves ...grave) {
	c.mu.Lock()
	c.dead = append(c.dead, graves...)
	over := c.buried
	c.mu.Unlock()
	if over {
		c.handBackGraves(nil)
		return
	}
	signal(c.mourn)
}

// undertake writes the claim's letters until the claim is drained, in the order of its messages as far as they wait for
// each other. While the dead-letter queue is away it tries again, with backoff; once the drain has begun, only once, and
// hands the messages back. What an open circuit rejected it recalls instead.
func (c *claim) undertake(ctx context.Context, drained <-chan struct{}) {
	place := c.String() + " " + lettersStage
	for tries := 0; ; {
		graves := c.takeGraves()
		if len(graves) == 0 {
			tries = 0
			c.engine.troubles.clear(place, nil) // What was recalled has not come back.
			select {
			case <-c.mourn:
			case <-drained:
				c.mu.Lock()
				c.buried = true
				c.mu.Unlock()
				c.handBackGraves(nil) // What has come since.
				return
			}
			continue
		}
		if delay, cancel := c.engine.limit.reserve(len(graves)); delay > 0 && c.pause(delay) != nil {
			cancel()
			c.handBackGraves(graves)
			continue
		}
		graves, recalled := recallable(graves, func(g grave) bool {
			return (g.open != nil && !g.open()) || g.rejection.hasRecalls() // The others must not overtake those.
		})
		c.recall(graves, recalled)
		if len(graves) == 0 {
			continue
		}
		left, err := c.engine.bury(ctx, graves)
		if err == nil {
			tries = 0
			c.engine.troubles.clear(place, nil)
			c.putBack(nil)
			continue
		}
		tries++
		c.engine.troubles.set(place, nil, "cannot be written", err)
		if c.draining() {
			c.handBackGraves(left)
			continue
		}
		left, recalled = recallable(left, func(grave) bool { return true })
		c.putBack(left)
		c.recall(nil, recalled)
		if c.pause(backoff(tries, err)) != nil {
			c.handBackGraves(nil)
		}
	}
}

// recallable divides graves into those that stay and those of an open circuit that are to be tried again.
func recallable(graves []grave, again func(grave) bool) (stay, recalled []grave) {
	for _, g := range graves {
		if g.rejection != nil && again(g) {
			recalled = append(recalled, g)
		} else {
			stay = append(stay, g)
		}
	}
	return stay, recalled
}

// takeGraves takes the next ones out, as many as may be written at once.
func (c *claim) takeGraves() []grave {
	c.mu.Lock()
	defer c.mu.Unlock()
	byNumber := func(x, y grave) int { return x.n - y.n }
	if !slices.IsSortedFunc(c.dead, byNumber) {
		slices.SortStableFunc(c.dead, byNumber)
	}
	n := min(len(c.dead), c.engine.limit.Burst())
	graves := slices.Clone(c.dead[:n])
	c.writing = graves
	if c.dead = c.dead[n:]; len(c.dead) == 0 {
		c.dead = nil
	}
	return graves
}

// putBack puts graves back that are still open. With any, letters cannot be written.
func (c *claim) putBack(graves []grave) {
	c.mu.Lock()
	c.dead, c.writing = append(graves, c.dead...), nil
	c.stuck = len(graves) > 0
	c.mu.Unlock()
	signal(c.changed)
}

// recall has whoever brought them try recalled graves again. The others are written.
func (c *claim) recall(others, recalled []grave) {
	c.mu.Lock()
	c.writing = others
	c.mu.Unlock()
	for _, g := range recalled {
		g.rejection.resolve(g.mark, true)
	}
}

// awaitsLetter tells whether message n waits for a letter about it. It needs the lock.
func (c *claim) awaitsLetter(n int) bool {
	about := func(g grave) bool { return g.n == n }
	return slices.ContainsFunc(c.dead, about) || slices.ContainsFunc(c.writing, about)
}

// handBackGraves hands back the messages of graves, and of all that wait.
func (c *claim) handBackGraves(graves []grave) {
	c.mu.Lock()
	graves = append(graves, c.dead...)
	for _, g := range graves {
		c.giveUp(g.n)
	}
	c.dead, c.writing, c.stuck = nil, nil, false
	c.mu.Unlock()
	for _, g := range graves {
		if g.rejection != nil {
			g.rejection.resolve(g.mark, false)
		}
	}
	signal(c.changed)
}
