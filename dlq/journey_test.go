package dlq_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
)

// shelf is partition 7 of a dead-letter topic, with its consumer and its log. Its letters are the same ones again and
// again, if it has more than records; a letter's key is its offset.
type shelf struct {
	records []holdfast.Message
	letters int
	chunk   int
	second  <-chan struct{} // What the second fetch waits for, if it is to.

	mu        sync.Mutex
	next      int // What is handed out next.
	committed int
}

func newShelf(n, chunk int, change func(*dlq.Letter)) *shelf {
	s := &shelf{letters: n, chunk: chunk}
	for i := range n {
		l := letter()
		l.Message.Key, l.Message.Offset, l.Reason, l.Redrives = []byte(strconv.Itoa(i)), int64(i), dlq.Permanent, 0
		change(&l)
		record := dlq.Encode(l)
		record.Topic, record.Partition = "orders.dlq", 7
		s.records = append(s.records, record)
	}
	return s
}

func (s *shelf) Bounds(context.Context, string) (first, next map[int]int64, err error) {
	return map[int]int64{7: 0}, map[int]int64{7: int64(s.letters)}, nil
}

func (s *shelf) Committed(context.Context, string, string) (map[int]int64, error) {
	_, committed := s.progress()
	return map[int]int64{7: int64(committed)}, nil
}

func (s *shelf) Scan(context.Context, string, map[int]int64, func([]holdfast.Message) error) error {
	return nil
}

func (s *shelf) ConsumeAs(ctx context.Context, _ string, _ []string, handle func(context.Context, holdfast.Claim) error) error {
	c := &shelfClaim{shelf: s, revoked: make(chan struct{})}
	s.mu.Lock()
	s.next = s.committed
	s.mu.Unlock()
	defer context.AfterFunc(ctx, func() { close(c.revoked) })()
	return handle(context.WithoutCancel(ctx), c)
}

// progress is how many letters were handed out, and how many are committed.
func (s *shelf) progress() (next, committed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next, s.committed
}

// shelfClaim hands out copies, which are for their reader to change.
type shelfClaim struct {
	holdfast.Claim
	shelf   *shelf
	revoked chan struct{}
}

func (c *shelfClaim) Partition() (string, int) { return "orders.dlq", 7 }

func (c *shelfClaim) Committed() (int64, string) {
	_, committed := c.shelf.progress()
	return int64(committed), ""
}

func (c *shelfClaim) Revoked() <-chan struct{} { return c.revoked }

func (c *shelfClaim) Commit(next int64) {
	c.shelf.mu.Lock()
	defer c.shelf.mu.Unlock()
	c.shelf.committed = max(c.shelf.committed, int(next))
}

func (c *shelfClaim) Fetch(context.Context) ([]holdfast.Message, error) {
	s := c.shelf
	if next, _ := s.progress(); next == s.chunk && s.second != nil {
		<-s.second
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-c.revoked:
		return nil, holdfast.ErrRevoked
	default:
	}
	records := make([]holdfast.Message, min(s.chunk, s.letters-s.next))
	for i := range records {
		records[i] = s.records[s.next%len(s.records)]
		records[i].Offset = int64(s.next)
		s.next++
	}
	return records, nil
}

// gate is a target whose calls wait until it is opened.
type gate struct {
	called, open chan struct{}

	once  sync.Once
	mu    sync.Mutex
	calls [][]holdfast.Message
}

func newGate() *gate { return &gate{called: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) Partitions(context.Context, string) (int, error) { return 8, nil }

func (g *gate) Produce(context.Context, ...holdfast.Message) error {
	return errors.New("not asked for")
}

func (g *gate) ProduceTo(_ context.Context, _ string, _ int, messages ...holdfast.Message) error {
	g.once.Do(func() { close(g.called) })
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, slices.Clone(messages))
	return nil
}

