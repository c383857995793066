package dlq

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/retry"
)

// errEnd says that a claim has no more letters before its end.
var errEnd = errors.New("dlq: no more letters")

// letterClaim shows the open letters of a claim as messages. What it passes over is settled together with the letter
// before it, or at once when no letter is outstanding. What is settled is committed after the ledger knows of it.
type letterClaim struct {
	holdfast.Claim
	place
	sorter  *sorter
	tally   *tally
	pace    pace
	end     int64               // Where it stops. Negative: nowhere.
	waiting []holdfast.Message  // Read, and not handed out yet,
	lying   []*holdfast.Message // and their letters' records.
	handed  []*holdfast.Message // The records of what Fetch returned last.

	mu      sync.Mutex
	settled int64 // Everything before it is settled.
	last    int64 // The last letter that was read.
	passed  int64 // Everything before it was read.

	// What the ledger is to know before the claim is committed. Without a ledger there is nothing.
	taken   []takenLetter
	sent    map[string]int // How often letters in taken will have come home, so that a second copy is passed over.
	changed chan struct{}  // Holds a token when the recorder has something to do,
	done    chan struct{}  // and when it has done something.
}

// takenLetter is a letter that was handed out, or parked.
type takenLetter struct {
	entry
	offset int64
}

// serveLetters runs handle on the letters of a claim, and returns when the ledger knows of all that it has settled.
func serveLetters(ctx context.Context, c *letterClaim, handle func(context.Context, *letterClaim) error) error {
	c.topic, c.partition = c.Partition()
	next, _ := c.Committed()
	c.settled, c.last, c.passed = next, next-1, next
	if c.sorter.ledger == nil {
		return handle(ctx, c)
	}
	if err := c.sorter.ledger.load(ctx); err != nil {
		return err
	}
	c.sent, c.changed = make(map[string]int), make(chan struct{}, 1)
	c.done = make(chan struct{}, 1)
	over, recorded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(recorded)
		c.keepRecord(ctx, over)
	}()
	err := handle(ctx, c)
	close(over)
	<-recorded
	return err
}

// Fetch waits for open letters, and parks those that have come back too often.
func (c *letterClaim) Fetch(ctx context.Context) ([]holdfast.Message, error) {
	for len(c.waiting) == 0 {
		if c.end >= 0 && c.read() >= c.end {
			return nil, errEnd
		}
		records, err := c.Claim.Fetch(ctx)
		if err != nil {
			return nil, err
		}
		if err := c.take(ctx, records); err != nil {
			return nil, err
		}
	}
	n, wait := c.pace.portion(c.waiting)
	if err := c.pause(ctx, wait); err != nil {
		return nil, err
	}
	portion := c.waiting[:n:n]
	c.handed = c.lying[:n]
	c.waiting, c.lying = c.waiting[n:], c.lying[n:]
	return portion, nil
}

// take sorts the records of one fetch.
func (c *letterClaim) take(ctx context.Context, records []holdfast.Message) error {
	next := records[len(records)-1].Offset + 1
	messages, lying := make([]holdfast.Message, 0, len(records)), make([]*holdfast.Message, 0, len(records))
	stays := make([]holdfast.Letter, len(records))
	states := make(map[State]int)
	defer c.tally.read(states)
	var exhausted []*holdfast.Message
	var l Letter // Not in c, where the garbage collector would have to be told of every step.
	for i := range records {
		r := &records[i]
		if c.end >= 0 && r.Offset >= c.end {
			next = c.end
			break
		}
		state, err := c.sorter.sort(ctx, r, &l)
		if err != nil {
			return err
		}
		if (state == Open || state == Exhausted) && !c.first(&l, r.Offset) {
			state = Redriven
		}
		switch state {
		case Open:
			messages, lying = append(messages, l.message(r, &stays[i])), append(lying, r)
		case Exhausted:
			exhausted = append(exhausted, r)
		default: // It stays where it is.
		}
		states[state]++
	}
	if err := c.park(ctx, exhausted); err != nil {
		return err
	}
	c.waiting, c.lying = messages, lying
	if next := c.note(messages, next); next > 0 {
		c.commit(next)
	}
	return nil
}

// first notes, where there is a ledger, that a letter is on its way. A copy of one that is already is not the first.
func (c *letterClaim) first(l *Letter, offset int64) bool {
	if c.sorter.ledger == nil {
		return true
	}
	e := entry{l.id(), l.Redrives + 1}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent[e.id] >= e.redrives {
		return false
	}
	c.sent[e.id] = e.redrives
	c.taken = append(c.taken, takenLetter{e, offset})
	return true
}

