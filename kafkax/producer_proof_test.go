package kafkax_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/internal/fates"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestProduceProof produces among random faults, over many seeds, and checks every message.
func TestProduceProof(t *testing.T) {
	seeds := uint64(25)
	if testing.Short() {
		seeds = 5
	}
	proveProduce(t, seeds, nil)
}

// TestProduceSpoolProof does so with a spool on this disk: what goes there is written at least once, the rest once.
func TestProduceSpoolProof(t *testing.T) {
	seeds := uint64(15)
	if testing.Short() {
		seeds = 5
	}
	proveProduce(t, seeds, func(t *testing.T, book *fates.Book, cfg *kafkax.ProducerConfig) {
		disk, err := dlq.OpenSpool(t.TempDir(), dlq.SpoolConfig{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if left := disk.Stats().Messages; left != 0 {
				t.Errorf("%d messages are left in the spool", left)
			}
			if err := disk.Close(); err != nil {
				t.Error(err)
			}
		})
		cfg.Spool = bookedSpool{disk, book}
	})
}

// bookedSpool notes what goes through a spool, whose disk it makes a slow one.
type bookedSpool struct {
	*dlq.Spool
	book *fates.Book
}

func (s bookedSpool) Append(ctx context.Context, messages ...holdfast.Message) error {
	for i := range messages {
		s.book.Often(fates.ID(&messages[i]))
	}
	time.Sleep(10 * time.Millisecond)
	return s.Spool.Append(ctx, messages...)
}

func (s bookedSpool) Drain(ctx context.Context, send func(context.Context, []holdfast.Message) error) error {
	return s.Spool.Drain(ctx, func(ctx context.Context, messages []holdfast.Message) error {
		time.Sleep(time.Second)
		return send(ctx, messages)
	})
}

func proveProduce(t *testing.T, seeds uint64, arrange func(*testing.T, *fates.Book, *kafkax.ProducerConfig)) {
	t.Helper()
	total := make(map[fates.Fate]int)
	var sum kafkax.ProducerStats
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 3}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
				var book fates.Book
				luck := rand.New(rand.NewPCG(seed, 0))
				cfg := kafkax.ProducerConfig{
					Retry: retry.Policy{Attempts: 1 + luck.IntN(5)}, BatchBytes: 200 << luck.IntN(8), Timeout: time.Second,
					Logger: slog.New(slog.DiscardHandler),
				}
				if arrange != nil {
					arrange(t, &book, &cfg)
				}
				p, err := kafkax.NewProducer(cluster, cfg)
				if err != nil {
					t.Fatal(err)
				}
				settle := func(id int, err error) {
					failed, ok := errors.AsType[*kafkax.ProduceError](err)
					if ok && len(failed.Indexes()) == 0 { // It is in the spool, and may be written already.
						book.Often(id)
						err = nil
					}
					book.Settle(id, err)
				}
				var wellAgain []func()
				for range 60 {
					wellAgain = append(wellAgain, misfortune(t, luck, server))
					for range luck.IntN(30) {
						key := fmt.Sprint(luck.IntN(6))
						id, m := book.Message("orders", key)
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(luck.IntN(20_000))*time.Millisecond)
						err := p.ProduceAsync(ctx, m, func(err error) {
							cancel()
							settle(id, err)
						})
						if err != nil {
							cancel()
							settle(id, err)
						}
					}
					if luck.IntN(3) == 0 {
						time.Sleep(time.Duration(luck.IntN(3000)) * time.Millisecond)
					}
				}
				if err := server.Start(); err != nil {
					t.Fatal(err)
				}
				if cfg.Spool != nil {
					for _, remove := range wellAgain {
						remove()
					}
					drained(t, p)
				}
				var left *kafkax.CloseError
				if err := p.Close(t.Context()); err != nil && (!errors.As(err, &left) || left.Err != nil) {
					t.Error(err)
				}
				if n := p.Stats().Buffered; n != 0 {
					t.Errorf("%d bytes are still buffered", n)
				}
				messages, err := server.Messages(t.Context(), "orders")
				if err != nil {
					t.Fatal(err)
				}
				for _, fault := range book.Check(messages) {
					t.Error(fault)
				}
				for _, what := range []fates.Fate{fates.Acknowledged, fates.NotWritten, fates.Unknown} {
					total[what] += book.Count(what)
				}
				sum.Spooled += p.Stats().Spooled
				sum.Drained += p.Stats().Drained
			})
		})
	}
	if total[fates.Acknowledged] == 0 || total[fates.NotWritten] == 0 || total[fates.Unknown] == 0 || sum.Drained < sum.Spooled || (arrange == nil) != (sum.Spooled == 0) {
		t.Errorf("the faults do not bring about every fate: %v, %+v", total, sum)
	}
	t.Log(total, sum.Spooled, sum.Drained)
}

