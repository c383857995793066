package kafkax_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

// withProducer runs test with a producer, in a bubble.
func withProducer(t *testing.T, kcfg testkit.KafkaConfig, cfg kafkax.ProducerConfig, test func(*testing.T, *testkit.KafkaServer, *kafkax.Producer)) {
	t.Helper()
	virtual(t, kcfg, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		p, err := kafkax.NewProducer(cluster, cfg)
		if err != nil {
			t.Fatal(err)
		}
		test(t, server, p)
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// values lists what lies in each partition of a topic.
func values(t *testing.T, server *testkit.KafkaServer, topic string) map[int][]string {
	t.Helper()
	messages, err := server.Messages(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[int][]string)
	for _, m := range messages {
		got[m.Partition] = append(got[m.Partition], string(m.Value))
	}
	return got
}

// TestPartitionOfKey has keys for which the Java client's partition among 10 is known: murmur2 of the key, as in the tests
// of Apache Kafka's own Utils, without its sign, modulo 10.
func TestPartitionOfKey(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 10}}, kafkax.ProducerConfig{}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		hashes := map[string]int32{ // UtilsTest.testMurmur2
			"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
			"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
		}
		var messages []holdfast.Message
		for key := range hashes {
			messages = append(messages, holdfast.Message{Topic: "orders", Key: []byte(key), Value: []byte(key)})
		}
		if err := p.Produce(t.Context(), messages...); err != nil {
			t.Fatal(err)
		}
		for partition, keys := range values(t, server, "orders") {
			for _, key := range keys {
				if want := int(uint32(hashes[key])&0x7fffffff) % 10; partition != want {
					t.Errorf("key %q went to partition %d, want %d", key, partition, want)
				}
			}
		}
	})
}

func TestProduceKeepsEverything(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 2}, Brokers: 2}, kafkax.ProducerConfig{BatchBytes: 2000}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		at := time.UnixMilli(1_700_000_000_123)
		want := holdfast.Message{
			Topic: "orders", Key: []byte{0, 255}, Value: []byte{}, Time: at,
			Headers: []holdfast.Header{{Key: "h", Value: []byte("1")}, {Key: "h", Value: nil}, {Key: "", Value: []byte{}}},
		}
		tombstone := holdfast.Message{Topic: "orders", Key: []byte{}, Value: nil}
		if err := p.ProduceTo(t.Context(), "orders", 1, want, tombstone); err != nil {
			t.Fatal(err)
		}
		got, err := server.Messages(t.Context(), "orders")
		if err != nil || len(got) != 2 {
			t.Fatalf("%d messages, %v", len(got), err)
		}
		if m := got[0]; m.Partition != 1 || string(m.Key) != string(want.Key) || m.Value == nil || len(m.Value) != 0 || !m.Time.Equal(at) || !reflect.DeepEqual(m.Headers, want.Headers) {
			t.Errorf("got %+v", m)
		}
		if m := got[1]; m.Key == nil || m.Value != nil || time.Since(m.Time) > time.Second {
			t.Errorf("got %+v", m)
		}

		var many []holdfast.Message // Several batches.
		for i := range 1000 {
			many = append(many, holdfast.Message{Topic: "orders", Key: fmt.Appendf(nil, "%d", i%2), Value: fmt.Appendf(nil, "%04d", i)})
		}
		if err := p.Produce(t.Context(), many...); err != nil {
			t.Fatal(err)
		}
		n := 0
		for partition, got := range values(t, server, "orders") {
			got = slices.DeleteFunc(got, func(v string) bool { return v == "" })
			if n += len(got); !slices.IsSorted(got) {
				t.Errorf("partition %d is out of order", partition)
			}
		}
		if n != 1000 {
			t.Errorf("%d messages, want 1000", n)
		}
		if err := p.Produce(t.Context()); err != nil {
			t.Errorf("no message: %v", err)
		}
	})
}

