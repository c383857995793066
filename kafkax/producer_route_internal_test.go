package kafkax

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestTopicsAreForgotten has far more topics than there are: made-up ones, and one that is left alone for a while. It is
// forgotten with them, and what is written to it then is not taken for what was before.
func TestTopicsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(testkit.Network)
		server, err := testkit.StartKafka(testkit.KafkaConfig{Topics: map[string]int{"orders": 1, "busy": 1}, Network: network})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		p, err := NewProducer(Cluster{Brokers: server.Addrs(), Dial: network.Dial}, ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		var written int
		write := func(topic string) {
			t.Helper()
			if err := p.Produce(t.Context(), holdfast.Message{Topic: topic, Value: fmt.Append(nil, written)}); err != nil {
				t.Error(err)
			}
			written++
		}
		flood := func(name string) {
			for i := range 3 * keptRoutes {
				if err := p.Produce(t.Context(), holdfast.Message{Topic: fmt.Sprint(name, i)}); !holdfast.IsHold(err) {
					t.Fatal(err)
				}
			}
		}
		write("orders")
		write("busy")
		flood("a")
		write("orders") // It was in use a moment ago.
		if n := p.Stats().Identities; n != 1 {
			t.Errorf("%d identities, want 1", n)
		}
		time.Sleep(3 * layoutAge)
		write("busy")
		flood("b")
		write("orders")
		write("orders")
		write("busy")
		if n := p.Stats().Identities; n != 2 {
			t.Errorf("%d identities, want 2", n)
		}
		n := 0
		for range p.routes.Range {
			n++
		}
		if n > keptRoutes {
			t.Errorf("%d topics are remembered", n)
		}
		for topic, want := range map[string]int{"orders": 4, "busy": 3} {
			got, err := server.Messages(t.Context(), topic)
			if err != nil || len(got) != want {
				t.Errorf("%d messages in %s, want %d: %v", len(got), topic, want, err)
			}
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestForgottenInBetween has topics forgotten all the time, while they are written to: nothing is lost, nor out of order.
func TestForgottenInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(testkit.Network)
		server, err := testkit.StartKafka(testkit.KafkaConfig{Topics: map[string]int{"orders": 3}, Network: network})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		p, err := NewProducer(Cluster{Brokers: server.Addrs(), Dial: network.Dial}, ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		const writers, each = 4, 200
		var all, forgetting sync.WaitGroup
		done := make(chan struct{})
		forgotten := 0
		forgetting.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
				if r, ok := p.routes.Load("orders"); ok {
					if l := r.(*route).known.Load(); l != nil {
						old := *l
						old.asked = old.asked.Add(-time.Hour)
						r.(*route).known.CompareAndSwap(l, &old)
					}
					if r.(*route).forget() {
						forgotten++
					}
				}
			}
		})
		for w := range writers {
			all.Go(func() {
				key := fmt.Append(nil, w)
				for i := range each {
					if err := p.Produce(t.Context(), holdfast.Message{Topic: "orders", Key: key, Value: fmt.Appendf(nil, "%04d", i)}); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Duration(i%5) * 300 * time.Microsecond)
				}
			})
		}
		all.Wait()
		close(done)
		forgetting.Wait()
		messages, err := server.Messages(t.Context(), "orders")
		if err != nil {
			t.Fatal(err)
		}
		next := make(map[string]int)
		for _, m := range messages {
			if want := fmt.Sprintf("%04d", next[string(m.Key)]); string(m.Value) != want {
				t.Fatalf("key %s: got %s, want %s", m.Key, m.Value, want)
			}
			next[string(m.Key)]++
		}
		if len(messages) != writers*each || forgotten < 10 {
			t.Errorf("%d messages, forgotten %d times", len(messages), forgotten)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestForgottenWithinACall has a call come back to a topic that was forgotten since: its messages keep their order.
func TestForgottenWithinACall(t *testing.T) {
	for range 50 {
		p, err := NewProducer(Cluster{Brokers: []string{"127.0.0.1:1"}}, ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		known := func(topic string, age time.Duration, running bool) *writer {
			r, err := p.route(topic)
			if err != nil {
				t.Fatal(err)
			}
			w := r.writer(0)
			w.running = running // So that nothing is sent.
			r.known.Store(&topicLayout{route: r, asked: time.Now().Add(-age), ids: []int{0}, writers: []*writer{w}, leaders: []string{"1"}})
			return w
		}
		known("orders", 2*layoutAge, false)
		known("busy", 0, true)
		var again *writer
		c := newCall([]holdfast.Message{{Topic: "orders"}, {Topic: "busy"}, {Topic: "orders"}})
		p.send(t.Context(), c, func(m *holdfast.Message, _ []int) int {
			if m.Topic == "busy" {
				p.sweepAt = 1
				if _, err := p.route("new"); err != nil {
					t.Fatal(err)
				}
				again = known("orders", 0, true)
			}
			return 0
		}, false)
		var got []int
		for _, b := range again.queue {
			for _, e := range b.entries {
				got = append(got, e.index)
			}
		}
		if len(got) != 2 || got[0] > got[1] {
			t.Fatalf("queued messages %v of the call, want 0 and then 2", got)
		}
	}
}
