package pipeline_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
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

// gauntlet is a broker, and a world around one pipeline in which everything fails until it is mended. It knows of every
// message what has become of it.
type gauntlet struct {
	*broker
	order pipeline.Order
	guard *breaker.Breaker

	mu     sync.Mutex
	dice   *rand.Rand
	mended bool
	lives  int
	left   map[int64]map[int]bool // The values of a message that are not stored.
	ended  map[int64]bool         // Stored, skipped, or dead-lettered.
	last   map[string][2]int      // The last offset and index that was stored of a key, in one life.
}

func (g *gauntlet) roll(n int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mended {
		return n
	}
	return g.dice.IntN(n)
}

// Consume marks messages with the life they are in, and looks at every commit.
func (g *gauntlet) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return g.broker.Consume(ctx, func(claimed context.Context, c holdfast.Claim) error {
		g.mu.Lock()
		g.lives++
		life := strconv.Itoa(g.lives)
		g.mu.Unlock()
		return handle(claimed, &watchedClaim{Claim: c, gauntlet: g, life: life})
	})
}

type watchedClaim struct {
	holdfast.Claim
	*gauntlet
	life string
}

func (c *watchedClaim) Fetch(ctx context.Context) ([]holdfast.Message, error) {
	messages, err := c.Claim.Fetch(ctx)
	for i := range messages {
		messages[i].Headers = []holdfast.Header{{Key: lifeHeader, Value: []byte(c.life)}}
	}
	return messages, err
}

// Commit must cover what is settled, and nothing else.
func (c *watchedClaim) Commit(next int64) {
	c.mu.Lock()
	for o := range next {
		if !c.ended[o] {
			c.t.Errorf("commit of %d, and %d is not settled", next, o)
		}
	}
	c.mu.Unlock()
	c.Claim.Commit(next)
}

// explode makes up to three values of a message, or fails in one of many ways.
func (g *gauntlet) explode(_ context.Context, m holdfast.Message) ([]int, error) {
	switch g.roll(60) {
	case 0, 1, 2:
		return nil, errAway
	case 3:
		return nil, holdfast.Permanent(errAway)
	case 4:
		return nil, holdfast.Hold(errAway)
	case 5:
		return nil, holdfast.Ambiguous(errAway)
	case 6:
		panic("stage")
	case 7:
		runtime.Goexit()
	case 8:
		return nil, holdfast.RetryAfter(3*time.Second, errAway)
	case 9:
		time.Sleep(time.Duration(g.roll(5)) * time.Second)
	}
	n := int(m.Offset % 4)
	g.mu.Lock()
	defer g.mu.Unlock()
	if n == 0 {
		g.ended[m.Offset] = true
		return nil, []error{nil, holdfast.ErrSkip}[m.Offset/4%2]
	}
	if !g.ended[m.Offset] {
		g.left[m.Offset] = make(map[int]bool)
		for i := range n {
			g.left[m.Offset][i] = true
		}
	}
	return make([]int, n), nil
}

func (g *gauntlet) flaky(_ context.Context, n int) (int, error) {
	if g.roll(20) == 0 {
		return 0, errAway
	}
	return n, nil
}

