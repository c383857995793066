package main

import (
	"context"
	"errors"
	"net"
	"sync"
)

// anInsert is how many bytes sent without an answer must be the data of an insert.
const anInsert = 8 << 10

var errAway = errors.New("ClickHouse is away")

// wall stands between the pipeline and ClickHouse. Raised, it lets the data of one more insert through and keeps its
// acknowledgement back; then it cuts every connection and refuses new ones, until it is lowered.
type wall struct {
	mu    sync.Mutex
	state state
	conns map[*conn]struct{}
}

type state int

const (
	lowered state = iota
	rising        // Until the next acknowledgement.
	raised
)

func (w *wall) dial(ctx context.Context, addr string) (net.Conn, error) {
	w.mu.Lock()
	away := w.state == raised
	w.mu.Unlock()
	if away {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errAway}
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	guarded := &conn{Conn: c, wall: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns == nil {
		w.conns = make(map[*conn]struct{})
	}
	w.conns[guarded] = struct{}{}
	return guarded, nil
}

func (w *wall) raise() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = rising
}

func (w *wall) lower() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = lowered
}

// stops tells whether what a connection has read after an insert is to be kept back, and if so takes everything away.
func (w *wall) stops() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == lowered {
		return false
	}
	w.state = raised
	for c := range w.conns {
		_ = c.Close()
	}
	clear(w.conns)
	return true
}

// conn is a connection through the wall.
type conn struct {
	net.Conn
	wall *wall

	mu   sync.Mutex
	sent int // Since the last answer.
}

func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.sent += len(p)
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	acknowledged := n > 0 && c.sent > anInsert
	if n > 0 {
		c.sent = 0
	}
	c.mu.Unlock()
	if acknowledged && c.wall.stops() {
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: errAway}
	}
	return n, err
}