// misfortune has something happen, perhaps. What it has in store is taken back by calling the function that it returns.
func misfortune(t *testing.T, luck *rand.Rand, server *testkit.KafkaServer) (remove func()) {
	t.Helper()
	fault := testkit.Fault{API: testkit.APIProduce, Nth: 1 + luck.IntN(3), Times: 1 + luck.IntN(2)}
	codes := []kafka.Error{
		kafka.NotEnoughReplicas, kafka.NotEnoughReplicasAfterAppend, kafka.RequestTimedOut, kafka.NotLeaderForPartition,
		kafka.OutOfOrderSequenceNumber, kafka.UnknownProducerId, kafka.InvalidProducerEpoch,
	}
	switch luck.IntN(12) {
	case 0, 1:
		fault.LoseAck = true
	case 2:
		fault.Cut = true
	case 3:
		fault.Code = int16(codes[luck.IntN(len(codes))])
	case 4:
		fault.Hang = true
		remove := server.Inject(fault)
		time.AfterFunc(time.Duration(luck.IntN(2500))*time.Millisecond, remove)
		return remove
	case 5:
		if err := server.MoveLeader("orders", luck.IntN(3), luck.IntN(3)); err != nil {
			t.Error(err)
		}
		return func() {}
	case 6:
		if luck.IntN(4) == 0 {
			server.Stop()
			time.Sleep(time.Duration(luck.IntN(3000)) * time.Millisecond)
			if err := server.Start(); err != nil {
				t.Error(err)
			}
		}
		return func() {}
	default:
		return func() {}
	}
	return server.Inject(fault)
}

// TestProduceIdentity has every way in which a producer's place in the sequence is lost.
func TestProduceIdentity(t *testing.T) {
	for name, code := range map[string]kafka.Error{
		"out of order": kafka.OutOfOrderSequenceNumber, "unknown": kafka.UnknownProducerId, "epoch": kafka.InvalidProducerEpoch,
		"a duplicate of what was never sent": kafka.DuplicateSequenceNumber,
	} {
		t.Run(name, func(t *testing.T) {
			withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, kafkax.ProducerConfig{}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
				if err := p.Produce(t.Context(), message("orders", "a")); err != nil {
					t.Fatal(err)
				}
				// Nothing is uncertain, so it is written by somebody else.
				server.Inject(testkit.Fault{API: testkit.APIProduce, Code: int16(code)})
				if err := p.Produce(t.Context(), message("orders", "b")); err != nil {
					t.Errorf("%v", err)
				}
				if n := p.Stats().Identities; n != 2 {
					t.Errorf("%d identities, want 2", n)
				}
				// The answer is lost, and then the broker no longer knows: nobody can tell.
				server.Inject(testkit.Fault{API: testkit.APIProduce, LoseAck: true})
				server.Inject(testkit.Fault{API: testkit.APIProduce, Nth: 2, Code: int16(code)})
				err := p.Produce(t.Context(), message("orders", "c"))
				if code == kafka.DuplicateSequenceNumber { // It knows.
					if err != nil {
						t.Error(err)
					}
				} else if failed := failure(t, err); !failed.Ambiguous() || p.Stats().Identities != 2 {
					t.Errorf("%v, %d identities", failed, p.Stats().Identities)
				}
				if err := p.Produce(t.Context(), message("orders", "d")); err != nil {
					t.Error(err)
				}
				if got := fmt.Sprint(values(t, server, "orders")[0]); got != "[a b c d]" {
					t.Errorf("written: %s", got)
				}
			})
		})
	}
}