// park writes to the parking topic until all records are there.
func (c *letterClaim) park(ctx context.Context, records []*holdfast.Message) error {
	if len(records) == 0 {
		return nil
	}
	err := c.persist(ctx, func() error { return c.sorter.parking.park(ctx, c.partition, records) })
	if err == nil {
		c.tally.parked.Add(int64(len(records)))
	}
	return err
}

// persist tries until it succeeds, the claim's drain begins, or the error is one that waiting does not mend.
func (c *letterClaim) persist(ctx context.Context, try func() error) error {
	for tries := 1; ; tries++ {
		err := try()
		if err == nil || holdfast.IsHold(err) || holdfast.IsPermanent(err) {
			c.tally.fine()
			return err
		}
		c.tally.trouble(err)
		if over := c.pause(ctx, backoff(tries, err)); over != nil {
			return errors.Join(over, err)
		}
	}
}

// pause waits for d. It ends early, with an error, when the claim's drain begins or ctx ends.
func (c *letterClaim) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.Revoked():
		return holdfast.ErrRevoked
	case <-ctx.Done():
		return ctx.Err()
	}
}

// note notes what was read, and returns how far the claim may be committed right away, zero for not at all.
func (c *letterClaim) note(messages []holdfast.Message, passed int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	outstanding := c.settled <= c.last
	c.passed = passed
	switch {
	case len(messages) > 0:
		c.last = messages[len(messages)-1].Letter.Offset
		return 0
	case outstanding:
		return 0
	default:
		c.settled = passed
		return passed
	}
}

// read is what follows everything that was read.
func (c *letterClaim) read() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.passed
}

// Commit settles the letters before next, and what was passed over behind the last of them.
func (c *letterClaim) Commit(next int64) {
	c.mu.Lock()
	c.settled = max(c.settled, next)
	if c.settled > c.last {
		c.settled = c.passed
	}
	next = c.settled
	c.mu.Unlock()
	c.commit(next)
}

// commit commits right away, or leaves it to the recorder.
func (c *letterClaim) commit(next int64) {
	if c.sorter.ledger == nil {
		c.Claim.Commit(next)
		return
	}
	signal(c.changed)
}

// keepRecord records what is settled and commits it, until over is closed and nothing is left.
func (c *letterClaim) keepRecord(ctx context.Context, over <-chan struct{}) {
	for open := true; open; {
		select {
		case <-c.changed:
		case <-over:
			open = false
		}
		entries, next := c.recordable()
		for tries := 1; len(entries) > 0; tries++ {
			err := c.sorter.ledger.record(ctx, c.place, entries)
			if err == nil {
				break
			}
			c.tally.trouble(err)
			if sleep(ctx, backoff(tries, err)) != nil {
				return // Neither recorded nor committed: the claim's next owner looks for itself.
			}
		}
		c.recorded(len(entries))
		c.tally.fine()
		c.Claim.Commit(next)
		signal(c.done)
	}
}

// flush waits until the ledger knows of everything that is settled.
func (c *letterClaim) flush(ctx context.Context) error {
	for {
		if entries, _ := c.recordable(); len(entries) == 0 {
			return nil
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// recordable gives the letters that are settled and not recorded, and the offset that may be committed once they are.
func (c *letterClaim) recordable() (entries []entry, next int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.taken {
		if t.offset >= c.settled {
			break
		}
		entries = append(entries, t.entry)
	}
	return entries, c.settled
}

func (c *letterClaim) recorded(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.taken[:n] {
		if c.sent[t.id] == t.redrives {
			delete(c.sent, t.id)
		}
	}
	c.taken = c.taken[n:]
}

// Settled is the offset before which every letter is settled or passed over.
func (c *letterClaim) Settled() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settled
}

// backoff is the wait before the next try of what has failed, no shorter than err asks for.
func backoff(tries int, err error) time.Duration {
	d := retry.Policy{Jitter: 0.5}.Backoff(tries)
	if asked, ok := holdfast.RetryDelay(err); ok {
		d = max(d, asked)
	}
	return d
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// signal leaves a token, if there is none.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// message is the letter's message as it comes home. What it tells of its stay there is kept in stay.
func (l *Letter) message(record *holdfast.Message, stay *holdfast.Letter) holdfast.Message {
	*stay = holdfast.Letter{
		ID:            l.id(),
		Reason:        string(l.Reason),
		Redrives:      l.Redrives,
		FirstFailedAt: l.FirstFailedAt,
		Topic:         record.Topic,
		Partition:     record.Partition,
		Offset:        record.Offset,
	}
	m := l.Message
	m.Letter = stay
	return m
}