// TestProduceBatches has a lone message leave at once, and messages that come meanwhile go together.
func TestProduceBatches(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, kafkax.ProducerConfig{}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		began := time.Now()
		if err := p.Produce(t.Context(), message("orders", "lone")); err != nil || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		release := server.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true})
		for i := range 500 {
			if err := p.ProduceAsync(t.Context(), message("orders", fmt.Sprintf("%03d", i)), func(err error) {
				if err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Error(err)
			}
			if i == 0 {
				synctest.Wait()
			}
		}
		release()
		synctest.Wait()
		if s := p.Stats(); s.Written != 501 || s.Requests != 3 || time.Since(began) != 0 {
			t.Errorf("%+v after %v", s, time.Since(began))
		}
	})
}

// TestProduceCodecs has every codec, an answer lost and a batch that is refused with each. A message that is too large
// as it is, and not when compressed, is written. In no bubble: franz-go's zstd ends goroutines when it is collected.
func TestProduceCodecs(t *testing.T) {
	for codec := kafka.Compression(0); codec <= kafka.Zstd; codec++ {
		t.Run(fmt.Sprintf("%d %s", codec, codec), func(t *testing.T) {
			server := testkit.Kafka(t, testkit.KafkaConfig{
				Topics: map[string]int{"orders": 1}, Configs: map[string]string{"message.max.bytes": "5000"},
			})
			p, err := kafkax.NewProducer(kafkax.Cluster{Brokers: server.Addrs()}, kafkax.ProducerConfig{Compression: codec})
			if err != nil {
				t.Fatal(err)
			}
			server.Inject(testkit.Fault{API: testkit.APIProduce, LoseAck: true})
			if err := p.Produce(t.Context(), message("orders", "first"), message("orders", "second")); err != nil {
				t.Error(err)
			}
			random := make([]byte, 6000)
			_, _ = rand.NewChaCha8([32]byte{}).Read(random)
			messages := []holdfast.Message{message("orders", strings.Repeat("x", 6000)), {Topic: "orders", Value: random}, message("orders", "last")}
			failed := failure(t, p.Produce(t.Context(), messages...))
			want, refused := []string{"first", "second", string(messages[0].Value), "last"}, []int{1}
			if codec == 0 {
				want, refused = slices.Delete(want, 2, 3), []int{0, 1}
			}
			if !slices.Equal(failed.Indexes(), refused) || !failed.Permanent() || failed.Failures[0].Bytes < 6000 {
				t.Errorf("refused: %v", failed)
			}
			if got := values(t, server, "orders")[0]; !slices.Equal(got, want) {
				t.Errorf("%d messages written, want %d", len(got), len(want))
			}
			if err := p.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKeylessSpread(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 4}}, kafkax.ProducerConfig{}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		for range 100 {
			if err := p.Produce(t.Context(), holdfast.Message{Topic: "orders", Value: []byte("v")}); err != nil {
				t.Fatal(err)
			}
		}
		for partition := range 4 {
			if n := len(values(t, server, "orders")[partition]); n != 25 {
				t.Errorf("partition %d has %d messages, want 25", partition, n)
			}
		}
	})
}

func message(topic string, value string) holdfast.Message {
	return holdfast.Message{Topic: topic, Value: []byte(value)}
}

// failure asserts that err is a ProduceError.
func failure(t *testing.T, err error) *kafkax.ProduceError {
	t.Helper()
	var failed *kafkax.ProduceError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v, want a ProduceError", err)
	}
	return failed
}

