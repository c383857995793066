package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/dlq"
)

func (t *tool) export() *cobra.Command {
	var which selection
	var path string
	cmd := &cobra.Command{
		Use:   "export TOPIC",
		Short: "Write records as lines of JSON",
		Long: `Writes records as lines of JSON, each partition in its order: all of them, or the letters that are selected. Keys,
values and headers are JSON strings where they are text, and {"base64": "..."} where they are not, so that no byte is
lost. They hold the payload: mind who can read them. All of the topic is read, but for what --partition, --from, --to
and --after spare.`,
		Args: cobra.ExactArgs(1),
	}
	which.register(cmd)
	cmd.Flags().StringVarP(&path, "file", "f", "", "write to this file, which must not exist, instead of the standard output")
	cmd.RunE = t.action(func(cmd *cobra.Command, s *session, args []string) error {
		b, err := t.browse(cmd.Context(), s, args[0], &which)
		if err != nil {
			return err
		}
		out := t.out
		if path != "" {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return usage("--file: %w", err)
			}
			defer f.Close()
			out = f
		}
		n, err := b.exportTo(cmd.Context(), out, which.none())
		if err != nil {
			return fmt.Errorf("after %d records: %w", n, err)
		}
		if f, ok := out.(*os.File); ok && path != "" {
			if err := errors.Join(f.Sync(), f.Close()); err != nil {
				return err
			}
		}
		fmt.Fprintf(t.err, "exported %d records\n", n)
		return nil
	})
	return cmd
}

// exportTo writes whole lines only.
func (b *browsing) exportTo(ctx context.Context, w io.Writer, foreign bool) (n int, err error) {
	buffer := bufio.NewWriterSize(w, 1<<20)
	lines := newEncoder(buffer)
	err = b.read(ctx, b.begin, func(e dlq.Entry) error {
		if e.State == dlq.Unwanted || e.State == dlq.Foreign && !foreign {
			return nil
		}
		line := newRecord(&e.Record)
		n++
		return lines.Encode(&line)
	})
	return n, errors.Join(err, buffer.Flush())
}
