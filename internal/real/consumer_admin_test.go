package real_test

import (
	"errors"
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

func TestAdmin(t *testing.T) {
	cluster := kafkax.Cluster{Brokers: testkit.Servers(t).Brokers}
	admin, err := kafkax.NewAdmin(cluster, kafkax.AdminConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	topic := "admin" + time.Now().UTC().Format("_20060102_150405")
	if err := admin.CreateTopic(t.Context(), topic, 3, map[string]string{"max.message.bytes": "2000000"}); err != nil {
		t.Fatal(err)
	}
	if err := admin.CreateTopic(t.Context(), topic, 3, nil); !errors.Is(err, kafka.TopicAlreadyExists) {
		t.Errorf("created again: %v", err)
	}
	if err := admin.CreateTopic(t.Context(), topic+".bad", 3, map[string]string{"cleanup.policy": "burn"}); !errors.Is(err, kafka.InvalidConfiguration) {
		t.Errorf("created with a bad setting: %v", err)
	}
	n, config, err := admin.DescribeTopic(t.Context(), topic)
	if err != nil || n != 3 || config["max.message.bytes"] != "2000000" || config["cleanup.policy"] != "delete" || config["retention.ms"] == "" {
		t.Errorf("described as %d partitions, %v, %v", n, config, err)
	}
	if _, _, err := admin.DescribeTopic(t.Context(), topic+".none"); !errors.Is(err, kafka.UnknownTopicOrPartition) {
		t.Errorf("described a missing topic: %v", err)
	}

	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeProducer(producer)
	for p := range 2 { // The third partition stays empty.
		var messages []holdfast.Message
		for i := range 100 {
			messages = append(messages, holdfast.Message{Value: []byte(strconv.Itoa(i))})
		}
		if err := producer.ProduceTo(t.Context(), topic, p, messages...); err != nil {
			t.Fatal(err)
		}
	}
	if err := admin.DeleteRecords(t.Context(), topic, map[int]int64{0: 40, 2: 0}); err != nil {
		t.Error(err)
	}
	if err := admin.DeleteRecords(t.Context(), topic, map[int]int64{0: 101}); !errors.Is(err, kafka.OffsetOutOfRange) {
		t.Errorf("deleted beyond the end: %v", err)
	}
	first, next, err := admin.Bounds(t.Context(), topic)
	if err != nil || !maps.Equal(first, map[int]int64{0: 40, 1: 0, 2: 0}) || !maps.Equal(next, map[int]int64{0: 100, 1: 100, 2: 0}) {
		t.Errorf("bounds %v to %v, %v", first, next, err)
	}
	at := map[int]int64{0: 40, 1: 90}
	err = admin.Scan(t.Context(), topic, map[int]int64{1: 90}, func(messages []holdfast.Message) error {
		for _, m := range messages {
			if m.Offset != at[m.Partition] || string(m.Value) != strconv.FormatInt(m.Offset, 10) {
				t.Errorf("%d/%d %q, expected offset %d", m.Partition, m.Offset, m.Value, at[m.Partition])
			}
			at[m.Partition]++
		}
		return nil
	})
	if err != nil || !maps.Equal(at, map[int]int64{0: 100, 1: 100}) {
		t.Errorf("scanned up to %v, %v", at, err)
	}
	if committed, err := admin.Committed(t.Context(), topic, topic); err != nil || len(committed) != 0 {
		t.Errorf("a group that never was has committed %v, %v", committed, err)
	}
}
