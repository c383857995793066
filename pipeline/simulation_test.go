package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
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

// Everything around a pipeline fails at random: the stage, the sink, the dead-letter queue, the group. SEEDS says how
// many runs there are (60), SEED the first one's seed (1). A seed fixes the dice, not which goroutine throws them first;
// so REPLAY=n runs one seed n times and says how often it fails.
func TestSimulation(t *testing.T) {
	first, seeds, replays := setting(t, "SEED", 1), setting(t, "SEEDS", 60), setting(t, "REPLAY", 0)
	if replays > 0 {
		replay(t, first, replays)
		return
	}
	var total tally
	ran := 0
	for seed := first; seed < first+seeds && !t.Failed(); seed++ {
		run(t, seed, &total)
		ran++
	}
	fmt.Printf("%d seeds: lost=%d disordered=%d ahead=%d leaked=%d\n", ran, total.lost, total.disordered, total.ahead, total.leaked)
}

// run simulates a seed twice: between servers that can do everything wrong, and over real protocols.
func run(t *testing.T, seed int, total *tally) {
	t.Helper()
	for _, world := range []func(*testing.T, uint64) tally{simulate, simulateWire} {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("this was seed %d; run it again with make sim-replay SEED=%d", seed, seed)
				}
			}()
			total.add(world(t, uint64(seed)))
		})
	}
}

func replay(t *testing.T, seed, times int) {
	t.Helper()
	failed := 0
	for n := range times {
		if !t.Run(strconv.Itoa(n), func(t *testing.T) { run(t, seed, new(tally)) }) {
			failed++
		}
	}
	fmt.Printf("seed %d failed %d times of %d\n", seed, failed, times)
}

func setting(t *testing.T, name string, n int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return n
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s must be a number above 0, got %q", name, text)
	}
	return n
}

// tally is what went wrong.
type tally struct {
	lost       int // Messages neither stored, skipped nor dead-lettered in the end.
	disordered int // Messages stored in place after a later one that the same claim had fetched.
	ahead      int // Messages committed before they were settled.
	leaked     int // Goroutines that outlived Run.
}

func (t *tally) add(u tally) {
	t.lost += u.lost
	t.disordered += u.disordered
	t.ahead += u.ahead
	t.leaked += u.leaked
}

const (
	simPartitions = 3
	simMessages   = 120 // Of each partition.
)

// lifeHeader tells which claim a message was fetched by.
const lifeHeader = "life"

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

func lifeOf(m *holdfast.Message) life {
	for _, h := range m.Headers {
		if h.Key == lifeHeader {
			return life{placeOf(m), string(h.Value)}
		}
	}
	return life{place: placeOf(m)}
}

// simulation is the world around one pipeline, and what it knows of every message.
type simulation struct {
	t       *testing.T
	orders  *broker
	letters *broker
	box     *letterBox
	store   *store

	cfg   pipeline.Config
	began time.Time

	mu     sync.Mutex
	dice   *rand.Rand
	healed bool // Nothing fails any more.
	claims int
	log    []string

	ended  map[place]bool   // Stored, skipped, or dead-lettered for good.
	posted map[place]bool   // There is a letter about it that is to come home.
	stored map[life]bool    // Stored in place, as far as anybody could know.
	unsure map[life]bool    // The stage may have done its work.
	last   map[string]int64 // The last offset that was stored in place, by what keeps its order.
	repeat map[life]string  // The batch that an item has to be written again with.
	letter []time.Time      // When letters were written.
	tally
}

