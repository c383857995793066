package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

// mustBeText wants a terminal to take this for lines of text.
func mustBeText(t *testing.T, said string) {
	t.Helper()
	for i, r := range said {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Fatalf("%q is printed, in %q", r, said[max(0, i-40):min(len(said), i+40)])
		}
	}
}

// Whatever a letter says, and whoever wrote it: no command reaches the operator's terminal.
func TestALetterCommandsNoTerminal(t *testing.T) {
	c := newCounter(t, orders())
	const evil = "a\x1b[2J\u009b2Jb\u202ec\r\t\v\f\x00\x7f\u2028\U000e0041\x1b]0;owned\x07" // U+009B is ESC [ in one.
	c.letter(0, func(l *dlq.Letter) {
		m := &l.Message
		m.Key, m.Value = []byte(evil), []byte(evil)
		m.Headers = []holdfast.Header{{Key: evil, Value: []byte(evil)}, {Key: "raw", Value: []byte("\x9b2J")}}
		l.Reason, l.Group, l.Stage, l.Circuit, l.CircuitState, l.TimestampType = evil, evil, evil, evil, evil, evil
		l.Error, l.ErrorClass, l.ErrorCode, l.ErrorChain, l.Stack = evil, evil, evil, evil, evil
		l.Host, l.App, l.AppVersion, l.ClientID = evil, evil, evil, evil
		m.Topic = evil // No topic is called so: it is not redriven.
	})
	file := t.TempDir() + "/letters"
	for _, args := range []string{
		"stats", "stats -o json", "list", "list -a -o json", "list --reason x" + evil, "show 0 0", "show 0 0 --value", "show 0 0 --value -o json",
		"redrive --dry-run", "redrive --dry-run -o json", "redrive --yes --to-topic gone" + evil, "export", "export -f " + file, "purge --dry-run",
		"purge --dry-run -o json",
	} {
		words := strings.Split(args, " ")
		c.any(append([]string{"dlq", words[0], "orders.dlq"}, words[1:]...)...)
		mustBeText(t, c.out)
		mustBeText(t, c.errors)
	}
	exported, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mustBeText(t, string(exported))
	if r, err := parseRecord(exported); err != nil || string(r.Value) != evil {
		t.Errorf("exported is %+v, %v", r, err)
	}
	var list []listed
	if err := json.Unmarshal([]byte(c.run(exitDone, "dlq", "list", "orders.dlq", "-o", "json")), &list); err != nil || len(list) != 1 || list[0].Error != evil {
		t.Errorf("a program reads %+v, %v", list, err)
	}
}
