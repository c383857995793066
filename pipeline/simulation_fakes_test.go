package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/retry"
)

const simMessages = 120 // Of each partition.

var errHeld = errors.New("held")

// place is where a message lies, life is one message in one claim's hands.
type (
	place struct {
		partition int
		offset    int64
	}
	life struct {
		place
		claim string
	}
)

func placeOf(m *holdfast.Message) place { return place{m.Partition, m.Offset} }

func lifeOf(m *holdfast.Message) life { return life{placeOf(m), lifeNumber(m)} }

// simulation is the world around one pipeline, and what it knows of every message.
type simulation struct {
	orders  *broker
	letters *broker
	box     *letterBox
	store   *store

	dice dice
	cfg  pipeline.Config
	*journal

	mu     sync.Mutex
	met    map[string]int // How often each kind of event has been.
	healed bool           // Nothing fails any more.
	claims int

	ended  map[place]bool   // Stored, skipped, or dead-lettered for good.
	posted map[place]bool   // There is a letter about it that is to come home.
	stored map[life]bool    // Stored in place, as far as anybody could know.
	unsure map[life]bool    // The stage may have done its work.
	left   map[place]bool   // It may have left its line, because of the stage, the sink, or a letter.
	first  map[place]bool   // Stored in place by any claim.
	last   map[string]int64 // The last offset that was stored in place, by what keeps its order, in one claim and in all.
	repeat map[life]string  // The batch that an item has to be written again with.
	letter []time.Time      // When letters were written.
	tally
}

func simulate(t *testing.T, seed uint64, seen census) tally {
	t.Helper()
	sim := &simulation{
		orders: newBroker(t, "orders", simPartitions), letters: newBroker(t, "orders.dlq", 1),
		dice: dice(seed), journal: newJournal(t), met: make(map[string]int), repeat: make(map[life]string),
		ended: make(map[place]bool), posted: make(map[place]bool),
		stored: make(map[life]bool), unsure: make(map[life]bool), last: make(map[string]int64),
		left: make(map[place]bool), first: make(map[place]bool),
	}
	defer sim.dump()
	r := sim.dice.of("world")
	sim.box, sim.store = &letterBox{into: sim.letters}, &store{breaker: sim.circuit(r)}
	var sink pipeline.Sink[int] = &scripted{store: sim.store, write: sim.write}
	if r.IntN(4) == 0 {
		sink = sinkFunc(sim.write)
	}
	if r.IntN(4) == 0 {
		sink = oneSpanSink{sink}
	}
	goroutines := inBubble()
	work := pipeline.Map("work", sim.work, pipeline.StageConfig{Breaker: sim.circuit(r), Retry: retry.Policy{Attempts: one(r, 0, -1)}})
	sim.cfg = drawConfig(seed, r)
	sim.cfg.MaxLettersPerSecond = one(r, 0, 3, -1)
	seen.config("fakes", sim.cfg)
	sim.note("%+v", sim.cfg)
	sim.cfg.DeadLetters, sim.cfg.OnEvent, sim.cfg.Logger = sim, sim.event, quiet()
	running := startWith(t, sim, work, sink, sim.cfg)
	sim.storm()
	sim.heal()
	time.Sleep(2 * time.Hour)
	if h := running.Health(); h.Degraded() {
		t.Errorf("health after two good hours: %+v", h)
	}
	running.mustStop(t)
	synctest.Wait()
	sim.leaked = inBubble() - goroutines
	return sim.verdict()
}

