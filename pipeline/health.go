package pipeline

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Health is how a pipeline is, at one moment.
type Health struct {
	// Live is true until Run has returned. It does not turn false because something downstream is away: a restart would not help.
	Live bool `json:"live"`

	// Ready is true while Run runs.
	Ready bool `json:"ready"`

	// Troubles are what messages are waiting for, by place. With any the pipeline is degraded.
	Troubles []Trouble `json:"troubles,omitempty"`
}

// Degraded tells whether messages are waiting for something.
func (h Health) Degraded() bool { return len(h.Troubles) > 0 }

// Trouble is one reason why messages wait.
type Trouble struct {
	Place string    `json:"place"` // Such as "sink" or "orders/3 stage enrich".
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
}

// Health tells how the pipeline is.
func (p *Pipeline) Health() Health {
	h := Health{
		Live:     p.running.Load() || !p.started.Load(),
		Ready:    p.running.Load(),
		Troubles: p.engine.troubles.list(),
	}
	if p.engine.cfg.StallAfter >= 0 {
		for _, s := range p.engine.claims.stats(p.engine.now()) {
			if s.OldestAge > p.engine.cfg.StallAfter {
				h.Troubles = append(h.Troubles, Trouble{
					Place: fmt.Sprintf("%s/%d", s.Topic, s.Partition),
					Why:   fmt.Sprintf("stalled: offset %d has been in flight for %v", s.OldestOffset, s.OldestAge.Round(time.Second)),
					Since: time.Now().Add(-s.OldestAge),
				})
			}
		}
	}
	return h
}

// HealthHandler answers every request with Health as JSON. A path that ends in "/live" answers 503 when the pipeline is
// not live, any other when it is not ready. A degraded pipeline is live and ready.
func (p *Pipeline) HealthHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := p.Health()
		good := h.Ready
		if strings.HasSuffix(r.URL.Path, "/live") {
			good = h.Live
		}
		w.Header().Set("Content-Type", "application/json")
		if !good {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(h) // The client went away.
	})
}

// troubles are the places where messages wait at the moment.
type troubles struct {
	log *slog.Logger

	mu sync.Mutex
	at map[string]trouble
}

type trouble struct {
	kind  string
	err   error
	since time.Time
}

func newTroubles(log *slog.Logger) *troubles {
	return &troubles{log: log, at: make(map[string]trouble)}
}

// set notes what messages wait for at a place, and logs it when its kind is new.
func (t *troubles) set(place, kind string, err error) {
	t.mu.Lock()
	was, known := t.at[place]
	since := time.Now()
	if known {
		since = was.since
	}
	t.at[place] = trouble{kind, err, since}
	t.mu.Unlock()
	if was.kind != kind {
		t.log.Warn("messages are waiting", slog.String("place", place), slog.String("why", kind), slog.Any("err", err))
	}
}

// clear notes that nothing waits at a place any more.
func (t *troubles) clear(place string) {
	t.mu.Lock()
	was, known := t.at[place]
	delete(t.at, place)
	t.mu.Unlock()
	if known {
		t.log.Info("messages move again", slog.String("place", place), slog.String("why", was.kind), slog.Duration("waited", time.Since(was.since)))
	}
}

// clearPlace forgets a claim's places when the claim is given up.
func (t *troubles) clearPlace(prefix string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.at, func(place string, _ trouble) bool {
		return strings.HasPrefix(place, prefix+" ")
	})
}

func (t *troubles) list() []Trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]Trouble, 0, len(t.at))
	for place, at := range t.at {
		list = append(list, Trouble{Place: place, Why: at.kind + ": " + errorText(at.err), Since: at.since})
	}
	slices.SortFunc(list, func(a, b Trouble) int { return cmp.Compare(a.Place, b.Place) })
	return list
}
