package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/dlq"
)

// redriveFlags are what redrive is told.
type redriveFlags struct {
	selection
	to, group, parked         string
	strip                     []string
	takeHome, dryRun, yes     bool
	maxRedrives               int
	maxFailures               float64
	perSecond, bytesPerSecond int
}

// redriven is what redrive prints for programs.
type redriven struct {
	Topic   string   `json:"topic"`
	Group   string   `json:"group"`
	Plan    *Counts  `json:"plan"`
	Summary *summary `json:"summary,omitempty"`
}

type summary struct {
	Read     int               `json:"read"`
	Redriven int               `json:"redriven"`
	Parked   int               `json:"parked"`
	Failed   int               `json:"failed"`
	Returned int               `json:"returned"`
	Skipped  map[dlq.State]int `json:"skipped"`
	Next     map[int]int64     `json:"next"`
}

func (t *tool) redrive() *cobra.Command {
	var f redriveFlags
	cmd := &cobra.Command{
		Use:   "redrive TOPIC",
		Short: "Write letters back to where their messages came from",
		Long: `Writes letters back, as the messages they were, to the topic and partition that they came from, or to the topic that
--to-topic names. All groups of that topic see them. It goes up to the end of the dead-letter topic as it stood at the
start. First it counts what it will do, for which it reads all of that.

A letter's offset is committed after its message is acknowledged, in a consumer group that belongs to this selection of
letters. So a redrive that was stopped, or killed, goes on where it was when the same command is given again. The
ledger, a compacted topic that is made when it is not there, sees to it that no letter is sent twice, whatever the
selection. An age is another selection each time: name the --group to go on with.

Letters that have come back --max-redrives times are parked in TOPIC.parked instead.`,
		Args: cobra.ExactArgs(1),
	}
	f.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to-topic", "", "write to this topic, in the partition of each key")
	flags.StringVar(&f.group, "group", "", "remember the place in this consumer group (default: one that belongs to the selection)")
	flags.StringSliceVar(&f.strip, "strip", nil, "headers to leave out")
	flags.BoolVar(&f.takeHome, "take-home", false, "also letters that their pipeline takes home by itself")
	flags.IntVar(&f.maxRedrives, "max-redrives", 0, "park letters that have come back so often; 0: 5, -1: none")
	flags.StringVar(&f.parked, "parked", "", "topic to park them in (default TOPIC.parked)")
	flags.Float64Var(&f.maxFailures, "max-failures", 0, "stop when this share comes back or is refused; 0: 0.5, -1: never")
	flags.IntVar(&f.perSecond, "rate", 0, "letters a second at the most; 0: no bound")
	flags.IntVar(&f.bytesPerSecond, "rate-bytes", 0, "bytes a second at the most; 0: no bound")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would be done, and do nothing")
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	cmd.RunE = t.action(func(cmd *cobra.Command, s *session, args []string) error {
		return t.runRedrive(cmd.Context(), s, args[0], &f)
	})
	return cmd
}

func (t *tool) runRedrive(ctx context.Context, s *session, topic string, f *redriveFlags) error {
	if f.parked == "" {
		f.parked = dlq.ParkedTopic(topic)
	}
	partitions, err := s.existing(ctx, topic)
	if err != nil {
		return err
	}
	r, err := f.redrive(ctx, s, topic)
	if err != nil {
		return err
	}
	if f.to != "" { // Before anything is counted, asked or made.
		if _, err := s.existing(ctx, f.to); err != nil {
			return err
		}
	}
	committed, err := s.admin.Committed(ctx, r.Group(), topic)
	if err != nil {
		return err
	}
	plan, err := (&browsing{tool: t, session: s, topic: topic, redrive: r}).survey(ctx, committed)
	if err != nil {
		return err
	}
	out := &redriven{Topic: topic, Group: r.Group(), Plan: newCounts(plan)}
	work := plan.States[dlq.Open] + plan.States[dlq.Exhausted]
	if t.format == "table" {
		if err := t.survey(plan); err != nil {
			return err
		}
	}
	if f.dryRun || work == 0 {
		return t.report(out, work)
	}
	where := "where they came from"
	if f.to != "" {
		where = f.to
	}
	if err := t.confirm(ctx, f.yes, "Redrive %d letters of %s to %s, and park %d in %s?",
		plan.States[dlq.Open], topic, where, plan.States[dlq.Exhausted], f.parked); err != nil {
		return err
	}
	if err := f.makeTopics(ctx, s, topic, max(1, partitions)); err != nil {
		return err
	}
	if r, err = f.redrive(ctx, s, topic); err != nil { // With the ledger, now that it is there.
		return err
	}
	stop := t.progress(int64(plan.Records), func() int64 {
		done := r.Stats()
		return int64(done.Redriven + done.Parked + done.Failed + done.Skipped)
	})
	did, err := r.Run(ctx)
	stop()
	out.Summary = &summary{did.Read, did.Redriven, did.Parked, did.Failed, did.Returned, did.Skipped, did.Next}
	return errors.Join(t.report(out, work), outcome(ctx, &did, r.Group(), f.again(r.Group()), err))
}

