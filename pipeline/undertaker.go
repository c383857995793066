package pipeline

import "context"

// bury has a letter written, in the background and in the order of the calls. While letters cannot be written the claim
// takes no message on.
func (c *claim) bury(g grave) {
	c.mu.Lock()
	c.dead = append(c.dead, g)
	c.mu.Unlock()
	signal(c.mourn)
}

// undertake writes the claim's letters until the claim is drained. While the dead-letter queue is away it tries again,
// with backoff; once the drain has begun, only once, and hands the messages back.
func (c *claim) undertake(ctx context.Context, drained <-chan struct{}) {
	place := c.String() + " dead letters"
	for tries := 0; ; {
		graves := c.nextGraves()
		if len(graves) == 0 {
			select {
			case <-c.mourn:
			case <-drained:
				return
			}
			continue
		}
		delay, cancel := c.engine.limit.reserve(len(graves))
		if delay > 0 && c.pause(delay) != nil {
			cancel()
			c.handBackGraves()
			continue
		}
		left, err := c.engine.bury(ctx, graves)
		c.closeGraves(len(graves), left)
		if err == nil {
			tries = 0
			c.engine.troubles.clear(place)
			continue
		}
		tries++
		c.engine.troubles.set(place, "cannot be written", err)
		if c.pause(backoff(tries, err)) != nil {
			c.handBackGraves()
		}
	}
}

func (c *claim) nextGraves() []grave {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead[:min(len(c.dead), c.engine.limit.Burst())]
}

// closeGraves takes out the first n graves but those that are left.
func (c *claim) closeGraves(n int, left []grave) {
	c.mu.Lock()
	c.dead = append(left, c.dead[n:]...)
	c.stuck = len(left) > 0
	c.mu.Unlock()
	signal(c.changed)
}

func (c *claim) handBackGraves() {
	c.mu.Lock()
	for _, g := range c.dead {
		c.tracker.handBack(g.n)
	}
	c.dead = nil
	c.mu.Unlock()
	signal(c.changed)
}
