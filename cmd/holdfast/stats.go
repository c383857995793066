package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/dlq"
)

// statistics is what stats prints for programs.
type statistics struct {
	Topic      string             `json:"topic"`
	Partitions []partitionBounds  `json:"partitions"`
	Records    int                `json:"records"`
	States     map[dlq.State]int  `json:"states"`
	Reasons    map[dlq.Reason]int `json:"open_by_reason"`
	Classes    map[string]int     `json:"open_by_error_class"`
	Topics     map[string]int     `json:"open_by_topic"`
	Groups     map[string]int     `json:"open_by_group"`
	OpenBytes  int64              `json:"open_bytes"`
	Oldest     *when              `json:"oldest_open,omitempty"`
	Newest     *when              `json:"newest_open,omitempty"`
}

type partitionBounds struct {
	Partition int   `json:"partition"`
	First     int64 `json:"first"`
	Next      int64 `json:"next"`
}

func (t *tool) stats() *cobra.Command {
	var which selection
	cmd := &cobra.Command{
		Use:   "stats TOPIC",
		Short: "Count what lies in a dead-letter topic",
		Long: `Counts what lies in a dead-letter topic: what of it is open, and why, and what is not.

States:
  open          waits for you to redrive it
  exhausted     has come back too often: a redrive parks it
  redriven      was redriven, or parked; the ledger knows it
  comes_home    waits for its pipeline, which takes letters of an open circuit home by itself
  came_home     was taken home by its pipeline
  unwanted      is not selected
  not_a_letter  does not say where it came from`,
		Args: cobra.ExactArgs(1),
	}
	which.register(cmd)
	cmd.RunE = t.action(func(cmd *cobra.Command, s *session, args []string) error {
		ctx := cmd.Context()
		filter, err := which.filter()
		if err != nil {
			return err
		}
		r, err := s.deadLetters(ctx, dlq.RedriveConfig{Topic: args[0], Letters: dlq.SourceConfig{Filter: filter}}, which.ledgerOf(args[0]))
		if err != nil {
			return err
		}
		first, next, err := s.admin.Bounds(ctx, args[0])
		if err != nil {
			return err
		}
		survey, err := r.Survey(ctx)
		if err != nil {
			return err
		}
		out := newStatistics(args[0], &survey)
		rows := [][]string{{"PARTITION", "FIRST", "NEXT", "RECORDS"}}
		for _, p := range slices.Sorted(maps.Keys(next)) {
			out.Partitions = append(out.Partitions, partitionBounds{p, first[p], next[p]})
			rows = append(rows, []string{fmt.Sprint(p), fmt.Sprint(first[p]), fmt.Sprint(next[p]), fmt.Sprint(next[p] - first[p])})
		}
		if t.format == "json" {
			return t.json(out)
		}
		if err := t.table(rows); err != nil {
			return err
		}
		fmt.Fprintln(t.out)
		return t.survey(&survey)
	})
	return cmd
}

func newStatistics(topic string, s *dlq.Survey) *statistics {
	out := &statistics{
		Topic: topic, Records: s.Records, States: s.States, Reasons: s.Reasons, Classes: s.Classes, Topics: s.Topics, Groups: s.Groups, OpenBytes: s.Bytes,
	}
	if !s.Oldest.IsZero() {
		out.Oldest, out.Newest = (*when)(&s.Oldest), (*when)(&s.Newest)
	}
	return out
}
