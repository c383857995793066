package clickhousex

import (
	"sync"
	"time"
)

// pace is how an Inserter yields to a server at its limits: it waits longer with each refusal in a row, and makes smaller
// inserts for a server that has not the memory for them. The zero value is full speed. Safe for concurrent use.
type pace struct {
	mu       sync.Mutex
	refusals int // In a row.
	rows     int // The most that an insert should have, 0 for no bound.
	since    time.Time
}

// The wait after the first refusal, which doubles with each further one, and its bound.
const (
	overloadDelay    = time.Second
	maxOverloadDelay = 30 * time.Second
)

// smallFor is how long inserts stay small before they are doubled.
const smallFor = time.Minute

// refused counts a refusal, and says how long to wait.
func (p *pace) refused() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	delay := min(overloadDelay<<min(p.refusals, 10), maxOverloadDelay)
	p.refusals++
	return delay
}

// shrink makes further inserts smaller than one that was too large.
func (p *pace) shrink(rows int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows, p.since = max(rows/2, 1), time.Now()
}

// stored notes a success.
func (p *pace) stored(rows int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusals = 0
	if p.rows > 0 && rows >= p.rows && time.Since(p.since) >= smallFor {
		p.rows, p.since = 2*p.rows, time.Now()
	}
}

// limit bounds the rows of an insert.
func (p *pace) limit(most int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rows >= most {
		p.rows = 0
	}
	if p.rows > 0 {
		return p.rows
	}
	return most
}