// TestProduceTooLarge has some messages that are too large among others in the same batches.
func TestProduceTooLarge(t *testing.T) {
	kcfg := testkit.KafkaConfig{Topics: map[string]int{"orders": 1}, Configs: map[string]string{"message.max.bytes": "5000"}}
	withProducer(t, kcfg, kafkax.ProducerConfig{}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		var messages []holdfast.Message
		for i := range 50 {
			value := fmt.Sprintf("%04d", i)
			if i == 7 || i == 30 {
				value += strings.Repeat("x", 6000)
			}
			messages = append(messages, message("orders", value))
		}
		began := time.Now()
		failed := failure(t, p.Produce(t.Context(), messages...))
		if !failed.Permanent() || failed.Ambiguous() || failed.Hold() || !holdfast.IsPermanent(failed) || !slices.Equal(failed.Indexes(), []int{7, 30}) {
			t.Errorf("permanent %t, ambiguous %t, messages %v", failed.Permanent(), failed.Ambiguous(), failed.Indexes())
		}
		if !errors.Is(failed, kafka.MessageSizeTooLarge) || !strings.Contains(failed.Error(), "orders/0") {
			t.Errorf("got %v", failed)
		}
		if time.Since(began) > time.Second {
			t.Error("it was tried again")
		}
		if got := values(t, server, "orders")[0]; len(got) != 48 || !slices.IsSorted(got) {
			t.Errorf("%d messages written, want 48 in order", len(got))
		}
		if p.IsOpen() {
			t.Error("the circuit opened")
		}
	})
}

func TestProduceVerdicts(t *testing.T) {
	for name, test := range map[string]struct {
		fault                      testkit.Fault
		ambiguous, permanent, hold bool
		written                    int
	}{
		"denied":                    {fault: testkit.Fault{Code: int16(kafka.TopicAuthorizationFailed)}, hold: true},
		"invalid record":            {fault: testkit.Fault{Code: 87}, permanent: true},
		"not enough replicas":       {fault: testkit.Fault{Code: int16(kafka.NotEnoughReplicas)}},
		"not enough replicas after": {fault: testkit.Fault{Code: int16(kafka.NotEnoughReplicasAfterAppend)}, ambiguous: true, written: 1},
		"timed out":                 {fault: testkit.Fault{Code: int16(kafka.RequestTimedOut)}, ambiguous: true, written: 1},
		"deposed leader":            {fault: testkit.Fault{Code: int16(kafka.NotLeaderForPartition)}, ambiguous: true},
		"lost ack":                  {fault: testkit.Fault{LoseAck: true}, ambiguous: true, written: 1},
		"cut":                       {fault: testkit.Fault{Cut: true}, ambiguous: true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := kafkax.ProducerConfig{Retry: retry.Policy{Attempts: 2}}
			withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1, "other": 1}}, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
				fault := test.fault
				fault.API, fault.Topic, fault.Times = testkit.APIProduce, "orders", -1
				remove := server.Inject(fault)
				failed := failure(t, p.Produce(t.Context(), message("other", "a"), message("orders", "b"), message("other", "c")))
				if failed.Ambiguous() != test.ambiguous || failed.Permanent() != test.permanent || failed.Hold() != test.hold {
					t.Errorf("ambiguous %t, permanent %t, hold %t: %v", failed.Ambiguous(), failed.Permanent(), failed.Hold(), failed)
				}
				if holdfast.IsAmbiguous(failed) != test.ambiguous || holdfast.IsPermanent(failed) != test.permanent || holdfast.IsHold(failed) != test.hold {
					t.Errorf("the verdicts do not get through: %v", failed)
				}
				if !slices.Equal(failed.Indexes(), []int{1}) || failed.Failures[0].Topic != "orders" || failed.Failures[0].Partition != 0 {
					t.Errorf("failures: %+v", failed.Failures)
				}
				if n := len(values(t, server, "other")[0]); n != 2 {
					t.Errorf("%d of the other topic's messages written, want 2", n)
				}
				if n := len(values(t, server, "orders")[0]); n != test.written {
					t.Errorf("%d written, want %d", n, test.written)
				}
				remove()
				if err := p.Produce(t.Context(), message("orders", "b")); err != nil {
					t.Errorf("afterwards: %v", err)
				}
			})
		})
	}
}

