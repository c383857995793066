package testkit

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
)

// door is where a broker's connections come in. To the emulator it is the broker's listener, which lives as long as the
// cluster; to clients it can be shut and opened again at the same address. Besides, the test itself comes in here, past
// faults and outages (see backdoor).
type door struct {
	server  *KafkaServer
	addr    net.Addr
	listen  func(ctx context.Context, addr string) (net.Listener, error)
	tls     *tls.Config
	inside  chan net.Conn // Connections on their way to the broker.
	closed  chan struct{}
	closing sync.Once
	serving sync.WaitGroup

	mu       sync.Mutex
	front    net.Listener // nil while the door is shut.
	sessions map[*session]struct{}
}

// openDoor opens a door at addr.
func openDoor(server *KafkaServer, cfg KafkaConfig, addr string) (*door, error) {
	d := &door{
		server:   server,
		addr:     memoryAddr{network: "tcp", address: addr},
		tls:      cfg.TLS,
		inside:   make(chan net.Conn),
		closed:   make(chan struct{}),
		sessions: make(map[*session]struct{}),
		listen: func(ctx context.Context, addr string) (net.Listener, error) {
			if cfg.Network != nil {
				return cfg.Network.Listen("tcp", addr)
			}
			var sockets net.ListenConfig
			return sockets.Listen(ctx, "tcp", addr)
		},
	}
	if err := d.open(context.Background()); err != nil {
		return nil, err
	}
	d.addr = d.front.Addr()
	return d, nil
}

// open lets clients in. An open door stays as it is. The lock is held while the address is bound, which does not wait.
func (d *door) open(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.front != nil {
		return nil
	}
	front, err := d.listen(ctx, d.addr.String())
	if err != nil {
		return err
	}
	d.front = front
	d.serving.Go(func() { d.serve(front) })
	return nil
}

// serve brings in whoever comes to front, until it is closed.
func (d *door) serve(front net.Listener) {
	for {
		conn, err := front.Accept()
		if err != nil {
			return
		}
		d.admit(front, conn)
	}
}

func (d *door) admit(front net.Listener, conn net.Conn) {
	d.mu.Lock()
	if d.front != front {
		d.mu.Unlock()
		_ = conn.Close()
		return
	}
	s := newSession(d, conn)
	d.sessions[s] = struct{}{}
	d.server.sessions.Add(1)
	d.mu.Unlock()

	select {
	case d.inside <- s:
	case <-d.closed:
		_ = s.Close()
	}
}

// forget is called once for every session, when it is closed.
func (d *door) forget(s *session) {
	d.mu.Lock()
	delete(d.sessions, s)
	d.mu.Unlock()
	d.server.sessions.Done()
}

// shut keeps clients out: it cuts those that are in and waits until what the broker does for them is done.
func (d *door) shut() {
	d.mu.Lock()
	front := d.front
	d.front = nil
	cut := make([]*session, 0, len(d.sessions))
	for s := range d.sessions {
		cut = append(cut, s)
	}
	d.mu.Unlock()

	if front != nil {
		_ = front.Close()
		d.serving.Wait()
	}
	for _, s := range cut {
		s.sever()
	}
	for _, s := range cut {
		s.settle()
	}
}

// Accept gives the emulator its next connection.
func (d *door) Accept() (net.Conn, error) {
	select {
	case conn := <-d.inside:
		return conn, nil
	case <-d.closed:
		return nil, fmt.Errorf("testkit: broker %s: %w", d.addr, net.ErrClosed)
	}
}

// Close is called by the emulator, at its end. The connections that are in are the emulator's to close.
func (d *door) Close() error {
	d.closing.Do(func() {
		close(d.closed)
		d.mu.Lock()
		front := d.front
		d.front = nil
		d.mu.Unlock()
		if front != nil {
			_ = front.Close()
		}
		d.serving.Wait()
	})
	return nil
}

// Addr is the address that the broker tells its clients.
func (d *door) Addr() net.Addr { return d.addr }
