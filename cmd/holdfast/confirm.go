package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
)

// confirm asks before something is changed. Only yes is yes.
func (t *tool) confirm(ctx context.Context, yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	fmt.Fprintf(t.err, format+" [y/N] ", args...)
	in, stop := t.input(ctx)
	defer stop()
	answer, err := bufio.NewReader(in).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	if err != nil {
		fmt.Fprintln(t.err)
	}
	if err != nil && ctx.Err() == nil {
		return &exitError{exitUnconfirmed, errors.New("nobody is there to confirm: --yes does without")}
	}
	return &exitError{exitUnconfirmed, errors.New("not confirmed, nothing was changed")}
}
