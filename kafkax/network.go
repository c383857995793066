package kafkax

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
)

// network is all the connections that one owner has opened to a cluster. kafka-go cannot interrupt what waits on a
// connection, closing the network can: whatever happens, nothing outlives it.
type network struct {
	cluster Cluster
	client  *kafka.Client // Sends each request to the broker it belongs to.
	pool    *kafka.Transport

	inquiries inquiries
	turns     turns

	life context.Context // Ends with close, and with it the dials in progress.
	end  context.CancelFunc

	mu    sync.Mutex
	conns map[*netConn]struct{} // nil once closed
	open  sync.WaitGroup        // connections that their user has not closed, and dials
}

// newNetwork makes a network without connections. Its client gives up a request after timeout, and keeps the layout of
// the given topics, all of the cluster's if there are none.
func newNetwork(c Cluster, timeout time.Duration, topics ...string) *network {
	n := &network{cluster: c, conns: make(map[*netConn]struct{})}
	n.life, n.end = context.WithCancel(context.Background())
	n.pool = &kafka.Transport{
		Dial:           n.dial,
		DialTimeout:    c.DialTimeout * time.Duration(len(c.Brokers)+1), // For all addresses in turn, and the handshakes.
		MetadataTopics: topics,
		Context:        n.life,
		ClientID:       c.ClientID,
		SASL:           c.SASL,
	}
	// The client's timeout must be set: kafka-go tells the broker half of it, or 500 ms without one, whatever the context
	// says.
	n.client = &kafka.Client{Addr: kafka.TCP(c.Brokers...), Timeout: timeout, Transport: n.pool}
	return n
}

// dialer is for what needs a kafka.Conn.
func (n *network) dialer() *kafka.Dialer {
	return &kafka.Dialer{
		ClientID:      n.cluster.ClientID,
		DialFunc:      n.dial, // TLS included.
		Timeout:       n.cluster.DialTimeout,
		SASLMechanism: n.cluster.SASL,
	}
}

// dial opens a connection, with TLS if the cluster has it, within the cluster's DialTimeout. It serves kafka-go's
// Transport and Dialer alike.
func (n *network) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	if n.conns == nil {
		n.mu.Unlock()
		return nil, dialError(addr, net.ErrClosed)
	}
	n.open.Add(1)
	n.mu.Unlock()

	conn, err := n.connect(ctx, network, addr)
	if err != nil {
		n.open.Done()
		return nil, dialError(addr, err)
	}
	c := &netConn{Conn: conn, network: n, silent: time.Now().Add(n.cluster.DialTimeout)}
	if err := c.SetDeadline(time.Time{}); err != nil {
		_ = conn.Close()
		n.open.Done()
		return nil, dialError(addr, err)
	}
	n.mu.Lock()
	late := n.conns == nil
	if !late {
		n.conns[c] = struct{}{}
	}
	n.mu.Unlock()
	if late {
		_ = c.Close()
		return nil, dialError(addr, net.ErrClosed)
	}
	return c, nil
}

func (n *network) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, n.cluster.DialTimeout)
	defer cancel()
	defer context.AfterFunc(n.life, cancel)() //nolint:contextcheck // The network's life is another one than the call's.

	conn, err := n.cluster.Dial(ctx, network, addr)
	if err != nil || n.cluster.TLS == nil {
		return conn, err
	}
	cfg := n.cluster.TLS
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		cfg.ServerName, _, _ = net.SplitHostPort(addr)
	}
	encrypted := tls.Client(conn, cfg)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("tls handshake: %w", err)
	}
	return encrypted, nil
}

// refresh has the layout of the cluster read anew before the next request. Requests in progress are not disturbed.
func (n *network) refresh() { n.pool.CloseIdleConnections() }

// close cuts every connection, ends every dial, and waits until their users have noticed.
func (n *network) close() {
	n.mu.Lock()
	conns := n.conns
	n.conns = nil
	n.mu.Unlock()
	if conns == nil {
		return
	}
	n.end()
	n.pool.CloseIdleConnections()
	for c := range conns {
		_ = c.Conn.Close() // Its user sees the error and closes c.
	}
	n.open.Wait()
}

// netConn tells its network when its user has closed it. It waits for nothing without end, as kafka-go would that
// authenticates without a deadline: none means DialTimeout from now. And it waits for the first answer, which is always
// to a question that takes no time, no longer than until silent, so that a broker that never says a word is left soon.
// Whoever answers without speaking Kafka is left at once: kafka-go takes the first bytes for a size and what follows for
// a count, and spends gigabytes and half a minute on an HTTP server's "400 Bad Request", which nothing can interrupt.
type netConn struct {
	net.Conn
	network *network
	silent  time.Time
	heard   atomic.Bool
	first   []byte // What the first answer begins with: its size, in Kafka.
	foreign error
	once    sync.Once
}

// maxFirstAnswer is far above what the first answer takes, and below what any text, or a TLS record, is as a size.
const maxFirstAnswer = 16 << 20

func (c *netConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.heard.Load() {
		c.heard.Store(true)
	}
	if rest := 4 - len(c.first); rest > 0 && n > 0 {
		c.first = append(c.first, b[:min(n, rest)]...)
		if len(c.first) == 4 && binary.BigEndian.Uint32(c.first) > maxFirstAnswer {
			c.foreign = foreignError(c.RemoteAddr(), c.first)
		}
	}
	if c.foreign != nil {
		return 0, c.foreign
	}
	return n, err
}

func foreignError(addr net.Addr, first []byte) error {
	const tlsAlert = 21
	if first[0] == tlsAlert {
		return fmt.Errorf("%v wants TLS, see Cluster.TLS", addr)
	}
	return fmt.Errorf("%v does not speak Kafka: its answer begins with %q", addr, first)
}

func (c *netConn) SetDeadline(t time.Time) error      { return c.Conn.SetDeadline(c.bound(t)) }
func (c *netConn) SetReadDeadline(t time.Time) error  { return c.Conn.SetReadDeadline(c.bound(t)) }
func (c *netConn) SetWriteDeadline(t time.Time) error { return c.Conn.SetWriteDeadline(c.bound(t)) }

func (c *netConn) bound(t time.Time) time.Time {
	if t.IsZero() {
		t = time.Now().Add(c.network.cluster.DialTimeout)
	}
	if !c.heard.Load() && t.After(c.silent) {
		t = c.silent
	}
	return t
}

func (c *netConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.network.mu.Lock()
		delete(c.network.conns, c)
		c.network.mu.Unlock()
		c.network.open.Done()
	})
	return err
}

// dialError says that there was no connection to addr, so nothing was sent either.
func dialError(addr string, err error) error {
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Addr == nil { // Such a one names the address.
		err = fmt.Errorf("dial %s: %w", addr, err)
	}
	return &unsentError{err}
}
