package kafkax_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

func newAdmin(t *testing.T, cluster kafkax.Cluster, cfg kafkax.AdminConfig) *kafkax.Admin {
	t.Helper()
	admin, err := kafkax.NewAdmin(cluster, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return admin
}

// Who trusts nobody's certificate is told so, and not to be patient.
func TestAdminTrustsNoCertificate(t *testing.T) {
	certificate, _ := selfSigned(t)
	server := testkit.Kafka(t, testkit.KafkaConfig{TLS: &tls.Config{Certificates: []tls.Certificate{certificate}}})
	admin := newAdmin(t, kafkax.Cluster{Brokers: server.Addrs(), TLS: new(tls.Config)}, kafkax.AdminConfig{})
	defer admin.Close()
	_, _, err := admin.DescribeTopic(t.Context(), "orders")
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestAdminTopics(t *testing.T) {
	virtual(t, testkit.KafkaConfig{}, func(t *testing.T, _ *testkit.KafkaServer, cluster kafkax.Cluster) {
		admin := newAdmin(t, cluster, kafkax.AdminConfig{})
		defer admin.Close()
		if err := admin.CreateTopic(t.Context(), "letters", 5, map[string]string{"max.message.bytes": "2000000", "cleanup.policy": "compact"}); err != nil {
			t.Fatal(err)
		}
		partitions, config, err := admin.DescribeTopic(t.Context(), "letters")
		if err != nil || partitions != 5 || config["max.message.bytes"] != "2000000" || config["cleanup.policy"] != "compact" || config["retention.ms"] == "" {
			t.Errorf("described as %d partitions, %v, %v", partitions, config, err)
		}
		for name, test := range map[string]struct {
			topic      string
			partitions int
			want       error
		}{
			"exists":        {"letters", 5, kafka.TopicAlreadyExists},
			"no name":       {"", 1, kafka.InvalidTopic},
			"no partitions": {"other", 0, nil},
		} {
			began := time.Now()
			err := admin.CreateTopic(t.Context(), test.topic, test.partitions, nil)
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%s: got %v, want %v", name, err, test.want)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("%s: took %v", name, took)
			}
		}
	})
}

func TestAdminOffsets(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 4}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		admin := newAdmin(t, cluster, kafkax.AdminConfig{})
		defer admin.Close()
		fill(t, server, "orders", 3, 10) // The fourth one stays empty.
		if err := admin.DeleteRecords(t.Context(), "orders", map[int]int64{0: 4, 1: 10, 2: 0}); err != nil {
			t.Error(err)
		}
		first, next, err := admin.Bounds(t.Context(), "orders")
		if err != nil || !maps.Equal(first, map[int]int64{0: 4, 1: 10, 2: 0, 3: 0}) || !maps.Equal(next, map[int]int64{0: 10, 1: 10, 2: 10, 3: 0}) {
			t.Errorf("bounds %v to %v, %v", first, next, err)
		}
		for name, test := range map[string]struct {
			before map[int]int64
			want   error
		}{
			"beyond the end":    {map[int]int64{0: 11}, kafka.OffsetOutOfRange},
			"no such partition": {map[int]int64{7: 1}, kafka.UnknownTopicOrPartition},
			"below 0":           {map[int]int64{0: -1}, nil},
		} {
			if err := admin.DeleteRecords(t.Context(), "orders", test.before); err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("delete records %s: got %v, want %v", name, err, test.want)
			}
		}
		if err := admin.DeleteRecords(t.Context(), "orders", nil); err != nil {
			t.Errorf("delete nothing: %v", err)
		}

		r := start(t, cluster, kafkax.ConsumerConfig{}, new(ledger).handle)
		until(t, "committed", func() bool {
			return server.Committed("group", "orders")[2] == 10 && server.Committed("group", "orders")[0] == 10
		})
		r.stop(t)
		committed, err := admin.Committed(t.Context(), "group", "orders")
		if err != nil || !maps.Equal(committed, map[int]int64{0: 10, 2: 10}) {
			t.Errorf("committed %v, %v", committed, err)
		}
		if committed, err := admin.Committed(t.Context(), "nobody", "orders"); err != nil || len(committed) != 0 {
			t.Errorf("an unknown group has committed %v, %v", committed, err)
		}
	})
}

