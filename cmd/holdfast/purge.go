package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

// purgeable is what purge would delete of one partition.
type purgeable struct {
	Partition int   `json:"partition"`
	First     int64 `json:"first"`
	Before    int64 `json:"before"`
	Open      int   `json:"open"` // Letters that nobody took home.
}

// purged is what purge prints for programs.
type purged struct {
	Topic      string       `json:"topic"`
	Partitions []*purgeable `json:"partitions"`
	Deleted    bool         `json:"deleted"`
}

func (t *tool) purge() *cobra.Command {
	var which selection
	var all, dryRun, yes bool
	cmd := &cobra.Command{
		Use:   "purge TOPIC",
		Short: "Delete letters for good",
		Long: `Deletes letters for good: of each partition the beginning, up to the first letter that nobody took home. What was
redriven the ledger knows, and what pipelines took home by themselves their groups' offsets tell. Each partition is read
up to that letter. With --all everything is deleted that was there when the command began, and everything is read first,
to tell how many letters go with it that nobody took home.`,
		Args: cobra.ExactArgs(1),
	}
	which.registerLedger(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "also letters that nobody took home")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be deleted, and delete nothing")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.RunE = t.action(func(cmd *cobra.Command, s *session, args []string) error {
		ctx := cmd.Context()
		out := purged{Topic: args[0]}
		var err error
		if out.Partitions, err = t.purgeable(ctx, s, args[0], &which, all); err != nil {
			return err
		}
		records, open := int64(0), 0
		before := make(map[int]int64)
		for _, p := range out.Partitions {
			if p.Before > p.First {
				records, open = records+p.Before-p.First, open+p.Open
				before[p.Partition] = p.Before
			}
		}
		if !dryRun && records > 0 {
			if t.format == "table" {
				if err := t.purgeTable(&out); err != nil {
					return err
				}
			}
			if err := t.confirm(ctx, yes, "Delete %d records of %s for good, %d of them letters that nobody took home?", records, args[0], open); err != nil {
				return err
			}
			if err := s.admin.DeleteRecords(ctx, args[0], before); err != nil {
				return err
			}
			out.Deleted = true
		}
		switch {
		case t.format == "json":
			return t.json(out)
		case out.Deleted:
			_, err := fmt.Fprintf(t.out, "Deleted %d records.\n", records)
			return err
		}
		if err := t.purgeTable(&out); err != nil {
			return err
		}
		_, err = fmt.Fprintln(t.out, "Nothing was deleted.")
		return err
	})
	return cmd
}

func (t *tool) purgeTable(p *purged) error {
	rows := [][]string{{"PARTITION", "FIRST", "DELETE BEFORE", "RECORDS", "OPEN"}}
	for _, at := range p.Partitions {
		rows = append(rows, []string{
			strconv.Itoa(at.Partition), fmt.Sprint(at.First), fmt.Sprint(at.Before), fmt.Sprint(at.Before - at.First), strconv.Itoa(at.Open),
		})
	}
	return t.table(rows)
}

// purgeable finds out up to where each partition may be deleted.
func (t *tool) purgeable(ctx context.Context, s *session, topic string, which *selection, all bool) ([]*purgeable, error) {
	b, err := t.browse(ctx, s, topic, which)
	if err != nil {
		return nil, err
	}
	first, next, err := s.admin.Bounds(ctx, topic)
	if err != nil {
		return nil, err
	}
	found := make(map[int]*purgeable)
	for p := range next {
		found[p] = &purgeable{Partition: p, First: first[p], Before: next[p]}
	}
	err = b.read(ctx, b.begin, func(e dlq.Entry) error {
		p := found[e.Record.Partition]
		kept := e.State != dlq.Redriven && e.State != dlq.CameHome
		switch {
		case p == nil || e.Record.Offset >= next[e.Record.Partition]:
			return holdfast.ErrSkip
		case kept && all:
			p.Open++
		case kept:
			p.Before = e.Record.Offset
			return holdfast.ErrSkip
		}
		return nil
	})
	sorted := make([]*purgeable, 0, len(found))
	for _, p := range slices.Sorted(maps.Keys(found)) {
		sorted = append(sorted, found[p])
	}
	return sorted, err
}
