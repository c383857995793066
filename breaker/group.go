package breaker

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

var (
	// ErrUnknownBreaker says that a Group has no breaker of that name.
	ErrUnknownBreaker = errors.New("breaker: no such breaker in the group")

	// ErrDuplicateBreaker says that a Group has a breaker of that name already.
	ErrDuplicateBreaker = errors.New("breaker: name is taken in the group")
)

// Group keeps breakers by name, one for each dependency, host or shard. The zero Group is empty and ready. Safe for
// concurrent use; do not copy it.
type Group struct {
	mu     sync.RWMutex
	byName map[string]*Breaker
}

// NewGroup makes an empty Group.
func NewGroup() *Group { return &Group{} }

// Add puts b in under its name. A name that is taken is ErrDuplicateBreaker, and the group stays as it was.
func (g *Group) Add(b *Breaker) error {
	if b == nil {
		return errors.New("breaker: Group.Add needs a breaker, got nil")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, taken := g.byName[b.name]; taken {
		return fmt.Errorf("%w: %q", ErrDuplicateBreaker, b.name)
	}
	g.put(b)
	return nil
}

// Get gives the breaker of that name, and whether there is one.
func (g *Group) Get(name string) (*Breaker, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	b, ok := g.byName[name]
	return b, ok
}

// GetOrCreate gives the breaker named cfg.Name, made with cfg if there was none. All who ask for a name get the same
// one; cfg is not looked at when it is there already.
func (g *Group) GetOrCreate(cfg Config) (*Breaker, error) {
	if b, ok := g.Get(cfg.Name); ok {
		return b, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if b, ok := g.byName[cfg.Name]; ok {
		return b, nil
	}
	b, err := New(cfg)
	if err != nil {
		return nil, err
	}
	g.put(b)
	return b, nil
}

// Execute is Breaker.Execute on the breaker of that name, or ErrUnknownBreaker.
func (g *Group) Execute(ctx context.Context, name string, fn func(context.Context) error) error {
	b, ok := g.Get(name)
	if !ok {
		return fmt.Errorf("%w: %q", ErrUnknownBreaker, name)
	}
	return b.Execute(ctx, fn)
}

// StatsAll gives a snapshot of every breaker, by name.
func (g *Group) StatsAll() map[string]Stats {
	g.mu.RLock()
	defer g.mu.RUnlock()
	all := make(map[string]Stats, len(g.byName))
	for name, b := range g.byName {
		all[name] = b.Stats()
	}
	return all
}

// ResetAll resets every breaker.
func (g *Group) ResetAll() {
	g.mu.RLock()
	breakers := make([]*Breaker, 0, len(g.byName))
	for _, b := range g.byName {
		breakers = append(breakers, b)
	}
	g.mu.RUnlock()
	for _, b := range breakers { // Without the lock: a listener may ask the group.
		b.Reset()
	}
}

func (g *Group) put(b *Breaker) {
	if g.byName == nil {
		g.byName = make(map[string]*Breaker)
	}
	g.byName[b.name] = b
}