// Write is the sink's.
func (g *gauntlet) Write(_ context.Context, b holdfast.Batch[int]) error {
	if g.roll(4) == 0 {
		time.Sleep(time.Second)
	}
	refused := make(map[int]error)
	switch mishap := g.roll(12); mishap {
	case 0:
		return errAway
	case 1:
		return holdfast.Hold(errAway)
	case 2:
		return &breaker.OpenError{Name: "inside", State: breaker.Open}
	case 3:
		return holdfast.Ambiguous(errAway)
	case 4:
		panic("sink")
	case 5:
		refused[g.roll(len(b.Items))] = holdfast.Permanent(errAway)
	case 6, 7, 8: // What waits keeps those behind it waiting.
		why := []error{holdfast.Hold(errAway), breaker.ErrCircuitOpen, holdfast.Ambiguous(errAway)}[mishap-6]
		for i := g.roll(len(b.Items)); i < len(b.Items); i++ {
			refused[i] = why
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, item := range b.Items {
		if refused[i] == nil {
			g.keep(item)
		}
	}
	if len(refused) > 0 {
		return &holdfast.BatchError{Items: refused}
	}
	return nil
}

func (g *gauntlet) keep(item holdfast.Item[int]) {
	m := item.Source
	if delete(g.left[m.Offset], item.Index); len(g.left[m.Offset]) == 0 {
		g.ended[m.Offset] = true
	}
	if g.order == pipeline.Unordered || (g.order == pipeline.ByKey && m.Key == nil) {
		return
	}
	line := string(m.Headers[0].Value)
	if g.order == pipeline.ByKey {
		line += " " + string(m.Key)
	}
	at, was := [2]int{int(m.Offset), item.Index}, g.last[line]
	if at[0] < was[0] || (at[0] == was[0] && at[1] < was[1]) {
		g.t.Errorf("life and key %q: %v is stored after %v", line, at, was)
	}
	g.last[line] = at
}

// write is the dead-letter queue's.
func (g *gauntlet) write(_ context.Context, letters ...dlq.Letter) error {
	if g.roll(4) == 0 {
		return errAway
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range letters {
		g.ended[l.Message.Offset] = true
	}
	return nil
}

// Rules 2 and 9, for every order: what must not overtake does not, through retries, letters, several values of a message,
// open circuits, skips, panics, and a revoke in the middle; with keys that are none, empty, all the same, or some.
func TestOrdersRunTheGauntlet(t *testing.T) {
	const messages = 200
	keys := map[string]func(i int) []byte{
		"no keys":    func(int) []byte { return nil },
		"empty keys": func(int) []byte { return []byte{} },
		"a hot key":  func(int) []byte { return []byte("hot") },
		"some keys": func(i int) []byte {
			if i%6 == 5 {
				return nil
			}
			return fmt.Append(nil, i%6)
		},
	}
	for order, named := range map[pipeline.Order]string{pipeline.ByPartition: "by partition", pipeline.ByKey: "by key", pipeline.Unordered: "unordered"} {
		for kind, key := range keys {
			t.Run(named+", "+kind, func(t *testing.T) {
				for seed := range uint64(8) {
					synctest.Test(t, func(t *testing.T) {
						b := newBroker(t, "orders", 1)
						for i := range messages {
							b.produce(0, "0")
							b.partitions[0].log[i].Key = key(i)
						}
						guard, err := breaker.New(breaker.Config{Name: "guard", MaxFailures: 2, SuccessThreshold: 1, Timeout: 5 * time.Second})
						if err != nil {
							t.Fatal(err)
						}
						g := &gauntlet{
							broker: b, order: order, guard: guard, dice: rand.New(rand.NewPCG(seed, uint64(order))),
							left: make(map[int64]map[int]bool), ended: make(map[int64]bool), last: make(map[string][2]int),
						}
						stages := pipeline.Then(
							pipeline.FlatMap("explode", g.explode, pipeline.StageConfig{Retry: retry.Policy{Attempts: []int{0, -1}[g.roll(2)]}}),
							pipeline.Map("flaky", g.flaky, pipeline.StageConfig{Breaker: guard}))
						r := startWith(t, g, stages, g, pipeline.Config{
							DeadLetters: boxFunc(g.write), DeadLetterAfter: []time.Duration{0, -1, 10 * time.Second}[g.roll(3)],
							Order: order, Lanes: 1 + int(seed)%4, MaxInFlight: []int{0, 20}[g.roll(2)],
							Batch:  pipeline.BatchConfig{Count: 1 + g.roll(12), Delay: 100 * time.Millisecond, Writers: 1 + g.roll(3)},
							Logger: quiet(),
						})
						for range 20 {
							time.Sleep(time.Duration(g.roll(8000)) * time.Millisecond)
							if g.roll(3) == 0 {
								b.owner(0).revoke()
							}
						}
						g.mu.Lock()
						g.mended = true
						g.mu.Unlock()
						time.Sleep(time.Hour)
						r.mustStop(t)
						if b.committed(0) != messages {
							t.Errorf("committed %d of %d; health %+v", b.committed(0), messages, r.Health())
						}
					})
					if t.Failed() {
						t.Fatalf("seed %d", seed)
					}
				}
			})
		}
	}
}

// One key that is stuck stops nobody else until there are MaxInFlight messages from it on, and no more are held in memory.
// Where the oldest message is shows.
func TestStuckKeyIsBoundedAndVisible(t *testing.T) {
	for name, order := range map[string]pipeline.Order{"by key": pipeline.ByKey, "unordered": pipeline.Unordered} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				mended := make(chan struct{})
				stage := work(func(_ context.Context, n int) (int, error) {
					if n == 5 {
						<-mended
					}
					return n, nil
				}, pipeline.StageConfig{})
				for i := range 2000 {
					b.produceKeyed(0, fmt.Sprint(i), fmt.Sprint(i))
				}
				before := inBubble()
				r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Order: order, Lanes: 64, MaxInFlight: 150, Logger: quiet()})
				time.Sleep(30 * time.Second)
				const share = 155 // From offset 5 on, but those with its lane, which wait behind it.
				if n := len(s.stored()); n > share || n < share-15 || b.fetched() > share+10 || b.committed(0) != 5 {
					t.Errorf("%d stored, %d fetched, committed %d", n, b.fetched(), b.committed(0))
				}
				if n := inBubble() - before; n > 64*2+20 {
					t.Errorf("%d goroutines for 64 lanes", n)
				}
				p := r.Stats().Partitions[0]
				if p.OldestOffset != 5 || p.OldestStage != "work" || p.OldestAge < 29*time.Second || p.OldestAge > 31*time.Second {
					t.Errorf("stats %+v", p)
				}
				close(mended)
				time.Sleep(time.Minute)
				r.mustStop(t)
				if len(s.stored()) != 2000 || b.committed(0) != 2000 {
					t.Errorf("%d stored, committed %d", len(s.stored()), b.committed(0))
				}
			})
		})
	}
}

