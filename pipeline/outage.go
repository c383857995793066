package pipeline

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxProbeWait bounds the wait between two tries while a circuit is not open and yet admits no call.
	maxProbeWait = time.Second

	// unknownOpen is when a batch tries again whose circuit does not say for how long it is open.
	unknownOpen = 10 * time.Second

	// quiet is how long, beyond the patience, nothing must have been rejected for a rejection to begin another outage.
	quiet = 10 * time.Minute
)

// outage is how long a circuit has been rejecting calls without admitting one. Safe for concurrent use.
type outage struct {
	on atomic.Bool // Spares those who only end outages the lock.

	mu          sync.Mutex
	began, last time.Time
}

// length notes a rejection, which begins an outage if there is none, and says how long that has lasted. When nobody has
// asked for much longer than patience, it may have ended and begun again without having been seen: it counts as new.
func (o *outage) length(patience time.Duration) time.Duration {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.on.Load() || now.Sub(o.last) > max(patience, 0)+quiet {
		o.began = now
		o.on.Store(true)
	}
	o.last = now
	return now.Sub(o.began)
}

// end notes that the circuit has admitted a call.
func (o *outage) end() {
	if o.on.Load() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.on.Store(false)
	}
}
