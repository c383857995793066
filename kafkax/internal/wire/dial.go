package wire

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
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
	if d == nil {
		return nil, errors.New("wire: dial without a kafka.Dialer")
	}
	clientID := cmp.Or(d.ClientID, kafka.DefaultClientID)
	if len(clientID) > math.MaxInt16 {
		return nil, fmt.Errorf("wire: Dialer.ClientID must be at most %d bytes, got %d", math.MaxInt16, len(clientID))
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()

	ctx, cancel := context.WithTimeout(ctx, cmp.Or(d.Timeout, cfg.Timeout))
	defer cancel()
	conn, err := dial(ctx, d, network, addr)
	if err != nil {
		return nil, fmt.Errorf("wire: dial %s: %w", addr, err)
	}
	c := &Conn{
		conn:     conn,
		cfg:      cfg,
		clientID: clientID,
		pending:  make(chan pendingRequest, MaxOutstanding),
		decoder:  decoder{limit: cfg.MaxBytes},
	}
	stop := context.AfterFunc(ctx, func() { _ = c.fail(context.Cause(ctx)) })
	c.version, err = c.fetchVersion()
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("wire: dial %s: %w", addr, c.fail(err))
	}
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

// fetchVersion asks for the broker's versions of Fetch and takes the highest that both know.
func (c *Conn) fetchVersion() (int16, error) {
	id := c.nextID
	c.nextID++
	if err := c.write(finishFrame(appendHeader(nil, apiVersions, 0, id, c.clientID), 0)); err != nil {
		return 0, err
	}
	answer, err := c.read(id, 0, c.cfg.Timeout)
	if err != nil {
		return 0, err
	}
	in := cursor{b: answer}
	if code := in.int16(); code != 0 {
		return 0, kafka.Error(code)
	}
	for n := in.int32(); n > 0 && !in.short; n-- {
		api, low, high := in.int16(), in.int16(), in.int16()
		if api != apiFetch || in.short {
			continue
		}
		if low > maxFetchVersion || high < minFetchVersion {
			return 0, fmt.Errorf("broker speaks Fetch versions %d to %d, this client %d to %d: %w",
				low, high, minFetchVersion, maxFetchVersion, kafka.UnsupportedVersion)
		}
		return min(high, maxFetchVersion), nil
	}
	return 0, fmt.Errorf("%w: no Fetch among the broker's API versions", errMalformed)
}