// TestProduceThroughWeather loses nothing that was acknowledged, and keeps its order.
func TestProduceThroughWeather(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}, Brokers: 3}, kafkax.ProducerConfig{}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		server.Inject(testkit.Fault{API: testkit.APIProduce, Nth: 5, LoseAck: true})
		server.Inject(testkit.Fault{API: testkit.APIProduce, Nth: 9, Cut: true})
		server.Inject(testkit.Fault{API: testkit.APIProduce, Nth: 12, Times: 2, Code: int16(kafka.NotEnoughReplicas)})
		for i := range 30 {
			if i%4 == 0 {
				if err := server.MoveLeader("orders", 0, (i/4)%3); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Produce(t.Context(), message("orders", fmt.Sprintf("%04d", i))); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
		}
		got := values(t, server, "orders")[0]
		if !slices.IsSorted(got) {
			t.Errorf("out of order: %v", got)
		}
		if distinct := slices.Compact(got); len(distinct) != 30 {
			t.Errorf("%d messages, want 30", len(distinct))
		}
	})
}

// TestFailedBatchBarsLater has the first batch of a partition fail: the second must not be written before it.
func TestFailedBatchBarsLater(t *testing.T) {
	cfg := kafkax.ProducerConfig{BatchBytes: 100, Retry: retry.Policy{Attempts: -1}}
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		server.Inject(testkit.Fault{API: testkit.APIProduce, Nth: 2, LoseAck: true})
		var messages []holdfast.Message
		for i := range 12 {
			messages = append(messages, message("orders", fmt.Sprintf("%030d", i)))
		}
		failed := failure(t, p.Produce(t.Context(), messages...))
		written := len(values(t, server, "orders")[0])
		if len(failed.Failures) != 2 || !failed.Failures[0].Ambiguous || failed.Failures[1].Ambiguous {
			t.Errorf("failures: %+v", failed.Failures)
		}
		if n := len(failed.Failures[1].Indexes); written != 12-n || failed.Indexes()[0] != 12-n-len(failed.Failures[0].Indexes) {
			t.Errorf("%d written, failures %+v", written, failed.Failures)
		}
	})
}

func TestUnknownTopic(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 3}}, kafkax.ProducerConfig{}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		if n, err := p.Partitions(t.Context(), "orders"); n != 3 || err != nil {
			t.Errorf("partitions: %d, %v", n, err)
		}
		failed := failure(t, p.Produce(t.Context(), message("orders", "a"), message("nowhere", "b"), message("", "c")))
		if !errors.Is(failed, kafka.UnknownTopicOrPartition) || failed.Ambiguous() || failed.Permanent() || !failed.Hold() || !slices.Equal(failed.Indexes(), []int{1, 2}) {
			t.Errorf("got %v", failed)
		}
		if _, err := p.Partitions(t.Context(), "nowhere"); !errors.Is(err, kafka.UnknownTopicOrPartition) {
			t.Errorf("got %v", err)
		}
		if err := p.ProduceTo(t.Context(), "orders", 7, message("", "d")); err == nil || failure(t, err).Ambiguous() || !failure(t, err).Hold() {
			t.Errorf("got %v", err)
		}
		if p.IsOpen() {
			t.Error("the circuit opened")
		}
		if err := server.CreateTopic("nowhere", 1); err != nil {
			t.Fatal(err)
		}
		if err := p.Produce(t.Context(), message("nowhere", "b")); err != nil {
			t.Errorf("a topic just created: %v", err)
		}
	})
}

func TestProduceUnreachable(t *testing.T) {
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"refused": new(testkit.Network).Dial, "dial hangs": hangingDial, "broker never answers": muteDial,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, err := kafkax.NewProducer(kafkax.Cluster{Brokers: []string{"one.example:9092", "two.example:9092"}, Dial: dial}, kafkax.ProducerConfig{})
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				failed := failure(t, p.Produce(t.Context(), message("orders", "a")))
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("took %v", took)
				}
				if failed.Ambiguous() || failed.Permanent() || failed.Hold() {
					t.Errorf("got %+v", failed)
				}
				if name != "broker never answers" && !strings.Contains(failed.Error(), ".example:9092") {
					t.Errorf("the error does not name the address: %v", failed)
				}
				for range 4 {
					_ = p.Produce(t.Context(), message("orders", "a"))
				}
				if !p.IsOpen() {
					t.Error("the circuit is closed")
				}
				failed = failure(t, p.Produce(t.Context(), message("orders", "a")))
				if !errors.Is(failed, breaker.ErrCircuitOpen) || failed.Ambiguous() {
					t.Errorf("got %v", failed)
				}
				began = time.Now()
				if err := p.WaitUntilReady(t.Context()); err != nil || time.Since(began) > time.Minute {
					t.Errorf("WaitUntilReady: %v after %v", err, time.Since(began))
				}
				if err := p.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestProduceThroughOutage(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, kafkax.ProducerConfig{}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		if err := p.Produce(t.Context(), message("orders", "a")); err != nil {
			t.Fatal(err)
		}
		server.Stop()
		err := p.Produce(t.Context(), message("orders", "b"))
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Fatalf("without a broker: %v", err)
		}
		if !p.IsOpen() {
			t.Error("the circuit is closed")
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		if err := p.WaitUntilReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.Produce(t.Context(), message("orders", "c")); err != nil {
			t.Errorf("after the outage: %v", err)
		}
	})
}

