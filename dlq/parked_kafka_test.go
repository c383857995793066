package dlq_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/testkit"
)

// A message that fails again each time that its pipeline takes it home through a Source ends in the parking topic, on a
// Kafka that is emulated and on a real one.
func TestLoopThroughAPipelineIsParkedOnKafka(t *testing.T) {
	t.Run("testkit", func(t *testing.T) { parkLoop(t, testkit.Kafka(t, testkit.KafkaConfig{}).Addrs()) })
	t.Run("real", func(t *testing.T) { parkLoop(t, testkit.Servers(t).Brokers) })
}

func parkLoop(t *testing.T, brokers []string) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
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
	defer func() { _ = producer.Close(context.WithoutCancel(t.Context())) }()
	topic := "loop" + time.Now().UTC().Format("_20060102_150405.000")
	for _, name := range []string{topic, topic + ".dlq", topic + ".dlq.parked"} {
		if err := admin.CreateTopic(t.Context(), name, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	consumer := func(group, topic string) *kafkax.Consumer {
		c, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: group, Topics: []string{topic}, Start: kafkax.StartEarliest, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	dead, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: topic + ".dlq", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	parking, err := dlq.NewParking(producer, dlq.ParkingConfig{Topic: topic + ".dlq.parked"})
	if err != nil {
		t.Fatal(err)
	}
	home, err := dlq.NewSource(consumer(topic+".home", topic+".dlq"), dlq.SourceConfig{Parking: parking, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 2)
	for _, source := range []pipeline.Source{consumer(topic, topic), home} {
		same := pipeline.Map("same", func(_ context.Context, m holdfast.Message) (holdfast.Message, error) { return m, nil }, pipeline.StageConfig{})
		never := pipeline.Each(func(context.Context, holdfast.Item[holdfast.Message]) error {
			return holdfast.Permanent(errors.New("never"))
		})
		p, err := pipeline.New(source, same, never, pipeline.Config{DeadLetters: dead, Batch: pipeline.BatchConfig{Delay: -1}, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		go func() { ended <- p.Run(ctx) }()
	}
	if err := producer.Produce(t.Context(), holdfast.Message{Topic: topic, Key: []byte("k"), Value: []byte("poison")}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, next, err := admin.Bounds(t.Context(), topic+".dlq.parked")
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("nothing was parked in a minute, %v", err)
		}
		if next[0] > 0 {
			break
		}
	}
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	var journeys []int
	for _, name := range []string{topic + ".dlq", topic + ".dlq.parked"} {
		if err := admin.Scan(context.WithoutCancel(t.Context()), name, nil, func(messages []holdfast.Message) error {
			for _, m := range messages {
				l, err := dlq.Decode(m)
				if err != nil || string(l.Message.Value) != "poison" || l.Message.Topic != topic || l.ID() != topic+"/"+topic+"/0/0" {
					t.Errorf("a letter is %+v, %v", l, err)
				}
				journeys = append(journeys, l.Redrives)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if want := []int{0, 1, 2, 3, 4, 5, 5}; !slices.Equal(journeys, want) {
		t.Errorf("its letters had come home %v times before, want %v with the parked one last", journeys, want)
	}
}
