package clickhousex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// What Open sets where the options leave it at zero, with the driver's own value.
const (
	defaultDialTimeout     = 5 * time.Second  // 30 s. Also how long a call waits for a free connection of the pool.
	defaultReadTimeout     = 30 * time.Second // 5 min. For one read; a server at work reports progress every 0.1 s.
	defaultConnMaxLifetime = 5 * time.Minute  // 1 h. The driver cannot see that a NAT or balancer has dropped a connection.
)

// openTimeout is half of the 10 s that Open takes at most: an address may use its share of the time once for the dial and
// once more for the handshake.
const openTimeout = 5 * time.Second

// Open connects to the first of the addresses that answers a ping, and protects the connection. It takes 10 s at most;
// its error names each address and what came of it.
//
// The options are the driver's, and are not changed; nil means localhost:9000. Where they leave these at zero, Open sets
// them, since the driver's own values are dangerous:
//
//   - DialTimeout 5 s (the driver: 30 s), which is also how long a call waits for a free connection of the pool.
//   - ReadTimeout 30 s (the driver: 5 min), for how long a call without a deadline waits for a server that is silent.
//   - ConnMaxLifetime 5 min (the driver: 1 h), for how long a connection is used that a NAT or a balancer may have dropped.
//   - DialStrategy (the driver: each address may take the whole DialTimeout, whatever the caller's deadline): the addresses
//     share the time that a call has to get a connection, so that one that does not answer leaves some to the next.
func Open(opts *clickhouse.Options, cfg Config) (*Conn, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	var o clickhouse.Options
	if opts != nil {
		o = *opts
	}
	for _, d := range []struct {
		name string
		set  time.Duration
	}{{"DialTimeout", o.DialTimeout}, {"ReadTimeout", o.ReadTimeout}, {"ConnMaxLifetime", o.ConnMaxLifetime}} {
		if d.set < 0 {
			return nil, fmt.Errorf("clickhousex: open: clickhouse.Options.%s must be positive, or 0 for the default, got %v", d.name, d.set)
		}
	}
	o.DialTimeout = cmp.Or(o.DialTimeout, defaultDialTimeout)
	o.ReadTimeout = cmp.Or(o.ReadTimeout, defaultReadTimeout)
	o.ConnMaxLifetime = cmp.Or(o.ConnMaxLifetime, defaultConnMaxLifetime)
	if o.DialStrategy == nil {
		o.DialStrategy = dialShares
	}
	conn, err := clickhouse.Open(&o)
	if err != nil {
		return nil, fmt.Errorf("clickhousex: open: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	if err := conn.Ping(ctx); err != nil {
		return nil, errors.Join(
			fmt.Errorf("clickhousex: open: no answer to a ping over the %s protocol from %s: %w",
				o.Protocol, cmp.Or(strings.Join(o.Addr, ", "), "localhost"), err),
			conn.Close())
	}
	return Wrap(conn, cfg)
}

// dialShares tries the addresses in the order of the driver's ConnOpenStrategy, each with its share of the time that is
// left. By itself the driver gives each the whole DialTimeout, whatever the caller's deadline.
func dialShares(ctx context.Context, connID int, opts *clickhouse.Options, dial clickhouse.Dial) (clickhouse.DialResult, error) {
	first := 0
	switch opts.ConnOpenStrategy {
	case clickhouse.ConnOpenRoundRobin:
		first = connID
	case clickhouse.ConnOpenRandom:
		first = rand.IntN(max(len(opts.Addr), 1))
	case clickhouse.ConnOpenInOrder:
	}
	var faults []error
	for i := range opts.Addr {
		addr := opts.Addr[(first+i)%len(opts.Addr)]
		result, err := dialShare(ctx, addr, len(opts.Addr)-i, opts, dial)
		if err == nil {
			return result, nil
		}
		faults = append(faults, fmt.Errorf("%s: %w", addr, err))
	}
	if len(faults) == 0 {
		return clickhouse.DialResult{}, clickhouse.ErrAcquireConnNoAddress
	}
	return clickhouse.DialResult{}, errors.Join(faults...)
}

func dialShare(
	ctx context.Context, addr string, left int, opts *clickhouse.Options, dial clickhouse.Dial,
) (clickhouse.DialResult, error) {
	o := *opts
	if deadline, ok := ctx.Deadline(); ok {
		o.DialTimeout = min(o.DialTimeout, time.Until(deadline)/time.Duration(left))
	}
	if o.DialTimeout <= 0 {
		return clickhouse.DialResult{}, cmp.Or(ctx.Err(), context.DeadlineExceeded)
	}
	ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
	defer cancel()
	return dial(ctx, addr, &o)
}
