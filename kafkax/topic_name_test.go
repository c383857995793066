package kafkax_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestTopicNames has names that no broker takes, wherever there is a topic to name. They are refused before anybody is
// asked, and open no circuit for the others.
func TestTopicNames(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		p, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		admin, err := kafkax.NewAdmin(cluster, kafkax.AdminConfig{})
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		if err := p.Produce(ctx, message("orders", "a")); err != nil {
			t.Fatal(err)
		}
		asked := server.Requests(testkit.APIMetadata)
		for _, name := range []string{
			"", ".", "..", "a b", "a/b", "ä", "a\x00", "orders\n", strings.Repeat("x", 250), strings.Repeat("x", 40_000),
		} {
			_, _, boundsErr := admin.Bounds(ctx, name)
			_, partitionsErr := p.Partitions(ctx, name)
			_, _, describeErr := p.DescribeTopic(ctx, name)
			for where, err := range map[string]error{
				"Produce": p.Produce(ctx, message(name, "b")), "ProduceTo": p.ProduceTo(ctx, name, 0, message("orders", "b")),
				"ProduceAsync": p.ProduceAsync(ctx, message(name, "b"), func(error) { t.Error("called") }),
				"Partitions":   partitionsErr, "DescribeTopic": describeErr,
				"CreateTopic": admin.CreateTopic(ctx, name, 1, nil), "Bounds": boundsErr,
			} {
				if !holdfast.IsPermanent(err) || !errors.Is(err, kafka.InvalidTopic) || !strings.Contains(err.Error(), "1 to 249") {
					t.Errorf("%s(%.20q): %.300v", where, name, err)
				}
			}
			cfg := kafkax.ConsumerConfig{Group: "group", Topics: []string{"orders", name}}
			if err := cfg.Validate(); !errors.Is(err, kafka.InvalidTopic) || !strings.Contains(err.Error(), "Topics[1]") {
				t.Errorf("ConsumerConfig with %.20q: %v", name, err)
			}
		}
		if n := server.Requests(testkit.APIMetadata); n != asked {
			t.Errorf("brokers were asked %d times", n-asked)
		}
		failed := failure(t, p.Produce(ctx, message("a b", "c"), message("orders", "d")))
		if !failed.Permanent() || !slices.Equal(failed.Indexes(), []int{0}) || p.IsOpen() {
			t.Errorf("failed %v, open %t", failed.Indexes(), p.IsOpen())
		}
		for _, name := range []string{"...", "_", "a.B_c-9", strings.Repeat("x", 249)} {
			if err := server.CreateTopic(name, 1); err != nil {
				t.Fatal(err)
			}
			if err := p.Produce(ctx, message(name, "e")); err != nil {
				t.Errorf("%q: %v", name, err)
			}
		}
		admin.Close()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}
