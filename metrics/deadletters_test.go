package metrics_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/metrics"
	"github.com/holdfast-io/holdfast/testkit"
)

func TestSpools(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		spools := make(map[string]*dlq.Spool)
		for i, name := range []string{"orders", "empty"} {
			spool, err := dlq.OpenSpool(dirs[i], dlq.SpoolConfig{MaxBytes: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = spool.Close() }()
			spools[name] = spool
		}
		for range 3 {
			if err := spools["orders"].Append(t.Context(), holdfast.Message{Topic: "orders.dlq", Value: []byte("v")}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(90 * time.Second)
		reg := prometheus.NewPedanticRegistry()
		if err := metrics.Register(reg, metrics.Config{Spools: spools}); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`
# HELP holdfast_spool_bytes What the messages on the local disk count for.
# TYPE holdfast_spool_bytes gauge
holdfast_spool_bytes{spool="empty"} 0
holdfast_spool_bytes{spool="orders"} %d
# HELP holdfast_spool_max_bytes What they may count for: at this the spool is full.
# TYPE holdfast_spool_max_bytes gauge
holdfast_spool_max_bytes{spool="empty"} 1.048576e+06
holdfast_spool_max_bytes{spool="orders"} 1.048576e+06
# HELP holdfast_spool_messages Messages on the local disk, the refused ones included.
# TYPE holdfast_spool_messages gauge
holdfast_spool_messages{spool="empty"} 0
holdfast_spool_messages{spool="orders"} 3
# HELP holdfast_spool_oldest_age_seconds Time the oldest message has been on the local disk, 0 without one.
# TYPE holdfast_spool_oldest_age_seconds gauge
holdfast_spool_oldest_age_seconds{spool="empty"} 0
holdfast_spool_oldest_age_seconds{spool="orders"} 90
# HELP holdfast_spool_refused_messages Messages set aside because nothing takes them as they are.
# TYPE holdfast_spool_refused_messages gauge
holdfast_spool_refused_messages{spool="empty"} 0
holdfast_spool_refused_messages{spool="orders"} 0
`, spools["orders"].Stats().Bytes)
		compare(t, reg, want)
	})
}

func TestRedrives(t *testing.T) {
	kafka := testkit.Kafka(t, testkit.KafkaConfig{Topics: map[string]int{"orders": 1, "orders.dlq": 1, "orders.dlq.parked": 1}})
	for i, redrives := range []int{0, 0, 5} {
		record := dlq.Encode(dlq.Letter{Message: holdfast.Message{Topic: "orders", Offset: int64(i)}, Redrives: redrives})
		record.Topic = "orders.dlq"
		if err := kafka.Produce(t.Context(), record); err != nil {
			t.Fatal(err)
		}
	}
	cluster := kafkax.Cluster{Brokers: kafka.Addrs()}
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: "unused", Topics: []string{"unused"}})
	if err != nil {
		t.Fatal(err)
	}
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = producer.Close(t.Context()) }()
	admin, err := kafkax.NewAdmin(cluster, kafkax.AdminConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	letters := dlq.SourceConfig{Logger: slog.New(slog.DiscardHandler)}
	redrive, err := dlq.NewRedrive(consumer, producer, admin, dlq.RedriveConfig{Topic: "orders.dlq", Letters: letters})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := redrive.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	if err := metrics.Register(reg, metrics.Config{Redrives: map[string]*dlq.Redrive{"orders": redrive}}); err != nil {
		t.Fatal(err)
	}
	compare(t, reg, `
# HELP holdfast_redrive_letters_total Letters by what became of them.
# TYPE holdfast_redrive_letters_total counter
holdfast_redrive_letters_total{redrive="orders",result="failed"} 0
holdfast_redrive_letters_total{redrive="orders",result="parked"} 1
holdfast_redrive_letters_total{redrive="orders",result="redriven"} 2
holdfast_redrive_letters_total{redrive="orders",result="returned"} 0
holdfast_redrive_letters_total{redrive="orders",result="skipped"} 0
# HELP holdfast_redrive_running Whether a run is on: 0 or 1.
# TYPE holdfast_redrive_running gauge
holdfast_redrive_running{redrive="orders"} 0
`)
}

// compare wants exactly these metrics, with names that Prometheus likes.
func compare(t *testing.T, reg *prometheus.Registry, want string) {
	t.Helper()
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