func simulate(t *testing.T, seed uint64) tally {
	t.Helper()
	sim := &simulation{
		t: t, orders: newBroker(t, "orders", simPartitions), letters: newBroker(t, "orders.dlq", 1),
		dice: rand.New(rand.NewPCG(seed, 0)), began: time.Now(), repeat: make(map[life]string),
		ended: make(map[place]bool), posted: make(map[place]bool),
		stored: make(map[life]bool), unsure: make(map[life]bool), last: make(map[string]int64),
	}
	sim.box, sim.store = &letterBox{into: sim.letters}, &store{breaker: sim.circuit()}
	var sink pipeline.Sink[int] = &scripted{store: sim.store, write: sim.write}
	if sim.roll(4) == 0 {
		sink = sinkFunc(sim.write)
	}
	if sim.roll(4) == 0 {
		sink = oneSpanSink{sink}
	}
	goroutines := inBubble()
	work := pipeline.Map("work", sim.work, pipeline.StageConfig{Breaker: sim.circuit(), Retry: retry.Policy{Attempts: []int{0, -1}[sim.roll(2)]}})
	sim.cfg = pipeline.Config{
		DeadLetters:         sim,
		DeadLetterAfter:     []time.Duration{0, -1, 10 * time.Second}[sim.roll(3)],
		MaxLettersPerSecond: []int{0, 3, -1}[sim.roll(3)],
		MaxInFlight:         []int{100_000, 15}[sim.roll(2)],
		Order:               []pipeline.Order{pipeline.ByPartition, pipeline.ByKey, pipeline.Unordered}[sim.roll(3)],
		Lanes:               1 + sim.roll(4),
		Batch:               pipeline.BatchConfig{Count: 1 + sim.roll(30), Delay: time.Duration(1+sim.roll(1000)) * time.Millisecond, Writers: 1 + sim.roll(4)},
		OnEvent: func(e pipeline.Event) {
			sim.note("%s %s/%d %d %s %s %s %v", e.Kind, e.Topic, e.Partition, e.Offset, e.Place, e.Why, e.Reason, e.Err)
		},
		Logger: quiet(),
	}
	sim.note("%+v", sim.cfg)
	defer sim.dump()
	r := startWith(t, sim, work, sink, sim.cfg)
	sim.storm()
	sim.heal()
	time.Sleep(2 * time.Hour)
	if h := r.Health(); h.Degraded() {
		t.Errorf("health after two good hours: %+v", h)
	}
	r.mustStop(t)
	synctest.Wait()
	sim.leaked = inBubble() - goroutines
	return sim.verdict()
}

