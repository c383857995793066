package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
)

// confirm asks before something is changed. Only yes is yes.
func (t *tool) confirm(yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	fmt.Fprintf(t.err, format+" [y/N] ", args...)
	answer, err := bufio.NewReader(t.in).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	if err != nil {
		fmt.Fprintln(t.err)
		return &exitError{exitUnconfirmed, errors.New("nobody is there to confirm: --yes does without")}
	}
	return &exitError{exitUnconfirmed, errors.New("not confirmed, nothing was changed")}
}
