package kafkax_test

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/sasl/plain"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// muteConn takes what is written to it, and after some writes the other side does not get it, and so never answers.
type muteConn struct {
	net.Conn
	left int
}

func (c *muteConn) Write(b []byte) (int, error) {
	if c.left--; c.left < 0 {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// TestMuteFirstBroker has the first of four addresses come to accept connections and never answer.
func TestMuteFirstBroker(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		well, first := cluster.Dial, "mute.example:9092"
		cluster.Brokers = append([]string{first}, cluster.Brokers...)
		var mute atomic.Bool
		cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr != first || !mute.Load() {
				return well(ctx, network, addr) // Refused, for the first one.
			}
			conn, err := well(ctx, network, cluster.Brokers[1])
			return &muteConn{Conn: conn}, err
		}
		fill(t, server, "orders", 1, 10)
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{}, seen.handle)
		until(t, "all read", func() bool { return seen.distinct() == 10 })
		mute.Store(true)
		if err := server.Rebalance("group"); err != nil {
			t.Fatal(err)
		}
		until(t, "joined again", func() bool { return r.consumer.Stats().Groups[0].Generations == 2 && r.claims() == 1 })
		r.stop(t)
	})
}

// TestMuteAtTheStart has most of the addresses accept connections and never answer, from the beginning.
func TestMuteAtTheStart(t *testing.T) {
	for range 10 { // Which address is asked when is up to chance.
		virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
			well := cluster.Dial
			mute := []string{"one.example:9092", "two.example:9092", "three.example:9092"}
			cluster.Brokers = append(mute, cluster.Brokers[1:]...)
			cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if slices.Contains(mute, addr) {
					conn, _ := net.Pipe()
					return &muteConn{Conn: conn}, nil
				}
				return well(ctx, network, addr)
			}
			fill(t, server, "orders", 1, 10)
			var seen ledger
			r := start(t, cluster, kafkax.ConsumerConfig{}, seen.handle)
			until(t, "all read", func() bool { return seen.distinct() == 10 || len(r.done) > 0 })
			r.stop(t)
			if seen.distinct() != 10 {
				t.Error("Consume ended before it had read anything")
			}
		})
	}
}

func withPassword() (testkit.KafkaConfig, plain.Mechanism) {
	return testkit.KafkaConfig{
		Topics: map[string]int{"orders": 1}, Users: []testkit.KafkaUser{{Mechanism: "PLAIN", Name: "p", Password: "secret"}},
	}, plain.Mechanism{Username: "p", Password: "secret"}
}

// TestMuteInHandshake has connections go mute at some point of their handshakes, where kafka-go authenticates without a
// deadline of its own. The ones after them are well.
func TestMuteInHandshake(t *testing.T) {
	cfg, secret := withPassword()
	for writes := range 3 { // ApiVersions, SaslHandshake, SaslAuthenticate.
		virtual(t, cfg, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
			cluster.SASL = secret
			well := cluster.Dial
			var mute atomic.Bool
			cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := well(ctx, network, addr)
				if err == nil && mute.Load() {
					conn = &muteConn{conn, writes}
				}
				return conn, err
			}
			fill(t, server, "orders", 1, 10)
			var seen ledger
			r := start(t, cluster, kafkax.ConsumerConfig{}, seen.handle)
			until(t, "all read", func() bool { return seen.distinct() == 10 })
			mute.Store(true)
			if err := server.Rebalance("group"); err != nil { // It is joined over new connections.
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			mute.Store(false)
			fill(t, server, "orders", 1, 10)
			until(t, "the rest read and committed", func() bool { return seen.distinct() == 20 && committed(server) == 20 })
			r.stop(t)
		})
	}
}

// cutConn ends at the nth write.
type cutConn struct {
	net.Conn
	left int
}

func (c *cutConn) Write(b []byte) (int, error) {
	if c.left--; c.left <= 0 {
		_ = c.Close()
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.left <= 0 && err != nil {
		err = io.EOF
	}
	return n, err
}

// TestCutInHandshake cuts one of the first connections while it authenticates, which kafka-go takes for a refusal.
func TestCutInHandshake(t *testing.T) {
	cfg, secret := withPassword()
	for nth := range int32(6) {
		virtual(t, cfg, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
			cluster.SASL = secret
			well := cluster.Dial
			var dialled atomic.Int32
			cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := well(ctx, network, addr)
				if err == nil && dialled.Add(1) == nth+1 {
					return &cutConn{Conn: conn, left: 3}, nil // ApiVersions, SaslHandshake, SaslAuthenticate.
				}
				return conn, err
			}
			fill(t, server, "orders", 1, 10)
			var seen ledger
			r := start(t, cluster, kafkax.ConsumerConfig{}, seen.handle)
			until(t, "all read", func() bool { return seen.distinct() == 10 })
			r.stop(t)
		})
	}
}