// note appends to the log of events that a failing seed leaves.
func (s *simulation) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf("%12v ", time.Since(s.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

func (s *simulation) dump() {
	if s.t.Failed() {
		s.t.Logf("what happened:\n%s", strings.Join(s.log, "\n"))
	}
}

func (s *simulation) circuit() *breaker.Breaker {
	b, err := breaker.New(breaker.Config{MaxFailures: 1 + s.roll(3), SuccessThreshold: 1, Timeout: 5 * time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// inBubble is how many goroutines there are in synctest bubbles. runtime.NumGoroutine counts ended ones for a while.
func inBubble() int {
	stacks := make([]byte, 1<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), ", synctest bubble ")
}

func (s *simulation) roll(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dice.IntN(n)
}

func (s *simulation) nap() { time.Sleep(time.Duration(s.roll(3000)) * time.Millisecond) }

// bad says which of n mishaps is to be, if any.
func (s *simulation) bad(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.healed {
		return n
	}
	return s.dice.IntN(n)
}

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
		if s.roll(3) == 0 {
			s.nap()
		}
		if c := s.orders.owner(s.roll(simPartitions)); c != nil && s.roll(8) == 0 {
			s.note("revoke %d", c.part.number)
			c.revoke()
			if s.roll(3) == 0 {
				synctest.Wait()
				c.lose(errAway)
			}
		}
		if c := s.letters.owner(0); c != nil && s.roll(20) == 0 {
			c.revoke()
		}
		switch s.roll(40) {
		case 0:
			s.store.breaker.ForceOpen()
		case 1, 2:
			s.store.breaker.Reset()
		}
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
	mishap := s.bad(100)
	if mishap <= 10 {
		s.note("stage: %d/%d meets mishap %d", m.Partition, m.Offset, mishap)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
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
		mishap := s.bad(16)
		s.note("sink: %d items of %v meet mishap %d", len(b.Items), b.Spans, mishap)
		s.repetition(b.Items, mishap == 4 || mishap == 5 || mishap == 6)
		if mishap == 0 {
			s.nap()
		}
		switch from := s.roll(len(b.Items)); mishap {
		case 1:
			return errAway
		case 2:
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
		line := s.lineOf(item.Source)
		if last, ok := s.last[line]; ok && line != "" && l.offset < last {
			s.disordered++
			s.t.Errorf("claim %s: offset %d is stored after %d", l.claim, l.offset, last)
		}
		s.last[line] = l.offset
	}
}

// lineOf names what a message keeps its order in, nothing for none.
func (s *simulation) lineOf(m *holdfast.Message) string {
	claim := lifeOf(m).claim
	switch {
	case s.cfg.Order == pipeline.ByPartition:
		return claim
	case s.cfg.Order == pipeline.ByKey && m.Key != nil:
		return claim + " " + string(m.Key)
	}
	return ""
}

func (s *simulation) Topic() string { return "orders.dlq" }

// Write is the dead-letter queue.
func (s *simulation) Write(ctx context.Context, letters ...dlq.Letter) error {
	mishap := s.bad(8)
	switch mishap {
	case 0:
		return errAway
	case 1:
		s.nap()
	}
	refused := make(map[int]error)
	var taken []dlq.Letter
	for i, l := range letters {
		if mishap == 2 && s.roll(2) == 0 {
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
	refuse := func(bad bool, what string) {
		if bad {
			s.t.Errorf("partition %d offset %d %s, and has a letter: %s, %s", l.partition, l.offset, what, letter.Reason, letter.Error)
		}
	}
	refuse(letter.Redrives == 0 && (s.stored[l] || s.unsure[l]), "may be stored")
	refuse(strings.Contains(letter.Error, "circuit") && (letter.Reason != dlq.CircuitOpen || letter.Attempts > 10), "was rejected")
	refuse(strings.Contains(letter.Error, errHeld.Error()), "was to be held")
	refuse(letter.Reason == dlq.CircuitOpen && s.cfg.DeadLetterAfter < 0, "was to wait")
	refuse(letter.Reason == dlq.CircuitOpen && letter.Redrives > 0, "was on its way home")
	const window, slack = 10 * time.Second, 2
	s.letter = append(s.letter, time.Now())
	recent := len(s.letter) - slices.IndexFunc(s.letter, func(at time.Time) bool { return time.Since(at) < window })
	refuse(s.cfg.MaxLettersPerSecond == 3 && recent > slack*3*int(window/time.Second), "is one of too many")
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
		return unlessLeft(handle(ctx, &simulatedClaim{Claim: c, number: number, check: s.checkOrders, bound: int64(s.cfg.MaxInFlight), sim: s}))
	})
}

func (s *simulation) Group() string { return "orders" }

// ConsumeAs hands out the claims of the dead-letter topic.
func (s *simulation) ConsumeAs(ctx context.Context, _ string, _ []string, handle func(context.Context, holdfast.Claim) error) error {
	return s.letters.Consume(ctx, func(ctx context.Context, c holdfast.Claim) error {
		return unlessLeft(handle(ctx, &simulatedClaim{Claim: c, check: s.checkLetters}))
	})
}

// unlessLeft lets a group go on when a claim's drain was cut short.
func unlessLeft(err error) error {
	if _, ok := errors.AsType[*pipeline.LeftError](err); ok {
		return nil
	}
	return err
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

type simulatedClaim struct {
	holdfast.Claim
	number string // Empty for letters.
	check  func(partition int, next int64)
	bound  int64 // How many messages there may be behind what is committed.
	sim    *simulation

	mu     sync.Mutex
	next   int64
	handed int64
}

func (c *simulatedClaim) Fetch(ctx context.Context) ([]holdfast.Message, error) {
	c.mu.Lock()
	start, _ := c.Committed()
	if behind := c.handed - max(c.next, start); c.number != "" && behind > c.bound {
		c.sim.t.Errorf("claim %s: %d messages in flight, more than %d", c.number, behind, c.bound)
	}
	c.mu.Unlock()
	messages, err := c.Claim.Fetch(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range messages {
		if c.number != "" {
			messages[i].Headers = []holdfast.Header{{Key: lifeHeader, Value: []byte(c.number)}}
			c.handed = messages[i].Offset + 1
		}
	}
	return messages, err
}

// Commit does nothing when it would go back, as a claim may expect of one.
func (c *simulatedClaim) Commit(next int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if next <= c.next {
		return
	}
	c.next = next
	_, partition := c.Partition()
	c.check(partition, next)
	c.Claim.Commit(next)
}
