package pipeline_test

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"maps"
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

	"github.com/holdfast-io/holdfast/pipeline"
)

// Everything around a pipeline fails at random: the stages, the sink, the dead-letter queue, the group, the servers, the
// process. SEEDS says how many runs there are (60), SEED the first one's seed (1). A seed fixes what befalls which event,
// not which goroutine comes first; so REPLAY=n runs one seed n times and says how often it fails.
func TestSimulation(t *testing.T) {
	first, seeds, replays := setting(t, "SEED", 1), setting(t, "SEEDS", 60), setting(t, "REPLAY", 0)
	if replays > 0 {
		replay(t, first, replays)
		return
	}
	s := &series{seen: make(census)}
	s.run(t, first, min(seeds, warmUp))
	before := live()
	s.run(t, first+warmUp, seeds-warmUp)
	if seeds >= 2*warmUp && !t.Failed() {
		s.seen.check(t)
		if grown := int64(live() - before); grown > maxGrowth {
			t.Errorf("%d KiB more are in use after %d seeds than after %d", grown>>10, seeds, warmUp)
		}
	}
	if testing.Verbose() {
		fmt.Print(s.seen)
	}
	fmt.Printf("%d seeds: lost=%d disordered=%d ahead=%d leaked=%d\n", s.ran, s.lost, s.disordered, s.ahead, s.leaked)
}

const (
	simPartitions = 3

	// warmUp is after how many seeds everything has happened once that is done once in a process.
	warmUp = 25

	// maxGrowth is how much more memory may be in use after all seeds than after the first warmUp, in bytes.
	maxGrowth = 256 << 10
)

// series is what has come of some seeds. Its mu guards what several runs share.
type series struct {
	mu   sync.Mutex
	seen census
	ran  int
	tally
}

// run runs n seeds, as many at a time as there are processors, until one fails.
func (s *series) run(t *testing.T, first, n int) {
	t.Helper()
	workers := runtime.GOMAXPROCS(0)
	t.Run("", func(parent *testing.T) {
		for w := range workers {
			parent.Run(strconv.Itoa(w), func(t *testing.T) {
				t.Parallel()
				for seed := first + w; seed < first+n && !parent.Failed(); seed += workers {
					s.add(simulateSeed(t, seed))
				}
			})
		}
	})
}

func (s *series) add(u tally, seen census) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ran++
	s.tally.add(u)
	for event, n := range seen {
		s.seen[event] += n
	}
}

// simulateSeed simulates a seed twice: between servers that can do everything wrong, and over real protocols.
func simulateSeed(t *testing.T, seed int) (tally, census) {
	t.Helper()
	var total tally
	seen := make(census)
	for _, world := range []func(*testing.T, uint64, census) tally{simulate, simulateWire} {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("this was seed %d; run it again with make sim-replay SEED=%d", seed, seed)
				}
			}()
			total.add(world(t, uint64(seed), seen))
		})
	}
	return total, seen
}

// schedule is a sum of all that a seed fixes beforehand. What it fixes later, by dice for an event, see dice.
func schedule(seed uint64) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, drawPlan(seed), drawConfig(seed, dice(seed).of("world")))
	return h.Sum64()
}

// A seed's faults are the same each time, to the byte, and others are another seed's.
func TestSeedFixesSchedule(t *testing.T) {
	others := make(map[uint64]uint64)
	for seed := range uint64(50) {
		want := schedule(seed)
		for range 20 {
			if got := schedule(seed); got != want {
				t.Fatalf("seed %d: schedule %x, then %x", seed, want, got)
			}
		}
		if other, ok := others[want]; ok {
			t.Errorf("seeds %d and %d have one schedule", other, seed)
		}
		others[want] = seed
	}
}

