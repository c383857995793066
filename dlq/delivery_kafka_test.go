package dlq_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// On the wire: Kafka goes away in the middle of an outage and comes back, letters that it does not take wait on the disk,
// and one that is too large for it is stripped. All are there in the end, in order, once.
func TestLettersOutliveAnOutageOfKafka(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		network := new(testkit.Network)
		kafka := testkit.Kafka(t, testkit.KafkaConfig{Network: network})
		if err := kafka.CreateTopicWith("orders.dlq", 2, map[string]string{"max.message.bytes": "100000"}); err != nil {
			t.Fatal(err)
		}
		producer, err := kafkax.NewProducer(kafkax.Cluster{Brokers: kafka.Addrs(), Dial: network.Dial}, kafkax.ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		spool := openSpool(t, dir, dlq.SpoolConfig{})
		topic := newTopic(t, producer, dlq.TopicConfig{Spool: spool})
		var want [2][]int64
		for n := range int64(60) {
			switch n {
			case 20:
				kafka.Stop()
			case 40:
				if err := kafka.Start(); err != nil {
					t.Fatal(err)
				}
			}
			l := letter()
			l.Message.Partition, l.Message.Offset = int(n%2), n
			l.Message.Key = fmt.Append(nil, n%2)
			if n%10 == 3 {
				l.Message.Value, l.Stack = bytes.Repeat([]byte("x"), 97_000), string(bytes.Repeat([]byte("y"), 3000))
			}
			if err := topic.Write(t.Context(), l); err != nil {
				t.Fatalf("letter %d: %v", n, err)
			}
			want[n%2] = append(want[n%2], n)
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		if stats := spool.Stats(); stats.Messages != 0 {
			t.Errorf("on the disk there are %+v", stats)
		}
		found, err := kafka.Messages(t.Context(), "orders.dlq")
		if err != nil {
			t.Fatal(err)
		}
		var got [2][]int64
		stripped := 0
		for _, m := range found {
			l, err := dlq.Decode(m)
			if err != nil {
				t.Fatal(err)
			}
			got[m.Partition] = append(got[m.Partition], l.Message.Offset)
			if m.Headers[len(m.Headers)-1].Key == dlq.HeaderStripped {
				stripped++
			}
		}
		for p := range got {
			if !slices.Equal(got[p], want[p]) {
				t.Errorf("partition %d has letters\n%v, want\n%v", p, got[p], want[p])
			}
		}
		if stripped != 6 {
			t.Errorf("%d letters were stripped, want 6", stripped)
		}
		if err := topic.Close(); err != nil {
			t.Error(err)
		}
		if err := producer.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
