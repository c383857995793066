package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

var errFound = errors.New("found")

// shown is what show prints for programs.
type shown struct {
	listed
	Handler      string   `json:"handler,omitempty"`
	CircuitState string   `json:"circuit_state,omitempty"`
	ErrorChain   string   `json:"error_chain,omitempty"`
	Stack        string   `json:"stack,omitempty"`
	LastFailedAt *when    `json:"last_failed_at,omitempty"`
	WrittenAt    *when    `json:"written_at,omitempty"` // The message.
	Host         string   `json:"host,omitempty"`
	App          string   `json:"app,omitempty"`
	AppVersion   string   `json:"app_version,omitempty"`
	ClientID     string   `json:"client_id,omitempty"`
	Headers      []string `json:"headers"`
	Record       *record  `json:"record,omitempty"`
}

func newShown(e *dlq.Entry) shown {
	l := &e.Letter
	out := shown{
		listed: newListed(e), Handler: l.Handler, CircuitState: l.CircuitState, ErrorChain: l.ErrorChain, Stack: l.Stack, LastFailedAt: known(l.LastFailedAt),
		WrittenAt: known(l.Message.Time), Host: l.Host, App: l.App, AppVersion: l.AppVersion, ClientID: l.ClientID, Headers: make([]string, 0),
	}
	for _, h := range l.Message.Headers {
		out.Headers = append(out.Headers, h.Key)
	}
	return out
}

func (t *tool) show() *cobra.Command {
	var which selection
	var value bool
	cmd := &cobra.Command{
		Use:   "show TOPIC PARTITION OFFSET",
		Short: "Show one letter",
		Long:  "Shows one letter: all that is known of it, and with --value what it holds.",
		Args:  cobra.ExactArgs(3),
	}
	which.registerLedger(cmd)
	cmd.Flags().BoolVar(&value, "value", false, "also the key, the value and the values of the headers")
	cmd.RunE = t.action(func(cmd *cobra.Command, s *session, args []string) error {
		partition, err := strconv.Atoi(args[1])
		offset, offsetErr := strconv.ParseInt(args[2], 10, 64)
		if err != nil || offsetErr != nil || partition < 0 || offset < 0 {
			return usage("PARTITION and OFFSET must be numbers, got %q and %q", args[1], args[2])
		}
		e, err := s.find(cmd.Context(), args[0], which.ledgerOf(args[0]), partition, offset)
		if err != nil {
			return err
		}
		if t.format == "json" {
			out := newShown(e)
			if value {
				r := newRecord(&e.Record)
				out.Record = &r
			}
			return t.json(out)
		}
		return t.entry(e, value)
	})
	return cmd
}

// find reads one record.
func (s *session) find(ctx context.Context, topic, ledger string, partition int, offset int64) (*dlq.Entry, error) {
	r, err := s.deadLetters(ctx, dlq.RedriveConfig{
		Topic: topic, Letters: dlq.SourceConfig{Filter: dlq.Filter{Partitions: []int{partition}, From: offset, To: offset + 1}},
	}, ledger)
	if err != nil {
		return nil, err
	}
	var found dlq.Entry
	err = r.Browse(ctx, nil, func(e dlq.Entry) error {
		if e.Record.Partition == partition && e.Record.Offset >= offset {
			found = e
			return errFound
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFound) {
		return nil, err
	}
	if err == nil || found.Record.Offset != offset {
		return nil, fmt.Errorf("topic %s has no record %d in partition %d", topic, offset, partition)
	}
	return &found, nil
}

func (t *tool) entry(e *dlq.Entry, value bool) error {
	l := newListed(e)
	rows := [][]string{
		{"letter", fmt.Sprintf("%d/%d", l.Partition, l.Offset)},
		{"state", string(l.State)},
		{"id", l.ID},
		{"reason", string(l.Reason)},
		{"group", l.Group},
		{"handler", e.Letter.Handler},
		{"stage", l.Stage},
		{"circuit", l.Circuit},
		{"circuit state", e.Letter.CircuitState},
		{"error class", l.ErrorClass},
		{"error code", l.ErrorCode},
		{"error chain", e.Letter.ErrorChain},
		{"from", fmt.Sprintf("%s/%d/%d", l.FromTopic, l.FromPartition, l.FromOffset)},
		{"attempts", fmt.Sprint(l.Attempts)},
		{"redrives", fmt.Sprint(l.Redrives)},
		{"written", stamp(e.Letter.Message.Time)},
		{"first failed", stamp(e.Letter.FirstFailedAt)},
		{"last failed", stamp(e.Letter.LastFailedAt)},
		{"dead", stamp(e.Letter.DeadAt)},
		{"host", e.Letter.Host},
		{"app", strings.TrimSpace(e.Letter.App + " " + e.Letter.AppVersion)},
		{"client id", e.Letter.ClientID},
		{"key", fmt.Sprintf("%d bytes", l.KeyBytes)},
		{"value", fmt.Sprintf("%d bytes", l.ValueBytes)},
	}
	for _, h := range e.Letter.Message.Headers {
		rows = append(rows, []string{"header " + h.Key, fmt.Sprintf("%d bytes", len(h.Value))})
	}
	if err := t.table(rows); err != nil {
		return err
	}
	if l.Error != "" {
		fmt.Fprintf(t.out, "\n%s\n", clean(l.Error, len(l.Error)))
	}
	if stack := e.Letter.Stack; stack != "" {
		fmt.Fprintln(t.out)
		for line := range strings.Lines(strings.ReplaceAll(stack, "\t", "    ")) {
			fmt.Fprintln(t.out, clean(strings.TrimSuffix(line, "\n"), len(line)+1))
		}
	}
	if value {
		t.payload(&e.Record, e.Letter.Message.Headers)
	}
	return nil
}

func (t *tool) payload(r *holdfast.Message, headers []holdfast.Header) {
	part := func(name string, value []byte) {
		fmt.Fprintf(t.out, "\n--- %s\n%s", name, readable(value))
	}
	part("key", r.Key)
	for _, h := range headers {
		part("header "+clean(h.Key, maxCell), h.Value)
	}
	part("value", r.Value)
}

// readable is text as it is, where a terminal takes it for text, and a hex dump of everything else.
func readable(value []byte) string {
	if value == nil {
		return "(none)\n"
	}
	if !utf8.Valid(value) {
		return hex.Dump(value)
	}
	for _, r := range string(value) {
		if !unicode.IsPrint(r) && r != '\n' && r != '\t' {
			return hex.Dump(value)
		}
	}
	return string(value) + "\n"
}
