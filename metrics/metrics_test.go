package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/metrics"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/retry"
)

func circuit(t *testing.T, name string) *breaker.Breaker {
	t.Helper()
	b, err := breaker.New(breaker.Config{Name: name, MaxFailures: 2})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ended is a source without a partition, which ends at once.
type ended struct{}

func (ended) Consume(context.Context, func(context.Context, holdfast.Claim) error) error { return nil }

func idle(t *testing.T, name string) *pipeline.Pipeline {
	t.Helper()
	sink := sinkFunc(func(context.Context, holdfast.Batch[int]) error { return nil })
	p, err := pipeline.New(ended{}, pipeline.Map("decode", pipeline.JSON[int], pipeline.StageConfig{}), sink, pipeline.Config{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

type sinkFunc func(context.Context, holdfast.Batch[int]) error

func (f sinkFunc) Write(ctx context.Context, b holdfast.Batch[int]) error { return f(ctx, b) }

func TestCircuitsAndRetries(t *testing.T) {
	store, group, counter := circuit(t, "store"), breaker.NewGroup(), &retry.Counter{}
	other, err := group.GetOrCreate(breaker.Config{Name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := group.GetOrCreate(breaker.Config{Name: "store"}); err != nil { // Shown once, the first one.
		t.Fatal(err)
	}
	fail := func(context.Context) error { return context.DeadlineExceeded }
	policy := retry.Policy{Attempts: 2, Delay: -1, OnAttempt: counter.Observe}
	if err := retry.DoThrough(t.Context(), store, policy, fail); err == nil {
		t.Fatal("no error")
	}
	if err := store.Execute(t.Context(), fail); !errors.Is(err, breaker.ErrCircuitOpen) {
		t.Fatal(err)
	}
	if err := other.Execute(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}

	reg := prometheus.NewPedanticRegistry()
	if err := metrics.Register(reg, metrics.Config{
		Circuits: []*breaker.Breaker{store},
		Groups:   []*breaker.Group{group},
		Retries:  map[string]*retry.Counter{"store": counter},
	}); err != nil {
		t.Fatal(err)
	}
	want := `
# HELP holdfast_circuit_breaker_failures_total Calls through the circuit that failed.
# TYPE holdfast_circuit_breaker_failures_total counter
holdfast_circuit_breaker_failures_total{name="other"} 0
holdfast_circuit_breaker_failures_total{name="store"} 2
# HELP holdfast_circuit_breaker_rejections_total Calls that the circuit did not admit.
# TYPE holdfast_circuit_breaker_rejections_total counter
holdfast_circuit_breaker_rejections_total{name="other"} 0
holdfast_circuit_breaker_rejections_total{name="store"} 1
# HELP holdfast_circuit_breaker_state State of the circuit: 0 closed, 1 open, 2 half-open.
# TYPE holdfast_circuit_breaker_state gauge
holdfast_circuit_breaker_state{name="other"} 0
holdfast_circuit_breaker_state{name="store"} 1
# HELP holdfast_circuit_breaker_successes_total Calls through the circuit that succeeded.
# TYPE holdfast_circuit_breaker_successes_total counter
holdfast_circuit_breaker_successes_total{name="other"} 1
holdfast_circuit_breaker_successes_total{name="store"} 0
# HELP holdfast_circuit_breaker_timeouts_total Failures that were a deadline exceeded.
# TYPE holdfast_circuit_breaker_timeouts_total counter
holdfast_circuit_breaker_timeouts_total{name="other"} 0
holdfast_circuit_breaker_timeouts_total{name="store"} 2
# HELP holdfast_retry_attempts_total Attempts made, the first of a call or a retry.
# TYPE holdfast_retry_attempts_total counter
holdfast_retry_attempts_total{name="store",result="first"} 1
holdfast_retry_attempts_total{name="store",result="retry"} 1
# HELP holdfast_retry_calls_total Calls by how they ended.
# TYPE holdfast_retry_calls_total counter
holdfast_retry_calls_total{name="store",result="canceled"} 0
holdfast_retry_calls_total{name="store",result="gave_up"} 1
holdfast_retry_calls_total{name="store",result="rejected"} 0
holdfast_retry_calls_total{name="store",result="succeeded"} 0
`
	compare(t, reg, want)
}

func TestNamesPassPromlint(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	if err := metrics.Register(reg, metrics.Config{
		Circuits:  []*breaker.Breaker{circuit(t, "store")},
		Retries:   map[string]*retry.Counter{"store": {}},
		Pipelines: []*pipeline.Pipeline{idle(t, "orders")},
	}); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if n, err := testutil.GatherAndCount(reg, "holdfast_pipeline_stored_total", "holdfast_pipeline_troubles"); n != 2 || err != nil {
		t.Errorf("%d metrics of the pipeline, %v", n, err)
	}
}

// registerer keeps what a collector describes, as the documentation writes it.
type registerer map[string]bool

var described = regexp.MustCompile(`fqName: "(\w+)".*variableLabels: (\{[^}]*\})`)

func (r registerer) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc, 100)
	c.Describe(descs)
	close(descs)
	for d := range descs {
		r[strings.Join(described.FindStringSubmatch(d.String())[1:], "")] = true
	}
	return nil
}

func (r registerer) MustRegister(...prometheus.Collector) {}
func (r registerer) Unregister(prometheus.Collector) bool { return false }

func TestDocumentationListsEveryName(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]bool)
	for _, name := range regexp.MustCompile(`holdfast_\w+\{[\w,]+\}`).FindAllString(string(text), -1) {
		listed[name] = true
	}
	shown := make(registerer)
	if err := metrics.Register(shown, metrics.Config{}); err != nil {
		t.Fatal(err)
	}
	for name := range shown {
		if !listed[name] {
			t.Errorf("doc.go does not list %s", name)
		}
	}
	for name := range listed {
		if !shown[name] {
			t.Errorf("doc.go lists %s, which nothing shows", name)
		}
	}
}

// A name that is no UTF-8 would end the process when it is scraped.
func TestNamesThatAreNoText(t *testing.T) {
	group := breaker.NewGroup()
	reg := prometheus.NewPedanticRegistry()
	if err := metrics.Register(reg, metrics.Config{
		Circuits: []*breaker.Breaker{circuit(t, "a\xff")},
		Groups:   []*breaker.Group{group},
		Retries:  map[string]*retry.Counter{"\xfe": {}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := group.GetOrCreate(breaker.Config{Name: "a\xfe"}); err != nil { // Looks like the first, and is not shown.
		t.Fatal(err)
	}
	want := `
# HELP holdfast_circuit_breaker_state State of the circuit: 0 closed, 1 open, 2 half-open.
# TYPE holdfast_circuit_breaker_state gauge
holdfast_circuit_breaker_state{name="a�"} 0
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "holdfast_circuit_breaker_state"); err != nil {
		t.Error(err)
	}
}

type consumerStats holdfast.ConsumerStats

func (s consumerStats) Stats() holdfast.ConsumerStats { return holdfast.ConsumerStats(s) }

var _ metrics.Consumer = (*kafkax.Consumer)(nil)

func TestConsumers(t *testing.T) {
	orders := consumerStats{Groups: []holdfast.GroupStats{{
		Group: "orders", Generation: 3, Generations: 7, CommitsFailed: 2, OutOfRange: 1, PassedOver: 40, LastDrain: 1500 * time.Millisecond, DrainTimeouts: 4,
		Partitions: []holdfast.PartitionStats{
			{Topic: "orders", Partition: 0, Committed: 100, Position: 110, End: 130, Lag: 30, Prefetched: 512, FetchError: errors.New("garbled"), FetchesFailed: 11, Commits: 9, CommitsFenced: 6, LateCompletions: 5},
			{Topic: "orders", Partition: 1, Committed: -1, Position: 8, End: -1, Lag: -1}, // Nothing is known yet.
		},
	}}}
	reg := prometheus.NewPedanticRegistry()
	if err := metrics.Register(reg, metrics.Config{Consumers: map[string]metrics.Consumer{"one": orders, "two": consumerStats{}}}); err != nil {
		t.Fatal(err)
	}
	of := func(name, partition string) string {
		return "holdfast_consumer_partition_" + name + `{consumer="one",group="orders",partition="` + partition + `",topic="orders"}`
	}
	group := func(name string) string { return "holdfast_consumer_" + name + `{consumer="one",group="orders"}` }
	want := map[string]float64{
		group("generation"): 3, group("generations_total"): 7, group("commits_failed_total"): 2, group("out_of_range_total"): 1,
		group("passed_over_total"): 40, group("last_drain_seconds"): 1.5, group("drain_timeouts_total"): 4,
		of("lag", "0"): 30, of("committed_offset", "0"): 100, of("position_offset", "0"): 110, of("prefetched_bytes", "0"): 512,
		of("commits_total", "0"): 9, of("commits_fenced_total", "0"): 6, of("late_completions_total", "0"): 5,
		of("fetch_failing", "0"): 1, of("fetches_failed_total", "0"): 11, of("fetch_failing", "1"): 0, of("fetches_failed_total", "1"): 0,
		of("position_offset", "1"): 8, of("prefetched_bytes", "1"): 0,
		of("commits_total", "1"): 0, of("commits_fenced_total", "1"): 0, of("late_completions_total", "1"): 0,
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			got[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestNamespace(t *testing.T) {
	for namespace, want := range map[string]string{
		"":                  "holdfast_circuit_breaker_state",
		"warden":            "warden_circuit_breaker_state",
		metrics.NoNamespace: "circuit_breaker_state",
	} {
		reg := prometheus.NewPedanticRegistry()
		if err := metrics.Register(reg, metrics.Config{Namespace: namespace, Circuits: []*breaker.Breaker{circuit(t, "store")}}); err != nil {
			t.Fatal(err)
		}
		if n, err := testutil.GatherAndCount(reg, want); n != 1 || err != nil {
			t.Errorf("namespace %q: %d metrics named %s, %v", namespace, n, want, err)
		}
	}
}

func TestRegisterRefusesNonsense(t *testing.T) {
	store := circuit(t, "store")
	err := metrics.Register(prometheus.NewRegistry(), metrics.Config{
		Namespace: "9 lives",
		Circuits:  []*breaker.Breaker{store, nil, store},
		Groups:    []*breaker.Group{nil},
		Retries:   map[string]*retry.Counter{"r": nil},
		Pipelines: []*pipeline.Pipeline{nil, idle(t, "orders"), idle(t, "orders")},
		Consumers: map[string]metrics.Consumer{"c": nil},
		Spools:    map[string]*dlq.Spool{"s": nil},
		Redrives:  map[string]*dlq.Redrive{"d": nil},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`"9 lives"`, "Circuits[1]", `two named "store"`, "Groups[0]", `Retries["r"]`, `Consumers["c"]`, `Spools["s"]`, `Redrives["d"]`, "Pipelines[0]", `two named "orders"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
	if err := metrics.Register(nil, metrics.Config{}); err == nil {
		t.Error("nil registerer accepted")
	}
	reg := prometheus.NewRegistry()
	for i, want := range []bool{true, false} {
		if err := metrics.Register(reg, metrics.Config{}); (err == nil) != want {
			t.Errorf("registration %d: %v", i, err)
		}
	}
}
