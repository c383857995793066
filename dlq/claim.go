package dlq

import (
	"cmp"
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
	sorter *sorter
	tally  *tally
	pace   pace
	end    int64 // Where it stops. Negative: nowhere.

	// home makes m, the record of a letter, the message that Fetch returns of it. What ClaimOffset says of m must stay.
	home func(l *Letter, m *holdfast.Message)

	// What Fetch has of the claim and not handed out yet. None of it is lost when Fetch fails.
	sorted    int64               // Everything before it was looked at.
	unsorted  []holdfast.Message  // Not looked at yet. Open letters' messages take their records' places.
	exhausted []holdfast.Message  // To be parked before anything else is done.
	waiting   []holdfast.Message  // Open letters' messages,
	headers   [][]holdfast.Header // and all the headers that their records have.
	handed    [][]holdfast.Header // Those of what Fetch returned last.

	mu      sync.Mutex
	settled int64 // Everything before it is settled.
	last    int64 // The last letter that was read.
	passed  int64 // Everything before it was sorted, and parked if it was to be.

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

// serveLetters runs handle on the letters of a claim, and returns when the ledger knows of all that it has settled. When
// the ledger cannot be written for good, handle's ctx ends, and serveLetters returns why.
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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over, recorded := make(chan struct{}), make(chan error, 1)
	go func() {
		err := c.keepRecord(ctx, over)
		cancel(err)
		recorded <- err
	}()
	err := handle(ctx, c)
	close(over)
	return cmp.Or(<-recorded, err)
}

// Fetch waits for open letters, and parks those that have come back too often.
func (c *letterClaim) Fetch(ctx context.Context) ([]holdfast.Message, error) {
	for {
		if err := c.take(ctx); err != nil {
			return nil, err
		}
		if len(c.waiting) > 0 {
			break
		}
		if c.end >= 0 && c.read() >= c.end {
			return nil, errEnd
		}
		var err error
		if c.unsorted, err = c.Claim.Fetch(ctx); err != nil {
			return nil, err
		}
		c.waiting, c.headers = c.unsorted[:0], make([][]holdfast.Header, 0, len(c.unsorted))
	}
	n, wait := c.pace.portion(c.waiting)
	if err := c.pause(ctx, wait); err != nil {
		return nil, err
	}
	portion := c.waiting[:n:n]
	c.handed = c.headers[:n]
	c.waiting, c.headers = c.waiting[n:], c.headers[n:]
	return portion, nil
}

// take sorts what was fetched, and parks what is exhausted. When it fails it goes on where it was the next time.
func (c *letterClaim) take(ctx context.Context) error {
	if len(c.unsorted)+len(c.exhausted) == 0 {
		return nil
	}
	if err := c.sort(ctx); err != nil {
		return err
	}
	if err := c.park(ctx, c.exhausted); err != nil {
		return err
	}
	c.exhausted = nil
	if next := c.note(); next > 0 {
		c.commit(next)
	}
	return nil
}

// sort sorts what was fetched.
func (c *letterClaim) sort(ctx context.Context) error {
	d := decoder{needed: c.sorter.headers} // Not in c, where the garbage collector would have to be told of every step.
	records, waiting := c.unsorted, c.waiting
	sorted, open := 0, len(waiting)
	states := make(map[State]int)
	defer func() {
		states[Open] = len(waiting) - open
		c.tally.read(states)
		c.unsorted, c.waiting = records[sorted:], waiting
	}()
	for ; sorted < len(records); sorted++ {
		r := &records[sorted]
		if c.end >= 0 && r.Offset >= c.end {
			c.sorted, sorted = c.end, len(records)
			break
		}
		state, err := c.sorter.sort(ctx, r, &d)
		if err != nil {
			return err
		}
		if (state == Open || state == Exhausted) && !c.first(&d.letter, r.Offset) {
			state = Redriven
		}
		c.sorted = r.Offset + 1
		switch state {
		case Open:
			c.headers = append(c.headers, r.Headers)
			waiting = waiting[:len(waiting)+1]
			m := &waiting[len(waiting)-1]
			if m != r {
				*m = *r
			}
			c.home(&d.letter, m)
			continue
		case Exhausted:
			c.exhausted = append(c.exhausted, holdfast.Message{Key: r.Key, Value: r.Value, Headers: r.Headers})
		default: // It stays where it is.
		}
		states[state]++
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
func (c *letterClaim) park(ctx context.Context, records []holdfast.Message) error {
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
		if err == nil || lasting(err) {
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

// note notes what was sorted, and returns how far the claim may be committed right away, zero for not at all.
func (c *letterClaim) note() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	outstanding := c.settled <= c.last
	c.passed = c.sorted
	switch {
	case len(c.waiting) > 0:
		c.last = c.waiting[len(c.waiting)-1].ClaimOffset()
		return 0
	case outstanding:
		return 0
	default:
		c.settled = c.passed
		return c.passed
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

// keepRecord records what is settled and commits it, until over is closed and nothing is left. What it returns is an error
// that waiting does not mend.
func (c *letterClaim) keepRecord(ctx context.Context, over <-chan struct{}) error {
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
			if lasting(err) {
				return err
			}
			c.tally.trouble(err)
			if sleep(ctx, backoff(tries, err)) != nil {
				return nil //nolint:nilerr // Neither recorded nor committed: the claim's next owner looks for itself.
			}
		}
		c.recorded(len(entries))
		c.tally.fine()
		c.Claim.Commit(next)
		signal(c.done)
	}
	return nil
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

// lasting says whether an error is one that waiting does not mend.
func lasting(err error) bool { return holdfast.IsHold(err) || holdfast.IsPermanent(err) }

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
