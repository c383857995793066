package kafkax

import (
	"fmt"
	"sync"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

// maxRequestBytes is how many bytes of batches go into one request, a first batch that is larger aside. Brokers take
// 100 MiB by default.
const maxRequestBytes = 16 << 20

// link is a Producer's way to one broker: one connection, over which batches of several partitions go in one request. A
// lone batch leaves at once. What comes while a request is on its way gathers, unless it is worth a request already: a
// broker would not look at it before it has answered the first one, anyway.
//
// Who brings a batch sends it, and what others bring meanwhile.
type link struct {
	producer *Producer
	addr     string

	mu      sync.Mutex
	waiting []*batch
	bytes   int // Of those.
	sending bool
	conn    *linkConn // Or nil.
}

type linkConn struct {
	*wire.ProduceConn
	onWay int // Requests, with the link's lock.
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
	return <-b.answer
}

// due says whether somebody should begin to send. It needs the lock.
func (l *link) due() bool {
	if l.sending || len(l.waiting) == 0 {
		return false
	}
	cfg := &l.producer.cfg
	return l.conn == nil || l.conn.onWay == 0 || l.conn.onWay < cfg.MaxRequests && l.bytes >= cfg.BatchBytes
}

// run sends what waits, as long as it is due.
func (l *link) run() {
	for again := true; again; {
		conn, err := l.connect()
		l.mu.Lock()
		request := l.waiting
		if err == nil {
			request = l.take()
		} else {
			l.waiting, l.bytes = nil, 0
		}
		l.mu.Unlock()
		if err == nil {
			err = l.producer.rejection() // The circuit may have opened since these began to wait.
		}
		if err == nil {
			err = l.request(conn, request)
		}
		if err != nil {
			for _, b := range request {
				b.answer <- &unsentError{err}
			}
		}
		l.mu.Lock()
		if err == nil {
			conn.onWay++ // Its answer may have been counted already.
		}
		l.sending = false
		again = l.due()
		l.sending = again
		l.mu.Unlock()
	}
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

// connect is for the one who sends.
func (l *link) connect() (*linkConn, error) {
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	p := l.producer
	dialled, err := wire.DialProduce(p.net.life, p.net.dialer(), "tcp", l.addr, p.cfg.Timeout)
	if err != nil {
		return nil, err
	}
	conn = &linkConn{ProduceConn: dialled}
	l.mu.Lock()
	l.conn = conn
	l.mu.Unlock()
	p.serving.Go(func() {
		_ = conn.Serve(func() { l.changed(func() { conn.onWay-- }) }) // The batches are told what goes wrong.
		l.changed(func() {
			if l.conn == conn {
				l.conn = nil
			}
		})
	})
	return conn, nil
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