func replay(t *testing.T, seed, times int) {
	t.Helper()
	fmt.Printf("seed %d fixes schedule %016x\n", seed, schedule(uint64(seed)))
	failed := 0
	for n := range times {
		if !t.Run(strconv.Itoa(n), func(t *testing.T) { simulateSeed(t, seed) }) {
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
	disordered int // Messages stored in place after a later one of the same line.
	ahead      int // Messages committed before they were settled, and commits that went back.
	leaked     int // Goroutines, and connections, that outlived Run.
}

func (t *tally) add(u tally) {
	t.lost += u.lost
	t.disordered += u.disordered
	t.ahead += u.ahead
	t.leaked += u.leaked
}

// dice are a seed's. What they show depends on the event that they are thrown for, not on when that is.
type dice uint64

func (d dice) of(event ...any) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprintln(h, event...)
	return rand.New(rand.NewPCG(uint64(d), h.Sum64()))
}

func one[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// drawConfig is how a pipeline of a seed is. Nine seeds in a row have every order and every patience with an open circuit.
func drawConfig(seed uint64, r *rand.Rand) pipeline.Config {
	return pipeline.Config{
		Order:           []pipeline.Order{pipeline.ByPartition, pipeline.ByKey, pipeline.Unordered}[seed%3],
		DeadLetterAfter: []time.Duration{0, -1, 5 * time.Second}[seed/3%3],
		MaxInFlight:     one(r, 100_000, 15),
		Lanes:           1 + r.IntN(4),
		Batch: pipeline.BatchConfig{
			Count: 1 + r.IntN(30), Delay: time.Duration(1+r.IntN(500)) * time.Millisecond, Writers: 1 + r.IntN(4),
		},
	}
}

// census counts what has befallen the pipelines, so that none of it is never tried.
type census map[string]int

// config counts the order and the patience.
func (c census) config(world string, cfg pipeline.Config) {
	order := []string{"by partition", "by key", "unordered"}[cfg.Order]
	patience := "waits"
	switch {
	case cfg.DeadLetterAfter < 0:
		patience = "for ever"
	case cfg.DeadLetterAfter == 0:
		patience = "at once"
	}
	c[fmt.Sprintf("%s: %s, %s", world, order, patience)]++
}

func (c census) check(t *testing.T) {
	t.Helper()
	for _, event := range happenings() {
		if c[event] == 0 {
			t.Errorf("never happened: %s", event)
		}
	}
	if n := len(slices.DeleteFunc(slices.Collect(maps.Keys(c)), func(event string) bool { return !strings.Contains(event, ": ") })); n != 18 {
		t.Errorf("%d modes of two worlds were tried, want 18", n)
	}
}

func (c census) String() string {
	var out strings.Builder
	for _, event := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(&out, "%6d %s\n", c[event], event)
	}
	return out.String()
}

// journal is the log of events that a failing seed leaves.
type journal struct {
	t     *testing.T
	began time.Time

	mu    sync.Mutex
	lines []string
}

func newJournal(t *testing.T) *journal { return &journal{t: t, began: time.Now()} }

func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf("%12v ", time.Since(j.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

// event is a pipeline's Config.OnEvent.
func (j *journal) event(e pipeline.Event) {
	j.note("%s %s/%d %d %s %s %s %v", e.Kind, e.Topic, e.Partition, e.Offset, e.Place, e.Why, e.Reason, e.Err)
}

// Write takes what a logger says.
func (j *journal) Write(p []byte) (int, error) {
	j.note("%s", bytes.TrimSpace(p))
	return len(p), nil
}

func (j *journal) dump() {
	if j.t.Failed() {
		j.t.Logf("what happened:\n%s", strings.Join(j.lines, "\n"))
	}
}

// inBubble is how many goroutines there are in the synctest bubble of the caller. runtime.NumGoroutine counts those of
// others, and ended ones for a while.
func inBubble() int {
	stacks := make([]byte, 4<<20)
	mine, _, _ := strings.Cut(string(stacks[:runtime.Stack(stacks, false)]), "]:")
	_, bubble, _ := strings.Cut(mine, ", synctest bubble ")
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), ", synctest bubble "+bubble+"]:")
}

// live is how much memory is in use.
func live() uint64 {
	runtime.GC()
	runtime.GC() // For what pools keep for one.
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
