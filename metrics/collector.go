package metrics

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/retry"
)

// collector reads the Stats of everything in its Config when it is scraped.
type collector struct {
	cfg      Config
	circuit  circuitDescs
	retry    retryDescs
	pipeline pipelineDescs
	consumer consumerDescs
	spool    spoolDescs
	redrive  redriveDescs
	all      []*prometheus.Desc
}

type circuitDescs struct {
	state, successes, failures, timeouts, rejections *prometheus.Desc
}

type retryDescs struct {
	attempts, calls *prometheus.Desc
}

type pipelineDescs struct {
	lag, settled, inFlight, oldest                     *prometheus.Desc
	stored, skipped, redriven, late, letters, troubles *prometheus.Desc
}

func newCollector(cfg Config) *collector {
	cfg.Circuits = slices.Clone(cfg.Circuits)
	cfg.Groups = slices.Clone(cfg.Groups)
	cfg.Retries = maps.Clone(cfg.Retries)
	cfg.Pipelines = slices.Clone(cfg.Pipelines)
	cfg.Consumers = maps.Clone(cfg.Consumers)
	cfg.Spools = maps.Clone(cfg.Spools)
	cfg.Redrives = maps.Clone(cfg.Redrives)
	c := &collector{cfg: cfg}
	desc := func(subsystem, name, help string, labels ...string) *prometheus.Desc {
		d := prometheus.NewDesc(prometheus.BuildFQName(cfg.namespace(), subsystem, name), help, labels, nil)
		c.all = append(c.all, d)
		return d
	}
	c.circuit = circuitDescs{
		state:      desc("circuit_breaker", "state", "State of the circuit: 0 closed, 1 open, 2 half-open.", "name"),
		successes:  desc("circuit_breaker", "successes_total", "Calls through the circuit that succeeded.", "name"),
		failures:   desc("circuit_breaker", "failures_total", "Calls through the circuit that failed.", "name"),
		timeouts:   desc("circuit_breaker", "timeouts_total", "Failures that were a deadline exceeded.", "name"),
		rejections: desc("circuit_breaker", "rejections_total", "Calls that the circuit did not admit.", "name"),
	}
	c.retry = retryDescs{
		attempts: desc("retry", "attempts_total", "Attempts made, the first of a call or a retry.", "name", "result"),
		calls:    desc("retry", "calls_total", "Calls by how they ended.", "name", "result"),
	}
	partition := []string{"pipeline", "topic", "partition"}
	c.pipeline = pipelineDescs{
		lag:      desc("pipeline", "partition_lag", "Messages between what is settled and the end of the partition.", partition...),
		settled:  desc("pipeline", "partition_settled_offset", "Everything before this offset is settled.", partition...),
		inFlight: desc("pipeline", "partition_in_flight", "Messages fetched and not settled.", partition...),
		oldest:   desc("pipeline", "partition_oldest_age_seconds", "Time the oldest message in flight has been so.", partition...),
		stored:   desc("pipeline", "stored_total", "Items stored by the sink.", "pipeline"),
		skipped:  desc("pipeline", "skipped_total", "Messages skipped on purpose.", "pipeline"),
		redriven: desc("pipeline", "redriven_total", "Items stored whose messages came home from the dead-letter queue.", "pipeline"),
		late:     desc("pipeline", "late_completions_total", "Completions dropped because their claim was gone.", "pipeline"),
		letters:  desc("pipeline", "letters_total", "Dead letters written.", "pipeline", "reason"),
		troubles: desc("pipeline", "troubles", "Places where messages wait for something.", "pipeline"),
	}
	c.consumer = newConsumerDescs(desc)
	c.spool = newSpoolDescs(desc)
	c.redrive = newRedriveDescs(desc)
	return c
}

// Describe is prometheus.Collector's.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.all {
		out <- d
	}
}

