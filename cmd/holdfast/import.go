package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast"
)

const (
	importCount = 1000
	importBytes = 1 << 20
	maxLine     = 256 << 20
)

// load is called import; Go keeps that word for itself.
func (t *tool) load() *cobra.Command {
	var path string
	var skip int
	var keepTime bool
	cmd := &cobra.Command{
		Use:   "import TOPIC",
		Short: "Write the records of an export to a topic",
		Long: `Writes the records of an export to a topic, which must exist: key, value and headers bit by bit, each into the
partition that it came from, modulo the topic's. The records' time is now, so that the topic's retention does not
delete at once what was saved long ago, unless --keep-time is given.`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVarP(&path, "file", "f", "", "read this file instead of the standard input")
	cmd.Flags().IntVar(&skip, "skip", 0, "pass over so many lines, because an earlier import has written them")
	cmd.Flags().BoolVar(&keepTime, "keep-time", false, "with the records' times as they were exported")
	cmd.RunE = t.action(func(cmd *cobra.Command, s *session, args []string) error {
		if skip < 0 {
			return usage("--skip must not be negative, got %d", skip)
		}
		partitions, err := s.existing(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		i := importer{session: s, topic: args[0], partitions: partitions, skip: skip, keepTime: keepTime}
		var in io.Reader
		var size int64
		if path == "" {
			input, release := t.input(cmd.Context())
			defer release()
			in = input
		} else {
			f, err := os.Open(path)
			if err != nil {
				return usage("--file: %w", err)
			}
			defer f.Close()
			if info, err := f.Stat(); err == nil {
				size = info.Size()
			}
			in = f
		}
		stop := t.progress(size, i.bytes.Load)
		err = i.run(cmd.Context(), in)
		stop()
		if err != nil {
			return fmt.Errorf("%w; %d lines are written, --skip %d goes on behind them", err, i.done-min(skip, i.done), i.done)
		}
		fmt.Fprintf(t.err, "imported %d records\n", i.done-min(skip, i.done))
		return nil
	})
	return cmd
}

// importer writes lines to a topic.
type importer struct {
	*session
	topic      string
	partitions int
	skip       int
	keepTime   bool

	done  int          // Lines that are written, or were passed over.
	bytes atomic.Int64 // Read.
	held  []holdfast.Message
	size  int
}

func (i *importer) run(ctx context.Context, in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for n := 1; lines.Scan(); n++ {
		i.bytes.Add(int64(len(lines.Bytes()) + 1))
		if n <= i.skip {
			i.done = n
			continue
		}
		r, err := parseRecord(lines.Bytes())
		if err != nil {
			return errors.Join(i.flush(ctx), fmt.Errorf("line %d: %w", n, err))
		}
		m := r.message()
		if i.keepTime {
			m.Time = time.Time(r.Time)
		}
		i.held = append(i.held, m)
		if i.size += len(m.Key) + len(m.Value); len(i.held) >= importCount || i.size >= importBytes {
			if err := i.flush(ctx); err != nil {
				return err
			}
		}
	}
	return errors.Join(i.flush(ctx), lines.Err())
}

// flush writes what is held, one partition after the other. When it fails, lines are counted as written up to the first
// one that is not.
func (i *importer) flush(ctx context.Context) error {
	byPartition := make(map[int][]int)
	for n, m := range i.held {
		p := m.Partition % i.partitions
		byPartition[p] = append(byPartition[p], n)
	}
	written := len(i.held)
	var errs []error
	for p, indexes := range byPartition {
		messages := make([]holdfast.Message, len(indexes))
		for k, n := range indexes {
			messages[k] = i.held[n]
		}
		if err := i.producer.ProduceTo(ctx, i.topic, p, messages...); err != nil {
			errs = append(errs, err)
			written = min(written, slices.Min(indexes))
		}
	}
	i.done += written
	i.held, i.size = nil, 0
	return errors.Join(errs...)
}

// parseRecord reads a line. Its errors say nothing of what the line holds.
func parseRecord(line []byte) (*record, error) {
	in := json.NewDecoder(bytes.NewReader(line))
	in.DisallowUnknownFields()
	var r record
	err := in.Decode(&r)
	if _, rest := in.Token(); err != nil || rest != io.EOF || r.Headers == nil { // Export always writes headers.
		return nil, errors.New("is not a record as export writes it")
	}
	if r.Partition < 0 {
		return nil, errors.New("partition must not be negative")
	}
	return &r, nil
}
