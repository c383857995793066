package kafkax

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

// maxRequestBytes is how many bytes of batches go into one request, a first batch that is larger aside. Brokers take
// 100 MiB by default.
const maxRequestBytes = 16 << 20

// link is a Producer's way to one broker. Batches of several partitions go in one request. A lone batch leaves at once.
// What comes while a request is on its way gathers, until it is worth a request of its own, which goes over a connection
// of its own: a broker reads nothing more from a connection before it has answered.
//
// Who brings a batch sends it, with what others have brought, and nothing more after it: else it would not see its own
// answer for as long as there is more.
type link struct {
	producer *Producer
	addr     string

	mu      sync.Mutex
	waiting []*batch
	bytes   int // Of those.
	sending bool
	conns   []*linkConn
	onWay   int // Requests, one to a connection.
}

type linkConn struct {
	*wire.ProduceConn
	busy bool // With the link's lock.
}

func (p *Producer) link(addr string) *link {
	l, ok := p.links.Load(addr)
	if !ok {
		l, _ = p.links.LoadOrStore(addr, &link{producer: p, addr: addr})
	}
	return l.(*link)
}

// send has a batch sent, and returns what the broker answers.
func (l *link) send(b *batch) error {
	l.mu.Lock()
	l.waiting = append(l.waiting, b)
	l.bytes += len(b.Bytes())
	mine := l.due()
	l.sending = l.sending || mine
	l.mu.Unlock()
	if mine {
		l.run()
	}
	err := <-b.answer
	_, unsent := errors.AsType[*unsentError](err)
	if b.nth > 0 && (unsent || errors.Is(err, wire.ErrUncertain)) {
		// One request that is lost is one failure, however many batches go down with it: a broker that pauses once would
		// open the circuit for all others.
		return &companionError{err}
	}
	return err
}

// due says whether somebody should begin to send. It needs the lock.
func (l *link) due() bool {
	if l.sending || len(l.waiting) == 0 {
		return false
	}
	cfg := &l.producer.cfg
	return l.onWay == 0 || l.onWay < cfg.MaxRequests && l.bytes >= cfg.BatchBytes
}

// run sends a request of what waits.
func (l *link) run() {
	conn, err := l.connect()
	since := l.producer.cfg.Breaker.Stats().Since
	l.mu.Lock()
	outdated := l.drop(since)
	request := l.waiting
	if err == nil {
		request = l.take()
	} else {
		l.waiting, l.bytes = nil, 0
	}
	l.mu.Unlock()
	for i, b := range request {
		b.nth = i
	}
	if err == nil {
		err = l.producer.rejection()
	}
	for _, b := range outdated {
		b.nth = 0
		b.answer <- &unsentError{cmp.Or(err, errOutdated)}
	}
	if err == nil && len(request) == 0 {
		err = errOutdated
	}
	if err == nil {
		err = l.request(conn, request)
	}
	if err != nil {
		for _, b := range request {
			b.answer <- &unsentError{err}
		}
	}
	l.changed(func() {
		if err != nil && conn != nil {
			l.free(conn)
		}
		l.sending = false
	})
}

// request sends one. With an error it has not been sent.
func (l *link) request(conn *linkConn, batches []*batch) error {
	parts := make([]wire.ProducePart, len(batches))
	for i, b := range batches {
		if b.codec == kafka.Zstd && !conn.Zstd() {
			return holdfast.Hold(fmt.Errorf("broker %s takes no zstd: %w", l.addr, kafka.UnsupportedCompressionType))
		}
		parts[i] = wire.ProducePart{Topic: b.at.topic, Partition: b.at.partition, Records: b.Bytes(), Answer: b.answer}
	}
	l.producer.counts.requests.Add(1)
	return conn.Send(l.producer.cfg.Timeout/2, parts)
}

// drop takes out the batches that were admitted by a circuit that has opened or closed since: it knows nothing of them any
// more, and they would keep those waiting that it admits now. It needs the lock.
func (l *link) drop(since time.Time) (outdated []*batch) {
	l.waiting = slices.DeleteFunc(l.waiting, func(b *batch) bool {
		if b.admitted.Equal(since) {
			return false
		}
		outdated = append(outdated, b)
		l.bytes -= len(b.Bytes())
		return true
	})
	return outdated
}

// take takes the batches that make the next request. One that has been tried before goes alone, so that it does not fail
// others once more. It needs the lock.
func (l *link) take() []*batch {
	n, size := 0, 0
	for n < len(l.waiting) {
		b := l.waiting[n]
		if n > 0 && (b.tried || size+len(b.Bytes()) > maxRequestBytes) {
			break
		}
		size += len(b.Bytes())
		n++
		if b.tried {
			break
		}
	}
	request := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	l.bytes -= size
	return request
}

// connect finds a connection for the next request, or opens one. It is for the one who sends.
func (l *link) connect() (*linkConn, error) {
	l.mu.Lock()
	conn, ok := find(l.conns, func(c *linkConn) bool { return !c.busy })
	if ok {
		l.occupy(conn)
	}
	l.mu.Unlock()
	if ok {
		return conn, nil
	}
	p := l.producer
	dialled, err := wire.DialProduce(p.net.life, p.net.dialer(), "tcp", l.addr, p.cfg.Timeout)
	if err != nil {
		return nil, err
	}
	conn = &linkConn{ProduceConn: dialled}
	l.mu.Lock()
	l.conns = append(l.conns, conn)
	l.occupy(conn)
	l.mu.Unlock()
	p.serving.Go(func() {
		_ = conn.Serve(func() { l.changed(func() { l.free(conn) }) }) // The batches are told what goes wrong.
		l.changed(func() {
			l.conns = slices.DeleteFunc(l.conns, func(c *linkConn) bool { return c == conn })
			l.free(conn)
		})
	})
	return conn, nil
}

// occupy and free say whether a request is on its way over a connection. They need the lock.
func (l *link) occupy(conn *linkConn) {
	conn.busy = true
	l.onWay++
}

func (l *link) free(conn *linkConn) {
	if conn.busy {
		conn.busy = false
		l.onWay--
	}
}

// changed makes a change under the lock, and has sent what is due after it.
func (l *link) changed(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	if l.due() {
		l.sending = true
		l.producer.serving.Go(l.run)
	}
}