func TestAdminMissingTopic(t *testing.T) {
	virtual(t, testkit.KafkaConfig{}, func(t *testing.T, _ *testkit.KafkaServer, cluster kafkax.Cluster) {
		admin := newAdmin(t, cluster, kafkax.AdminConfig{})
		defer admin.Close()
		for name, call := range adminCalls(admin, "nowhere") {
			if err := call(t.Context()); !errors.Is(err, kafka.UnknownTopicOrPartition) || !strings.Contains(err.Error(), "nowhere") {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
}

// adminCalls is every call that needs a topic.
func adminCalls(admin *kafkax.Admin, topic string) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"describe": func(ctx context.Context) error { _, _, err := admin.DescribeTopic(ctx, topic); return err },
		"bounds":   func(ctx context.Context) error { _, _, err := admin.Bounds(ctx, topic); return err },
		"committed": func(ctx context.Context) error {
			_, err := admin.Committed(ctx, "group", topic)
			return err
		},
		"delete": func(ctx context.Context) error { return admin.DeleteRecords(ctx, topic, map[int]int64{0: 0}) },
		"scan": func(ctx context.Context) error {
			return admin.Scan(ctx, topic, nil, func([]holdfast.Message) error { return nil })
		},
	}
}

// TestAdminWeather has every call meet brokers that are away for a while, then for good, and calls that end while they
// wait.
func TestAdminWeather(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 2}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 2, 10)
		admin := newAdmin(t, cluster, kafkax.AdminConfig{Timeout: 10 * time.Second})
		for name, call := range adminCalls(admin, "orders") {
			server.Stop()
			done := make(chan error, 1)
			go func() { done <- call(t.Context()) }()
			time.Sleep(5 * time.Second)
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Errorf("%s through an outage: %v", name, err)
			}

			server.Stop()
			began := time.Now()
			if err := call(t.Context()); err == nil || time.Since(began) > 11*time.Second {
				t.Errorf("%s without brokers: %v after %v", name, err, time.Since(began))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began = time.Now()
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > time.Second {
				t.Errorf("%s with an end: %v after %v", name, err, time.Since(began))
			}
			cancel()
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
		}
		// Brokers that take requests and never answer.
		defer server.Inject(testkit.Fault{Hang: true, Times: -1})()
		calls := adminCalls(admin, "orders")
		errs := make(chan error, len(calls))
		for _, call := range calls {
			go func() { errs <- call(t.Context()) }()
		}
		time.Sleep(2 * time.Second)
		admin.Close()
		admin.Close()
		for range calls {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Errorf("closed meanwhile: %v", err)
			}
		}
		for name, call := range calls {
			if err := call(t.Context()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s after Close: %v", name, err)
			}
		}
	})
}

// TestScan reads what a topic holds as the call begins, from given places and through moving leaders.
func TestScan(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 6}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		for range 20 { // Each is a batch.
			fill(t, server, "orders", 6, 10)
		}
		admin := newAdmin(t, cluster, kafkax.AdminConfig{})
		defer admin.Close()
		if err := server.DeleteRecords("orders", 5, 30); err != nil {
			t.Fatal(err)
		}
		server.Inject(testkit.Fault{ // A leader that has just become one.
			API: testkit.APIFetch, Topic: "orders", Partitions: []int{4}, Code: int16(kafka.UnknownTopicOrPartition),
		})
		want := map[int]int64{0: 0, 1: 5, 2: 200, 3: 0, 4: 0, 5: 30}
		at := maps.Clone(want)
		calls, busy := 0, false
		err := admin.Scan(t.Context(), "orders", map[int]int64{1: 5, 2: 1000, 5: 7}, func(messages []holdfast.Message) error {
			if busy {
				t.Error("handle was called twice at once")
			}
			busy = true
			defer func() { busy = false }()
			if calls++; calls == 2 {
				fill(t, server, "orders", 6, 10)
				for p := range 6 {
					if err := server.MoveLeader("orders", p, (server.Leader("orders", p)+1)%3); err != nil {
						t.Error(err)
					}
				}
			}
			for _, m := range messages {
				if m.Offset != at[m.Partition] || string(m.Value) != fmt.Sprintf("%d/%d", m.Partition, m.Offset) {
					t.Fatalf("%d/%d %q, expected offset %d", m.Partition, m.Offset, m.Value, at[m.Partition])
				}
				at[m.Partition]++
			}
			time.Sleep(10 * time.Millisecond)
			return nil
		})
		for p := range want {
			want[p] = 200
		}
		if err != nil || !maps.Equal(at, want) {
			t.Errorf("scanned up to %v, %v", at, err)
		}
	})
}

// Of a partition that is not wanted any further, nothing more is handed out.
func TestScanLeavesPartitionsOut(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 2}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		for range 50 {
			fill(t, server, "orders", 2, 100)
		}
		admin := newAdmin(t, cluster, kafkax.AdminConfig{})
		defer admin.Close()
		calls, seen := make(map[int]int), make(map[int]int)
		err := admin.Scan(t.Context(), "orders", nil, func(messages []holdfast.Message) error {
			p := messages[0].Partition
			calls[p], seen[p] = calls[p]+1, seen[p]+len(messages)
			if p == 0 {
				return fmt.Errorf("enough: %w", holdfast.ErrSkip)
			}
			return nil
		})
		if err != nil || calls[0] != 1 || seen[1] != 5000 {
			t.Errorf("%d calls for the partition that was left out, %d messages of the other, %v", calls[0], seen[1], err)
		}
	})
}

