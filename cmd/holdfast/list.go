package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/dlq"
)

// listed is what is told of a letter without its payload.
type listed struct {
	Partition     int        `json:"partition"`
	Offset        int64      `json:"offset"`
	State         dlq.State  `json:"state"`
	ID            string     `json:"id"`
	Reason        dlq.Reason `json:"reason"`
	Group         string     `json:"group"`
	Stage         string     `json:"stage,omitempty"`
	Circuit       string     `json:"circuit,omitempty"`
	ErrorClass    string     `json:"error_class,omitempty"`
	ErrorCode     string     `json:"error_code,omitempty"`
	Error         string     `json:"error,omitempty"`
	Attempts      int        `json:"attempts"`
	Redrives      int        `json:"redrives"`
	FromTopic     string     `json:"from_topic"`
	FromPartition int        `json:"from_partition"`
	FromOffset    int64      `json:"from_offset"`
	FirstFailedAt *when      `json:"first_failed_at,omitempty"`
	DeadAt        *when      `json:"dead_at,omitempty"`
	KeyBytes      int        `json:"key_bytes"`
	ValueBytes    int        `json:"value_bytes"`
}

func newListed(e *dlq.Entry) listed {
	l, r := &e.Letter, &e.Record
	out := listed{
		Partition: r.Partition, Offset: r.Offset, State: e.State, Reason: l.Reason, Group: l.Group,
		Stage: l.Stage, Circuit: l.Circuit, ErrorClass: l.ErrorClass, ErrorCode: l.ErrorCode, Error: l.Error, Attempts: l.Attempts, Redrives: l.Redrives,
		FromTopic: l.Message.Topic, FromPartition: l.Message.Partition, FromOffset: l.Message.Offset,
		KeyBytes: len(r.Key), ValueBytes: len(r.Value),
	}
	if e.State != dlq.Foreign {
		out.ID = l.ID()
	}
	for _, at := range []struct {
		from time.Time
		to   **when
	}{{l.FirstFailedAt, &out.FirstFailedAt}, {l.DeadAt, &out.DeadAt}} {
		if !at.from.IsZero() {
			*at.to = (*when)(&at.from)
		}
	}
	return out
}

func (t *tool) list() *cobra.Command {
	var which selection
	var limit int
	var all bool
	cmd := &cobra.Command{
		Use:   "list TOPIC",
		Short: "List letters, without their payload",
		Args:  cobra.ExactArgs(1),
	}
	which.register(cmd)
	cmd.Flags().IntVarP(&limit, "limit", "n", 50, "so many at the most; 0: all")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also what is not open")
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
		found := make([]listed, 0)
		per, more := make(map[int]int), 0
		err = r.Browse(ctx, nil, func(e dlq.Entry) error {
			open := e.State == dlq.Open || e.State == dlq.Exhausted
			switch {
			case !open && !all || e.State == dlq.Unwanted:
			case limit > 0 && per[e.Record.Partition] == limit:
				more++
			default:
				per[e.Record.Partition]++
				found = append(found, newListed(&e))
			}
			return nil
		})
		if err != nil {
			return err
		}
		slices.SortFunc(found, func(a, b listed) int {
			return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
		})
		if limit > 0 && len(found) > limit {
			more += len(found) - limit
			found = found[:limit]
		}
		if t.format == "json" {
			return t.json(found)
		}
		rows := [][]string{{"PARTITION", "OFFSET", "DEAD AT", "STATE", "REASON", "GROUP", "FROM", "TRIES", "REDRIVES", "ERROR"}}
		for _, l := range found {
			at := "-"
			if l.DeadAt != nil {
				at = stamp(time.Time(*l.DeadAt))
			}
			rows = append(rows, []string{
				fmt.Sprint(l.Partition), fmt.Sprint(l.Offset), at, string(l.State), string(l.Reason), l.Group,
				fmt.Sprintf("%s/%d/%d", l.FromTopic, l.FromPartition, l.FromOffset), fmt.Sprint(l.Attempts), fmt.Sprint(l.Redrives), l.Error,
			})
		}
		if err := t.table(rows); err != nil {
			return err
		}
		if more > 0 {
			fmt.Fprintf(t.out, "... and %d more; -n 0 lists all\n", more)
		}
		return nil
	})
	return cmd
}
