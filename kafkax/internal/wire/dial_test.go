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
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
	"github.com/twmb/franz-go/pkg/kfake"
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
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			closed := make(chan error, 1)
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					closed <- err
					return
				}
				defer conn.Close()
				_, err = conn.Read(make([]byte, 1)) // the handshake has begun
				cancel(cause)
				for err == nil {
					_, err = conn.Read(make([]byte, 1024))
				}
				closed <- err
			}()
			if _, err := wire.Dial(ctx, &d, "tcp", listener.Addr().String(), wire.Config{}); !errors.Is(err, cause) {
				t.Errorf("got %v, want %v", err, cause)
			}
			if err := <-closed; err == nil {
				t.Error("the broker still has the connection")
			}
		})
		t.Run(name+" times out", func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			_, err = wire.Dial(t.Context(), &d, "tcp", listener.Addr().String(), wire.Config{Timeout: 20 * time.Millisecond})
			var timeout interface{ Timeout() bool }
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("got %v, want a timeout", err)
			}
		})
	}
}

func TestDialUsesDialFunc(t *testing.T) {
	addr := startCluster(t)
	var asked []string
	d := kafka.Dialer{ClientID: "billing", DialFunc: func(ctx context.Context, network, addr string) (net.Conn, error) {
		asked = append(asked, network+" "+addr)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	dial(t, addr, d, wire.Config{})
	if want := "[tcp " + addr + "]"; fmt.Sprint(asked) != want {
		t.Errorf("dialled %v, want %v", asked, want)
	}
}

func TestClientID(t *testing.T) {
	server := newServer(t)
	conn := dial(t, server.addr, kafka.Dialer{ClientID: "billing"}, wire.Config{})
	if err := conn.Send(wire.Request{Topic: "t"}); err != nil {
		t.Fatal(err)
	}
	if request := <-server.requests; !strings.HasPrefix(string(request[8:]), "\x00\x07billing") {
		t.Errorf("the request begins with %q", request)
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