func TestOffsetsAt(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 2}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		began := time.Now()
		for range 5 {
			if err := server.Produce(t.Context(), holdfast.Message{Topic: "orders", Time: time.Now()}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		admin := newAdmin(t, cluster, kafkax.AdminConfig{})
		defer admin.Close()
		for at, want := range map[time.Time]int64{
			time.Unix(-1, 0): 0, began: 0, began.Add(time.Millisecond): 1, began.Add(3 * time.Minute): 3, began.Add(time.Hour): 5,
		} {
			got, err := admin.OffsetsAt(t.Context(), "orders", at)
			if err != nil || !maps.Equal(got, map[int]int64{0: want, 1: 0}) {
				t.Errorf("at %v: %v, %v, want %d", at.Sub(began), got, err, want)
			}
		}
		if _, err := admin.OffsetsAt(t.Context(), "none", began); !errors.Is(err, kafka.UnknownTopicOrPartition) {
			t.Errorf("a topic that does not exist: %v", err)
		}
	})
}

func TestScanEnds(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 6}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		fill(t, server, "orders", 6, 10)
		admin := newAdmin(t, cluster, kafkax.AdminConfig{Timeout: 5 * time.Second})
		defer admin.Close()
		none := func([]holdfast.Message) error { return nil }

		enough := errors.New("enough")
		if err := admin.Scan(t.Context(), "orders", nil, func([]holdfast.Message) error { return enough }); !errors.Is(err, enough) {
			t.Errorf("handle failed: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := admin.Scan(ctx, "orders", nil, func([]holdfast.Message) error { cancel(); synctest.Wait(); return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = admin.Scan(t.Context(), "orders", nil, func([]holdfast.Message) error { panic("handle") })
		}()
		for name, from := range map[string]map[int]int64{"no such partition": {9: 0}, "below 0": {0: -1}} {
			if err := admin.Scan(t.Context(), "orders", from, none); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		if err := admin.Scan(t.Context(), "orders", nil, nil); err == nil {
			t.Error("without a handle: no error")
		}

		remove := server.Inject(testkit.Fault{API: testkit.APIFetch, Topic: "orders", Partitions: []int{3}, Code: int16(kafka.KafkaStorageError), Times: -1})
		began := time.Now()
		err := admin.Scan(t.Context(), "orders", nil, none)
		if !errors.Is(err, kafka.KafkaStorageError) || !strings.Contains(err.Error(), "orders/3") || time.Since(began) > 8*time.Second {
			t.Errorf("a partition that brings nothing: %v after %v", err, time.Since(began))
		}
		remove()

		deleted := false
		seen := 0
		for range 100 { // Each is a batch, and more than an answer.
			big := holdfast.Message{Topic: "orders", Partition: 1, Value: make([]byte, 100_000)}
			if err := server.Produce(t.Context(), big); err != nil {
				t.Fatal(err)
			}
		}
		err = admin.Scan(t.Context(), "orders", map[int]int64{0: 10, 1: 0, 2: 10, 3: 10, 4: 10, 5: 10}, func(m []holdfast.Message) error {
			seen += len(m)
			if !deleted {
				deleted = true
				return server.DeleteRecords("orders", 1, 105)
			}
			return nil
		})
		if err != nil || seen < 5 || seen > 60 {
			t.Errorf("deleted under its feet: %d messages, %v", seen, err)
		}
		err = admin.Scan(t.Context(), "orders", nil, func([]holdfast.Message) error {
			if deleted {
				deleted = false
				return server.DeleteTopic("orders")
			}
			return nil
		})
		if !errors.Is(err, kafka.UnknownTopicOrPartition) {
			t.Errorf("the topic deleted under its feet: %v", err)
		}
	})
}

// TestScanTransactions leaves out what an aborted transaction wrote, and ends where an open one begins.
func TestScanTransactions(t *testing.T) {
	virtual(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1}}, func(t *testing.T, server *testkit.KafkaServer, cluster kafkax.Cluster) {
		writer, err := kgo.NewClient(kgo.SeedBrokers(cluster.Brokers...), kgo.Dialer(cluster.Dial), kgo.TransactionalID("t"))
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		transaction := func(value string) {
			t.Helper()
			if err := writer.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			if err := writer.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte(value)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		for value, end := range map[string]kgo.TransactionEndTry{"aborted": kgo.TryAbort, "committed": kgo.TryCommit} {
			transaction(value)
			if err := writer.EndTransaction(t.Context(), end); err != nil {
				t.Fatal(err)
			}
		}
		transaction("open")
		fill(t, server, "orders", 1, 1)
		admin := newAdmin(t, cluster, kafkax.AdminConfig{})
		defer admin.Close()
		var seen ledger
		err = admin.Scan(t.Context(), "orders", nil, func(messages []holdfast.Message) error { seen.note(messages); return nil })
		if err != nil || !maps.Equal(seen.seen, map[string]int{"committed": 1}) {
			t.Errorf("scanned %v, %v", seen.seen, err)
		}
	})
}

func TestAdminConfigFaults(t *testing.T) {
	if _, err := kafkax.NewAdmin(kafkax.Cluster{}, kafkax.AdminConfig{Timeout: -1}); err == nil ||
		!strings.Contains(err.Error(), "Brokers") || !strings.Contains(err.Error(), "AdminConfig.Timeout must be") {
		t.Errorf("got %v", err)
	}
}
