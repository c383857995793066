package kafkax_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

// memorySpool is a Spool without a disk.
type memorySpool struct {
	mu   sync.Mutex
	all  []holdfast.Message
	full bool
	asks func(m *holdfast.Message, held bool) bool // If set, has the last word on what Holds says.
}

func (s *memorySpool) Append(_ context.Context, messages ...holdfast.Message) error {
	time.Sleep(time.Millisecond) // A disk.
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return errors.New("disk full")
	}
	for _, m := range messages {
		m.Key, m.Value = slices.Clone(m.Key), slices.Clone(m.Value)
		s.all = append(s.all, m)
	}
	return nil
}

func behind(later, earlier *holdfast.Message) bool {
	return later.Topic == earlier.Topic && (string(later.Key) == string(earlier.Key) || later.Partition >= 0 && later.Partition == earlier.Partition)
}

func (s *memorySpool) Holds(m *holdfast.Message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := slices.ContainsFunc(s.all, func(kept holdfast.Message) bool { return behind(m, &kept) })
	if s.asks != nil {
		return s.asks(m, held)
	}
	return held
}

func (s *memorySpool) Drain(ctx context.Context, send func(context.Context, []holdfast.Message) error) error {
	for {
		s.mu.Lock()
		batch := slices.Clone(s.all[:min(len(s.all), 7)])
		s.mu.Unlock()
		if len(batch) == 0 {
			return nil
		}
		err := send(ctx, batch)
		partly, ok := errors.AsType[*holdfast.BatchError](err)
		if err != nil && !ok {
			return err
		}
		time.Sleep(time.Millisecond) // A disk.
		s.mu.Lock()
		var left []holdfast.Message
		for i := range batch {
			if ok && partly.Items[i] != nil {
				left = append(left, batch[i])
			}
		}
		s.all = append(left, s.all[len(batch):]...)
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

func (s *memorySpool) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

func keyed(key, value string) holdfast.Message {
	return holdfast.Message{Topic: "orders", Key: []byte(key), Value: []byte(value)}
}

// drained waits until the spool is empty.
func drained(t *testing.T, p *kafkax.Producer) {
	t.Helper()
	for range 6000 {
		if !p.Stats().Spool {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("the spool is not drained")
}

func TestSpool(t *testing.T) {
	spool := &memorySpool{all: []holdfast.Message{{Topic: "orders", Partition: -1, Key: []byte("k"), Value: []byte("0")}}} // Of an earlier process.
	cfg := kafkax.ProducerConfig{Spool: spool}
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 4}}, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		drained(t, p)
		if err := p.Produce(t.Context(), keyed("k", "1")); err != nil {
			t.Fatal(err)
		}
		server.Stop()
		synctest.Wait() // The producer has seen it, so nothing is sent into the void.
		var want []string
		for i := range 40 {
			want = append(want, fmt.Sprintf("%02d", i))
			if err := p.Produce(t.Context(), keyed("k", want[i]), keyed(want[i], "x")); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
		}
		if err := p.ProduceTo(t.Context(), "orders", 3, keyed("k", "elsewhere"), keyed("unknown", "elsewhere")); err != nil {
			t.Error(err)
		}
		if s := p.Stats(); s.Spooled != 82 || spool.len() != 82 || !s.Spool || s.Written != 2 {
			t.Errorf("%+v, %d in the spool", s, spool.len())
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		if err := p.WaitUntilReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		// What comes while the spool is drained goes behind what is in it.
		for i := 40; i < 80; i++ {
			want = append(want, fmt.Sprintf("%02d", i))
			if err := p.Produce(t.Context(), keyed("k", want[i])); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		drained(t, p)
		messages, err := server.Messages(t.Context(), "orders")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		moved := 0
		for _, m := range messages {
			switch {
			case string(m.Value) == "elsewhere" && m.Partition != 3:
				t.Errorf("partition %d, want 3", m.Partition)
			case string(m.Value) == "elsewhere":
				moved++
			case string(m.Key) == "k":
				got = append(got, string(m.Value))
			}
		}
		if want = append([]string{"0", "1"}, want...); !slices.Equal(got, want) || moved != 2 || len(messages) != len(want)+42 {
			t.Errorf("%d messages, %d moved, of k %v", len(messages), moved, got)
		}
		if s := p.Stats(); s.Drained != s.Spooled+1 || s.Spooled < 83 { // One was there before.
			t.Errorf("%+v", s)
		}
	})
}

// TestSpoolUnknownOutcome puts into the spool what may be written already.
func TestSpoolUnknownOutcome(t *testing.T) {
	spool := new(memorySpool)
	circuit := kafkax.BreakerConfig("test")
	circuit.MaxFailures = 2
	guard, err := breaker.New(circuit)
	if err != nil {
		t.Fatal(err)
	}
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, kafkax.ProducerConfig{Spool: spool, Breaker: guard}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		remove := server.Inject(testkit.Fault{API: testkit.APIProduce, LoseAck: true, Times: -1})
		failed := failure(t, p.Produce(t.Context(), keyed("k", "a"), keyed("k", "b")))
		if f := failed.Failures[0]; !f.Spooled || !f.Ambiguous || len(f.Indexes) != 2 || len(failed.Indexes()) != 0 || failed.Ambiguous() {
			t.Errorf("got %+v", failed.Failures)
		}
		if err := p.Produce(t.Context(), keyed("k", "c")); err != nil {
			t.Errorf("behind it: %v", err)
		}
		remove()
		drained(t, p)
		if got := fmt.Sprint(values(t, server, "orders")[0]); got != "[a b a b c]" {
			t.Errorf("written: %s", got)
		}
	})
}

