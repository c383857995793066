package kafkax

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/internal/mutant"
)

// committer commits for all claims of one member in one generation: one request at a time, because kafka-go opens
// connections freely and two could overtake each other and take an offset back. After a request whose outcome is
// unknown it reads the offsets back before it sends another. It never commits for another generation.
type committer struct {
	net        *network
	group      string
	generation int32
	member     string
	interval   time.Duration
	circuit    *breaker.Breaker // May be nil.
	log        *slog.Logger
	stats      *groupStats

	wake chan struct{} // Holds one token when there may be something to do.
	gone chan struct{} // Closed by lose.

	mu    sync.Mutex
	slots []*slot
	sent  time.Time // When the last coalesced commit was sent.
	hurry bool      // Do not wait for interval.
	lost  error     // Why nothing is committed any more.
	news  []news
}

// slot is one partition's place in the committer. Its committer's mu guards what changes.
type slot struct {
	place
	counts *partitionCounts

	stored   int64  // What the broker holds, as far as known. -1 for nothing.
	wanted   int64  // What it is to hold: what Commit asked for, or CommitSync has done.
	metadata string // That goes with wanted.
	syncs    []*syncCommit
	unknown  bool // A request was sent and its outcome is not known.
	doubtful bool // That was so once: the request may have been held up, and be served yet.
	closed   bool // The handler has returned.

	trouble trouble   // Of this partition alone.
	rest    time.Time // When to try again.
}

type syncCommit struct {
	next      int64
	metadata  string
	restart   bool // It may take the offset back, see restart.
	sent      bool
	abandoned bool       // Nobody waits for it any more.
	done      chan error // Holds one.
}

func newCommitter(m *membership, generation int32, member string) *committer {
	k := &committer{
		net: m.net, group: m.group, generation: generation, member: member,
		interval: m.cfg.CommitInterval, circuit: m.cfg.Breaker, log: m.log, stats: m.stats,
		wake: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	if mutant.Is("3 what a generation could not commit is committed under the next one") {
		if before, ok := mutant.Swap(m, k); ok {
			k.slots = before.slots
			k.signal()
		}
	}
	return k
}

// add makes a slot for a partition.
func (k *committer) add(at place) *slot {
	s := &slot{place: at, counts: k.stats.of(at), stored: -1, wanted: -1}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.slots = append(k.slots, s)
	return s
}

// begin says that the broker holds stored, -1 for nothing.
func (k *committer) begin(s *slot, stored int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s.stored, s.wanted = stored, stored
}

// commit asks for next to be committed, some time.
func (k *committer) commit(s *slot, next int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.lost != nil || s.closed:
		k.stats.counts.late.Add(1)
		s.counts.late.Add(1)
	case next > s.wanted:
		s.wanted, s.metadata = next, ""
		k.signal()
	}
}

// commitSync commits next and metadata, alone in a request, and returns when the broker holds them.
func (k *committer) commitSync(ctx context.Context, s *slot, next int64, metadata string) error {
	return k.await(ctx, s, &syncCommit{next: next, metadata: metadata, done: make(chan error, 1)})
}

// restart commits next whatever the broker holds, which may be behind it. Nothing else may be asked for s before it returns.
func (k *committer) restart(ctx context.Context, s *slot, next int64) error {
	return k.await(ctx, s, &syncCommit{next: next, restart: true, done: make(chan error, 1)})
}

// await queues c and returns what has become of it.
func (k *committer) await(ctx context.Context, s *slot, c *syncCommit) error {
	err := k.queue(s, c)
	if err != nil {
		return fmt.Errorf("kafkax: commit of %s/%d at %d: %w", s.topic, s.partition, c.next, err)
	}
	select {
	case err = <-c.done:
	case <-ctx.Done():
		err = k.abandon(c, ctx.Err())
	case <-k.gone:
		err = k.abandon(c, k.reason())
	}
	if err != nil {
		return fmt.Errorf("kafkax: commit of %s/%d at %d: %w", s.topic, s.partition, c.next, err)
	}
	return nil
}

func (k *committer) queue(s *slot, c *syncCommit) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	least := max(s.stored, s.wanted)
	if n := len(s.syncs); n > 0 {
		least = max(least, s.syncs[n-1].next)
	}
	switch {
	case k.lost != nil || s.closed:
		k.stats.counts.late.Add(1)
		s.counts.late.Add(1)
		if k.lost == nil {
			return errReturned
		}
		return k.lost
	case c.next < least && !c.restart:
		return fmt.Errorf("it would go back behind %d", least)
	}
	s.syncs = append(s.syncs, c)
	k.signal()
	return nil
}

// abandon returns what became of c, whose caller waits no longer because of err.
func (k *committer) abandon(c *syncCommit, err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case done := <-c.done:
		return done
	default:
	}
	c.abandoned = true
	if c.sent {
		return holdfast.Ambiguous(err)
	}
	return err
}

// finish says that s's handler has returned. What it had asked for is still committed.
func (k *committer) finish(s *slot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s.closed = true
}

// lose gives up committing, for the reason err. The first reason stays.
func (k *committer) lose(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lost == nil {
		k.lost = err
		close(k.gone)
	}
}

func (k *committer) reason() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lost
}

// hasten ends the wait for the interval, now and later.
func (k *committer) hasten() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hurry = true
	k.signal()
}

func (k *committer) signal() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// committed is what the broker holds for s, as far as known.
func (k *committer) committed(s *slot) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return s.stored
}