// slowConn takes a while for everything that is written to it.
type slowConn struct {
	net.Conn
	takes func(bytes int) time.Duration
}

func (c slowConn) Write(b []byte) (int, error) {
	time.Sleep(c.takes(len(b)))
	return c.Conn.Write(b)
}

// slow is the cluster over slowConns.
func slow(cluster kafkax.Cluster, takes func(bytes int) time.Duration) kafkax.Cluster {
	well := cluster.Dial
	cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := well(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return slowConn{conn, takes}, nil
	}
	return cluster
}

func TestSlowBrokers(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 1, 10)
		cluster = slow(cluster, func(int) time.Duration { return 1200 * time.Millisecond })
		r := start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle)
		until(t, "all committed", func() bool { return committed(server) == 10 })
		r.stop(t)
	})
}

// TestBrokersAreCopied changes the list of addresses behind the consumer's back.
func TestBrokersAreCopied(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, _ *testkit.KafkaServer, cluster kafkax.Cluster) {
		consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: "group", Topics: []string{"orders"}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range cluster.Brokers {
			cluster.Brokers[i] = "nowhere.example:9092"
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := consumer.Consume(ctx, func(_ context.Context, c holdfast.Claim) error {
			cancel()
			<-c.Revoked()
			return nil
		}); err != nil {
			t.Errorf("Consume: %v", err)
		}
	})
}

// TestMovedName has the only name that is given lead to another broker from one moment on, the first one being gone.
func TestMovedName(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		well, addrs := cluster.Dial, cluster.Brokers
		cluster.Brokers = []string{"kafka.example:9092"}
		var now atomic.Int32
		cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			switch {
			case addr == cluster.Brokers[0] && now.Load() < int32(len(addrs)):
				addr = addrs[now.Load()]
			case addr == cluster.Brokers[0]:
				return nil, &net.DNSError{Err: "no such host", Name: addr, IsNotFound: true}
			}
			return well(ctx, network, addr)
		}
		var seen ledger
		r := start(t, cluster, kafkax.ConsumerConfig{}, seen.handle)
		for i := range 3 {
			fill(t, server, "orders", 1, 10)
			until(t, "read and committed", func() bool { return committed(server) == int64(10*i+10) })
			now.Store(int32(len(addrs))) // For a while there is none of that name.
			server.Stop()
			time.Sleep(40 * time.Second)
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			now.Store(int32(i+1) % int32(len(addrs)))
		}
		fill(t, server, "orders", 1, 10)
		until(t, "all committed", func() bool { return committed(server) == 40 && seen.distinct() == 40 })
		r.stop(t)
	})
}

// TestNotKafka has something at the address that speaks another protocol: an HTTP server, a listener with TLS.
func TestNotKafka(t *testing.T) {
	for said, want := range map[string]string{
		"HTTP/1.1":             `does not speak Kafka: its answer begins with "HTTP"`,
		"SSH-2.0-x\r\n":        `"SSH-"`,
		"\x15\x03\x03\x00\x02": "wants TLS, see Cluster.TLS",
	} {
		virtual(t, testkit.KafkaConfig{}, func(t *testing.T, _ *testkit.KafkaServer, cluster kafkax.Cluster) {
			cluster.Dial = func(context.Context, string, string) (net.Conn, error) {
				conn, other := net.Pipe()
				go func() {
					defer other.Close()
					for b := make([]byte, 1024); ; {
						if _, err := other.Read(b); err != nil {
							return
						}
						for i := range said { // A byte at a time.
							if _, err := other.Write([]byte(said[i : i+1])); err != nil {
								return
							}
						}
					}
				}()
				return conn, nil
			}
			admin, err := kafkax.NewAdmin(cluster, kafkax.AdminConfig{Timeout: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer admin.Close()
			producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
			if err != nil {
				t.Fatal(err)
			}
			defer producer.Close(t.Context())
			consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: "group", Topics: []string{"orders"}})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			_, _, adminErr := admin.DescribeTopic(t.Context(), "orders")
			for who, err := range map[string]error{
				"admin":    adminErr,
				"producer": producer.Produce(t.Context(), holdfast.Message{Topic: "orders"}),
				"consumer": consumer.Consume(t.Context(), func(context.Context, holdfast.Claim) error { return nil }),
			} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s, told %q: %v", who, said, err)
				}
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("told %q: took %v", said, took)
			}
		})
	}
}
