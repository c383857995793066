package testkit_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/holdfast-io/holdfast/testkit"
)

func TestKafkaConfigValidate(t *testing.T) {
	for want, cfg := range map[string]testkit.KafkaConfig{
		`KafkaConfig.Brokers must not be negative, got -1`:                           {Brokers: -1},
		`KafkaConfig.Brokers must be the number of addresses in Listen, got 2 for 1`: {Brokers: 2, Listen: []string{"127.0.0.1:0"}},
		`KafkaConfig.Topics["t"] must be at least 1 partition, got 0`:                {Topics: map[string]int{"t": 0}},
		`KafkaConfig.Topics must not have an empty name`:                             {Topics: map[string]int{"": 1}},
		`KafkaConfig.AutoCreatePartitions must not be negative, got -1`:              {AutoCreatePartitions: -1},
		`KafkaConfig.AutoCreatePartitions must be 0 without AutoCreateTopics, got 3`: {AutoCreatePartitions: 3},
		`KafkaConfig.MinSessionTimeout must not be negative, got -1s`:                {MinSessionTimeout: -time.Second},
		`KafkaConfig.MaxVersions must have names of Kafka requests, got "X"`:         {MaxVersions: map[testkit.API]int{"X": 1}},
		`KafkaConfig.MaxVersions["Fetch"] must not be negative, got -1`:              {MaxVersions: map[testkit.API]int{testkit.APIFetch: -1}},
		`Users[0].Mechanism must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, got "X"`:  {Users: []testkit.KafkaUser{{Mechanism: "X", Name: "u"}}},
		`Users[0].Name must be neither empty nor "testkit", got ""`:                  {Users: []testkit.KafkaUser{{Mechanism: "PLAIN"}}},
	} {
		if _, err := testkit.StartKafka(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	both := testkit.KafkaConfig{Brokers: -1, MinSessionTimeout: -1}
	if err := both.Validate(); err == nil || strings.Count(err.Error(), "KafkaConfig.") != 2 {
		t.Errorf("error %v, want both faults", err)
	}
}

// TestMaxVersions: brokers say which requests they know, and those named are older than they would be.
func TestMaxVersions(t *testing.T) {
	newest := func(limits map[testkit.API]int) map[int16]int16 {
		n := new(testkit.Network)
		b := start(t, testkit.KafkaConfig{Network: n, MaxVersions: limits}, n.Dial)
		versions, err := b.conn(t).ApiVersions()
		if err != nil {
			t.Fatal(err)
		}
		known := make(map[int16]int16)
		for _, v := range versions {
			known[v.ApiKey] = v.MaxVersion
		}
		return known
	}
	all, limited := newest(nil), newest(map[testkit.API]int{testkit.APIOffsetFetch: 5, testkit.APIFetch: 11})
	const fetch, offsetFetch = 1, 9 // Their keys.
	all[offsetFetch], all[fetch] = 5, 11
	if !maps.Equal(all, limited) {
		t.Errorf("got %v, want %v", limited, all)
	}
}

func TestKafkaListen(t *testing.T) {
	n := new(testkit.Network)
	cfg := testkit.KafkaConfig{Network: n, Listen: []string{"one:9092", "two:9092"}}
	k := testkit.Kafka(t, cfg)
	if got := fmt.Sprint(k.Addrs()); got != "[one:9092 two:9092]" {
		t.Errorf("addresses %s", got)
	}
	// The second address is taken: nothing must be left of the first.
	other := testkit.KafkaConfig{Network: n, Listen: []string{"three:9092", "two:9092"}}
	if _, err := testkit.StartKafka(other); err == nil {
		t.Error("two clusters listen at one address")
	}
	other.Listen[1] = "four:9092"
	testkit.Kafka(t, other)
}

func TestKafkaStartFindsItsAddressTaken(t *testing.T) {
	n := new(testkit.Network)
	k := testkit.Kafka(t, testkit.KafkaConfig{Network: n, Listen: []string{"one:9092"}})
	k.Stop()
	l, err := n.Listen("tcp", "one:9092")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(); err == nil {
		t.Error("the cluster came back at an address that somebody else has")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := k.Start(); err != nil {
		t.Error(err)
	}
}

func TestKafkaAutoCreateTopics(t *testing.T) {
	cfg := testkit.KafkaConfig{AutoCreateTopics: true, AutoCreatePartitions: 3}
	everywhere(t, cfg, func(t *testing.T, b *broker) {
		w := &kafka.Writer{
			Addr: b.client.Addr, Transport: b.client.Transport, Topic: "new", AllowAutoTopicCreation: true,
			RequiredAcks: kafka.RequireAll, BatchTimeout: time.Millisecond, MaxAttempts: 20,
		}
		if err := w.WriteMessages(t.Context(), kafka.Message{Value: []byte("x")}); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if got := len(b.Ends("new")); got != 3 {
			t.Errorf("%d partitions, want 3", got)
		}
	})
}

func TestKafkaTLSAndUsers(t *testing.T) {
	certificate := selfSigned(t)
	cfg := testkit.KafkaConfig{
		Brokers: 2,
		Topics:  map[string]int{"t": 1},
		TLS:     &tls.Config{Certificates: []tls.Certificate{certificate}},
		Users: []testkit.KafkaUser{
			{Mechanism: "PLAIN", Name: "ann", Password: "pa"},
			{Mechanism: "SCRAM-SHA-512", Name: "bob", Password: "pb"},
		},
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(certificate.Leaf)
	bob, err := scram.Mechanism(scram.SHA512, "bob", "pb")
	if err != nil {
		t.Fatal(err)
	}
	everywhere(t, cfg, func(t *testing.T, b *broker) {
		for _, try := range []struct {
			name string
			as   sasl.Mechanism
			tls  *tls.Config
			ok   bool
		}{
			{"plain", plain.Mechanism{Username: "ann", Password: "pa"}, &tls.Config{RootCAs: trusted}, true},
			{"scram", bob, &tls.Config{RootCAs: trusted}, true},
			{"wrong password", plain.Mechanism{Username: "ann", Password: "x"}, &tls.Config{RootCAs: trusted}, false},
			{"nobody", nil, &tls.Config{RootCAs: trusted}, false},
			{"unknown authority", plain.Mechanism{Username: "ann", Password: "pa"}, &tls.Config{}, false},
			{"plaintext", plain.Mechanism{Username: "ann", Password: "pa"}, nil, false},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			conn, err := (&kafka.Dialer{DialFunc: b.dial, TLS: try.tls, SASLMechanism: try.as}).DialLeader(ctx, "tcp", b.Addrs()[0], "t", 0)
			if err == nil {
				_, err = conn.Write([]byte(try.name))
				_ = conn.Close()
			}
			cancel()
			if (err == nil) != try.ok {
				t.Errorf("%s: error %v, want success %t", try.name, err, try.ok)
			}
		}
		if err := b.Produce(t.Context(), message("t", 0, "the test itself")); err != nil {
			t.Error(err)
		}
		wantValues(t, b, "t", "0/0=plain", "0/1=scram", "0/2=the test itself")
	})
}

// selfSigned makes a certificate for 127.0.0.1. It is valid at a bubble's time, too.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}
