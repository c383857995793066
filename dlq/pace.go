package dlq

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-io/holdfast"
)

// stepsPerSecond is in how many portions the letters of a second are handed out.
const stepsPerSecond = 10

// pace bounds how many letters, and how many bytes of them, are handed out in a second. Nil limiters do not bound.
type pace struct {
	messages, bytes *rate.Limiter
}

func newPace(messages, bytes int) pace {
	limiter := func(perSecond int) *rate.Limiter {
		if perSecond <= 0 {
			return nil
		}
		return rate.NewLimiter(rate.Limit(perSecond), max(1, perSecond/stepsPerSecond))
	}
	return pace{limiter(messages), limiter(bytes)}
}

// portion is how many of the messages may be handed out after a wait of how long. It is at least one.
func (p pace) portion(messages []holdfast.Message) (n int, wait time.Duration) {
	n = len(messages)
	if p.messages != nil {
		n = min(n, p.messages.Burst())
	}
	if p.bytes != nil {
		size := 0
		for i := range n {
			if size += sizeOf(&messages[i]); size > p.bytes.Burst() {
				n = max(i, 1)
				break
			}
		}
		size = 0
		for i := range n {
			size += sizeOf(&messages[i])
		}
		wait = reserve(p.bytes, size)
	}
	if p.messages != nil {
		wait = max(wait, reserve(p.messages, n))
	}
	return n, wait
}

// reserve takes n tokens, in portions that the limiter accepts, and returns how long they take to come.
func reserve(l *rate.Limiter, n int) (wait time.Duration) {
	now := time.Now()
	for n > 0 {
		portion := min(n, l.Burst())
		wait = l.ReserveN(now, portion).DelayFrom(now)
		n -= portion
	}
	return wait
}

func sizeOf(m *holdfast.Message) int {
	size := len(m.Key) + len(m.Value)
	for _, h := range m.Headers {
		size += len(h.Key) + len(h.Value)
	}
	return size
}
