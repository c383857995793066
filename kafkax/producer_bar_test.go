package kafkax_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestFailureBarsQueue has messages of other callers wait behind one that fails. They do not overtake it; those that come
// after it has failed are free.
func TestFailureBarsQueue(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, kafkax.ProducerConfig{Retry: retry.Policy{Attempts: -1}}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		if _, err := p.Partitions(t.Context(), "orders"); err != nil {
			t.Fatal(err)
		}
		defer server.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true})()
		var said []string
		put := func(value string) {
			if err := p.ProduceAsync(t.Context(), message("orders", value), func(err error) {
				said = append(said, fmt.Sprintf("%s %t %t", value, err == nil, holdfast.IsAmbiguous(err)))
			}); err != nil {
				t.Error(err)
			}
		}
		put("a")
		synctest.Wait()
		put("b")
		put("c")
		time.Sleep(time.Minute) // The answer is given up.
		put("d")
		synctest.Wait()
		if got := fmt.Sprint(said); got != "[a false true b false false c false false d true false]" {
			t.Errorf("said: %s", got)
		}
		if got := fmt.Sprint(values(t, server, "orders")[0]); got != "[d]" {
			t.Errorf("written: %s", got)
		}
	})
}

// TestFailureBarsCall has a call whose later messages wait for room in the buffer when an earlier one fails.
func TestFailureBarsCall(t *testing.T) {
	cfg := kafkax.ProducerConfig{Retry: retry.Policy{Attempts: -1}, BatchBytes: 100, MaxBufferedBytes: 250}
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		server.Inject(testkit.Fault{API: testkit.APIProduce, Code: int16(kafka.NotEnoughReplicas)})
		var messages []holdfast.Message
		for i := range 10 {
			messages = append(messages, message("orders", fmt.Sprintf("%030d", i)))
		}
		failed := failure(t, p.Produce(t.Context(), messages...))
		if got := values(t, server, "orders"); len(failed.Indexes()) != 10 || failed.Ambiguous() || len(got) != 0 {
			t.Errorf("written %v, failed %v", got, failed.Indexes())
		}
	})
}

// TestRetriesGoAlone has a broker cut the connection at one partition's batch, always. The others of the same request are
// not drawn into it again, although all are tried again at the same moment.
func TestRetriesGoAlone(t *testing.T) {
	cfg := kafkax.ProducerConfig{Retry: retry.Policy{Attempts: 2, Delay: time.Second, Jitter: -1}}
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1, "other": 4}}, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		for _, topic := range []string{"orders", "other"} {
			if _, err := p.Partitions(t.Context(), topic); err != nil {
				t.Fatal(err)
			}
		}
		defer server.Inject(testkit.Fault{API: testkit.APIProduce, Topic: "orders", Cut: true, Times: -1})()
		time.AfterFunc(900*time.Millisecond, func() { // The first one that is tried again is served late, so the others gather.
			time.AfterFunc(200*time.Millisecond, server.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true}))
		})
		messages := []holdfast.Message{message("orders", "x")}
		for i := range 4 {
			messages = append(messages, message("other", fmt.Sprint(i)))
		}
		failed := failure(t, p.Produce(t.Context(), messages...))
		if !slices.Equal(failed.Indexes(), []int{0}) {
			t.Errorf("failed: %+v", failed.Failures)
		}
	})
}
