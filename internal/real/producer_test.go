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

	"github.com/segmentio/kafka-go"
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
	full     atomic.Int64 // Messages that found the buffer so.
	stop     context.CancelFunc
	writers  sync.WaitGroup
}

// makeTopic makes one with three partitions.
func makeTopic(t *testing.T, brokers []string) string {
	t.Helper()
	admin, err := kafkax.NewAdmin(kafkax.Cluster{Brokers: brokers}, kafkax.AdminConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	topic := fmt.Sprintf("producer-%d", time.Now().UnixNano())
	if err := admin.CreateTopic(t.Context(), topic, 3, nil); err != nil {
		t.Fatal(err)
	}
	return topic
}

func startProduction(t *testing.T, cfg kafkax.ProducerConfig) *production {
	t.Helper()
	p := &production{t: t, servers: testkit.Servers(t)}
	p.topic = makeTopic(t, p.servers.Brokers)
	cluster := kafkax.Cluster{Brokers: p.servers.Brokers}
	cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		lossy := &lossyConn{Conn: conn, lost: &p.lost}
		lossy.answers.Store(100 + rand.Int64N(400)) // Not in the handshakes.
		return lossy, nil
	}
	var err error
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
				if errors.Is(err, kafkax.ErrBufferFull) {
					p.full.Add(1)
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
	messages := readTopic(p.t, p.servers.Brokers, p.topic)
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

// readTopic reads one of makeTopic with another client, up to a last message in each partition that it writes itself.
func readTopic(t *testing.T, brokers []string, topic string) []holdfast.Message {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.DisableClientMetrics(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range int32(3) {
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: i}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	var messages []holdfast.Message
	for left := 3; left > 0; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
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

// Every codec, as another client reads it.
func TestProducerCodecs(t *testing.T) {
	servers := testkit.Servers(t)
	topic := makeTopic(t, servers.Brokers)
	var book fates.Book
	for codec := kafka.Compression(0); codec <= kafka.Zstd; codec++ {
		p, err := kafkax.NewProducer(kafkax.Cluster{Brokers: servers.Brokers}, kafkax.ProducerConfig{Compression: codec, BatchBytes: 5000})
		if err != nil {
			t.Fatal(err)
		}
		var messages []holdfast.Message
		var ids []int
		for i := range 1000 {
			id, m := book.Message(topic, fmt.Sprint(i%7))
			messages, ids = append(messages, m), append(ids, id)
		}
		if err := p.Produce(t.Context(), messages...); err != nil {
			t.Fatalf("%v: %v", codec, err)
		}
		for _, id := range ids {
			book.Settle(id, nil)
		}
		closeProducer(p)
	}
	for _, fault := range book.Check(readTopic(t, servers.Brokers, topic)) {
		t.Error(fault)
	}
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

// The buffer is full while a broker hangs: who comes then is told at once, and what was taken before is written.
func TestProducerBufferFull(t *testing.T) {
	testkit.Servers(t).NeedScript(t)
	p := startProduction(t, kafkax.ProducerConfig{Timeout: 4 * time.Second, MaxBufferedBytes: 2000, FailWhenFull: true})
	p.written(500)
	if err := p.servers.Stop(t.Context(), "kafka-1"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); p.full.Load() < 100 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if err := p.servers.Continue(t.Context(), "kafka-1"); err != nil {
		t.Fatal(err)
	}
	p.written(500)
	if p.full.Load() < 100 {
		t.Errorf("%d messages found the buffer full", p.full.Load())
	}
	p.check()
}

// A thousand producers in one process, all at once: what was said of each message is so, and in its producer's order. A
// broker takes 50 new connections at a time, so patience is needed.
func TestThousandProducers(t *testing.T) {
	servers := testkit.Servers(t)
	cluster := kafkax.Cluster{Brokers: servers.Brokers, DialTimeout: 20 * time.Second}
	topic := makeTopic(t, servers.Brokers)
	const producers, each = 1000, 5
	var all sync.WaitGroup
	var book fates.Book
	ids := make([][]int, producers)
	messages := make([][]holdfast.Message, producers)
	for i := range producers {
		for range each {
			id, m := book.Message(topic, fmt.Sprint(i))
			ids[i], messages[i] = append(ids[i], id), append(messages[i], m)
		}
	}
	for i := range producers {
		all.Go(func() {
			p, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
			if err != nil {
				t.Error(err)
				return
			}
			defer closeProducer(p)
			for n, m := range messages[i] {
				book.Settle(ids[i][n], p.Produce(t.Context(), m))
			}
		})
	}
	all.Wait()
	for _, fault := range book.Check(readTopic(t, servers.Brokers, topic)) {
		t.Error(fault)
	}
	acknowledged := book.Count(fates.Acknowledged)
	if t.Logf("acknowledged %d of %d", acknowledged, producers*each); acknowledged < producers*each/2 {
		t.Error("too few")
	}
}