// TestProduceDenied may not write idempotently.
func TestProduceDenied(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, kafkax.ProducerConfig{}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		remove := server.Inject(testkit.Fault{API: testkit.APIInitProducerID, Code: int16(kafka.ClusterAuthorizationFailed), Times: -1})
		failed := failure(t, p.Produce(t.Context(), message("orders", "a")))
		if !failed.Hold() || failed.Ambiguous() || failed.Permanent() {
			t.Errorf("got %+v", failed.Failures)
		}
		remove()
		if err := p.Produce(t.Context(), message("orders", "b")); err != nil {
			t.Error(err)
		}
	})
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, kafkax.ProducerConfig{DisableIdempotence: true}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		for range 2 {
			if err := p.Produce(t.Context(), message("orders", "a"), message("orders", "b")); err != nil {
				t.Error(err)
			}
		}
		if n := server.Requests(testkit.APIInitProducerID); n != 0 || len(values(t, server, "orders")[0]) != 4 {
			t.Errorf("%d producer ids asked for, written %v", n, values(t, server, "orders"))
		}
	})
}

// TestProduceAsync has callbacks in order, and messages that wait behind one that fails.
func TestProduceAsync(t *testing.T) {
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, kafkax.ProducerConfig{Retry: retry.Policy{Attempts: -1}}, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		var mu sync.Mutex
		var said []string
		put := func(ctx context.Context, value string) {
			t.Helper()
			bytes := []byte(value)
			if err := p.ProduceAsync(ctx, holdfast.Message{Topic: "orders", Value: bytes}, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					said = append(said, value)
				case holdfast.IsAmbiguous(err):
					said = append(said, value+"?")
				default:
					said = append(said, value+"-")
				}
			}); err != nil {
				t.Error(err)
			}
			clear(bytes) // They are ours again.
		}
		put(t.Context(), "a")
		synctest.Wait()
		remove := server.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true})
		put(t.Context(), "b")
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		put(ctx, "c")
		put(t.Context(), "d")
		cancel()
		remove()
		synctest.Wait()
		server.Inject(testkit.Fault{API: testkit.APIProduce, LoseAck: true})
		remove = server.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true, Nth: 2})
		put(t.Context(), "e")
		synctest.Wait()
		remove()
		put(t.Context(), "f")
		synctest.Wait()
		if got := fmt.Sprint(said); got != "[a b c- d e? f]" {
			t.Errorf("said: %s", got)
		}
		if got := fmt.Sprint(values(t, server, "orders")[0]); got != "[a b d e f]" {
			t.Errorf("written: %s", got)
		}
		if err := p.ProduceAsync(t.Context(), message("nowhere", "g"), func(error) { t.Error("called") }); !errors.Is(err, kafka.UnknownTopicOrPartition) {
			t.Errorf("an unknown topic: %v", err)
		}
		if err := p.ProduceAsync(t.Context(), message("orders", "g"), nil); err == nil {
			t.Error("no function is no error")
		}
	})
}