// run commits until stop is closed, and returns when its last request is answered.
func (k *committer) run(ctx context.Context, stop <-chan struct{}) {
	var t trouble
	for {
		wait, idle := k.due()
		if !idle && wait <= 0 {
			err := k.circuit.Execute(ctx, k.step)
			if err == nil {
				if n := t.over(); n > 0 {
					k.log.LogAttrs(ctx, slog.LevelInfo, "commits go through again", slog.Int("failures", n))
				}
				continue
			}
			if first := t.failed(); first && errors.Is(err, breaker.ErrCircuitOpen) {
				k.log.LogAttrs(ctx, slog.LevelWarn, "commits wait for the circuit", slog.Any("err", err))
			} else if first {
				k.log.LogAttrs(ctx, slog.LevelWarn, "commit failed, trying again", slog.Any("err", err))
			}
			wait = t.backoff()
		}
		var timer <-chan time.Time
		if !idle {
			timer = time.After(wait)
		}
		wake := k.wake
		if t.failures > 0 {
			wake = nil // The backoff is not cut short.
		}
		select {
		case <-stop:
			return
		case <-wake:
		case <-timer:
		}
	}
}

// flush commits all that is asked for, whatever the circuit says. It runs after run has returned. What was in doubt once
// is read back once more: had a request been held up and served after a later one, it would have taken the offset back.
func (k *committer) flush(ctx context.Context) error {
	k.last()
	var t trouble
	for {
		wait, idle := k.due()
		if idle {
			return nil
		}
		var err error
		if wait <= 0 {
			if err = k.step(ctx); err != nil {
				t.failed()
				wait = t.backoff()
			}
		}
		if !sleep(ctx, wait) {
			return cmp.Or(err, ctx.Err())
		}
	}
}

func (k *committer) last() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hurry = true
	for _, s := range k.slots {
		s.unknown = s.unknown || s.doubtful
	}
}

// due says how long to wait before the next step, or that there is nothing to do.
func (k *committer) due() (wait time.Duration, idle bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	idle = true
	if k.lost != nil {
		return 0, true
	}
	for _, s := range k.slots {
		urgent := s.unknown || len(s.syncs) > 0
		if !urgent && s.wanted <= s.stored {
			continue
		}
		after := time.Until(s.rest)
		if !urgent && !k.hurry {
			after = max(after, k.interval-time.Since(k.sent))
		}
		if idle || after < wait {
			wait = after
		}
		idle = false
	}
	return wait, idle
}

// target is what one request is to set for one slot.
type target struct {
	slot     *slot
	next     int64
	metadata string
	sync     *syncCommit // nil for coalesced ones.
}

// step sends the one commit that is most needed, after reading back what is unknown. For the circuit both are one call:
// that offsets can be read must not hide that they cannot be committed.
func (k *committer) step(ctx context.Context) error {
	defer k.tell(ctx)
	unknown, targets := k.plan()
	if len(unknown) > 0 {
		if err := k.readBack(ctx, unknown); err != nil {
			return err
		}
		unknown, targets = k.plan()
	}
	if len(unknown) > 0 || len(targets) == 0 {
		return nil
	}
	return k.send(ctx, targets)
}

// plan chooses what to read back, or else what to send, and marks what it sends as unknown until the answer is there. It
// leaves out what rests after a failure of its own.
func (k *committer) plan() (unknown []*slot, targets []target) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var ready []*slot
	for _, s := range k.slots {
		switch {
		case time.Until(s.rest) > 0:
		case s.unknown:
			unknown = append(unknown, s)
		default:
			ready = append(ready, s)
		}
	}
	if k.lost != nil || len(unknown) > 0 {
		return unknown, nil
	}
	for _, s := range ready {
		for len(s.syncs) > 0 && s.syncs[0].abandoned {
			s.syncs = s.syncs[1:]
		}
		if len(s.syncs) > 0 {
			c := s.syncs[0]
			c.sent, s.unknown = true, true
			return nil, []target{{s, c.next, c.metadata, c}}
		}
	}
	for _, s := range ready {
		if s.wanted > s.stored {
			s.unknown = true
			targets = append(targets, target{slot: s, next: s.wanted, metadata: s.metadata})
		}
	}
	if len(targets) > 0 {
		k.sent = time.Now()
	}
	return nil, targets
}

func (k *committer) send(ctx context.Context, targets []target) error {
	req := &kafka.OffsetCommitRequest{
		GroupID: k.group, GenerationID: int(k.generation), MemberID: k.member,
		Topics: make(map[string][]kafka.OffsetCommit),
	}
	for _, t := range targets {
		req.Topics[t.slot.topic] = append(req.Topics[t.slot.topic],
			kafka.OffsetCommit{Partition: t.slot.partition, Offset: t.next, Metadata: t.metadata})
	}
	resp, err := k.net.client.OffsetCommit(ctx, req)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.stats.counts.commitsFailed.Add(1)
		for _, t := range targets {
			t.slot.doubtful = true // And unknown, still.
			t.slot.unknown = !mutant.Is("3 a commit without an answer is not asked after")
		}
		return err
	}
	var errs []error
	for _, t := range targets {
		errs = append(errs, k.settle(t, commitAnswer(resp, t.slot)))
	}
	return errors.Join(errs...)
}

func commitAnswer(resp *kafka.OffsetCommitResponse, s *slot) error {
	p, ok := find(resp.Topics[s.topic], func(p kafka.OffsetCommitPartition) bool { return p.Partition == s.partition })
	if !ok {
		return errNoAnswer
	}
	return p.Error
}