// TestSpoolStranded has nobody to ask for a topic's partitions.
func TestSpoolStranded(t *testing.T) {
	spool := new(memorySpool)
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 2}}, kafkax.ProducerConfig{Spool: spool}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		server.Stop()
		if err := p.Produce(t.Context(), keyed("k", "a")); err != nil {
			t.Error(err)
		}
		said := make(chan error, 1)
		if err := p.ProduceAsync(t.Context(), keyed("k", "b"), func(err error) { said <- err }); err != nil {
			t.Error(err)
		}
		if err := <-said; err != nil {
			t.Error(err)
		}
		spool.mu.Lock()
		spool.full = true
		spool.mu.Unlock()
		failed := failure(t, p.Produce(t.Context(), keyed("k", "c"), message("letters", "c"), keyed("k", "c")))
		if failed.Ambiguous() || len(failed.Failures) != 2 || !slices.Equal(failed.Failures[0].Indexes, []int{0, 2}) || failed.Failures[1].Topic != "letters" {
			t.Errorf("with a full disk: %+v", failed.Failures)
		}
		if err := p.ProduceAsync(t.Context(), keyed("k", "d"), func(error) { t.Error("called") }); err == nil {
			t.Error("with a full disk: no error")
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		drained(t, p)
		var got []string
		for _, v := range values(t, server, "orders") {
			got = append(got, v...)
		}
		if fmt.Sprint(got) != "[a b]" {
			t.Errorf("written: %v", got)
		}
	})
}

// TestSpoolClose leaves something in the spool.
func TestSpoolClose(t *testing.T) {
	spool := new(memorySpool)
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		p, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{Spool: spool})
		if err != nil {
			t.Fatal(err)
		}
		server.Stop()
		if err := p.Produce(t.Context(), keyed("k", "a")); err != nil {
			t.Error(err)
		}
		err = p.Close(t.Context())
		if left, ok := errors.AsType[*kafkax.CloseError](err); !ok || !left.Spool || left.NotWritten+left.Ambiguous != 0 || left.Err != nil {
			t.Errorf("Close: %v", err)
		}
		if spool.len() != 1 {
			t.Errorf("%d in the spool", spool.len())
		}
	})
}

// TestSpoolWeather loses nothing through outages, and keeps the order of each key.
func TestSpoolWeather(t *testing.T) {
	spool := new(memorySpool)
	cfg := kafkax.ProducerConfig{Spool: spool, Timeout: time.Second, Retry: retry.Policy{Attempts: 3}}
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 3}, Brokers: 2}, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		const keys, each = 5, 300
		var writers sync.WaitGroup
		for k := range keys {
			writers.Go(func() {
				for i := range each {
					m := keyed(fmt.Sprint(k), fmt.Sprintf("%04d", i))
					for p.Produce(t.Context(), m) != nil { // Without a circuit that is open it may fail.
						time.Sleep(10 * time.Millisecond)
					}
					time.Sleep(200 * time.Millisecond)
				}
			})
		}
		for range 3 {
			time.Sleep(5 * time.Second)
			server.Stop()
			time.Sleep(7 * time.Second)
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
		}
		writers.Wait()
		drained(t, p)
		synctest.Wait()
		messages, err := server.Messages(t.Context(), "orders")
		if err != nil {
			t.Fatal(err)
		}
		of := make(map[string][]string)
		for _, m := range messages {
			of[string(m.Key)] = append(of[string(m.Key)], string(m.Value))
		}
		for key, got := range of {
			// A batch of unknown outcome lies there twice, with nothing that was acknowledged in between.
			if got = slices.Compact(got); len(got) != each || !slices.IsSorted(got) {
				t.Errorf("key %s: %d messages, want %d in order: %v", key, len(got), each, got)
			}
		}
		if len(of) != keys || p.Stats().Spooled == 0 {
			t.Errorf("%d keys, %+v", len(of), p.Stats())
		}
	})
}

