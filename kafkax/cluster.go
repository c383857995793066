package kafkax

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go/sasl"
)

const (
	defaultClientID    = "holdfast"
	defaultDialTimeout = 3 * time.Second // As kafka-go's own transport has it.
)

// Cluster says where Kafka is and how to get in. It is passed by value and holds no connection. Brokers is required.
type Cluster struct {
	// Brokers are the addresses to begin with, "host:port". One that answers is enough, it names the others.
	Brokers []string

	// TLS turns encryption on. An empty ServerName is filled with the broker's host name.
	TLS *tls.Config

	// SASL is how to authenticate, such as plain.Mechanism or what scram.Mechanism returns.
	SASL sasl.Mechanism

	// ClientID is the name under which brokers log and limit this program. Empty means "holdfast".
	ClientID string

	// Dial opens the connections, below TLS. Nil means a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// DialTimeout bounds one connection's establishment, TLS included, and then each step of the authentication. 0 means
	// 3 s.
	DialTimeout time.Duration
}

// Validate reports all that is wrong with the cluster, in one error.
func (c Cluster) Validate() error {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("kafkax: Cluster.Brokers must name at least one broker, got none"))
	}
	for i, addr := range c.Brokers {
		host, port, err := net.SplitHostPort(addr)
		number, portErr := strconv.ParseUint(port, 10, 16)
		if err != nil || portErr != nil || host == "" || number == 0 {
			errs = append(errs, fmt.Errorf(`kafkax: Cluster.Brokers[%d] must be "host:port", got %q`, i, addr))
		}
	}
	if len(c.ClientID) > math.MaxInt16 {
		errs = append(errs, fmt.Errorf("kafkax: Cluster.ClientID must be at most %d bytes, got %d", math.MaxInt16, len(c.ClientID)))
	}
	if c.DialTimeout < 0 || c.DialTimeout.Milliseconds() > math.MaxInt32 { // It is added up.
		errs = append(errs, fmt.Errorf("kafkax: Cluster.DialTimeout must be positive and below 24 days, or 0 for %v, got %v",
			defaultDialTimeout, c.DialTimeout))
	}
	return errors.Join(errs...)
}

func (c Cluster) withDefaults() Cluster {
	c.Brokers = slices.Clone(c.Brokers)
	c.ClientID = cmp.Or(c.ClientID, defaultClientID)
	c.DialTimeout = cmp.Or(c.DialTimeout, defaultDialTimeout)
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	return c
}