// Collect is prometheus.Collector's.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	seen := make(map[string]bool)
	show := func(s breaker.Stats) {
		name := readable(s.Name)
		if !seen[name] { // Of two circuits with one name, the first is shown: a scrape must not fail for it.
			seen[name] = true
			c.circuit.collect(out, s)
		}
	}
	for _, b := range c.cfg.Circuits {
		show(b.Stats())
	}
	for _, g := range c.cfg.Groups {
		all := g.StatsAll()
		for _, name := range slices.Sorted(maps.Keys(all)) {
			show(all[name])
		}
	}
	for name, counter := range c.cfg.Retries {
		c.retry.collect(out, name, counter.Stats())
	}
	for _, p := range c.cfg.Pipelines {
		c.pipeline.collect(out, p)
	}
	for name, consumer := range c.cfg.Consumers {
		c.consumer.collect(out, name, consumer.Stats())
	}
	for name, spool := range c.cfg.Spools {
		c.spool.collect(out, name, spool.Stats())
	}
	for name, redrive := range c.cfg.Redrives {
		c.redrive.collect(out, name, redrive.Stats())
	}
}

func (d circuitDescs) collect(out chan<- prometheus.Metric, s breaker.Stats) {
	out <- gauge(d.state, float64(s.State), s.Name)
	out <- counter(d.successes, s.Totals.Successes, s.Name)
	out <- counter(d.failures, s.Totals.Failures, s.Name)
	out <- counter(d.timeouts, s.Totals.Timeouts, s.Name)
	out <- counter(d.rejections, s.Totals.RejectedOpen+s.Totals.RejectedTooMany, s.Name)
}

func (d retryDescs) collect(out chan<- prometheus.Metric, name string, s retry.Counts) {
	out <- counter(d.attempts, s.Attempts-s.Retries, name, "first")
	out <- counter(d.attempts, s.Retries, name, "retry")
	out <- counter(d.calls, s.Succeeded, name, "succeeded")
	out <- counter(d.calls, s.GaveUp, name, "gave_up")
	out <- counter(d.calls, s.Rejected, name, "rejected")
	out <- counter(d.calls, s.Canceled, name, "canceled")
}

func (d pipelineDescs) collect(out chan<- prometheus.Metric, p *pipeline.Pipeline) {
	s := p.Stats()
	for _, part := range s.Partitions {
		labels := []string{s.Name, part.Topic, strconv.Itoa(part.Partition)}
		if part.Lag >= 0 {
			out <- gauge(d.lag, float64(part.Lag), labels...)
		}
		out <- gauge(d.settled, float64(part.Settled), labels...)
		out <- gauge(d.inFlight, float64(part.InFlight), labels...)
		out <- gauge(d.oldest, part.OldestAge.Seconds(), labels...)
	}
	out <- counter(d.stored, s.Stored, s.Name)
	out <- counter(d.skipped, s.Skipped, s.Name)
	out <- counter(d.redriven, s.Redriven, s.Name)
	out <- counter(d.late, s.Late, s.Name)
	for reason, n := range s.Letters {
		out <- counter(d.letters, n, s.Name, string(reason))
	}
	out <- gauge(d.troubles, float64(len(p.Health().Troubles)), s.Name)
}

func gauge(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return metric(d, prometheus.GaugeValue, v, labels)
}

func counter(d *prometheus.Desc, v uint64, labels ...string) prometheus.Metric {
	return metric(d, prometheus.CounterValue, float64(v), labels)
}

func metric(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels []string) prometheus.Metric {
	values := make([]string, len(labels))
	for i, l := range labels {
		values[i] = readable(l)
	}
	return prometheus.MustNewConstMetric(d, kind, v, values...)
}

// readable makes valid UTF-8 of a label. client_golang panics at any other, in a goroutine of its own, which would end the
// process; and a circuit of a Group may get its name long after Register.
func readable(label string) string { return strings.ToValidUTF8(label, "\uFFFD") }
