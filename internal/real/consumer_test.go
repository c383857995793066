package real_test

import (
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
)

// TestConsumerThroughKills kills one broker after the other, the group's coordinator and every leader among them.
func TestConsumerThroughKills(t *testing.T) {
	s := newStream(t)
	s.servers.NeedScript(t)
	r := s.reader(s.cluster)
	for i := range s.servers.Brokers {
		broker := fmt.Sprintf("kafka-%d", i+1)
		s.moves(1000)
		s.must(s.servers.Kill(t.Context(), broker))
		if len(s.servers.Brokers) > 1 {
			s.moves(1000) // The others go on.
		}
		s.must(s.servers.Up(t.Context(), broker))
		s.moves(1000)
	}
	s.settle(r)
}

// TestConsumerCutOff cuts one of two members off for longer than its session. What it has, the other one takes over, and
// what it commits when it is back is refused.
func TestConsumerCutOff(t *testing.T) {
	s := newStream(t)
	wire := newCable()
	tethered := s.cluster
	tethered.Dial = wire.Dial
	one, two := s.reader(tethered), s.reader(s.cluster)
	s.until("shared", func() bool { return one.claims() == partitions/2 && two.claims() == partitions/2 })
	s.moves(1000)
	wire.set(true)
	s.until("taken over", func() bool { return two.claims() == partitions })
	s.moves(1000)
	wire.set(false)
	s.until("shared again", func() bool { return one.claims() == partitions/2 && two.claims() == partitions/2 })
	s.moves(1000)
	s.settle(one, two)
	if g := one.Stats().Groups[0]; g.Generations < 2 {
		t.Errorf("the member was not fenced: %+v", g)
	}
}

// TestConsumerLeadersMove moves every partition's leader twice.
func TestConsumerLeadersMove(t *testing.T) {
	s := newStream(t)
	n := len(s.servers.Brokers)
	if n == 1 {
		t.Skip("a single broker leads every partition")
	}
	r := s.reader(s.cluster)
	transport := new(kafka.Transport)
	defer transport.CloseIdleConnections()
	client := &kafka.Client{Addr: kafka.TCP(s.servers.Brokers...), Timeout: 20 * time.Second, Transport: transport}
	for round := range 2 {
		s.moves(1000)
		req := &kafka.AlterPartitionReassignmentsRequest{Topic: s.topic, Timeout: 20 * time.Second}
		all := make([]int, partitions)
		for p := range all {
			all[p] = p
			assignment := kafka.AlterPartitionReassignmentsRequestAssignment{PartitionID: p}
			for i := range n { // All brokers have it, and the first one is to lead.
				assignment.BrokerIDs = append(assignment.BrokerIDs, 1+(p+round+i)%n)
			}
			req.Assignments = append(req.Assignments, assignment)
		}
		resp, err := client.AlterPartitionReassignments(t.Context(), req)
		s.must(err)
		s.must(resp.Error)
		_, err = client.ElectLeaders(t.Context(), &kafka.ElectLeadersRequest{Topic: s.topic, Partitions: all, Timeout: 20 * time.Second})
		s.must(err)
		s.until("led elsewhere", func() bool {
			layout, err := client.Metadata(t.Context(), &kafka.MetadataRequest{Topics: []string{s.topic}})
			if err != nil || len(layout.Topics) != 1 || len(layout.Topics[0].Partitions) != partitions {
				return false
			}
			for _, p := range layout.Topics[0].Partitions {
				if p.Leader.ID != 1+(p.ID+round)%n {
					return false
				}
			}
			return true
		})
	}
	s.moves(1000)
	s.settle(r)
	if g := r.Stats().Groups[0]; g.Generations != 1 {
		t.Errorf("%d generations, want 1", g.Generations)
	}
}

// TestConsumerSecurely goes through TLS and every kind of authentication.
func TestConsumerSecurely(t *testing.T) {
	s := newStream(t)
	brokers := secured(t)
	scram256, err := scram.Mechanism(scram.SHA256, "holdfast", "secret")
	s.must(err)
	scram512, err := scram.Mechanism(scram.SHA512, "holdfast", "secret")
	s.must(err)
	for name, mechanism := range map[string]sasl.Mechanism{
		"PLAIN": plain.Mechanism{Username: "holdfast", Password: "secret"}, "SCRAM-SHA-256": scram256, "SCRAM-SHA-512": scram512,
	} {
		cluster := brokers
		cluster.SASL = mechanism
		r := s.reader(cluster)
		s.moves(200)
		producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
		s.must(err)
		if err := producer.Produce(t.Context(), holdfast.Message{Topic: s.topic, Value: []byte(name)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		closeProducer(producer)
		s.until(name+" handled", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.seen[name] })
		r.stop()
		if err := <-r.done; err != nil {
			t.Errorf("%s: Consume: %v", name, err)
		}
	}
	for name, cluster := range map[string]kafkax.Cluster{
		"a wrong password":       {TLS: brokers.TLS, SASL: plain.Mechanism{Username: "holdfast", Password: "guess"}},
		"an unknown certificate": {TLS: new(tls.Config), SASL: scram256},
	} {
		cluster.Brokers = brokers.Brokers
		if err := <-s.reader(cluster).done; err == nil {
			t.Errorf("Consume with %s: no error", name)
		}
	}
}
