package kafkax

import (
	"context"
	"sync"

	"github.com/holdfast-io/holdfast"
)

// call is a Produce in progress.
type call struct {
	messages []holdfast.Message
	done     chan struct{} // Closed when nothing is left.

	mu       sync.Mutex
	left     int  // Messages not settled yet.
	over     bool // The caller has gone.
	progress []progress
	barred   map[place]*outcome // Where one has failed, so that no later one may be sent.
}

// progress is how far a message has come.
type progress struct {
	at      place
	claimed bool // It is on its way.
	settled bool
	failed  *outcome
}

func newCall(messages []holdfast.Message) *call {
	c := &call{messages: messages, done: make(chan struct{}), left: len(messages), progress: make([]progress, len(messages))}
	if len(messages) == 0 {
		close(c.done)
	}
	return c
}

// claim says whether message i may be sent, and what it has failed with if not.
func (c *call) claim(i int, at place) (*outcome, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress[i].at = at
	if c.over {
		return nil, false
	}
	if o := c.barred[at]; o != nil {
		return o, false
	}
	c.progress[i].claimed = true
	return nil, true
}

// settle notes what became of message i; nil is success.
func (c *call) settle(i int, o *outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &c.progress[i]
	if c.over || p.settled {
		return
	}
	p.settled = true
	if o != nil {
		p.failed = c.bar(o)
	}
	if c.left--; c.left == 0 {
		close(c.done)
	}
}

// bar keeps the later messages of the partition from being sent, unless this one failed through its own fault. All that
// are barred share one outcome, which is returned. It needs the lock.
func (c *call) bar(o *outcome) *outcome {
	if o.permanent || o.spooled {
		return o
	}
	if c.barred == nil {
		c.barred = make(map[place]*outcome)
	}
	first := c.barred[o.at]
	switch {
	case first == nil && o.barred:
		c.barred[o.at] = o
	case first == nil:
		c.barred[o.at] = barred(o.at, o.err)
	case o.barred:
		return first
	}
	return o
}

// wait returns when every message is settled, or ctx ends: what is on its way by then may be written, what is not will
// not be.
func (c *call) wait(ctx context.Context) error {
	select {
	case <-c.done:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.giveUp(context.Cause(ctx))
	failed := c.failures()
	if len(failed) == 0 {
		return nil
	}
	return &ProduceError{Messages: len(c.messages), Failures: failed}
}

// giveUp settles what is left. It needs the lock.
func (c *call) giveUp(cause error) {
	if c.left == 0 {
		return
	}
	type group struct {
		at      place
		claimed bool
	}
	groups := make(map[group]*outcome)
	for i := range c.progress {
		p := &c.progress[i]
		if p.settled {
			continue
		}
		g := group{p.at, p.claimed}
		if groups[g] == nil {
			groups[g] = &outcome{at: p.at, err: cause, ambiguous: p.claimed}
		}
		p.failed = groups[g]
	}
}

// failures groups the messages by what they failed with, in the order of their first ones. It needs the lock.
func (c *call) failures() []ProduceFailure {
	var failures []ProduceFailure
	known := make(map[*outcome]int)
	for i := range c.progress {
		o := c.progress[i].failed
		if o == nil {
			continue
		}
		n, ok := known[o]
		if !ok {
			n = len(failures)
			known[o] = n
			failures = append(failures, o.failure(nil, 0))
		}
		failures[n].Indexes = append(failures[n].Indexes, i)
		failures[n].Bytes += messageSize(&c.messages[i])
	}
	return failures
}