// TestUnsentIsNotAmbiguous cannot even connect to the leader.
func TestUnsentIsNotAmbiguous(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, kafkax.ProducerConfig{}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		if _, err := p.Partitions(t.Context(), "orders"); err != nil {
			t.Fatal(err)
		}
		server.Stop()
		if failed := failure(t, p.Produce(t.Context(), message("orders", "a"))); failed.Ambiguous() || failed.Failures[0].Partition != 0 {
			t.Errorf("got %v", failed)
		}
	})
}

func TestProduceCancelled(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, kafkax.ProducerConfig{MaxRequests: 1}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		if _, err := p.Partitions(t.Context(), "orders"); err != nil {
			t.Fatal(err)
		}
		remove := server.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			failed := failure(t, p.Produce(ctx, message("orders", "sent")))
			if !failed.Ambiguous() {
				t.Errorf("one on its way: %v", failed)
			}
		})
		synctest.Wait()
		soon, cancelSoon := context.WithTimeout(ctx, time.Second/2) // Before the other frees its turn.
		defer cancelSoon()
		failed := failure(t, p.Produce(soon, message("orders", "waits")))
		if failed.Ambiguous() || !errors.Is(failed, context.DeadlineExceeded) {
			t.Errorf("one that waits for its turn: %v", failed)
		}
		wg.Wait()
		remove()
		if p.IsOpen() {
			t.Error("the circuit opened")
		}
	})
}

func TestProducerClose(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		p, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Produce(t.Context(), message("orders", "a")); err != nil {
			t.Fatal(err)
		}
		remove := server.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true, Times: -1})
		defer remove()
		done := make(chan error)
		go func() { done <- p.Produce(context.Background(), message("orders", "b")) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began, closed := time.Now(), make(chan struct{})
		go func() {
			left, ok := errors.AsType[*kafkax.CloseError](p.Close(ctx))
			if !ok || *left != (kafkax.CloseError{Ambiguous: 1, Err: context.DeadlineExceeded}) {
				t.Errorf("Close: %v", left)
			}
			if took := time.Since(began); took != 3*time.Second {
				t.Errorf("Close took %v", took)
			}
			close(closed)
		}()
		if failed := failure(t, <-done); !failed.Ambiguous() {
			t.Errorf("the call in progress: %v", failed)
		}
		<-closed
		if err := p.Produce(t.Context(), message("orders", "c")); !errors.Is(err, kafkax.ErrProducerClosed) {
			t.Errorf("after Close: %v", err)
		}
		if err := p.Close(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("closing again: %v", err)
		}
	})
}