// sent is how many messages each call had. They must be the letters' in their order, from the first one on.
func (g *gate) sent(t *testing.T) (sizes []int) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, call := range g.calls {
		for _, m := range call {
			if string(m.Key) != strconv.Itoa(n) {
				t.Fatalf("message %d is letter %s's", n, m.Key)
			}
			n++
		}
		sizes = append(sizes, len(call))
	}
	return sizes
}

func redriveFrom(t *testing.T, s *shelf, target dlq.Target, cfg dlq.RedriveConfig) *dlq.Redrive {
	t.Helper()
	cfg.Topic, cfg.Letters.Logger = "orders.dlq", slog.New(slog.DiscardHandler)
	r, err := dlq.NewRedrive(s, target, s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What is read ahead goes out in one call, is not settled before that, and when the run ends before, it is the next one's.
func TestRedriveReadsAhead(t *testing.T) {
	for _, ends := range []bool{false, true} {
		t.Run(fmt.Sprintf("the run ends meanwhile %v", ends), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const letters, chunk = 100, 10
				s, target := newShelf(letters, chunk, unchangedLetter), newGate()
				s.second = target.called
				r := redriveFrom(t, s, target, dlq.RedriveConfig{})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				type end struct {
					summary dlq.Summary
					err     error
				}
				ended := make(chan end)
				go func() {
					summary, err := r.Run(ctx)
					ended <- end{summary, err}
				}()
				synctest.Wait()
				if next, committed := s.progress(); next != letters || committed != 0 {
					t.Errorf("while the first call waits, %d letters are read and %d are settled, want %d and none", next, committed, letters)
				}
				if ends {
					cancel()
					synctest.Wait()
				}
				close(target.open)
				got := <-ended
				want, reached, cause := []int{chunk, letters - chunk}, letters, error(nil)
				if ends {
					want, reached, cause = []int{chunk}, chunk, context.Canceled
				}
				_, committed := s.progress()
				if sizes := target.sent(t); !slices.Equal(sizes, want) || committed != reached || got.summary.Redriven != reached || !errors.Is(got.err, cause) {
					t.Errorf("sent %v, settled %d, %+v, %v, want %v sent", sizes, committed, got.summary, got.err, want)
				}
				if _, err := r.Run(t.Context()); err != nil {
					t.Error(err)
				}
				sum := 0
				for _, n := range target.sent(t) {
					sum += n
				}
				if sum != letters {
					t.Errorf("in the end %d are sent, want %d", sum, letters)
				}
			})
		})
	}
}

// However long the target takes, no more is read than has room.
func TestRedriveReadsNotForEverAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const letters, chunk, size, room = 1000, 10, 8 << 10, 256 << 10
		s := newShelf(letters, chunk, func(l *dlq.Letter) { l.Message.Value = make([]byte, size) })
		target := newGate()
		done := make(chan error)
		go func() {
			_, err := redriveFrom(t, s, target, dlq.RedriveConfig{}).Run(t.Context())
			done <- err
		}()
		synctest.Wait()
		if next, _ := s.progress(); next > 2*(room/size+chunk) {
			t.Errorf("%d letters of %d bytes are read", next, size)
		}
		close(target.open)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if _, committed := s.progress(); committed != letters {
			t.Errorf("%d are settled, want %d", committed, letters)
		}
		target.sent(t)
	})
}

// What was read while the circuit was open does not leave all at once.
func TestPaceIsKeptBehindAnOpenCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		circuit, target := &circuitState{state: breaker.Open}, newGate()
		close(target.open)
		r := redriveFrom(t, newShelf(100, 10, unchangedLetter), target, dlq.RedriveConfig{
			Circuit: circuit, Letters: dlq.SourceConfig{MessagesPerSecond: 10},
		})
		closed := time.AfterFunc(time.Minute, func() { circuit.set(breaker.Closed) })
		defer closed.Stop()
		began := time.Now()
		if _, err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began) - time.Minute; took < 9*time.Second {
			t.Errorf("100 letters left within %v, want 10 a second", took)
		}
	})
}

func unchangedLetter(*dlq.Letter) {}
