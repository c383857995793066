package main

import (
	"errors"
	"fmt"
	"strings"
)

// What the process exits with. The help texts and the README say the same.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitStopped     = 3
	exitIncomplete  = 4
	exitUnconfirmed = 5
)

const exitHelp = `Exit codes:
  0  done
  1  failed; the message says why
  2  wrong use: a flag, an argument or a setting
  3  stopped before the end, by a signal or because too many letters failed again; the message says how to go on
  4  done, but the target refuses some letters for good; they are parked
  5  not confirmed; nothing was changed`

// exitError is an error that came while a command ran, with its exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usage is a fault of what was typed or set.
func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// exit reports a command's error and returns its exit code. What cobra itself complains of is wrong use.
func (t *tool) exit(err error) int {
	if err == nil {
		return exitDone
	}
	code := exitUsage
	if failed, ok := errors.AsType[*exitError](err); ok {
		code = failed.code
	}
	for line := range strings.Lines(err.Error()) { // It may quote what strangers wrote.
		fmt.Fprintln(t.err, "holdfast:", clean(strings.TrimSuffix(line, "\n"), len(line)+1))
	}
	if code == exitUsage {
		fmt.Fprintln(t.err, "holdfast: --help says more")
	}
	return code
}