// TestProducerBuffer fills the buffer while the broker hangs.
func TestProducerBuffer(t *testing.T) {
	for _, fail := range []bool{false, true} {
		cfg := kafkax.ProducerConfig{MaxBufferedBytes: 10_000, FailWhenFull: fail}
		withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
			if err := p.Produce(t.Context(), message("orders", "first")); err != nil {
				t.Fatal(err)
			}
			remove := server.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true})
			var written sync.WaitGroup
			full := 0
			var err error
			for err == nil {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel() // Not before: what waits for a caller who has gone is let go.
				written.Add(1)
				if err = p.ProduceAsync(ctx, holdfast.Message{Topic: "orders", Value: make([]byte, 1000)}, func(error) { written.Done() }); err != nil {
					written.Done()
				}
				full++
			}
			want := context.DeadlineExceeded
			if fail {
				want = kafkax.ErrBufferFull
			}
			if !errors.Is(err, want) || full < 8 || full > 11 || p.Stats().Buffered > 10_000 {
				t.Errorf("%v after %d messages, %d bytes", err, full, p.Stats().Buffered)
			}
			failed := p.Produce(t.Context(), holdfast.Message{Topic: "orders", Value: make([]byte, 10_000)})
			if !holdfast.IsPermanent(failed) || !errors.Is(failed, kafka.MessageSizeTooLarge) {
				t.Errorf("a message larger than the buffer: %v", failed)
			}
			remove()
			if !fail { // One that waits gets in.
				if err := p.Produce(t.Context(), holdfast.Message{Topic: "orders", Value: make([]byte, 9000)}); err != nil {
					t.Error(err)
				}
			}
			written.Wait()
			synctest.Wait()
			if n := p.Stats().Buffered; n != 0 {
				t.Errorf("%d bytes are left", n)
			}
		})
	}
}

// TestThousandProducers has many in one process, all alive at once. Each costs some goroutines and little memory, in which
// the stand-in's side of their connections is counted, too, and leaves nothing behind.
func TestThousandProducers(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 3}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		const producers, each = 1000, 5
		server.Inject(testkit.Fault{API: testkit.APIProduce, Nth: 2000, Times: 50, LoseAck: true})
		goroutines, memory := runtime.NumGoroutine(), inUse()
		var all sync.WaitGroup
		open := make([]*kafkax.Producer, producers)
		for i := range open {
			all.Go(func() {
				p, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
				if err != nil {
					t.Error(err)
					return
				}
				open[i] = p
				for n := range each {
					if err := p.Produce(t.Context(), holdfast.Message{Topic: "orders", Key: fmt.Append(nil, i), Value: fmt.Appendf(nil, "%d/%d", i, n)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		synctest.Wait()
		goroutines, memory = runtime.NumGoroutine()-goroutines, inUse()-memory
		t.Logf("each has %d goroutines and %d bytes", goroutines/producers, memory/producers)
		if goroutines > 12*producers || memory > 300_000*producers {
			t.Errorf("%d producers have %d goroutines and %d bytes", producers, goroutines, memory)
		}
		for _, p := range open {
			all.Go(func() {
				if err := p.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		messages, err := server.Messages(t.Context(), "orders")
		if err != nil || len(messages) != producers*each {
			t.Errorf("%d messages, want %d: %v", len(messages), producers*each, err)
		}
		next := make(map[string]int)
		for _, m := range messages {
			if want := fmt.Sprintf("%s/%d", m.Key, next[string(m.Key)]); string(m.Value) != want {
				t.Errorf("got %s, want %s", m.Value, want)
			}
			next[string(m.Key)]++
		}
	})
}

// inUse is how much memory there is in objects and stacks.
func inUse() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// TestProduceAsyncPanics has functions panic. Nothing else suffers.
func TestProduceAsyncPanics(t *testing.T) {
	cfg := kafkax.ProducerConfig{Logger: slog.New(slog.DiscardHandler)}
	withProducer(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, cfg, func(t *testing.T, server *testkit.KafkaServer, p *kafkax.Producer) {
		for range 3 {
			if err := p.ProduceAsync(t.Context(), message("orders", "a"), func(error) { panic("a bug") }); err != nil {
				t.Error(err)
			}
		}
		if err := p.Produce(t.Context(), message("orders", "b")); err != nil {
			t.Error(err)
		}
		if s := p.Stats(); s.Written != 4 || s.Buffered != 0 {
			t.Errorf("%+v", s)
		}
	})
}