// TestCloseWithoutPatience has a context that is over, and nothing to wait for.
func TestCloseWithoutPatience(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, _ *testkit.KafkaServer, cluster kafkax.Cluster) {
		p, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Produce(t.Context(), message("orders", "a")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// stuckSpool keeps messages when it is told to.
type stuckSpool struct {
	memorySpool
	stuck <-chan struct{}
}

func (s *stuckSpool) Append(ctx context.Context, messages ...holdfast.Message) error {
	<-s.stuck
	return s.memorySpool.Append(ctx, messages...)
}

// TestCloseWhileOthersBlock has code of the caller's that does not return. Close does, whoever else closes meanwhile.
func TestCloseWhileOthersBlock(t *testing.T) {
	for name, arrange := range map[string]func(stuck <-chan struct{}, cluster *kafkax.Cluster, cfg *kafkax.ProducerConfig, circuit *breaker.Config){
		"a function given to ProduceAsync": func(<-chan struct{}, *kafkax.Cluster, *kafkax.ProducerConfig, *breaker.Config) {},
		"the spool": func(stuck <-chan struct{}, cluster *kafkax.Cluster, cfg *kafkax.ProducerConfig, _ *breaker.Config) {
			cfg.Spool = &stuckSpool{stuck: stuck}
			cluster.Dial = new(testkit.Network).Dial
		},
		"the way to a broker": func(stuck <-chan struct{}, cluster *kafkax.Cluster, _ *kafkax.ProducerConfig, _ *breaker.Config) {
			cluster.Dial = func(context.Context, string, string) (net.Conn, error) {
				<-stuck
				return nil, errors.New("at last")
			}
		},
		"a listener of the circuit": func(stuck <-chan struct{}, cluster *kafkax.Cluster, _ *kafkax.ProducerConfig, circuit *breaker.Config) {
			circuit.OnStateChange = func(string, breaker.State, breaker.State) { <-stuck }
			cluster.Dial = new(testkit.Network).Dial
		},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, _ *testkit.KafkaServer, cluster kafkax.Cluster) {
				stuck := make(chan struct{})
				var cfg kafkax.ProducerConfig
				circuit := kafkax.BreakerConfig("test")
				arrange(stuck, &cluster, &cfg, &circuit)
				var err error
				if cfg.Breaker, err = breaker.New(circuit); err != nil {
					t.Fatal(err)
				}
				p, err := kafkax.NewProducer(cluster, cfg)
				if err != nil {
					t.Fatal(err)
				}
				var calls sync.WaitGroup
				calls.Go(func() {
					_ = p.ProduceAsync(t.Context(), message("orders", "a"), func(error) { <-stuck })
				})
				time.Sleep(20 * time.Second)
				began := time.Now()
				for i, patience := range []time.Duration{3 * time.Second, time.Second, time.Hour, 2 * time.Second} {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					calls.Go(func() {
						defer cancel()
						err := p.Close(ctx)
						took := time.Since(began)
						left, ended := errors.AsType[*kafkax.CloseError](err)
						switch {
						case i%2 == 0 && (!ended || !left.Running || !errors.Is(err, context.DeadlineExceeded) || took != 4*time.Second):
							t.Errorf("Close %d: %v after %v", i, err, took)
						case i%2 != 0 && (ended || !errors.Is(err, context.DeadlineExceeded) || took != patience):
							t.Errorf("Close %d, which is not the first, and has less patience: %v after %v", i, err, took)
						}
					})
					synctest.Wait()
				}
				time.Sleep(time.Minute)
				close(stuck) // The bubble ends if nothing is left then.
				calls.Wait()
			})
		})
	}
}

// TestLoad has many more calls than MaxRequests meet a broker that hangs, which takes its requests one after the other.
// The circuit opens, and those that wait for their turn learn of it.
func TestLoad(t *testing.T) {
	const partitions = 8
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": partitions}}, kafkax.ProducerConfig{}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		for i := range partitions {
			if err := server.MoveLeader("orders", i, 0); err != nil {
				t.Fatal(err)
			}
		}
		defer server.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true, Times: -1})()
		began := time.Now()
		var calls sync.WaitGroup
		for range 500 {
			calls.Go(func() {
				if err := p.Produce(t.Context(), message("orders", "v")); err == nil {
					t.Error("written")
				}
			})
		}
		calls.Wait()
		const requests = 5 + 1 + 1 // As many as open the circuit, one that leaves as it opens, and a probe.
		if took := time.Since(began); took > requests*10*time.Second+time.Second {
			t.Errorf("the last call took %v", took)
		}
		if !p.IsOpen() {
			t.Error("the circuit is not open")
		}
	})
}

