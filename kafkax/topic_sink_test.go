package kafkax_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

func batchOf(values ...string) (b holdfast.Batch[string]) {
	for _, v := range values {
		b.Items = append(b.Items, holdfast.Item[string]{Source: new(holdfast.Message), Value: v})
	}
	return b
}

// toMessage takes "topic:value".
func toMessage(s string) (holdfast.Message, error) {
	topic, value, ok := strings.Cut(s, ":")
	if value == "panic" {
		panic("cannot")
	}
	if !ok {
		return holdfast.Message{}, errors.New("no topic")
	}
	return holdfast.Message{Topic: topic, Value: []byte(value)}, nil
}

func TestTopicSink(t *testing.T) {
	kcfg := testkit.KafkaConfig{Topics: map[string]int{"a": 1, "b": 1}, Configs: map[string]string{"message.max.bytes": "5000"}}
	cfg := kafkax.ProducerConfig{Retry: retry.Policy{Attempts: -1}}
	large := "a:" + strings.Repeat("x", 6000)
	for name, test := range map[string]struct {
		fault   testkit.Fault // On topic b.
		items   []string
		refused map[int]func(error) bool
		whole   func(error) bool
	}{
		"all written":   {items: []string{"a:1", "b:2"}},
		"nothing to do": {},
		"items at fault": {
			items: []string{"a:1", "none", "a:panic", large, "b:2"},
			refused: map[int]func(error) bool{
				1: holdfast.IsPermanent, 2: holdfast.IsPermanent, 3: holdfast.IsPermanent,
			},
		},
		"some wait": {
			fault: testkit.Fault{Code: int16(kafka.NotEnoughReplicas)}, items: []string{"a:1", "b:2", "b:3"},
			refused: map[int]func(error) bool{1: holdfast.IsHold, 2: holdfast.IsHold},
		},
		"some may be written": {
			fault: testkit.Fault{Code: int16(kafka.RequestTimedOut)}, items: []string{"a:1", "b:2"},
			refused: map[int]func(error) bool{1: holdfast.IsAmbiguous},
		},
		"all may be written": {fault: testkit.Fault{LoseAck: true}, items: []string{"b:1", "b:2"}, whole: holdfast.IsAmbiguous},
		"all denied":         {fault: testkit.Fault{Code: int16(kafka.TopicAuthorizationFailed)}, items: []string{"b:1"}, whole: holdfast.IsHold},
	} {
		t.Run(name, func(t *testing.T) {
			withProducer(t, kcfg, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
				sink, err := kafkax.NewTopicSink(p, toMessage)
				if err != nil {
					t.Fatal(err)
				}
				if test.fault.Code != 0 || test.fault.LoseAck {
					test.fault.API, test.fault.Topic, test.fault.Times = testkit.APIProduce, "b", -1
					defer server.Inject(test.fault)()
				}
				err = sink.Write(t.Context(), batchOf(test.items...))
				refused, partly := errors.AsType[*holdfast.BatchError](err)
				switch {
				case test.whole != nil:
					if partly || err == nil || !test.whole(err) {
						t.Errorf("got %v", err)
					}
				case len(test.refused) == 0:
					if err != nil {
						t.Errorf("got %v", err)
					}
				case !partly || len(refused.Items) != len(test.refused):
					t.Errorf("got %v", err)
				default:
					for i, is := range test.refused {
						if !is(refused.Items[i]) {
							t.Errorf("item %d: %v", i, refused.Items[i])
						}
					}
				}
				if sink.IsOpen() || sink.WaitUntilReady(t.Context()) != nil {
					t.Error("the circuit is open")
				}
			})
		})
	}
}

func TestTopicSinkCircuit(t *testing.T) {
	guard, err := breaker.New(kafkax.BreakerConfig("test"))
	if err != nil {
		t.Fatal(err)
	}
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"a": 1}}, kafkax.ProducerConfig{Breaker: guard}, func(t *testing.T, _ *testkit.KafkaServer, p *kafkax.Producer) {
		sink, err := kafkax.NewTopicSink(p, toMessage)
		if err != nil {
			t.Fatal(err)
		}
		guard.ForceOpen()
		if err := sink.Write(t.Context(), batchOf("a:1")); !errors.Is(err, breaker.ErrCircuitOpen) || !sink.IsOpen() {
			t.Errorf("open %t: %v", sink.IsOpen(), err)
		}
	})
	if _, err := kafkax.NewTopicSink[string](nil, nil); err == nil {
		t.Error("nil is no error")
	}
}

func TestProducerDescribesTopic(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 3}}, kafkax.ProducerConfig{}, func(t *testing.T, _ *testkit.KafkaServer, p *kafkax.Producer) {
		n, config, err := p.DescribeTopic(t.Context(), "orders")
		if n != 3 || config["max.message.bytes"] == "" || err != nil {
			t.Errorf("%d partitions, %v, %v", n, config, err)
		}
		if _, _, err := p.DescribeTopic(t.Context(), "nowhere"); !errors.Is(err, kafka.UnknownTopicOrPartition) {
			t.Errorf("got %v", err)
		}
	})
}
