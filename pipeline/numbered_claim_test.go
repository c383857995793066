package pipeline_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/pipeline"
)

// lifeHeader tells which claim a message was fetched by. One message in one claim's hands is a life.
const lifeHeader = "life"

func lifeNumber(m *holdfast.Message) string {
	for _, h := range m.Headers {
		if h.Key == lifeHeader {
			return string(h.Value)
		}
	}
	return ""
}

// numberedClaim puts its number into its messages, and checks how many of them are in flight, and what is committed.
type numberedClaim struct {
	holdfast.Claim
	t      *testing.T
	number string                          // Empty for letters.
	check  func(partition int, next int64) // May be nil.
	bound  int64                           // How many messages there may be behind what is committed. 0: no bound.

	mu     sync.Mutex
	next   int64
	handed int64
}

func (c *numberedClaim) Fetch(ctx context.Context) ([]holdfast.Message, error) {
	c.mu.Lock()
	start, _ := c.Committed()
	if behind := c.handed - max(c.next, start); c.bound > 0 && behind > c.bound {
		c.t.Errorf("claim %s: %d messages in flight, more than %d", c.number, behind, c.bound)
	}
	c.mu.Unlock()
	messages, err := c.Claim.Fetch(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range messages {
		if c.number != "" {
			messages[i].Headers = append(slices.Clip(messages[i].Headers), holdfast.Header{Key: lifeHeader, Value: []byte(c.number)})
			c.handed = messages[i].Offset + 1
		}
	}
	return messages, err
}

// Commit does nothing when it would go back, as a claim may expect of one.
func (c *numberedClaim) Commit(next int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if next <= c.next {
		return
	}
	c.next = next
	if _, partition := c.Partition(); c.check != nil {
		c.check(partition, next)
	}
	c.Claim.Commit(next)
}

// unlessLeft lets a group go on when a claim's drain was cut short.
func unlessLeft(err error) error {
	if _, ok := errors.AsType[*pipeline.LeftError](err); ok {
		return nil
	}
	return err
}
