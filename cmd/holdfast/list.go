package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast"
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

	at time.Time // By which it is sorted: when it was dead, or else its record's time.
}

func newListed(e *dlq.Entry) listed {
	l, r := &e.Letter, &e.Record
	out := listed{
		Partition: r.Partition, Offset: r.Offset, State: e.State, Reason: l.Reason, Group: l.Group,
		Stage: l.Stage, Circuit: l.Circuit, ErrorClass: l.ErrorClass, ErrorCode: l.ErrorCode, Error: l.Error, Attempts: l.Attempts, Redrives: l.Redrives,
		FromTopic: l.Message.Topic, FromPartition: l.Message.Partition, FromOffset: l.Message.Offset,
		FirstFailedAt: known(l.FirstFailedAt), DeadAt: known(l.DeadAt),
		KeyBytes: len(r.Key), ValueBytes: len(r.Value), at: r.Time,
	}
	if !l.DeadAt.IsZero() {
		out.at = l.DeadAt
	}
	if e.State != dlq.Foreign {
		out.ID = l.ID()
	}
	return out
}

func (t *tool) list() *cobra.Command {
	var which selection
	var limit int
	var newest, all bool
	cmd := &cobra.Command{
		Use:   "list TOPIC",
		Short: "List letters, without their payload",
		Long: `Lists letters, without their payload: the oldest ones, or with --newest the newest.

It reads each partition from its beginning, or from its end, only until it has --limit letters of it. --partition,
--from, --to and --after spare it what cannot be meant. Whatever else selects letters has to be read, and so has
everything with --limit 0.`,
		Args: cobra.ExactArgs(1),
	}
	which.register(cmd)
	cmd.Flags().IntVarP(&limit, "limit", "n", 50, "so many at the most; 0: all")
	cmd.Flags().BoolVar(&newest, "newest", false, "the newest ones first")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also what is not open")
	cmd.RunE = t.action(func(cmd *cobra.Command, s *session, args []string) error {
		if limit < 0 {
			return usage("--limit must not be negative, got %d", limit)
		}
		b, err := t.browse(cmd.Context(), s, args[0], &which)
		if err != nil {
			return err
		}
		l := lister{browsing: b, limit: limit, all: all, found: make(map[int][]listed)}
		if newest && limit > 0 {
			err = l.readNewest(cmd.Context())
		} else {
			err = l.readOldest(cmd.Context())
		}
		if err != nil {
			return err
		}
		found, more := l.sorted(newest)
		if err := t.letters(found); err != nil {
			return err
		}
		if more {
			fmt.Fprintln(t.err, "... and more; -n 0 lists all")
		}
		return nil
	})
	return cmd
}

// lister gathers letters, so many of each partition at the most.
type lister struct {
	*browsing
	limit int
	all   bool
	found map[int][]listed
	left  bool // There may be more.
}

func (l *lister) wants(e *dlq.Entry) bool {
	open := e.State == dlq.Open || e.State == dlq.Exhausted
	return open || l.all && e.State != dlq.Unwanted
}

// readOldest reads each partition from its beginning, until it has enough.
func (l *lister) readOldest(ctx context.Context) error {
	return l.read(ctx, l.begin, func(e dlq.Entry) error {
		if !l.wants(&e) {
			return nil
		}
		p := e.Record.Partition
		if l.limit > 0 && len(l.found[p]) == l.limit {
			l.left = true
			return holdfast.ErrSkip
		}
		l.found[p] = append(l.found[p], newListed(&e))
		return nil
	})
}

// readNewest reads the end of each partition, and ever more of it while that has not enough. So what it reads in vain is
// less than what it reads at last.
func (l *lister) readNewest(ctx context.Context) error {
	_, next, err := l.admin.Bounds(ctx, l.topic)
	if err != nil {
		return err
	}
	from := make(map[int]int64)
	for span := int64(max(100, 2*l.limit)); len(from) < len(next) || l.short(from); span *= 4 {
		for p, end := range next {
			from[p] = max(l.begin[p], end-span)
			if len(l.found[p]) >= l.limit {
				from[p] = end
				continue
			}
			l.found[p] = nil
		}
		if err := l.read(ctx, from, func(e dlq.Entry) error {
			if l.wants(&e) {
				p := e.Record.Partition
				l.found[p] = append(l.found[p], newListed(&e))
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for p, found := range l.found {
		surplus := max(0, len(found)-l.limit)
		l.left = l.left || surplus > 0 || len(found) == l.limit && from[p] > l.begin[p]
		l.found[p] = found[surplus:]
	}
	return nil
}

// short tells whether a partition has not enough letters in what was read of it, and has more to read.
func (l *lister) short(from map[int]int64) bool {
	for p, offset := range from {
		if len(l.found[p]) < l.limit && offset > l.begin[p] {
			return true
		}
	}
	return false
}

// sorted is what was found, by its age, and whether there may be more.
func (l *lister) sorted(newest bool) (found []listed, more bool) {
	found = append([]listed{}, slices.Concat(slices.Collect(maps.Values(l.found))...)...) // None is [] in JSON, nil is null.
	slices.SortFunc(found, func(a, b listed) int {
		order := cmp.Or(a.at.Compare(b.at), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
		if newest {
			return -order
		}
		return order
	})
	if l.limit > 0 && len(found) > l.limit {
		return found[:l.limit], true
	}
	return found, l.left
}

func (t *tool) letters(found []listed) error {
	if t.format == "json" {
		return t.json(found)
	}
	rows := [][]string{{"PARTITION", "OFFSET", "DEAD AT", "STATE", "REASON", "GROUP", "FROM", "TRIES", "REDRIVES", "ERROR"}}
	for _, l := range found {
		rows = append(rows, []string{
			fmt.Sprint(l.Partition), fmt.Sprint(l.Offset), stamp(l.at), string(l.State), string(l.Reason), l.Group,
			fmt.Sprintf("%s/%d/%d", l.FromTopic, l.FromPartition, l.FromOffset), fmt.Sprint(l.Attempts), fmt.Sprint(l.Redrives), l.Error,
		})
	}
	return t.table(rows)
}
