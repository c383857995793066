package clickhousex

import "sync"

// part is a range of a batch's rows, [from, to).
type part struct{ from, to int }

type partState int

const (
	partUntried partState = iota
	partSplit             // Refused as a whole: its halves stand for it.
	partStored
)

// parts says what became of the ranges of a batch that was split.
type parts map[part]partState

func (p parts) anyStored() bool {
	for _, state := range p {
		if state == partStored {
			return true
		}
	}
	return false
}

// unfinished remembers, between two Writes of the same batch, how it was split and which parts of it are stored: the
// table need not deduplicate, and a part's token must not give way to its parent's. The zero value is ready. Safe for
// concurrent use.
type unfinished struct {
	mu      sync.Mutex
	batches map[string]parts
}

// maxUnfinished bounds the batches that are remembered, far above what a pipeline holds. One that is forgotten may be
// stored twice in part, no more.
const maxUnfinished = 1024

func (u *unfinished) empty() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.batches) == 0
}

func (u *unfinished) take(batch string) parts {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.batches[batch]
	delete(u.batches, batch)
	return p
}

func (u *unfinished) keep(batch string, p parts) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.batches == nil {
		u.batches = make(map[string]parts)
	}
	if len(u.batches) >= maxUnfinished {
		for other := range u.batches {
			delete(u.batches, other)
			break
		}
	}
	u.batches[batch] = p
}
