package dlq

import (
	"context"
	"fmt"
	"sync"
)

// homes tells how far the pipelines are that take the letters of an open circuit home by themselves.
type homes struct {
	log   Log
	topic string

	mu    sync.Mutex
	known map[string]map[int]int64
}

func newHomes(log Log, topic string) *homes {
	return &homes{log: log, topic: topic, known: make(map[string]map[int]int64)}
}

// committed asks once for each group, what it has committed in its way home. One that has none has committed nothing.
func (h *homes) committed(ctx context.Context, group string) (map[int]int64, error) {
	h.mu.Lock()
	offsets, known := h.known[group]
	h.mu.Unlock()
	if known || group == "" {
		return offsets, nil
	}
	offsets, err := h.log.Committed(ctx, HomeGroup(group), h.topic)
	if err != nil {
		return nil, fmt.Errorf("dlq: asking for the way home of group %s: %w", group, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known[group] = offsets
	return offsets, nil
}
