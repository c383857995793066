package dlq_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// What Check finds on a Kafka, the emulated and the real one: each fault of a topic has a message of its own.
func TestTopicCheckOnKafka(t *testing.T) {
	t.Run("testkit", func(t *testing.T) { checkTopics(t, testkit.Kafka(t, testkit.KafkaConfig{}).Addrs()) })
	t.Run("real", func(t *testing.T) { checkTopics(t, testkit.Servers(t).Brokers) })
}

func checkTopics(t *testing.T, brokers []string) {
	t.Helper()
	cluster := kafkax.Cluster{Brokers: brokers}
	admin, err := kafkax.NewAdmin(cluster, kafkax.AdminConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = producer.Close(t.Context()) }()
	source := "check" + time.Now().UTC().Format("_20060102_150405.000")
	if err := admin.CreateTopic(t.Context(), source, 3, map[string]string{"max.message.bytes": "1000000", "retention.ms": "3600000"}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		partitions    int // 0: there is no such topic.
		config        map[string]string
		source        string
		fault, warned string
	}{
		"fits":      {partitions: 3, config: map[string]string{"max.message.bytes": "1100000"}},
		"missing":   {fault: "Unknown Topic Or Partition"},
		"no-source": {partitions: 3, config: map[string]string{"max.message.bytes": "1100000"}, source: source + ".gone", fault: ".gone: "},
		"compacted": {partitions: 3, config: map[string]string{"cleanup.policy": "compact"}, fault: "its cleanup.policy must be delete, got compact"},
		"too-small": {partitions: 3, config: map[string]string{"max.message.bytes": "999999"}, fault: "its max.message.bytes must be at least 1011264"},
		"no-room":   {partitions: 3, config: map[string]string{"max.message.bytes": "1000000"}, warned: "no room for the headers of the largest letters"},
		"narrow":    {partitions: 2, config: map[string]string{"max.message.bytes": "1100000"}, warned: "fewer partitions than its source"},
		"sooner": {
			partitions: 3, config: map[string]string{"max.message.bytes": "1100000", "retention.ms": "60000"},
			warned: "deletes letters sooner than its source",
		},
		"by-size": {partitions: 3, config: map[string]string{"max.message.bytes": "1100000", "retention.bytes": "1000000"}, warned: "deletes letters by size"},
	} {
		t.Run(name, func(t *testing.T) {
			own := source + "." + name
			if c.partitions > 0 {
				if err := admin.CreateTopic(t.Context(), own, c.partitions, c.config); err != nil {
					t.Fatal(err)
				}
			}
			if c.source == "" {
				c.source = source
			}
			var log bytes.Buffer
			topic, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: own, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			// Each time another broker may answer, one that has not heard of the topic yet.
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				log.Reset()
				err = topic.Check(t.Context(), c.source)
				unheard := err != nil && strings.Contains(err.Error(), "Unknown Topic") && (c.fault == "" || !strings.Contains(err.Error(), c.fault))
				if !unheard || time.Now().After(deadline) {
					break
				}
			}
			if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("got %v, want %q", err, c.fault)
			}
			if strings.Count(log.String(), "\n") != min(1, len(c.warned)) || !strings.Contains(log.String(), c.warned) {
				t.Errorf("warned %q, want %q", &log, c.warned)
			}
		})
	}
}
