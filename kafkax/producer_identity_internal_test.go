package kafkax

import (
	"context"
	"fmt"
	"math"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/testkit"
)

// cutConn has its answers lost when it is told to.
type cutConn struct {
	net.Conn
	cut *atomic.Bool
}

func (c cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil && c.cut.CompareAndSwap(true, false) {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// TestSequenceEnds has the sequence numbers of a partition used up, which takes 2,147,483,648 messages otherwise, with
// answers lost on the way: what comes then is written as somebody else, once and in its order.
func TestSequenceEnds(t *testing.T) {
	t.Run("stand-in", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			network := new(testkit.Network)
			server, err := testkit.StartKafka(testkit.KafkaConfig{Topics: map[string]int{"orders": 1}, Network: network})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			sequenceEnds(t, Cluster{Brokers: server.Addrs(), Dial: network.Dial}, "orders")
		})
	})
	t.Run("Apache Kafka", func(t *testing.T) {
		cluster := Cluster{Brokers: testkit.Servers(t).Brokers, Dial: new(net.Dialer).DialContext}
		topic := fmt.Sprint("sequence-", time.Now().UnixNano())
		admin, err := NewAdmin(cluster, AdminConfig{})
		if err != nil {
			t.Fatal(err)
		}
		defer admin.Close()
		if err := admin.CreateTopic(t.Context(), topic, 1, nil); err != nil {
			t.Fatal(err)
		}
		sequenceEnds(t, cluster, topic)
	})
}

func sequenceEnds(t *testing.T, cluster Cluster, topic string) {
	t.Helper()
	var cut atomic.Bool
	dial := cluster.Dial
	cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return cutConn{conn, &cut}, err
	}
	for used := range int32(4) { // Of the last three numbers.
		p, err := NewProducer(cluster, ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		produce := func(n int) {
			t.Helper()
			var messages []holdfast.Message
			for range n {
				want = append(want, fmt.Sprintf("%d/%d", used, len(want)))
				messages = append(messages, holdfast.Message{Topic: topic, Value: []byte(want[len(want)-1])})
			}
			if err := p.Produce(t.Context(), messages...); err != nil {
				t.Errorf("from %s: %v", messages[0].Value, err)
			}
		}
		produce(1)
		w := p.writerOf(t, topic)
		w.identity.spent = true // Brokers take any first number from somebody whom they have not heard of.
		if _, err := p.identities.after(t.Context(), w.leader(t), w.identity.number); err != nil {
			t.Fatal(err)
		}
		w.identity, w.sequence = p.identities.get(), math.MaxInt32-10
		produce(5)
		cut.Store(true)
		produce(2 + int(used)) // Up to the very last number, and no further.
		if n := p.Stats().Identities; w.sequence != math.MaxInt32-3+used || n != 2 {
			t.Errorf("next number %d, %d identities", w.sequence, n)
		}
		cut.Store(true)
		produce(4)
		produce(1)
		if n := p.Stats().Identities; w.sequence != 5 || n != 3 {
			t.Errorf("next number %d, %d identities", w.sequence, n)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got := read(t, cluster, topic); !slices.Equal(got[len(got)-min(len(got), len(want)):], want) {
			t.Errorf("written %v, want %v", got, want)
		}
	}
}

// writerOf gives the writer of a topic's first partition, which is at rest.
func (p *Producer) writerOf(t *testing.T, topic string) *writer {
	t.Helper()
	r, err := p.route(topic)
	if err != nil {
		t.Fatal(err)
	}
	return r.writer(0)
}

func (w *writer) leader(t *testing.T) string {
	t.Helper()
	addr, err := w.route.leader(t.Context(), w.at.partition)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func read(t *testing.T, cluster Cluster, topic string) (values []string) {
	t.Helper()
	admin, err := NewAdmin(cluster, AdminConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.Scan(t.Context(), topic, nil, func(messages []holdfast.Message) error {
		for _, m := range messages {
			values = append(values, string(m.Value))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return values
}
