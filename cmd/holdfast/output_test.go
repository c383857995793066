package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
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
		l.Handler = evil
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

// What a letter knows of its failure, show tells.
func TestShowTellsAll(t *testing.T) {
	c := newCounter(t, orders())
	want := map[string]string{
		"handler": "billing-pipeline", "stage": "price", "circuit": "prices", "circuit_state": "half-open", "error_class": "*price.Error", "error_code": "252",
		"error": "no price", "error_chain": "*fmt.wrapError > *price.Error", "stack": "goroutine 1\n\tmain.go:7", "host": "h-1",
		"app": "billing-app", "app_version": "v1.2", "client_id": "client-3",
	}
	c.letter(0, func(l *dlq.Letter) {
		l.Stage, l.Circuit, l.CircuitState, l.ErrorClass = want["stage"], want["circuit"], want["circuit_state"], want["error_class"]
		l.ErrorCode, l.Error, l.ErrorChain, l.Stack = want["error_code"], want["error"], want["error_chain"], want["stack"]
		l.Host, l.App, l.AppVersion, l.ClientID = want["host"], want["app"], want["app_version"], want["client_id"]
		l.Handler = want["handler"]
		l.LastFailedAt = l.DeadAt.Add(-time.Second)
	})
	c.run(exitDone, "dlq", "show", "orders.dlq", "0", "0")
	for _, text := range want {
		c.says(text)
	}
	c.says("last failed 2026-03-04T05:06:06Z")
	mustBeText(t, c.out)
	var told map[string]any
	if err := json.Unmarshal([]byte(c.run(exitDone, "dlq", "show", "orders.dlq", "0", "0", "-o", "json")), &told); err != nil {
		t.Fatal(err)
	}
	for name, text := range want {
		if told[name] != text {
			t.Errorf("%s is %v, want %q", name, told[name], text)
		}
	}
	if told["last_failed_at"] != "2026-03-04T05:06:06Z" {
		t.Errorf("it failed last at %v", told["last_failed_at"])
	}
}
