package kafkax

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

const (
	// startTimeout is how long Consume tries to reach a broker before it says that there is none.
	startTimeout = 8 * time.Second

	// reachInterval is how long an address is waited for before the next one is asked as well.
	reachInterval = time.Second
)

// reach asks the brokers for the topics, one address after the other and without waiting long for any, until one answers, at
// most for startTimeout. A broker that takes connections and never says a word holds up nobody so.
func (m *membership) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	type reply struct {
		from   int
		layout layout
		err    error
	}
	replies := make(chan reply)
	var asking sync.WaitGroup
	defer m.net.refresh() // The connections to single addresses are not needed any more.
	defer asking.Wait()
	defer cancel()

	interval := min(reachInterval, startTimeout/time.Duration(len(m.brokers)+1)) // So that each has its turn.
	turn := time.NewTimer(0)
	defer turn.Stop()
	var last error
	var t trouble
	for asked := 0; ; {
		select {
		case <-turn.C:
			from := asked % len(m.brokers)
			asked++
			turn.Reset(interval)
			addr := kafka.TCP(m.brokers[from]) // Here, as the next reply may put them in another order.
			asking.Go(func() {
				layout, err := m.net.layoutFrom(ctx, addr, m.topics...)
				select {
				case replies <- reply{from, layout, err}:
				case <-ctx.Done():
				}
			})
		case r := <-replies:
			err := r.err
			if err == nil {
				_, err = m.note(ctx, r.layout)
			}
			if err == nil {
				m.brokers = slices.Concat(m.brokers[r.from:], m.brokers[:r.from]) // The group is looked for there first.
				return nil
			}
			if isRefusal(err) {
				return err
			}
			last = err
			t.failed()
			if asked < len(m.brokers) {
				turn.Reset(0)
			} else {
				turn.Reset(min(t.backoff(), interval))
			}
		case <-ctx.Done():
			if last == nil {
				last = ctx.Err()
			}
			return &UnreachableError{Brokers: m.cluster.Brokers, Waited: startTimeout, Err: last}
		}
	}
}