// TestProduceFairly has many partitions share a link that has always more to send: whoever sends for all of them must hear
// of its own messages all the same.
func TestProduceFairly(t *testing.T) {
	const partitions, load, most = 90, time.Minute, 12 * time.Second
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": partitions}}, func(t *testing.T, _ *testkit.KafkaServer, cluster kafkax.Cluster) {
		cluster = slow(cluster, func(bytes int) time.Duration { return time.Duration(bytes) * 10 * time.Microsecond })
		p, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{BatchBytes: 10_000, MaxBufferedBytes: 400_000}) // Below what is to be sent.
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var wg sync.WaitGroup
		for i := range partitions {
			wg.Go(func() {
				for time.Since(began) < load {
					since := time.Now()
					if err := p.ProduceTo(t.Context(), "orders", i, holdfast.Message{Value: make([]byte, 5000+50*i)}); err != nil {
						t.Error(err)
					}
					if took := time.Since(since); took > most {
						t.Errorf("partition %d waited for %v", i, took)
					}
				}
			})
		}
		wg.Wait()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestHungRequestIsOneFailure has a broker pause with batches for many partitions in one request. That is one thing gone
// wrong, and no reason to keep everybody from the other brokers.
func TestHungRequestIsOneFailure(t *testing.T) {
	guard, err := breaker.New(kafkax.BreakerConfig("test"))
	if err != nil {
		t.Fatal(err)
	}
	const partitions = 100
	cfg := kafkax.ProducerConfig{Breaker: guard, MaxRequests: 1}
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": partitions}}, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		for i := range partitions {
			if err := server.MoveLeader("orders", i, 0); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.Partitions(t.Context(), "orders"); err != nil {
			t.Fatal(err)
		}
		release := server.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true})
		for i := range partitions {
			if err := p.ProduceAsync(t.Context(), message("orders", "v"), func(err error) {
				if err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Error(err)
			}
			if i == 0 {
				synctest.Wait() // The others gather behind it.
			}
		}
		synctest.Wait()
		server.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true})
		release()
		time.Sleep(time.Minute)
		if s := guard.Stats().Totals; s.Failures != 1 || s.Ignored != partitions-2 || s.StateChanges != 0 {
			t.Errorf("%+v", s)
		}
		if got := values(t, server, "orders"); len(got) != partitions {
			t.Errorf("%d partitions have a message", len(got))
		}
	})
}

// TestCircuitChangesMeanwhile has a batch wait for its request while the circuit opens, and closes again. It is admitted
// once more, which is no attempt.
func TestCircuitChangesMeanwhile(t *testing.T) {
	for _, closes := range []bool{true, false} {
		guard, err := breaker.New(kafkax.BreakerConfig("test"))
		if err != nil {
			t.Fatal(err)
		}
		cfg := kafkax.ProducerConfig{Breaker: guard, MaxRequests: 1, Retry: retry.Policy{Attempts: -1}}
		withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1, "other": 1}}, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
			var mu sync.Mutex
			var said []string
			produce := func(topic string) {
				if err := server.MoveLeader(topic, 0, 0); err != nil {
					t.Fatal(err)
				}
				if err := p.ProduceAsync(t.Context(), message(topic, "v"), func(err error) {
					mu.Lock()
					defer mu.Unlock()
					said = append(said, fmt.Sprint(topic, " ", err == nil, " ", errors.Is(err, breaker.ErrCircuitOpen)))
				}); err != nil {
					t.Error(err)
				}
				synctest.Wait()
			}
			release := server.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true})
			produce("orders")
			produce("other") // Waits for the answer.
			time.Sleep(time.Second)
			guard.ForceOpen()
			want := "[orders true false other false true]"
			if closes {
				guard.Reset()
				want = "[orders true false other true false]"
			}
			release()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			slices.Sort(said)
			if got := fmt.Sprint(said); got != want {
				t.Errorf("said %s, want %s", got, want)
			}
			guard.Reset()
		})
	}
}

