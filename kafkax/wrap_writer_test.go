package kafkax_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

func TestWrapWriterRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		writer *kafka.Writer
		cfg    kafkax.WriterConfig
		want   []string
	}{
		"nil":       {want: []string{"got nil"}},
		"a literal": {writer: &kafka.Writer{}, want: []string{"RequiredAcks", "RequireNone"}},
		"nowhere":   {writer: &kafka.Writer{RequiredAcks: kafka.RequireAll}, want: []string{"Addr", "got nil"}},
		"async":     {writer: &kafka.Writer{RequiredAcks: kafka.RequireAll, Async: true}, want: []string{"Async"}},
		"all":       {writer: &kafka.Writer{Async: true}, cfg: kafkax.WriterConfig{Retry: retry.Policy{Attempts: -5}}, want: []string{"RequiredAcks", "Async", "Retry"}},
	} {
		_, err := kafkax.WrapWriter(test.writer, test.cfg)
		for _, word := range test.want {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: the error does not name %q: %v", name, word, err)
			}
		}
	}
}

func TestWrapWriter(t *testing.T) {
	kcfg := testkit.KafkaConfig{Topics: map[string]int{"orders": 1}, Configs: map[string]string{"message.max.bytes": "5000"}}
	virtual(t, kcfg, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		transport := &kafka.Transport{Dial: cluster.Dial}
		defer transport.CloseIdleConnections()
		inner := &kafka.Writer{
			Addr: kafka.TCP(cluster.Brokers...), Topic: "orders", Transport: transport, RequiredAcks: kafka.RequireAll,
			BatchTimeout: 1, MaxAttempts: 1, BatchBytes: 3000,
		}
		defer inner.Close()
		w, err := kafkax.WrapWriter(inner, kafkax.WriterConfig{})
		if err != nil {
			t.Fatal(err)
		}
		value := func(v string) kafka.Message { return kafka.Message{Value: []byte(v)} }
		if err := w.WriteMessages(t.Context()); err != nil {
			t.Errorf("no message: %v", err)
		}
		server.Inject(testkit.Fault{API: testkit.APIProduce, Code: int16(kafka.NotEnoughReplicas), Times: 2})
		if err := w.WriteMessages(t.Context(), value("a")); err != nil {
			t.Errorf("after two failures: %v", err)
		}
		failed := failure(t, w.WriteMessages(t.Context(), value("b"), value(strings.Repeat("x", 4000)), value("c")))
		if !slices.Equal(failed.Indexes(), []int{1}) || !failed.Permanent() || failed.Ambiguous() || failed.Failures[0].Topic != "orders" {
			t.Errorf("got %+v", failed.Failures)
		}
		unnamed := &kafka.Writer{Addr: inner.Addr, Transport: transport, RequiredAcks: kafka.RequireAll, BatchTimeout: 1}
		defer unnamed.Close()
		anywhere, err := kafkax.WrapWriter(unnamed, kafkax.WriterConfig{})
		if err != nil {
			t.Fatal(err)
		}
		failed = failure(t, anywhere.WriteMessages(t.Context(), kafka.Message{Topic: "a b"}, value("no topic")))
		if !slices.Equal(failed.Indexes(), []int{0, 1}) || !failed.Permanent() || !errors.Is(failed, kafka.InvalidTopic) {
			t.Errorf("got %+v", failed.Failures)
		}
		remove := server.Inject(testkit.Fault{API: testkit.APIProduce, Cut: true, Times: -1})
		failed = failure(t, w.WriteMessages(t.Context(), value("d")))
		if !failed.Ambiguous() || failed.Permanent() {
			t.Errorf("got %+v", failed.Failures)
		}
		remove()
		if got := fmt.Sprint(values(t, server, "orders")[0]); got != "[a b c]" {
			t.Errorf("written: %s", got)
		}
		if !w.IsOpen() {
			t.Error("the circuit is closed")
		}
		if failed := failure(t, w.WriteMessages(t.Context(), value("e"))); !errors.Is(failed, breaker.ErrCircuitOpen) || failed.Ambiguous() {
			t.Errorf("with an open circuit: %v", failed)
		}
		if err := w.WaitUntilReady(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