// A lane that is stuck keeps no more than its buffer waiting, however much there is for it.
func TestStuckHotKeyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 2), &letterBox{}, newStore(t)
		mended := make(chan struct{})
		stage := work(func(_ context.Context, n int) (int, error) {
			if n < 0 {
				<-mended
			}
			return n, nil
		}, pipeline.StageConfig{})
		for i := range 1000 {
			b.produceKeyed(0, "hot", "-1")
			b.produceKeyed(1, fmt.Sprint(i), fmt.Sprint(i))
		}
		r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, Order: pipeline.ByKey, Logger: quiet()})
		time.Sleep(time.Minute)
		if n := b.fetched() - 1000; n > 64+1+10 || b.committed(0) != 0 || b.committed(1) != 1000 {
			t.Errorf("%d fetched of a partition whose only key is stuck, committed %d and %d", n, b.committed(0), b.committed(1))
		}
		close(mended)
		time.Sleep(time.Minute)
		r.mustStop(t)
		if b.committed(0) != 1000 {
			t.Errorf("committed %d", b.committed(0))
		}
	})
}

// A key whose circuit is open stops only those that share its lane, and keeps its order when that closes.
func TestOpenCircuitOfOneKeyStopsFewOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys, messages = 50, 500
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		guard := newBreaker(t, "first")
		guard.ForceOpen()
		stage := work(func(ctx context.Context, n int) (int, error) {
			if n%keys > 0 {
				return n, nil
			}
			return n, guard.Execute(ctx, func(context.Context) error { return nil })
		}, pipeline.StageConfig{})
		for i := range messages {
			b.produceKeyed(0, fmt.Sprint(i%keys), fmt.Sprint(i))
		}
		r := startWith(t, b, stage, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Order: pipeline.ByKey, Lanes: 64, Logger: quiet()})
		time.Sleep(time.Minute)
		if n := len(s.stored()); n < messages/2 || b.committed(0) != 0 || !strings.Contains(asJSON(r.Health()), "circuit open") {
			t.Errorf("%d stored, committed %d, health %+v", n, b.committed(0), r.Health())
		}
		guard.Reset()
		time.Sleep(10 * time.Minute)
		r.mustStop(t)
		last := make(map[int]int)
		for _, n := range s.stored() {
			if was, ok := last[n%keys]; ok && n != was+keys {
				t.Errorf("%d is stored after %d", n, was)
			}
			last[n%keys] = n
		}
		if len(s.stored()) != messages || b.committed(0) != messages || box.len() != 0 {
			t.Errorf("%d stored, committed %d, letters %+v", len(s.stored()), b.committed(0), box.letters)
		}
	})
}
