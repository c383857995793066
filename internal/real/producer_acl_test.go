package real_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// secured is the brokers with TLS, for whoever brings a SASL mechanism.
func secured(t *testing.T) kafkax.Cluster {
	t.Helper()
	addrs, ca := os.Getenv("HOLDFAST_KAFKA_TLS"), os.Getenv("HOLDFAST_KAFKA_CA")
	if addrs == "" || ca == "" {
		t.Skip("HOLDFAST_KAFKA_TLS and HOLDFAST_KAFKA_CA do not name brokers with TLS and their certificate: scripts/servers has them")
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("no certificate in %s", ca)
	}
	return kafkax.Cluster{Brokers: strings.Split(addrs, ","), TLS: &tls.Config{RootCAs: pool}}
}

// rights gives user guest rights on topics, and takes those of a kind on all of them.
type rights struct {
	t      *testing.T
	client *kafka.Client
}

func (r *rights) give(topic string, what kafka.ACLOperationType) {
	r.t.Helper()
	resp, err := r.client.CreateACLs(r.t.Context(), &kafka.CreateACLsRequest{ACLs: []kafka.ACLEntry{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: topic, ResourcePatternType: kafka.PatternTypeLiteral,
		Principal: "User:guest", Host: "*", Operation: what, PermissionType: kafka.ACLPermissionTypeAllow,
	}}})
	if err == nil {
		err = errors.Join(resp.Errors...)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rights) take(what kafka.ACLOperationType) {
	r.t.Helper()
	resp, err := r.client.DeleteACLs(r.t.Context(), &kafka.DeleteACLsRequest{Filters: []kafka.DeleteACLsFilter{{
		ResourceTypeFilter: kafka.ResourceTypeTopic, ResourcePatternTypeFilter: kafka.PatternTypeLiteral,
		PrincipalFilter: "User:guest", HostFilter: "*", Operation: what, PermissionType: kafka.ACLPermissionTypeAllow,
	}}})
	if err != nil || len(resp.Results) != 1 || resp.Results[0].Error != nil {
		r.t.Fatalf("%+v, %v", resp, err)
	}
}

// TestProducerRights writes as a user who has the right to write to one topic and no other right: above all none to
// IDEMPOTENT_WRITE on the cluster. What is denied fails at once, for its topic alone, and is not written.
func TestProducerRights(t *testing.T) {
	servers, cluster := testkit.Servers(t), secured(t)
	mechanism, err := scram.Mechanism(scram.SHA256, "guest", "secret")
	if err != nil {
		t.Fatal(err)
	}
	cluster.SASL = mechanism
	admin, err := kafkax.NewAdmin(kafkax.Cluster{Brokers: servers.Brokers}, kafkax.AdminConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	now := time.Now().UnixNano()
	mine, other, nowhere := fmt.Sprint("mine-", now), fmt.Sprint("other-", now), fmt.Sprint("nowhere-", now)
	for _, topic := range []string{mine, other} {
		if err := admin.CreateTopic(t.Context(), topic, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	r := &rights{t, &kafka.Client{Addr: kafka.TCP(servers.Brokers...), Timeout: 10 * time.Second}}
	r.take(kafka.ACLOperationTypeAny) // An earlier run's.
	defer r.take(kafka.ACLOperationTypeAny)
	newProducer := func(cfg kafkax.ProducerConfig) *kafkax.Producer {
		p, err := kafkax.NewProducer(cluster, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeProducer(p) })
		return p
	}
	p, plain := newProducer(kafkax.ProducerConfig{}), newProducer(kafkax.ProducerConfig{DisableIdempotence: true})
	produce := func(p *kafkax.Producer, messages ...holdfast.Message) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return p.Produce(ctx, messages...)
	}
	// denied asserts it, once the brokers have heard of a change of rights.
	denied := func(p *kafkax.Producer, topic string, code kafka.Error) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if err = produce(p, holdfast.Message{Topic: topic, Value: []byte("denied")}); errors.Is(err, code) {
				break
			}
		}
		began := time.Now()
		err = produce(p, holdfast.Message{Topic: topic, Value: []byte("denied")})
		if !errors.Is(err, code) || !holdfast.IsHold(err) || holdfast.IsAmbiguous(err) || !strings.Contains(err.Error(), topic) {
			t.Errorf("%s: got %v, want %v", topic, err, code)
		}
		if took, tries := time.Since(began), 5*time.Second; took > tries { // Tried again, it would take as long.
			t.Errorf("%s: denied after %v", topic, took)
		}
	}
	written := func(value string) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if err = produce(p, holdfast.Message{Topic: mine, Value: []byte(value)}); err == nil {
				return
			}
		}
		t.Errorf("%s: %v", value, err)
	}

	denied(p, mine, kafka.TopicAuthorizationFailed) // Not even to be seen.
	denied(p, nowhere, kafka.TopicAuthorizationFailed)
	r.give(mine, kafka.ACLOperationTypeDescribe)
	denied(p, mine, kafka.ClusterAuthorizationFailed) // No producer id for who may write nowhere.
	denied(plain, mine, kafka.TopicAuthorizationFailed)
	r.give(mine, kafka.ACLOperationTypeWrite)
	written("a")
	r.give(other, kafka.ACLOperationTypeDescribe)
	denied(p, other, kafka.TopicAuthorizationFailed)
	err = produce(p, holdfast.Message{Topic: other, Value: []byte("denied")}, holdfast.Message{Topic: mine, Value: []byte("b")})
	if failed, ok := errors.AsType[*kafkax.ProduceError](err); !ok || !slices.Equal(failed.Indexes(), []int{0}) || failed.Failures[0].Topic != other {
		t.Errorf("one of two denied: %v", err)
	}
	r.take(kafka.ACLOperationTypeWrite)
	denied(p, mine, kafka.TopicAuthorizationFailed)
	r.give(mine, kafka.ACLOperationTypeWrite)
	written("c")
	if s := p.Stats(); p.IsOpen() || plain.IsOpen() || s.Identities != 1 || s.Ambiguous != 0 {
		t.Errorf("open %t, %t; %+v", p.IsOpen(), plain.IsOpen(), s)
	}

	var got []string
	for _, topic := range []string{mine, other} {
		if err := admin.Scan(t.Context(), topic, nil, func(messages []holdfast.Message) error {
			for _, m := range messages {
				got = append(got, string(m.Value))
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	if before := slices.DeleteFunc(slices.Clone(got), func(v string) bool { return v == "denied" }); fmt.Sprint(before) != "[a b c]" {
		t.Errorf("written: %v", got)
	}
}
