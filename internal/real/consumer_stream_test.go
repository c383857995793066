package real_test

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// stream is one test's topic, to which messages come until the test ends it, and what consumers have handled of it. While
// it lasts, nothing may be committed that is not handled.
type stream struct {
	t       *testing.T
	servers *testkit.RealServers
	cluster kafkax.Cluster
	admin   *kafkax.Admin
	topic   string // And the group.

	stop     context.CancelFunc
	done     sync.WaitGroup
	produced int // Acknowledged. To be read after produce has ended.

	mu      sync.Mutex
	seen    map[string]bool
	handled map[int]map[int64]bool // Offsets by partition.
	prefix  map[int]int64          // Everything before it is handled.
}

func newStream(t *testing.T) *stream {
	t.Helper()
	servers := testkit.Servers(t)
	s := &stream{
		t: t, servers: servers, cluster: kafkax.Cluster{Brokers: servers.Brokers},
		topic: strings.ToLower(t.Name()) + time.Now().UTC().Format("_20060102_150405"),
		seen:  make(map[string]bool), handled: make(map[int]map[int64]bool), prefix: make(map[int]int64),
	}
	var err error
	if s.admin, err = kafkax.NewAdmin(s.cluster, kafkax.AdminConfig{Timeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.admin.Close)
	if err := s.admin.CreateTopic(t.Context(), s.topic, partitions, nil); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.done.Go(func() { s.produce(ctx) })
	s.done.Go(func() { s.watch(ctx) })
	t.Cleanup(func() {
		stop()
		s.done.Wait()
	})
	return s
}

// produce lets about a thousand messages a second come in until ctx ends. What is not acknowledged is produced again.
func (s *stream) produce(ctx context.Context) {
	producer, err := kafkax.NewProducer(s.cluster, kafkax.ProducerConfig{})
	if err != nil {
		s.t.Error(err)
		return
	}
	defer closeProducer(producer)
	const chunk = 50
	for tick := time.Tick(chunk * time.Second / 1000); ; <-tick {
		messages := make([]holdfast.Message, chunk)
		for i := range messages {
			id := []byte(strconv.Itoa(s.produced + i))
			messages[i] = holdfast.Message{Topic: s.topic, Key: id, Value: id}
		}
		for producer.Produce(context.WithoutCancel(ctx), messages...) != nil {
			if ctx.Err() != nil {
				return
			}
			<-tick
		}
		s.produced += chunk
		if ctx.Err() != nil {
			return
		}
	}
}

// watch looks at what the group has committed until ctx ends.
func (s *stream) watch(ctx context.Context) {
	for tick := time.Tick(100 * time.Millisecond); ctx.Err() == nil; <-tick {
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.t.Log(err) // A broker that is away.
		}
	}
}

func (s *stream) look(ctx context.Context) error {
	committed, err := s.admin.Committed(ctx, s.topic, s.topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, next := range committed {
		for s.handled[p][s.prefix[p]] {
			delete(s.handled[p], s.prefix[p])
			s.prefix[p]++
		}
		if next > s.prefix[p] {
			s.t.Errorf("partition %d: committed %d, handled up to %d", p, next, s.prefix[p])
		}
	}
	return err
}

// handle notes what it fetches, and commits it.
func (s *stream) handle(ctx context.Context, c holdfast.Claim) error {
	next, _ := c.Committed()
	for {
		messages, err := c.Fetch(ctx)
		if err != nil {
			return err
		}
		for _, m := range messages {
			if m.Offset != next {
				s.t.Errorf("%d/%d follows %d", m.Partition, m.Offset, next-1)
			}
			next = m.Offset + 1
			s.note(m)
		}
		c.Commit(next)
	}
}

func (s *stream) note(m holdfast.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[string(m.Value)] = true
	if s.handled[m.Partition] == nil {
		s.handled[m.Partition] = make(map[int64]bool)
	}
	if m.Offset >= s.prefix[m.Partition] {
		s.handled[m.Partition][m.Offset] = true
	}
}

func (s *stream) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// reader is one member of the group, in this process.
type reader struct {
	*kafkax.Consumer
	stop context.CancelFunc
	done chan error
}

func (s *stream) reader(cluster kafkax.Cluster) *reader {
	s.t.Helper()
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{
		Group: s.topic, Topics: []string{s.topic}, Logger: slog.New(slog.NewTextHandler(s.t.Output(), nil)),
		SessionTimeout: sessionTimeout, HeartbeatInterval: time.Second, CommitInterval: 100 * time.Millisecond,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &reader{consumer, stop, make(chan error, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.done <- consumer.Consume(ctx, s.handle)
	}()
	s.t.Cleanup(func() {
		stop()
		<-ended
	})
	return r
}

// claims is how many partitions the member has.
func (r *reader) claims() int {
	n := 0
	for _, g := range r.Stats().Groups {
		n += len(g.Partitions)
	}
	return n
}

func (s *stream) until(what string, holds func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not %s in %v: %d messages handled", what, patience, s.count())
		}
	}
}

// moves waits until n more messages are handled.
func (s *stream) moves(n int) {
	s.t.Helper()
	before := s.count()
	s.until("moving", func() bool { return s.count() >= before+n })
}

func (s *stream) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// settle ends the stream and the readers, once everything is handled, and checks that it is committed.
func (s *stream) settle(readers ...*reader) {
	s.t.Helper()
	s.stop()
	s.done.Wait()
	s.until("everything handled", func() bool { return s.count() >= s.produced })
	for _, r := range readers {
		r.stop()
		if err := <-r.done; err != nil {
			s.t.Errorf("Consume: %v", err)
		}
	}
	s.must(s.look(s.t.Context()))
	committed, err := s.admin.Committed(s.t.Context(), s.topic, s.topic)
	s.must(err)
	_, ends, err := s.admin.Bounds(s.t.Context(), s.topic)
	s.must(err)
	for p, end := range ends {
		if committed[p] != end {
			s.t.Errorf("partition %d: committed %d of %d", p, committed[p], end)
		}
	}
	s.t.Logf("%d messages", s.produced)
}

// cable is a way to the cluster that can be cut: what is sent is lost, and nobody hears of it.
type cable struct {
	mu    sync.Mutex
	cut   bool
	conns map[*cableConn]bool
}

func newCable() *cable { return &cable{conns: make(map[*cableConn]bool)} }

func (c *cable) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.isCut() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &cableConn{Conn: conn, cable: c}
	c.conns[out] = true
	return out, nil
}

func (c *cable) isCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}

// set cuts the cable, or mends it. Connections that have lost something by then are broken.
func (c *cable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
	if !cut {
		for conn := range c.conns {
			_ = conn.Close()
		}
		clear(c.conns)
	}
}

type cableConn struct {
	net.Conn
	cable *cable
}

func (c *cableConn) Write(b []byte) (int, error) {
	if c.cable.isCut() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *cableConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.cable.isCut() {
			return n, err
		}
	}
}
