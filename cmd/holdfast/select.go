package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

// selection is the flags that say which letters are meant.
type selection struct {
	groups, reasons, classes, topics, keys, headers []string
	partitions                                      []int
	from, to                                        int64
	after, before                                   string
	ledger                                          string
}

func (f *selection) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.groups, "of-group", nil, "letters of these consumer groups")
	flags.StringSliceVar(&f.reasons, "reason", nil, "letters with these reasons, such as permanent or circuit_open")
	flags.StringSliceVar(&f.classes, "error-class", nil, "letters of errors of these classes, as stats lists them")
	flags.StringSliceVar(&f.topics, "origin", nil, "letters of messages from these topics")
	flags.IntSliceVar(&f.partitions, "partition", nil, "letters in these partitions of the dead-letter topic")
	flags.Int64Var(&f.from, "from", 0, "letters from this offset of the dead-letter topic on")
	flags.Int64Var(&f.to, "to", 0, "letters before this offset; 0: no end")
	flags.StringVar(&f.after, "after", "", "letters written since, as 2006-01-02T15:04:05Z or as an age such as 90m")
	flags.StringVar(&f.before, "before", "", "letters written before, likewise")
	flags.StringArrayVar(&f.keys, "key", nil, "letters of messages with this key")
	flags.StringArrayVar(&f.headers, "header", nil, "letters of messages with this header, name=value")
	f.registerLedger(cmd)
	completes(cmd, "reason", string(dlq.CircuitOpen), string(dlq.RetriesExhausted), string(dlq.Permanent), string(dlq.Undecodable),
		string(dlq.Panicked), string(dlq.TimedOut))
}

func (f *selection) registerLedger(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.ledger, "ledger", "", `topic that remembers what was redriven (default TOPIC.ledger), or "none"`)
}

// ledgerOf is the ledger's topic, empty for none.
func (f *selection) ledgerOf(topic string) string {
	switch f.ledger {
	case "":
		return topic + ".ledger"
	case "none":
		return ""
	}
	return f.ledger
}

func (f *selection) filter() (dlq.Filter, error) {
	filter := dlq.Filter{Groups: f.groups, Classes: f.classes, Topics: f.topics, Partitions: f.partitions, From: f.from, To: f.to}
	for _, r := range f.reasons {
		filter.Reasons = append(filter.Reasons, dlq.Reason(r))
	}
	for _, k := range f.keys {
		filter.Keys = append(filter.Keys, []byte(k))
	}
	for _, h := range f.headers {
		name, value, found := strings.Cut(h, "=")
		if !found {
			return filter, usage("--header must be name=value") // Without what was typed: it may be secret.
		}
		filter.Headers = append(filter.Headers, holdfast.Header{Key: name, Value: []byte(value)})
	}
	var err error
	if filter.After, err = parseTime("after", f.after); err != nil {
		return filter, err
	}
	filter.Before, err = parseTime("before", f.before)
	return filter, err
}

func isAge(s string) bool {
	age, err := time.ParseDuration(s)
	return err == nil && age >= 0
}

func parseTime(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if isAge(s) {
		age, err := time.ParseDuration(s)
		return time.Now().Add(-age), err
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, usage("--%s must be a time such as 2006-01-02T15:04:05Z, or an age such as 90m, got %q", flag, s)
	}
	return t, nil
}

// none tells whether nothing is selected, and so everything meant.
func (f *selection) none() bool {
	return len(f.groups)+len(f.reasons)+len(f.classes)+len(f.topics)+len(f.keys)+len(f.headers)+len(f.partitions) == 0 &&
		f.from == 0 && f.to == 0 && f.after == "" && f.before == ""
}