// TestAmbiguousBatchBarsLater has a batch refused after an attempt that may have written it. Messages with which nothing
// is wrong have failed then, so what follows them must wait.
func TestAmbiguousBatchBarsLater(t *testing.T) {
	kcfg := testkit.KafkaConfig{Topics: map[string]int{"orders": 1}, Configs: map[string]string{"message.max.bytes": "2000"}}
	withProducer(t, kcfg, kafkax.ProducerConfig{BatchBytes: 4000}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		server.Inject(testkit.Fault{API: testkit.APIProduce, LoseAck: true})
		messages := []holdfast.Message{
			message("orders", "a"), message("orders", strings.Repeat("x", 3000)), // One batch,
			message("orders", strings.Repeat("y", 1500)), message("orders", "z"), // and another.
		}
		failed := failure(t, p.Produce(t.Context(), messages...))
		if !slices.Equal(failed.Indexes(), []int{0, 1, 2, 3}) || !failed.Ambiguous() || failed.Permanent() {
			t.Errorf("got %+v", failed.Failures)
		}
		if got := values(t, server, "orders")[0]; len(got) != 0 {
			t.Errorf("written: %v", got)
		}
	})
}

func TestProduceToNonsense(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, kafkax.ProducerConfig{}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		for _, partition := range []int{-1, 1 << 32} { // The latter is 0 in 32 bits.
			if err := p.ProduceTo(t.Context(), "orders", partition, message("", "v")); err == nil || !strings.Contains(err.Error(), strconv.Itoa(partition)) {
				t.Errorf("partition %d: %v", partition, err)
			}
		}
		if got := values(t, server, "orders"); len(got) != 0 {
			t.Errorf("written: %v", got)
		}
	})
}

// TestCloseWhileDialling leaves no goroutine behind, of kafka-go's neither: the bubble would not end.
func TestCloseWhileDialling(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, _ *testkit.KafkaServer, cluster kafkax.Cluster) {
		well := cluster.Dial
		var hang atomic.Bool
		cluster.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if hang.Load() {
				return hangingDial(ctx, network, addr)
			}
			return well(ctx, network, addr)
		}
		for range 30 { // What the call sees first, the end of its context or of its dial, is a matter of luck.
			hang.Store(false)
			p, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Partitions(t.Context(), "orders"); err != nil {
				t.Fatal(err)
			}
			hang.Store(true)
			done := make(chan error, 1)
			go func() { done <- p.Produce(context.Background(), message("orders", "v")) }()
			time.Sleep(time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Close: %v", err)
			}
			cancel()
			if err := <-done; err == nil {
				t.Error("Produce succeeded")
			}
		}
	})
}

// TestProduceSmallBuffer has one call with far more messages than the buffer has room for, which are fewer than a batch
// may have.
func TestProduceSmallBuffer(t *testing.T) {
	cfg := kafkax.ProducerConfig{MaxBufferedBytes: 10_000}
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		var messages []holdfast.Message
		for i := range 500 {
			messages = append(messages, message("orders", fmt.Sprintf("%0100d", i)))
		}
		if err := p.Produce(t.Context(), messages...); err != nil {
			t.Fatal(err)
		}
		if got := values(t, server, "orders")[0]; len(got) != 500 || !slices.IsSorted(got) {
			t.Errorf("%d written", len(got))
		}
	})
}

// TestRefusedTopicBarsCall has a topic come into being in the middle of a call. What the call has for it later does not
// overtake what was refused before.
func TestRefusedTopicBarsCall(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"other": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		p, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{Retry: retry.Policy{OnAttempt: func(a retry.Attempt) {
			if a.Err != nil {
				if err := server.CreateTopic("orders", 1); err != nil {
					t.Error(err)
				}
			}
		}}})
		if err != nil {
			t.Fatal(err)
		}
		failed := failure(t, p.Produce(t.Context(), message("orders", "a"), message("other", "b"), message("orders", "c")))
		if !slices.Equal(failed.Indexes(), []int{0, 2}) {
			t.Errorf("failed: %v", failed)
		}
		if err := p.Produce(t.Context(), message("orders", "d")); err != nil {
			t.Error(err)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
