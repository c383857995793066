package wire_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

func TestDialSecured(t *testing.T) {
	serverTLS, clientTLS := newCertificate(t, "127.0.0.1")
	scram256, err := scram.Mechanism(scram.SHA256, "alice", "secret")
	if err != nil {
		t.Fatal(err)
	}
	scram512, err := scram.Mechanism(scram.SHA512, "alice", "secret")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		tls       bool
		mechanism sasl.Mechanism
	}{
		{"tls", true, nil},
		{"plain", false, plain.Mechanism{Username: "alice", Password: "secret"}},
		{"scram-sha-256", false, scram256},
		{"tls and scram-sha-512", true, scram512},
	} {
		t.Run(c.name, func(t *testing.T) {
			var opts []kfake.Opt
			d := kafka.Dialer{SASLMechanism: c.mechanism}
			if c.tls {
				opts = append(opts, kfake.TLS(serverTLS))
				d.TLS = clientTLS
			}
			if c.mechanism != nil {
				opts = append(opts, kfake.EnableSASL(), kfake.Superuser(c.mechanism.Name(), "alice", "secret"))
			}
			conn := dial(t, startCluster(t, opts...), d, wire.Config{})
			if _, err := fetch(t, conn, wire.Request{Topic: "orders"}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDialRefused(t *testing.T) {
	serverTLS, _ := newCertificate(t, "127.0.0.1")
	_, otherCA := newCertificate(t, "127.0.0.1")
	t.Run("wrong password", func(t *testing.T) {
		addr := startCluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "alice", "secret"))
		d := &kafka.Dialer{SASLMechanism: plain.Mechanism{Username: "alice", Password: "guess"}}
		_, err := wire.Dial(t.Context(), d, "tcp", addr, wire.Config{})
		if err == nil || strings.Contains(err.Error(), "guess") {
			t.Errorf("got %v, want an error without the password", err)
		}
	})
	t.Run("unknown authority", func(t *testing.T) {
		addr := startCluster(t, kfake.TLS(serverTLS))
		_, err := wire.Dial(t.Context(), &kafka.Dialer{TLS: otherCA}, "tcp", addr, wire.Config{})
		if want := new(x509.UnknownAuthorityError); !errors.As(err, want) {
			t.Errorf("got %v, want %T", err, want)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = listener.Close()
		_, err = wire.Dial(t.Context(), &kafka.Dialer{}, "tcp", listener.Addr().String(), wire.Config{})
		if want := new(net.OpError); !errors.As(err, &want) {
			t.Errorf("got %v, want %T", err, want)
		}
	})
	t.Run("no dialer", func(t *testing.T) {
		if _, err := wire.Dial(t.Context(), nil, "tcp", "127.0.0.1:1", wire.Config{}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("config", func(t *testing.T) {
		if _, err := wire.Dial(t.Context(), &kafka.Dialer{}, "tcp", "127.0.0.1:1", wire.Config{MaxBytes: 1}); err == nil {
			t.Error("no error")
		}
	})
}

// A broker that accepts and never answers holds a dial up in its version handshake, in SASL or in TLS.
func TestDialUnblocks(t *testing.T) {
	_, clientTLS := newCertificate(t, "127.0.0.1")
	cause := errors.New("enough")
	for name, d := range map[string]kafka.Dialer{
		"versions": {},
		"sasl":     {SASLMechanism: plain.Mechanism{Username: "alice", Password: "secret"}},
		"tls":      {TLS: clientTLS},
	} {
		for _, timesOut := range []bool{false, true} {
			t.Run(fmt.Sprint(name, timesOut), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					client, broker := net.Pipe()
					defer broker.Close()
					d := d
					d.DialFunc = func(context.Context, string, string) (net.Conn, error) { return client, nil }
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					closed := make(chan struct{})
					go func() {
						_, err := io.Copy(io.Discard, broker)
						if err != nil {
							t.Errorf("the broker sees %v, want the connection's end", err)
						}
						close(closed)
					}()
					want, begin := cause, time.Now()
					if timesOut {
						want = context.DeadlineExceeded
					} else {
						time.AfterFunc(time.Second, func() { cancel(cause) })
					}
					_, err := wire.Dial(ctx, &d, "tcp", "broker:9092", wire.Config{Timeout: 5 * time.Second})
					if !errors.Is(err, want) && !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("got %v, want %v", err, want)
					}
					if waited := time.Since(begin); waited > 5*time.Second || !timesOut && waited != time.Second {
						t.Errorf("waited %v", waited)
					}
					<-closed
				})
			})
		}
	}
}

func TestDialUsesDialFunc(t *testing.T) {
	addr := startCluster(t)
	var asked []string
	d := kafka.Dialer{DialFunc: func(ctx context.Context, network, addr string) (net.Conn, error) {
		asked = append(asked, network+" "+addr)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	dial(t, addr, d, wire.Config{})
	if want := "[tcp " + addr + "]"; fmt.Sprint(asked) != want {
		t.Errorf("dialled %v, want %v", asked, want)
	}
}

// newCertificate makes a certificate for host that signs itself.
func newCertificate(t *testing.T, host string) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.ParseIP(host)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return server, &tls.Config{RootCAs: pool}
}