// outcome gives a run's end its exit code, and says how to go on.
func outcome(ctx context.Context, did *dlq.Summary, group, again string, err error) error {
	switch {
	case err != nil && (ctx.Err() != nil || errors.Is(err, dlq.ErrTooManyFailures)):
		return &exitError{exitStopped, fmt.Errorf("%w; all that was redriven is committed in group %s, at%s; %s goes on there",
			err, group, places(did.Next), again)}
	case err != nil:
		return err
	case did.Failed > 0:
		return &exitError{exitIncomplete, fmt.Errorf("%d letters are refused by the target for good, and parked", did.Failed)}
	}
	return nil
}

// again is what goes on where a run has stopped. An age selects other letters, with another group, each time.
func (f *redriveFlags) again(group string) string {
	if f.group == "" && (isAge(f.after) || isAge(f.before)) {
		return "the same command with --group " + group
	}
	return "the same command"
}

func places(next map[int]int64) (text string) {
	for _, p := range slices.Sorted(maps.Keys(next)) {
		text += fmt.Sprintf(" %d/%d", p, next[p])
	}
	if text == "" {
		return " the place where it began"
	}
	return text
}

// redrive makes the Redrive that the flags describe.
func (f *redriveFlags) redrive(ctx context.Context, s *session, topic string) (*dlq.Redrive, error) {
	filter, err := f.filter()
	if err != nil {
		return nil, err
	}
	parking, err := dlq.NewParking(s.producer, dlq.ParkingConfig{Topic: f.parked, MaxRedrives: f.maxRedrives})
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return s.deadLetters(ctx, dlq.RedriveConfig{
		Topic: topic, To: f.to, Group: f.group, TakeHome: f.takeHome, Strip: f.strip, MaxFailures: f.maxFailures,
		Letters: dlq.SourceConfig{
			Filter: filter, Parking: parking, MessagesPerSecond: f.perSecond, BytesPerSecond: f.bytesPerSecond,
		},
	}, f.ledgerOf(topic))
}

// makeTopics makes what a redrive needs and is not there.
func (f *redriveFlags) makeTopics(ctx context.Context, s *session, topic string, partitions int) error {
	if err := s.need(ctx, f.parked, partitions, map[string]string{"retention.ms": "-1"}); err != nil {
		return err
	}
	if ledger := f.ledgerOf(topic); ledger != "" {
		return s.need(ctx, ledger, partitions, map[string]string{"cleanup.policy": "compact"})
	}
	return nil
}

// report tells what was done with so many letters.
func (t *tool) report(r *redriven, letters int) error {
	s := r.Summary
	switch {
	case t.format == "json":
		return t.json(r)
	case letters == 0:
		fmt.Fprintln(t.out, "\nThere is nothing to redrive.")
		return nil
	case s == nil:
		fmt.Fprintln(t.out, "\nNothing was changed.")
		return nil
	}
	fmt.Fprintf(t.out, "\nread %d, redriven %d, parked %d, failed %d, came back %d\n", s.Read, s.Redriven, s.Parked, s.Failed, s.Returned)
	for _, state := range slices.Sorted(maps.Keys(s.Skipped)) {
		fmt.Fprintf(t.out, "left where they are, %s: %d\n", state, s.Skipped[state])
	}
	return nil
}