// TestSpoolEmptiedMeanwhile has the last message of a key leave the spool while a batch is looked at. Of the batch, what
// was not found behind it does not overtake what was.
func TestSpoolEmptiedMeanwhile(t *testing.T) {
	asked := 0
	spool := &memorySpool{asks: func(_ *holdfast.Message, held bool) bool {
		asked++
		return held || asked == 1
	}}
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, kafkax.ProducerConfig{Spool: spool}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		server.Stop()
		if err := p.Produce(t.Context(), keyed("another", "x")); err != nil { // So that the spool is asked at all.
			t.Error(err)
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		if err := p.WaitUntilReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.Produce(t.Context(), keyed("k", "a"), keyed("k", "b"), keyed("k", "c")); err != nil {
			t.Error(err)
		}
		drained(t, p)
		got := slices.DeleteFunc(values(t, server, "orders")[0], func(v string) bool { return v == "x" })
		if fmt.Sprint(got) != "[a b c]" {
			t.Errorf("written: %s", got)
		}
	})
}

// TestSpoolFullBarsQueue has the spool refuse a message that others wait behind. It has room again at once, but they do not
// overtake the one that was refused.
func TestSpoolFullBarsQueue(t *testing.T) {
	spool := &memorySpool{full: true}
	cfg := kafkax.ProducerConfig{Spool: spool, BatchBytes: 100}
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		drained(t, p)
		if err := p.Produce(t.Context(), keyed("k", "0")); err != nil {
			t.Fatal(err)
		}
		server.Stop()
		var said []string
		for i := range 3 {
			if err := p.ProduceAsync(t.Context(), keyed("k", fmt.Sprintf("%050d", i)), func(err error) {
				said = append(said, fmt.Sprint(err == nil))
				spool.mu.Lock()
				spool.full = false
				spool.mu.Unlock()
			}); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if fmt.Sprint(said) != "[false false false]" || spool.len() != 0 {
			t.Errorf("said %v, %d in the spool", said, spool.len())
		}
		if s := p.Stats(); s.Spool { // Somebody has seen that it is empty.
			t.Errorf("%+v", s)
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		if err := p.WaitUntilReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSpoolFullBarsBatch has the spool refuse one message in the middle of a batch. Those beside it are not written
// either, or they would be there before it although they were handed over together with it.
func TestSpoolFullBarsBatch(t *testing.T) {
	spool := &memorySpool{
		all:  []holdfast.Message{{Topic: "nowhere", Partition: -1, Key: []byte("k")}}, // It stays.
		full: true,
		asks: func(m *holdfast.Message, _ bool) bool { return string(m.Key) == "k" },
	}
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		p, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{Spool: spool})
		if err != nil {
			t.Fatal(err)
		}
		all := []holdfast.Message{keyed("other", "a"), keyed("k", "b"), keyed("other", "c")}
		failed := failure(t, p.Produce(t.Context(), all...))
		if !slices.Equal(failed.Indexes(), []int{0, 1, 2}) || failed.Ambiguous() || len(values(t, server, "orders")[0]) != 0 {
			t.Errorf("failed %v, written %v", failed.Failures, values(t, server, "orders")[0])
		}
		spool.mu.Lock()
		spool.full = false
		spool.mu.Unlock()
		if err := p.Produce(t.Context(), all...); err != nil {
			t.Error(err)
		}
		if got := fmt.Sprint(values(t, server, "orders")[0]); got != "[a c]" || spool.len() < 1 {
			t.Errorf("written %s, %d in the spool", got, spool.len())
		}
		until(t, "the spool's own is written", func() bool { return len(values(t, server, "orders")[0]) == 3 })
		if err := p.Close(t.Context()); err == nil {
			t.Error("what stays in the spool is no error")
		}
	})
}

// TestSpoolStrandedInOrder has functions of ProduceAsync called for messages that went straight to the spool: one after
// the other, and a slow one holds up no caller until the buffer is full.
func TestSpoolStrandedInOrder(t *testing.T) {
	spool := new(memorySpool)
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		p, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{Spool: spool, MaxBufferedBytes: 10_000, FailWhenFull: true})
		if err != nil {
			t.Fatal(err)
		}
		server.Stop()
		var said, want []int
		slow := make(chan struct{})
		for i := range 1000 {
			err := p.ProduceAsync(t.Context(), keyed("k", fmt.Sprint(i)), func(err error) {
				<-slow
				if said = append(said, i); err != nil {
					t.Error(err)
				}
			})
			if err != nil && !errors.Is(err, kafkax.ErrBufferFull) {
				t.Fatal(err)
			}
			if err == nil {
				want = append(want, i)
			}
		}
		if len(want) < 50 || len(want) > 110 {
			t.Errorf("%d taken", len(want))
		}
		close(slow)
		synctest.Wait()
		if !slices.Equal(said, want) || spool.len() != len(want) || p.Stats().Buffered != 0 {
			t.Errorf("said %v, want %v; %d in the spool, %+v", said, want, spool.len(), p.Stats())
		}
		if err := p.Close(t.Context()); err == nil {
			t.Error("what stays in the spool is no error")
		}
	})
}
