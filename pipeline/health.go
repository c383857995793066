package pipeline

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Health is how a pipeline is, at one moment.
type Health struct {
	// Live is true until Run has returned. It does not turn false because something downstream is away: a restart would not help.
	Live bool `json:"live"`

	// Ready is true while Run runs.
	Ready bool `json:"ready"`

	// Troubles are what messages are waiting for, or would, by place. With any the pipeline is degraded.
	Troubles []Trouble `json:"troubles,omitempty"`
}

// Degraded tells whether there is any trouble.
func (h Health) Degraded() bool { return len(h.Troubles) > 0 }

// Trouble is one reason why messages wait.
type Trouble struct {
	Place string    `json:"place"` // Such as "sink" or "orders/3 stage enrich".
	Why   string    `json:"why"`   // What for, and the error behind it.
	Since time.Time `json:"since"` // When it began.
}

// Health tells how the pipeline is.
func (p *Pipeline) Health() Health {
	state := p.state.Load()
	h := Health{
		Live:     state != isOver,
		Ready:    state == isRunning,
		Troubles: p.engine.troubles.list(),
	}
	if p.engine.cfg.StallAfter >= 0 {
		for _, s := range p.engine.claims.stats() {
			if s.OldestAge > p.engine.cfg.StallAfter {
				h.Troubles = append(h.Troubles, Trouble{
					Place: fmt.Sprintf("%s/%d", s.Topic, s.Partition),
					Why:   s.stall(),
					Since: time.Now().Add(-s.OldestAge),
				})
			}
		}
	}
	return h
}

// stall says where a partition stands still.
func (s PartitionStats) stall() string {
	age := s.OldestAge.Round(time.Second)
	if s.OldestStage == fetchStage {
		return fmt.Sprintf("stalled: nothing has been fetched for %v, from offset %d on, with a lag of %d", age, s.OldestOffset, s.Lag)
	}
	return fmt.Sprintf("stalled: offset %d has been in flight for %v, now at %s", s.OldestOffset, age, s.OldestStage)
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
