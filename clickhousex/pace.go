package clickhousex

import (
	"cmp"
	"sync"
	"time"
)

// pace is how an Inserter yields to a server at its limits: it waits longer with each refusal in a row, and makes smaller
// inserts for a server that has not the memory for them. The zero value is full speed. Safe for concurrent use.
type pace struct {
	mu       sync.Mutex
	refusals int // In a row.
	bytes    int // The most that an insert should have, 0 for no bound.
	since    time.Time
}

// The wait after the first refusal, which doubles with each further one, and its bound.
const (
	overloadDelay    = time.Second
	maxOverloadDelay = 30 * time.Second
)

// smallFor is how long inserts stay small before they are doubled.
const smallFor = time.Minute

// minHalved is the least that is halved for want of memory. A server takes a write buffer of DBMS_DEFAULT_BUFFER_SIZE,
// that is 1 MiB, for each column, however few the rows: one that has not the memory for these would not have it for fewer.
const minHalved = 1 << 20

// refused counts a refusal, and says how long to wait.
func (p *pace) refused() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	delay := min(overloadDelay<<min(p.refusals, 10), maxOverloadDelay)
	p.refusals++
	return delay
}

// shrink makes further inserts no larger than the larger half of one that was too large.
func (p *pace) shrink(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes, p.since = max(bytes, minHalved), time.Now()
}

// stored notes a success.
func (p *pace) stored() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusals = 0
	if p.bytes > 0 && time.Since(p.since) >= smallFor {
		p.bytes, p.since = 2*p.bytes, time.Now()
	}
}

// limit bounds the bytes of an insert.
func (p *pace) limit(most int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bytes >= most {
		p.bytes = 0
	}
	return cmp.Or(p.bytes, most)
}
