package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/dlq"
)

// statistics is what stats prints for programs.
type statistics struct {
	Topic      string            `json:"topic"`
	Partitions []partitionBounds `json:"partitions"`
	*Counts                      // Nil when nothing was read.
}

// Counts are of what was read. It is exported for who reads them with encoding/json.
type Counts struct {
	Records   int                `json:"records"`
	States    map[dlq.State]int  `json:"states"`
	Reasons   map[dlq.Reason]int `json:"open_by_reason"`
	Classes   map[string]int     `json:"open_by_error_class"`
	Topics    map[string]int     `json:"open_by_topic"`
	Groups    map[string]int     `json:"open_by_group"`
	OpenBytes int64              `json:"open_bytes"`
	Oldest    *when              `json:"oldest_open,omitempty"`
	Newest    *when              `json:"newest_open,omitempty"`
}

// partitionBounds is what Kafka tells of a partition.
type partitionBounds struct {
	Partition int   `json:"partition"`
	First     int64 `json:"first"`
	Next      int64 `json:"next"`
	LastHour  int64 `json:"last_hour"` // Records that came since.
	LastDay   int64 `json:"last_day"`
}

func (t *tool) stats() *cobra.Command {
	var which selection
	var quick bool
	cmd := &cobra.Command{
		Use:   "stats TOPIC",
		Short: "Count what lies in a dead-letter topic",
		Long: `Counts what lies in a dead-letter topic: what of it is open, and why, and what is not.

That takes reading all of it, but for what --partition, --from, --to and --after spare. With --quick nothing is read:
it tells what Kafka knows by itself, how many records there are and how many came lately.

States:
  open          waits for you to redrive it
  exhausted     has come back too often: a redrive parks it
  redriven      was redriven, or parked; the ledger knows it
  comes_home    waits for its pipeline, which takes letters of an open circuit home by itself
  came_home     was taken home by its pipeline
  unwanted      was read and is not selected
  not_a_letter  does not say where it came from`,
		Args: cobra.ExactArgs(1),
	}
	which.register(cmd)
	cmd.Flags().BoolVarP(&quick, "quick", "q", false, "only what can be told without reading records")
	cmd.RunE = t.action(func(cmd *cobra.Command, s *session, args []string) error {
		ctx := cmd.Context()
		b, err := t.browse(ctx, s, args[0], &which)
		if err != nil {
			return err
		}
		out := &statistics{Topic: args[0]}
		if out.Partitions, err = b.bounds(ctx); err != nil {
			return err
		}
		var survey *dlq.Survey
		if !quick {
			if survey, err = b.survey(ctx, b.begin); err != nil {
				return err
			}
			out.Counts = newCounts(survey)
		}
		if t.format == "json" {
			return t.json(out)
		}
		rows := [][]string{{"PARTITION", "FIRST", "NEXT", "RECORDS", "LAST HOUR", "LAST DAY"}}
		for _, p := range out.Partitions {
			rows = append(rows, []string{
				fmt.Sprint(p.Partition), fmt.Sprint(p.First), fmt.Sprint(p.Next), fmt.Sprint(p.Next - p.First), fmt.Sprint(p.LastHour), fmt.Sprint(p.LastDay),
			})
		}
		if err := t.table(rows); err != nil || quick {
			return err
		}
		fmt.Fprintln(t.out)
		return t.survey(survey)
	})
	return cmd
}

// bounds is what Kafka tells of each partition that is selected.
func (b *browsing) bounds(ctx context.Context) ([]partitionBounds, error) {
	first, next, err := b.admin.Bounds(ctx, b.topic)
	if err != nil {
		return nil, err
	}
	var since [2]map[int]int64
	for i, age := range []time.Duration{time.Hour, 24 * time.Hour} {
		if since[i], err = b.admin.OffsetsAt(ctx, b.topic, time.Now().Add(-age)); err != nil {
			return nil, err
		}
	}
	var out []partitionBounds
	for _, p := range slices.Sorted(maps.Keys(next)) {
		lately := func(since map[int]int64) int64 { return max(0, next[p]-since[p]) }
		out = append(out, partitionBounds{p, first[p], next[p], lately(since[0]), lately(since[1])})
	}
	return out, nil
}

func newCounts(s *dlq.Survey) *Counts {
	return &Counts{
		Records: s.Records, States: s.States, Reasons: s.Reasons, Classes: s.Classes, Topics: s.Topics, Groups: s.Groups, OpenBytes: s.Bytes,
		Oldest: known(s.Oldest), Newest: known(s.Newest),
	}
}
