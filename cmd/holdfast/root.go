package main

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// tool is one run of the program.
type tool struct {
	in       io.Reader
	out, err io.Writer
	settings settings
	format   string
}

func (t *tool) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "holdfast",
		Short:         "Looks after what could not be processed",
		Long:          "Looks after what could not be processed.\n\n" + settingsHelp + "\n\n" + exitHelp,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	t.settings.register(root.PersistentFlags())
	root.PersistentFlags().StringVarP(&t.format, "output", "o", "table", "table for people, json for programs")
	completes(root, "output", "table", "json")
	completes(root, "sasl", "plain", "scram-sha-256", "scram-sha-512")
	dlq := &cobra.Command{
		Use:   "dlq",
		Short: "Look into dead-letter topics and empty them",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, cmd := range []*cobra.Command{t.stats(), t.list(), t.show(), t.redrive(), t.export(), t.load(), t.purge()} {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
		dlq.AddCommand(cmd)
	}
	root.AddCommand(dlq)
	return root
}

// version is the module's that the tool was built of, and "(devel)" where the build does not know.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

// completes has the shell offer a flag's values.
func completes(cmd *cobra.Command, flag string, values ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // Fails without such a flag.
}

// action makes a command's work: with the cluster at hand, and errors that are not of use.
func (t *tool) action(work func(cmd *cobra.Command, s *session, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if t.format != "table" && t.format != "json" {
			return usage("--output must be table or json, got %q", t.format)
		}
		s, err := t.open()
		if err != nil {
			return err
		}
		err = errors.Join(work(cmd, s, args), s.close())
		if _, typed := errors.AsType[*exitError](err); err != nil && !typed {
			err = &exitError{exitFailed, err}
		}
		if err != nil && cmd.Context().Err() != nil {
			err = &exitError{exitStopped, fmt.Errorf("stopped: %w", err)}
		}
		return err
	}
}
