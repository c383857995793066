package dlq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
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

// desk is a Kafka, emulated or real, with what is needed to run pipelines and to look at it.
type desk struct {
	t        *testing.T
	cluster  kafkax.Cluster
	admin    *kafkax.Admin
	producer *kafkax.Producer
	topic    string
	dead     *dlq.Topic
}

// newDesk makes a topic of so many partitions, and one for its letters.
func newDesk(t *testing.T, brokers []string, partitions int, letters map[string]string) *desk {
	t.Helper()
	d := &desk{t: t, cluster: kafkax.Cluster{Brokers: brokers}, topic: "desk" + time.Now().UTC().Format("_20060102_150405.000")}
	var err error
	if d.admin, err = kafkax.NewAdmin(d.cluster, kafkax.AdminConfig{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.admin.Close)
	if d.producer, err = kafkax.NewProducer(d.cluster, kafkax.ProducerConfig{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.producer.Close(context.Background()) })
	d.create(d.topic, partitions, nil)
	d.create(d.topic+".dlq", partitions, letters)
	if d.dead, err = dlq.NewTopic(d.producer, dlq.TopicConfig{Topic: d.topic + ".dlq", Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) create(topic string, partitions int, config map[string]string) {
	d.t.Helper()
	if err := d.admin.CreateTopic(d.t.Context(), topic, partitions, config); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) consumer(group, topic string) *kafkax.Consumer {
	d.t.Helper()
	c, err := kafkax.NewConsumer(d.cluster, kafkax.ConsumerConfig{
		Group: group, Topics: []string{topic}, CommitInterval: -1, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// run runs a pipeline that gets through no message that begins with "poison". stop ends it, and wants a clean drain.
func (d *desk) run(source pipeline.Source) (p *pipeline.Pipeline, stop func()) {
	d.t.Helper()
	same := pipeline.Map("same", func(_ context.Context, m holdfast.Message) (holdfast.Message, error) { return m, nil }, pipeline.StageConfig{})
	sink := pipeline.Each(func(_ context.Context, i holdfast.Item[holdfast.Message]) error {
		if bytes.HasPrefix(i.Value.Value, []byte("poison")) {
			return holdfast.Permanent(errors.New("never"))
		}
		return nil
	})
	p, err := pipeline.New(source, same, sink, pipeline.Config{
		DeadLetters: d.dead, Batch: pipeline.BatchConfig{Delay: -1}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			d.t.Error(err)
		}
	})
	d.t.Cleanup(stop)
	return p, stop
}

func (d *desk) produce(partition int, values ...string) {
	d.t.Helper()
	var messages []holdfast.Message
	for _, v := range values {
		messages = append(messages, holdfast.Message{Value: []byte(v)})
	}
	if err := d.producer.ProduceTo(d.t.Context(), d.topic, partition, messages...); err != nil {
		d.t.Fatal(err)
	}
}

// until waits for something to hold.
func (d *desk) until(what string, holds func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("not in a minute: %s", what)
		}
	}
}

// ends is how many records were ever written to a topic.
func (d *desk) ends(topic string) (n int64) {
	d.t.Helper()
	_, next, err := d.admin.Bounds(d.t.Context(), topic)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, end := range next {
		n += end
	}
	return n
}

func parkLoop(t *testing.T, brokers []string) {
	t.Helper()
	d := newDesk(t, brokers, 1, nil)
	d.create(d.topic+".dlq.parked", 1, nil)
	parking, err := dlq.NewParking(d.producer, dlq.ParkingConfig{Topic: d.topic + ".dlq.parked"})
	if err != nil {
		t.Fatal(err)
	}
	home, err := dlq.NewSource(d.consumer(d.topic+".home", d.topic+".dlq"), dlq.SourceConfig{Parking: parking})
	if err != nil {
		t.Fatal(err)
	}
	_, stop := d.run(d.consumer(d.topic, d.topic))
	_, stopHome := d.run(home)
	d.produce(0, "poison")
	d.until("parked", func() bool { return d.ends(d.topic+".dlq.parked") > 0 })
	stop()
	stopHome()
	var journeys []int
	for _, name := range []string{d.topic + ".dlq", d.topic + ".dlq.parked"} {
		if err := d.admin.Scan(t.Context(), name, nil, func(messages []holdfast.Message) error {
			for _, m := range messages {
				l, err := dlq.Decode(m)
				if err != nil || string(l.Message.Value) != "poison" || l.Message.Topic != d.topic || l.ID() != d.topic+"/"+d.topic+"/0/0" {
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

// A letter that is too large for its topic, whatever is left out of it, and that no spool takes, holds its partition, and
// the pipeline says so. The other partitions go on.
func TestLetterTooLargeHoldsItsPartitionOnKafka(t *testing.T) {
	t.Run("testkit", func(t *testing.T) { holdPartition(t, testkit.Kafka(t, testkit.KafkaConfig{}).Addrs()) })
	t.Run("real", func(t *testing.T) { holdPartition(t, testkit.Servers(t).Brokers) })
}

func holdPartition(t *testing.T, brokers []string) {
	t.Helper()
	d := newDesk(t, brokers, 2, map[string]string{"max.message.bytes": "20000"})
	d.produce(0, "fine", "poison"+strings.Repeat("x", 30_000), "fine")
	d.produce(1, "fine", "poison", "fine")
	p, stop := d.run(d.consumer(d.topic, d.topic))
	committed := func() map[int]int64 {
		offsets, err := d.admin.Committed(t.Context(), d.topic, d.topic)
		if err != nil {
			t.Fatal(err)
		}
		return offsets
	}
	d.until("the other partition is settled", func() bool { return committed()[1] == 3 })
	said := func() string { return fmt.Sprint(p.Health().Troubles) }
	d.until("it says so", func() bool { return strings.Contains(said(), d.topic+".dlq") && strings.Contains(said(), "Large") })
	stop()
	if got := committed(); got[0] != 1 || d.ends(d.topic+".dlq") != 1 {
		t.Errorf("committed is %v, and there are %d letters", got, d.ends(d.topic+".dlq"))
	}
}