func (s *simulation) circuit(r *rand.Rand) *breaker.Breaker {
	b, err := breaker.New(breaker.Config{MaxFailures: 1 + r.IntN(3), SuccessThreshold: 1, Timeout: 5 * time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// throw gives the dice for the next event of a kind, and whether it may go wrong.
func (s *simulation) throw(kind string) (r *rand.Rand, stormy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.met[kind]++
	return s.dice.of(kind, s.met[kind]), !s.healed
}

// mishap is one of n, or n itself for none.
func mishap(r *rand.Rand, stormy bool, n int) int {
	if m := r.IntN(n); stormy {
		return m
	}
	return n
}

func nap(r *rand.Rand) { time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond) }

func (s *simulation) heal() {
	s.mu.Lock()
	s.healed = true
	s.mu.Unlock()
	s.store.breaker.Reset()
}

// storm produces, revokes, and opens and closes the sink's circuit.
func (s *simulation) storm() {
	for i := range simMessages {
		for p := range simPartitions {
			key := fmt.Sprint(i % 5)
			if i%7 == 0 {
				key = ""
			}
			s.orders.produceKeyed(p, key, fmt.Sprint(i))
		}
		r := s.dice.of("storm", i)
		if r.IntN(3) == 0 {
			nap(r)
		}
		if p := r.IntN(simPartitions); r.IntN(8) == 0 {
			s.rebalance(p, r.IntN(3) == 0)
		}
		if c := s.letters.owner(0); r.IntN(20) == 0 && c != nil {
			c.revoke()
		}
		switch r.IntN(40) {
		case 0:
			s.store.breaker.ForceOpen()
		case 1, 2:
			s.store.breaker.Reset()
		}
	}
}

// rebalance revokes a partition's claim, and may not leave it time to drain.
func (s *simulation) rebalance(partition int, lost bool) {
	c := s.orders.owner(partition)
	if c == nil {
		return
	}
	s.note("revoke %d, lost %v", partition, lost)
	c.revoke()
	if lost {
		synctest.Wait()
		c.lose(errAway)
	}
}

func (s *simulation) verdict() tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range simPartitions {
		if got := s.orders.committed(p); got != simMessages {
			s.t.Errorf("partition %d is committed up to %d of %d", p, got, simMessages)
		}
		for o := range int64(simMessages) {
			if !s.ended[place{p, o}] {
				s.lost++
				s.t.Errorf("partition %d offset %d is lost", p, o)
			}
		}
	}
	if got, end := s.letters.committed(0), s.letters.owner(0).End(); got != end {
		s.t.Errorf("letters are committed up to %d of %d", got, end)
	}
	if s.leaked > 0 {
		s.t.Errorf("%d goroutines more after Run than before", s.leaked)
	}
	return s.tally
}

// work is the stage. Every seventeenth number is skipped.
func (s *simulation) work(ctx context.Context, m holdfast.Message) (int, error) {
	n, err := pipeline.JSON[int](ctx, m)
	if err != nil {
		return 0, err
	}
	r, stormy := s.throw(fmt.Sprint("stage", placeOf(&m)))
	mishap := mishap(r, stormy, 100)
	if mishap <= 10 {
		s.note("stage: %d/%d meets mishap %d", m.Partition, m.Offset, mishap)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch mishap {
	case 0, 1, 2, 3, 5, 10:
		s.left[placeOf(&m)] = true
	}
	switch mishap {
	case 0, 1, 2:
		return 0, errAway
	case 3:
		delete(s.unsure, lifeOf(&m)) // Its last word.
		return 0, holdfast.Permanent(errAway)
	case 4:
		return 0, holdfast.Hold(errHeld)
	case 5:
		panic("work")
	case 6:
		return 0, breaker.ErrCircuitOpen
	case 7, 8, 9:
		s.unsure[lifeOf(&m)] = m.Letter == nil // A letter may come home while its message is still here.
		return 0, holdfast.Ambiguous(errAway)
	case 10:
		return 0, holdfast.RetryAfter(5*time.Second, errAway)
	}
	delete(s.unsure, lifeOf(&m))
	if n%17 == 3 {
		s.ended[placeOf(&m)] = true
		return 0, holdfast.ErrSkip
	}
	return n, nil
}

// write is the sink. It refuses every thirteenth number, always.
func (s *simulation) write(ctx context.Context, b holdfast.Batch[int]) error {
	return s.store.breaker.Execute(ctx, func(context.Context) error {
		r, stormy := s.throw("sink")
		mishap := mishap(r, stormy, 16)
		s.note("sink: %d items of %v meet mishap %d", len(b.Items), b.Spans, mishap)
		s.repetition(b.Items, mishap == 4 || mishap == 5 || mishap == 6)
		if mishap == 0 {
			nap(r)
		}
		switch from := r.IntN(len(b.Items)); mishap {
		case 1:
			return errAway
		case 2:
			s.leave(b.Items)
			return holdfast.Permanent(errAway)
		case 3:
			return holdfast.Hold(errHeld)
		case 4:
			return holdfast.Ambiguous(errAway)
		case 5:
			s.keep(b.Items)
			return holdfast.Ambiguous(errAway)
		case 6:
			s.keep(b.Items[:from])
			panic("write")
		case 7:
			return s.part(b.Items, from, from, holdfast.Hold(errHeld))
		case 8:
			return s.part(b.Items, from, from, breaker.ErrCircuitOpen)
		case 9:
			return s.part(b.Items, from, len(b.Items), holdfast.Ambiguous(errAway))
		default:
			return s.part(b.Items, len(b.Items), len(b.Items), nil)
		}
	})
}

// repetition checks that what was written without an answer is written again as it was. What is answered may be divided.
func (s *simulation) repetition(items []holdfast.Item[int], unanswered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var batch strings.Builder
	for _, item := range items {
		fmt.Fprintln(&batch, lifeOf(item.Source))
	}
	for _, item := range items {
		l := lifeOf(item.Source)
		if item.Source.Letter != nil { // Its claim is another one, of which nothing is known here.
			continue
		}
		if was, ok := s.repeat[l]; ok && was != batch.String() {
			s.t.Errorf("claim %s: offset %d was written without an answer, and is written again in another batch", l.claim, l.offset)
		}
		if delete(s.repeat, l); unanswered {
			s.repeat[l] = batch.String()
		}
	}
}

// part refuses the items from one on for the reason why, and those that are always refused. It keeps the items before
// kept, whatever it says of them.
func (s *simulation) part(items []holdfast.Item[int], from, kept int, why error) error {
	refused := make(map[int]error)
	for i, item := range items {
		switch {
		case isRefused(item):
			refused[i] = holdfast.Permanent(errAway)
		case i >= from:
			refused[i] = why
		}
	}
	s.keep(items[:kept])
	if len(refused) == 0 {
		return nil
	}
	return &holdfast.BatchError{Items: refused}
}

// leave notes that items have left their lines.
func (s *simulation) leave(items []holdfast.Item[int]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, item := range items {
		s.left[placeOf(item.Source)] = true
	}
}

func isRefused(item holdfast.Item[int]) bool { return item.Value%13 == 5 }

// keep stores items but those that are always refused.
func (s *simulation) keep(items []holdfast.Item[int]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, item := range items {
		if isRefused(item) {
			continue
		}
		s.ended[placeOf(item.Source)] = true
		l := lifeOf(item.Source)
		if item.Source.Letter != nil || s.stored[l] { // It has left the order, or is stored again.
			continue
		}
		s.stored[l] = true
		s.come("claim "+l.claim, item.Source, false)
		if !s.first[l.place] {
			s.first[l.place] = true
			s.come("partition "+strconv.Itoa(l.partition), item.Source, s.left[l.place])
		}
	}
}

// come checks that a message is not stored in place behind a later one of its line. A claim may store again what an
// earlier one has stored: what counts over all claims is when a message came first.
func (s *simulation) come(line string, m *holdfast.Message, mayLag bool) {
	switch {
	case s.cfg.Order == pipeline.Unordered, s.cfg.Order == pipeline.ByKey && m.Key == nil:
		return
	case s.cfg.Order == pipeline.ByKey:
		line += " key " + string(m.Key)
	}
	if last, ok := s.last[line]; ok && m.Offset < last && !mayLag {
		s.disordered++
		s.t.Errorf("partition %d offset %d is stored behind %d of %s", m.Partition, m.Offset, last, line)
	}
	s.last[line] = max(s.last[line], m.Offset)
}

func (s *simulation) Topic() string { return "orders.dlq" }

// Write is the dead-letter queue.
func (s *simulation) Write(ctx context.Context, letters ...dlq.Letter) error {
	r, stormy := s.throw("letters")
	mishap := mishap(r, stormy, 8)
	switch mishap {
	case 0:
		return errAway
	case 1:
		nap(r)
	}
	refused := make(map[int]error)
	var taken []dlq.Letter
	for i, l := range letters {
		if mishap == 2 && r.IntN(2) == 0 {
			refused[i] = errAway
			continue
		}
		taken = append(taken, l)
		s.post(l)
	}
	if err := s.box.Write(ctx, taken...); err != nil || mishap == 3 { // 3: the acknowledgement is lost.
		return errAway
	}
	if len(refused) == 0 {
		return nil
	}
	return &holdfast.BatchError{Items: refused}
}

func (s *simulation) post(letter dlq.Letter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if letter.Reason == dlq.CircuitOpen {
		s.posted[placeOf(&letter.Message)] = true
	} else {
		s.ended[placeOf(&letter.Message)] = true
	}
	l := lifeOf(&letter.Message)
	s.left[l.place] = true
	refuse := func(bad bool, what string) {
		if bad {
			s.t.Errorf("partition %d offset %d %s, and has a letter: %s, %s", l.partition, l.offset, what, letter.Reason, letter.Error)
		}
	}
	refuse(letter.Redrives == 0 && (s.stored[l] || s.unsure[l]), "may be stored")
	refuse(unfit(letter, s.cfg) != "", unfit(letter, s.cfg))
	const window, slack = 10 * time.Second, 2
	s.letter = append(s.letter, time.Now())
	recent := len(s.letter) - slices.IndexFunc(s.letter, func(at time.Time) bool { return time.Since(at) < window })
	refuse(s.cfg.MaxLettersPerSecond == 3 && recent > slack*3*int(window/time.Second), "is one of too many")
}

// unfit says why a letter must not be, whatever else is known; nothing when it may be.
func unfit(l dlq.Letter, cfg pipeline.Config) string {
	switch rejected := l.Reason == dlq.CircuitOpen; {
	case strings.Contains(l.Error, "circuit") && (!rejected || l.Attempts > 10):
		return "was rejected"
	case strings.Contains(l.Error, errHeld.Error()):
		return "was to be held"
	case rejected && cfg.DeadLetterAfter < 0:
		return "was to wait"
	case rejected && l.Redrives > 0:
		return "was on its way home"
	}
	return ""
}

// oneSpanSink wants a batch for each partition.
type oneSpanSink struct{ pipeline.Sink[int] }

func (oneSpanSink) OneSpan() bool { return true }

// Consume hands out claims that are numbered, by their messages' keys, and whose commits are checked.
func (s *simulation) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return s.orders.Consume(ctx, func(ctx context.Context, c holdfast.Claim) error {
		s.mu.Lock()
		s.claims++
		number := strconv.Itoa(s.claims)
		s.mu.Unlock()
		return unlessLeft(handle(ctx, &numberedClaim{Claim: c, t: s.t, number: number, check: s.checkOrders, bound: int64(s.cfg.MaxInFlight)}))
	})
}

func (s *simulation) Group() string { return "orders" }

// ConsumeAs hands out the claims of the dead-letter topic.
func (s *simulation) ConsumeAs(ctx context.Context, _ string, _ []string, handle func(context.Context, holdfast.Claim) error) error {
	return s.letters.Consume(ctx, func(ctx context.Context, c holdfast.Claim) error {
		return unlessLeft(handle(ctx, &numberedClaim{Claim: c, t: s.t, check: s.checkLetters}))
	})
}

func (s *simulation) checkOrders(partition int, next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for o := range next {
		if at := (place{partition, o}); !s.ended[at] && !s.posted[at] {
			s.ahead++
			s.t.Errorf("partition %d is committed up to %d, and %d is not settled", partition, next, o)
		}
	}
}

// checkLetters checks that every letter that is to come home has come home.
func (s *simulation) checkLetters(_ int, next int64) {
	s.letters.mu.Lock()
	records := slices.Clone(s.letters.partitions[0].log[:next])
	s.letters.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		l, err := dlq.Decode(r)
		if err != nil || (l.Reason == dlq.CircuitOpen && !s.ended[placeOf(&l.Message)]) {
			s.ahead++
			s.t.Errorf("letters are committed up to %d, and the one at %d is not settled (%v)", next, r.Offset, err)
		}
	}
}
