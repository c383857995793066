package real_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestConsumerCodecs reads what the broker has compressed, which is Java's doing, and what the Producer has, by each
// codec; and of transactions what was committed, past what was not.
func TestConsumerCodecs(t *testing.T) {
	const n = 1000
	cluster := kafkax.Cluster{Brokers: testkit.Servers(t).Brokers}
	admin, err := kafkax.NewAdmin(cluster, kafkax.AdminConfig{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	group := "codecs" + time.Now().UTC().Format("_20060102_150405")
	topics := []string{group + ".transactions"}
	want := make(map[string]bool) // Messages, by topic and value.
	if err := admin.CreateTopic(t.Context(), topics[0], 1, nil); err != nil {
		t.Fatal(err)
	}
	for _, codec := range []kafka.Compression{kafka.Gzip, kafka.Snappy, kafka.Lz4, kafka.Zstd} {
		topic := group + "." + codec.String()
		topics = append(topics, topic)
		if err := admin.CreateTopic(t.Context(), topic, 1, map[string]string{"compression.type": codec.String()}); err != nil {
			t.Fatal(err)
		}
		for _, by := range []kafka.Compression{0, codec} { // By the broker, and by the Producer.
			values := make([]string, n)
			for i := range values {
				values[i] = fmt.Sprintf("%s %d by %v", strings.Repeat("holdfast ", i%100), i, by)
			}
			fillTopic(t, cluster, topic, by, values)
			for _, v := range values {
				want[topic+" "+v] = true
			}
		}
	}
	for _, v := range transact(t, cluster, topics[0]) {
		want[topics[0]+" "+v] = true
	}

	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{
		Group: group, Topics: topics, ReadCommitted: true, FetchBytes: 20_000, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	got := make(map[string]bool)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	err = consumer.Consume(ctx, func(ctx context.Context, c holdfast.Claim) error {
		for {
			messages, err := c.Fetch(ctx)
			if err != nil {
				return err
			}
			mu.Lock()
			for _, m := range messages {
				got[m.Topic+" "+string(m.Value)] = true
			}
			if len(got) >= len(want) {
				time.AfterFunc(2*time.Second, stop) // Were there more, it would have come by then.
			}
			mu.Unlock()
			c.Commit(messages[len(messages)-1].Offset + 1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Errorf("read %d messages, want %d", len(got), len(want))
		for m := range got {
			if !want[m] {
				t.Errorf("%.100q was not to be read", m)
				break
			}
		}
	}
	for _, topic := range topics {
		committed, err := admin.Committed(t.Context(), group, topic)
		if err != nil {
			t.Fatal(err)
		}
		_, end, err := admin.Bounds(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		if committed[0] != end[0] {
			t.Errorf("%s: committed %d of %d", topic, committed[0], end[0])
		}
	}
}

// fillTopic produces the values, several batches of them.
func fillTopic(t *testing.T, cluster kafkax.Cluster, topic string, codec kafka.Compression, values []string) {
	t.Helper()
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{Compression: codec, BatchBytes: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	defer closeProducer(producer)
	messages := make([]holdfast.Message, len(values))
	for i, v := range values {
		messages[i] = holdfast.Message{Topic: topic, Value: []byte(v)}
	}
	if err := producer.Produce(t.Context(), messages...); err != nil {
		t.Fatal(err)
	}
}

// transact makes transactions in turns, of which every other one is aborted, and returns what the others wrote.
func transact(t *testing.T, cluster kafkax.Cluster, topic string) (committed []string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.Brokers...), kgo.TransactionalID(topic), kgo.DefaultProduceTopic(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for round := range 6 {
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		var records []*kgo.Record
		commit := round%2 == 0
		for i := range 100 {
			value := fmt.Sprintf("%d of transaction %d, committed: %v", i, round, commit)
			records = append(records, kgo.StringRecord(value))
			if commit {
				committed = append(committed, value)
			}
		}
		if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := client.EndTransaction(t.Context(), kgo.TransactionEndTry(commit)); err != nil {
			t.Fatal(err)
		}
	}
	return committed
}
