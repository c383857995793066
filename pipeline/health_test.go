package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/pipeline"
)

// A trouble ends with its cause, though no message comes that would show it.
func TestTroubleEndsWithItsCause(t *testing.T) {
	for name, run := range map[string]func(t *testing.T, b *broker, box *letterBox, s *store) *running{
		"the circuit closes": func(t *testing.T, b *broker, box *letterBox, s *store) *running {
			letters := newBroker(t, "orders.dlq", 1)
			box.into = letters
			r := start(t, cluster{b, letters}, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
			time.Sleep(time.Minute)
			return r
		},
		"what waited for the circuit is handed back": func(t *testing.T, b *broker, box *letterBox, s *store) *running {
			r := start(t, once{b}, s, pipeline.Config{DeadLetters: box, DeadLetterAfter: -1, Logger: quiet()})
			time.Sleep(time.Minute)
			b.owner(0).revoke()
			synctest.Wait()
			return r
		},
		"what was held is handed back": func(t *testing.T, b *broker, box *letterBox, s *store) *running {
			s.breaker.Reset()
			s.do(func(int, holdfast.Batch[int]) error { return holdfast.Hold(errAway) })
			r := start(t, once{b}, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
			time.Sleep(time.Minute)
			b.owner(0).revoke()
			synctest.Wait()
			return r
		},
		"what waited for the dead-letter queue is handed back": func(t *testing.T, b *broker, box *letterBox, s *store) *running {
			box.setAway(errAway)
			r := start(t, b, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
			time.Sleep(time.Minute)
			box.setAway(nil)
			b.owner(0).revoke()
			return r
		},
		"the message that no letter could be written about is lost": func(t *testing.T, b *broker, box *letterBox, s *store) *running {
			b.partitions[0].log[0].Value = []byte("poison")
			box.setAway(errAway)
			r := start(t, once{b}, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
			time.Sleep(time.Minute)
			b.owner(0).revoke()
			synctest.Wait()
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
				s.breaker.ForceOpen()
				b.produce(0, "0")
				r := run(t, b, box, s)
				s.breaker.Reset()
				time.Sleep(time.Minute)
				if h := r.Health(); h.Degraded() {
					t.Errorf("health %+v", h)
				}
				r.mustStop(t)
			})
		})
	}
}

func TestLettersPassedOverAreNoLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		letters := newBroker(t, "orders.dlq", 1)
		b, box, s := newBroker(t, "orders", 1), &letterBox{into: letters}, newStore(t)
		for range 50 {
			b.produce(0, "poison")
		}
		r := start(t, cluster{b, letters}, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(time.Minute)
		for _, p := range r.Stats().Partitions {
			if p.Lag != 0 || p.Settled != 50 {
				t.Errorf("%s/%d has lag %d and is settled up to %d", p.Topic, p.Partition, p.Lag, p.Settled)
			}
		}
		r.mustStop(t)
	})
}

func TestHealthHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroker(t, "orders", 1), newStore(t)
		b.produce(0, "poison")
		p, err := pipeline.New(b, number(), s, pipeline.Config{StallAfter: -1, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		expect := func(when string, live, ready, troubles int) {
			t.Helper()
			for path, want := range map[string]int{"/live": live, "/health/live": live, "/ready": ready, "/": ready, "/live/x": ready} {
				w := httptest.NewRecorder()
				p.HealthHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
				var h pipeline.Health
				if err := json.Unmarshal(w.Body.Bytes(), &h); err != nil {
					t.Fatal(err)
				}
				if w.Code != want || h.Live != (live == 200) || h.Ready != (ready == 200) || len(h.Troubles) != troubles {
					t.Errorf("%s: %s answers %d, want %d: %+v", when, path, w.Code, want, h)
				}
			}
		}
		expect("before Run", 200, 503, 0)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(time.Minute)
		expect("degraded", 200, 200, 1) // A restart would not help, and other partitions go on.
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		expect("after Run", 503, 503, 0)
		if err := p.Run(t.Context()); !errors.Is(err, pipeline.ErrRunning) {
			t.Errorf("a second Run returned %v", err)
		}
	})
}

// What does not move shows, even without a reason that the pipeline could know.
func TestStallIsATrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, box, s := newBroker(t, "orders", 1), &letterBox{}, newStore(t)
		b.produce(0, "0")
		b.produce(0, "1")
		slow := work(func(_ context.Context, n int) (int, error) {
			if n == 1 {
				time.Sleep(10 * time.Minute)
			}
			return n, nil
		}, pipeline.StageConfig{})
		r := startWith(t, b, slow, s, pipeline.Config{DeadLetters: box, Logger: quiet()})
		time.Sleep(59 * time.Second)
		if h := r.Health(); h.Degraded() {
			t.Errorf("health %+v before its time", h)
		}
		time.Sleep(6 * time.Second)
		h := r.Health()
		if len(h.Troubles) != 1 || h.Troubles[0].Place != "orders/0" || h.Troubles[0].Why != "stalled: offset 1 has been in flight for 1m5s, now at work" || !h.Live {
			t.Errorf("health %+v", h)
		}
		time.Sleep(10 * time.Minute)
		if h := r.Health(); h.Degraded() {
			t.Errorf("health %+v after it has moved", h)
		}
		r.mustStop(t)
	})
}

// deaf is a source that does not fetch what is there, until it hears.
type deaf struct {
	*broker
	hears chan struct{}
}

type deafClaim struct {
	holdfast.Claim
	hears chan struct{}
}

func (d deaf) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return d.broker.Consume(ctx, func(ctx context.Context, c holdfast.Claim) error { return handle(ctx, deafClaim{c, d.hears}) })
}

func (c deafClaim) Fetch(ctx context.Context) ([]holdfast.Message, error) {
	<-c.hears
	return c.Claim.Fetch(ctx)
}

// With a lag and nothing in flight, it is the source that stands still.
func TestFetchThatStandsStillIsAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBroker(t, "orders", 1), newStore(t)
		source := deaf{b, make(chan struct{})}
		r := start(t, source, s, pipeline.Config{Logger: quiet()})
		look := func(d time.Duration) (h pipeline.Health) {
			for range int(d / time.Second) {
				time.Sleep(time.Second)
				h = r.Health()
			}
			return h
		}
		if h := look(time.Hour); h.Degraded() {
			t.Errorf("health %+v with nothing to fetch", h)
		}
		b.produce(0, "0")
		b.produce(0, "1")
		if h := look(59 * time.Second); h.Degraded() {
			t.Errorf("health %+v before its time", h)
		}
		h := look(10 * time.Second)
		if len(h.Troubles) != 1 || h.Troubles[0].Place != "orders/0" || h.Troubles[0].Why != "stalled: nothing has been fetched for 1m8s, from offset 0 on, with a lag of 2" {
			t.Errorf("health %+v", h)
		}
		if p := r.Stats().Partitions[0]; p.OldestStage != "fetch" || p.OldestOffset != 0 || p.OldestAge < time.Minute {
			t.Errorf("stats %+v", p)
		}
		close(source.hears)
		if h := look(time.Hour); h.Degraded() || b.committed(0) != 2 {
			t.Errorf("health %+v, committed %d", h, b.committed(0))
		}
		r.mustStop(t)
	})
}
