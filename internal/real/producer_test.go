package real_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/internal/fates"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

// lossyConn loses an answer now and then, and the connection with it: what was asked for has been done.
type lossyConn struct {
	net.Conn
	answers atomic.Int64 // To come before one is lost.
	lost    *atomic.Int64
}

func (c *lossyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil && c.answers.Add(-1) == 0 {
		c.lost.Add(1)
		_ = c.Close()
		return 0, errors.New("answer lost by the test")
	}
	return n, err
}

// production is a producer that is kept busy, and a book of what it has said.
type production struct {
	t        *testing.T
	servers  *testkit.RealServers
	topic    string
	book     fates.Book
	producer *kafkax.Producer
	lost     atomic.Int64 // Answers.
	stop     context.CancelFunc
	writers  sync.WaitGroup
}

func startProduction(t *testing.T, cfg kafkax.ProducerConfig) *production {
	t.Helper()
	p := &production{t: t, servers: testkit.Servers(t), topic: fmt.Sprintf("producer-%d", time.Now().UnixNano())}
	cluster := kafkax.Cluster{Brokers: p.servers.Brokers}
	admin, err := kafkax.NewAdmin(cluster, kafkax.AdminConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.CreateTopic(t.Context(), p.topic, 3, nil); err != nil {
		t.Fatal(err)
	}
	cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		lossy := &lossyConn{Conn: conn, lost: &p.lost}
		lossy.answers.Store(100 + rand.Int64N(400)) // Not in the handshakes.
		return lossy, nil
	}
	if p.producer, err = kafkax.NewProducer(cluster, cfg); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	p.stop = stop
	for writer := range 4 {
		p.writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("%d-%d", writer, i%10) // One writer's alone, so that its order is known.
				id, m := p.book.Message(p.topic, key)
				var err error
				if writer%2 == 0 {
					err = p.producer.ProduceAsync(t.Context(), m, func(err error) { p.book.Settle(id, err) })
				} else {
					soon, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(5000))*time.Millisecond)
					err = p.producer.Produce(soon, m)
					cancel()
				}
				if err != nil || writer%2 != 0 {
					p.book.Settle(id, err)
				}
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond) // The load, not a wait for anything.
			}
		})
	}
	return p
}

// written waits until n more messages are acknowledged.
func (p *production) written(n uint64) {
	p.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for want := p.producer.Stats().Written + n; p.producer.Stats().Written < want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%d messages are not acknowledged in a minute: %+v", n, p.producer.Stats())
		}
	}
}

// check ends the production and compares what was said with what is there.
func (p *production) check() {
	p.t.Helper()
	p.stop()
	p.writers.Wait()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	if err := p.producer.Close(ctx); err != nil {
		p.t.Errorf("with every broker there: %v", err)
	}
	messages := p.read()
	for i, fault := range p.book.Check(messages) {
		if i == 20 {
			p.t.Error("and more")
			break
		}
		p.t.Error(fault)
	}
	acknowledged := p.book.Count(fates.Acknowledged)
	p.t.Logf("acknowledged %d, not written %d, unknown %d, answers lost %d, %+v", acknowledged,
		p.book.Count(fates.NotWritten), p.book.Count(fates.Unknown), p.lost.Load(), p.producer.Stats())
	if acknowledged == 0 {
		p.t.Error("nothing was acknowledged")
	}
}

// read reads the topic with another client, up to a last message in each partition that it writes itself.
func (p *production) read() []holdfast.Message {
	p.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(p.servers.Brokers...), kgo.ConsumeTopics(p.topic), kgo.DisableClientMetrics(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		p.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	for i := range int32(3) {
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: p.topic, Partition: i}).FirstErr(); err != nil {
			p.t.Fatal(err)
		}
	}
	var messages []holdfast.Message
	for left := 3; left > 0; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			p.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Key == nil {
				left--
				return
			}
			messages = append(messages, holdfast.Message{Topic: r.Topic, Partition: int(r.Partition), Offset: r.Offset, Key: r.Key, Value: r.Value})
		})
	}
	return messages
}

// A producer among lost answers: every acknowledged message is there once.
func TestProducerLostAnswers(t *testing.T) {
	p := startProduction(t, kafkax.ProducerConfig{BatchBytes: 2000})
	for p.lost.Load() < 10 {
		p.written(500)
	}
	p.check()
}

// Each broker in turn is killed, and leaders move, while answers are lost.
func TestProducerBrokerKilled(t *testing.T) {
	testkit.Servers(t).NeedScript(t)
	p := startProduction(t, kafkax.ProducerConfig{Timeout: 4 * time.Second, Retry: retry.Policy{Attempts: 4}})
	for i := range p.servers.Brokers {
		broker := fmt.Sprintf("kafka-%d", i+1)
		p.written(500)
		if err := p.servers.Kill(t.Context(), broker); err != nil {
			t.Fatal(err)
		}
		if len(p.servers.Brokers) > 1 {
			p.written(500) // The others go on.
		}
		if err := p.servers.Up(t.Context(), broker); err != nil {
			t.Fatal(err)
		}
	}
	p.written(500)
	p.check()
}

// A broker hangs for longer than an attempt may take.
func TestProducerBrokerStopped(t *testing.T) {
	testkit.Servers(t).NeedScript(t)
	p := startProduction(t, kafkax.ProducerConfig{Timeout: 2 * time.Second})
	p.written(500)
	if err := p.servers.Stop(t.Context(), "kafka-1"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second) // The outage.
	if err := p.servers.Continue(t.Context(), "kafka-1"); err != nil {
		t.Fatal(err)
	}
	p.written(500)
	p.check()
}
