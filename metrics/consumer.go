package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-io/holdfast"
)

// consumerDescs are of a consumer's groups, and of the partitions that it has at the time.
type consumerDescs struct {
	generation, generations, failed, outOfRange, passedOver, drain, drainTimeouts *prometheus.Desc
	lag, committed, position, prefetched, commits, fenced, late                   *prometheus.Desc
	failing, fetchesFailed                                                        *prometheus.Desc
}

func newConsumerDescs(desc func(subsystem, name, help string, labels ...string) *prometheus.Desc) consumerDescs {
	group := []string{"consumer", "group"}
	partition := []string{"consumer", "group", "topic", "partition"}
	return consumerDescs{
		generation:    desc("consumer", "generation", "The group's generation, 0 while not joined.", group...),
		generations:   desc("consumer", "generations_total", "Generations joined.", group...),
		failed:        desc("consumer", "commits_failed_total", "Commits refused or lost, and tried again.", group...),
		outOfRange:    desc("consumer", "out_of_range_total", "Offsets that a log did not hold, so that reading went on elsewhere.", group...),
		passedOver:    desc("consumer", "passed_over_total", "Offsets left unread by that.", group...),
		drain:         desc("consumer", "last_drain_seconds", "Time the last drain took.", group...),
		drainTimeouts: desc("consumer", "drain_timeouts_total", "Drains that took longer than they may.", group...),

		lag:           desc("consumer", "partition_lag", "Messages between what is committed and the end of the partition.", partition...),
		committed:     desc("consumer", "partition_committed_offset", "What the group has committed.", partition...),
		position:      desc("consumer", "partition_position_offset", "What is handed out next.", partition...),
		prefetched:    desc("consumer", "partition_prefetched_bytes", "Bytes fetched and not handed out.", partition...),
		failing:       desc("consumer", "partition_fetch_failing", "1 while nothing can be fetched of the partition, else 0.", partition...),
		commits:       desc("consumer", "partition_commits_total", "Commits accepted by the coordinator.", partition...),
		fenced:        desc("consumer", "partition_commits_fenced_total", "Commits refused because the generation was over.", partition...),
		fetchesFailed: desc("consumer", "partition_fetches_failed_total", "Attempts to fetch that failed.", partition...),
		late:          desc("consumer", "partition_late_completions_total", "Commits dropped because the claim was gone.", partition...),
	}
}

func (d consumerDescs) collect(out chan<- prometheus.Metric, name string, s holdfast.ConsumerStats) {
	for _, g := range s.Groups {
		labels := []string{name, g.Group}
		out <- gauge(d.generation, float64(g.Generation), labels...)
		out <- counter(d.generations, g.Generations, labels...)
		out <- counter(d.failed, g.CommitsFailed, labels...)
		out <- counter(d.outOfRange, g.OutOfRange, labels...)
		out <- counter(d.passedOver, g.PassedOver, labels...)
		out <- gauge(d.drain, g.LastDrain.Seconds(), labels...)
		out <- counter(d.drainTimeouts, g.DrainTimeouts, labels...)
		for _, p := range g.Partitions {
			labels := []string{name, g.Group, p.Topic, strconv.Itoa(p.Partition)}
			if p.Lag >= 0 {
				out <- gauge(d.lag, float64(p.Lag), labels...)
			}
			if p.Committed >= 0 {
				out <- gauge(d.committed, float64(p.Committed), labels...)
			}
			out <- gauge(d.position, float64(p.Position), labels...)
			out <- gauge(d.prefetched, float64(p.Prefetched), labels...)
			failing := 0.0
			if p.FetchError != nil {
				failing = 1
			}
			out <- gauge(d.failing, failing, labels...)
			out <- counter(d.fetchesFailed, p.FetchesFailed, labels...)
			out <- counter(d.commits, p.Commits, labels...)
			out <- counter(d.fenced, p.CommitsFenced, labels...)
			out <- counter(d.late, p.LateCompletions, labels...)
		}
	}
}
