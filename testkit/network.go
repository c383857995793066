package testkit

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
)

// Network is a network inside the process: servers listen on it, clients dial it, and no socket is ever opened. It
// exists for testing/synctest: a goroutine that waits on it is durably blocked, so a bubble's clock can move on, which
// it cannot while a goroutine waits on a socket.
//
// Its connections behave as TCP connections do where that matters to a client: they buffer (a write does not wait for
// the peer's read until 64 KiB lie between them), deadlines work, what was written before a Close can still be read, and
// errors carry the same causes ([syscall.ECONNREFUSED], [syscall.EPIPE], [io.EOF], [net.ErrClosed],
// [os.ErrDeadlineExceeded]) in a *[net.OpError].
//
// The zero value is an empty network, ready to use. Inside a bubble make the network there. All methods may be called
// by many goroutines at once. A Network must not be copied after its first use.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener
	lastPort  int
}

// firstPort is where the ports that Listen picks begin: the first of IANA's dynamic ports.
const firstPort = 49152

// Listen announces addr, "host:port". The host may be any name; port 0 picks a free port. An address in use is refused
// with [syscall.EADDRINUSE].
func (n *Network) Listen(network, addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("testkit: listen: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	at := memoryAddr{network: network, address: net.JoinHostPort(host, port)}
	if port == "0" {
		at.address = n.nextPort(host)
		for n.listeners[at.address] != nil {
			at.address = n.nextPort(host)
		}
	}
	if n.listeners[at.address] != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: at, Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	l := &memoryListener{network: n, addr: at, backlog: make(chan *memoryConn), closed: make(chan struct{})}
	if n.listeners == nil {
		n.listeners = make(map[string]*memoryListener)
	}
	n.listeners[at.address] = l
	return l, nil
}

// nextPort returns an address of host that Listen has not picked before.
func (n *Network) nextPort(host string) string {
	n.lastPort = max(n.lastPort+1, firstPort)
	return net.JoinHostPort(host, strconv.Itoa(n.lastPort))
}

// Dial connects to the listener at addr and waits until it accepts. An address that nobody listens on is refused at once
// with [syscall.ECONNREFUSED]. When ctx ends first, Dial returns its cause and leaves nothing behind.
//
// It has the shape of [net.Dialer.DialContext], so it fits kafka-go's Transport.Dial and Dialer.DialFunc as it is.
func (n *Network) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	l, ok := n.listeners[addr]
	n.mu.Unlock()
	to := memoryAddr{network: network, address: addr}
	if !ok {
		return nil, refused(to)
	}
	client, server := memoryPipe(memoryAddr{network: network, address: "client"}, to)
	select {
	case l.backlog <- server:
		return client, nil
	case <-l.closed:
		return nil, refused(to)
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: network, Addr: to, Err: context.Cause(ctx)}
	}
}

func refused(to memoryAddr) error {
	return &net.OpError{Op: "dial", Net: to.network, Addr: to, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

// memoryListener is a listener on a Network.
type memoryListener struct {
	network *Network
	addr    memoryAddr
	backlog chan *memoryConn
	closed  chan struct{}
	once    sync.Once
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
	default:
		select {
		case c := <-l.backlog:
			return c, nil
		case <-l.closed:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: l.addr.network, Addr: l.addr, Err: net.ErrClosed}
}

// Close frees the address. Connections that were accepted live on.
func (l *memoryListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.network.mu.Lock()
		defer l.network.mu.Unlock()
		delete(l.network.listeners, l.addr.address)
	})
	return nil
}

func (l *memoryListener) Addr() net.Addr { return l.addr }

// memoryAddr is the address of one end of a connection on a Network.
type memoryAddr struct{ network, address string }

func (a memoryAddr) Network() string { return a.network }
func (a memoryAddr) String() string  { return a.address }
