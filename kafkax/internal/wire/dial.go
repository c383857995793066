package wire

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/segmentio/kafka-go"
)

// Dial connects to the broker at addr the way d would, with its DialFunc, TLS, SASLMechanism, ClientID, Resolver and
// Timeout, and agrees on a version of Fetch with it. A broker answers for the partitions that it leads. d is
// not changed.
//
// When ctx ends first, the connection is closed, in the middle of a handshake too, and ctx's cause is in the error's
// chain. Once Dial has returned, ctx means nothing to the Conn.
func Dial(ctx context.Context, d *kafka.Dialer, network, addr string, cfg Config) (*Conn, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	c := &Conn{
		session: session{timeout: cfg.Timeout},
		cfg:     cfg,
		pending: make(chan pendingRequest, MaxOutstanding),
	}
	versions, err := c.connect(ctx, d, network, addr, api{apiFetch, "Fetch", minFetchVersion, maxFetchVersion})
	if err != nil {
		return nil, err
	}
	c.version = versions[0]
	return c, nil
}

// dial has kafka-go dial and authenticate. kafka-go does not give its net.Conn away, so it is caught on its way in:
// below SASL, above TLS.
func dial(ctx context.Context, d *kafka.Dialer, network, addr string) (net.Conn, error) {
	var conn net.Conn
	stop := func() bool { return true }
	own := *d
	own.TLS = nil
	own.DialFunc = func(dialCtx context.Context, network, addr string) (net.Conn, error) {
		dialled, err := dialTLS(dialCtx, d, network, addr)
		if err != nil {
			return nil, err
		}
		conn = dialled
		// kafka-go's SASL exchange does not look at a context, only a closed connection ends it. And not the end of
		// dialCtx, which comes with success too.
		stop = context.AfterFunc(ctx, func() { _ = dialled.Close() })
		return dialled, nil
	}
	_, err := own.DialContext(ctx, network, addr)
	if !stop() || err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // it says more than the closed connection
	}
	if err != nil && conn != nil {
		_ = conn.Close() // kafka-go does so after most errors, not after all.
	}
	return conn, err
}

// dialTLS is what kafka.Dialer does with the same fields.
func dialTLS(ctx context.Context, d *kafka.Dialer, network, addr string) (net.Conn, error) {
	dialFunc := d.DialFunc
	if dialFunc == nil {
		dialFunc = (&net.Dialer{LocalAddr: d.LocalAddr, FallbackDelay: d.FallbackDelay, KeepAlive: d.KeepAlive}).DialContext
	}
	conn, err := dialFunc(ctx, network, addr)
	if err != nil || d.TLS == nil {
		return conn, err
	}
	cfg := d.TLS
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		cfg = cfg.Clone()
		cfg.ServerName = host
	}
	secured := tls.Client(conn, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secured, nil
}
