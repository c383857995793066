package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/testkit"
)

// envTool makes this test binary the tool itself, so that a test can kill it.
const envTool = "HOLDFAST_TEST_IS_TOOL"

func TestMain(m *testing.M) {
	if os.Getenv(envTool) == "" {
		os.Exit(m.Run())
	}
	main()
}

// counter is where an operator sits: a Kafka, and what the tool said last.
type counter struct {
	t           *testing.T
	kafka       *testkit.KafkaServer
	typed       string
	out, errors string
}

func newCounter(t *testing.T, topics map[string]int) *counter {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	c := &counter{t: t, kafka: testkit.Kafka(t, testkit.KafkaConfig{Topics: topics})}
	t.Setenv("HOLDFAST_BROKERS", strings.Join(c.kafka.Addrs(), ","))
	return c
}

// any runs the tool, however it exits.
func (c *counter) any(args ...string) (code int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	code = run(ctx, args, strings.NewReader(c.typed), &out, &errs)
	c.out, c.errors = out.String(), errs.String()
	return code
}

// run runs the tool and wants it to exit so.
func (c *counter) run(want int, args ...string) string {
	c.t.Helper()
	if got := c.any(args...); got != want {
		c.t.Fatalf("%v: exit code %d, want %d\n%s%s", args, got, want, c.out, c.errors)
	}
	return c.out
}

// says wants the last run to have said all of this.
func (c *counter) says(texts ...string) {
	c.t.Helper()
	for _, text := range texts {
		if said := strings.Join(strings.Fields(c.out+c.errors), " "); !strings.Contains(said, strings.Join(strings.Fields(text), " ")) {
			c.t.Errorf("%q is not in\n%s%s", text, c.out, c.errors)
		}
	}
}

func (c *counter) letter(i int, change func(*dlq.Letter)) {
	c.t.Helper()
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	l := dlq.Letter{
		Message: holdfast.Message{
			Topic: "orders", Partition: i % 2, Offset: int64(i), Key: fmt.Appendf(nil, "key-%d", i), Value: fmt.Appendf(nil, "order-%d", i),
			Headers: []holdfast.Header{{Key: "tenant", Value: []byte("secret-tenant")}, {Key: "b", Value: []byte{0xff}}},
		},
		Reason: dlq.RetriesExhausted, Group: "billing", Stage: "price", Error: "no price\x1b[2J today", Attempts: 3, FirstFailedAt: at, DeadAt: at,
	}
	if change != nil {
		change(&l)
	}
	record := dlq.Encode(l)
	record.Topic, record.Partition = "orders.dlq", i%2
	c.produce(record)
}

func (c *counter) produce(messages ...holdfast.Message) {
	c.t.Helper()
	if err := c.kafka.Produce(c.t.Context(), messages...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *counter) messages(topic string) []holdfast.Message {
	c.t.Helper()
	found, err := c.kafka.Messages(c.t.Context(), topic)
	if err != nil {
		c.t.Fatal(err)
	}
	return found
}

func orders() map[string]int { return map[string]int{"orders": 2, "orders.dlq": 2} }

// From the first look to an empty topic, as the README tells it.
func TestFromTheFirstAlertToAnEmptyQueue(t *testing.T) {
	c := newCounter(t, orders())
	for i := range 10 {
		c.letter(i, nil)
	}
	c.letter(10, func(l *dlq.Letter) { l.Redrives = 5 })

	c.run(exitDone, "dlq", "stats", "orders.dlq")
	c.says("open          10", "exhausted     1")
	c.run(exitDone, "dlq", "list", "orders.dlq", "-n", "3")
	c.says("no price·[2J today", "billing", "orders/0/0", "... and more")
	c.run(exitDone, "dlq", "show", "orders.dlq", "1", "0")
	c.says("billing/orders/1/1", "header tenant", "13 bytes")
	for _, secret := range []string{"secret-tenant", "order-1", "key-1", "\x1b"} {
		if strings.Contains(c.out, secret) {
			t.Errorf("show tells %q without being asked", secret)
		}
	}
	c.run(exitDone, "dlq", "show", "--value", "orders.dlq", "1", "0")
	c.says("secret-tenant", "order-1", "key-1", "00000000  ff")

	c.run(exitDone, "dlq", "redrive", "orders.dlq", "--dry-run")
	c.says("open          10", "Nothing was changed.")
	c.typed = "no\n"
	c.run(exitUnconfirmed, "dlq", "redrive", "orders.dlq")
	c.typed = ""
	c.run(exitUnconfirmed, "dlq", "redrive", "orders.dlq")
	if n := len(c.messages("orders")); n != 0 {
		t.Fatalf("%d messages without consent", n)
	}
	if ends := c.kafka.Ends("orders.dlq.ledger"); ends != nil {
		t.Error("a dry run made the ledger")
	}
	c.typed = "y\n"
	c.run(exitDone, "dlq", "redrive", "orders.dlq")
	c.says("Redrive 10 letters of orders.dlq to where they came from, and park 1 in orders.dlq.parked?",
		"read 11, redriven 10, parked 1, failed 0, came back 0")
	if n, parked := len(c.messages("orders")), len(c.messages("orders.dlq.parked")); n != 10 || parked != 1 {
		t.Fatalf("%d messages, %d parked", n, parked)
	}
	c.run(exitDone, "dlq", "redrive", "orders.dlq", "--yes", "--reason", "retries_exhausted") // Another selection of the same letters.
	c.says("There is nothing to redrive.")
	c.run(exitDone, "dlq", "stats", "orders.dlq")
	c.says("redriven  11")

	c.letter(11, nil)
	c.run(exitDone, "dlq", "purge", "orders.dlq", "--dry-run")
	c.says("Nothing was deleted.")
	c.typed = "yes\n"
	c.run(exitDone, "dlq", "purge", "orders.dlq")
	c.says("Delete 11 records of orders.dlq for good, 0 of them letters that nobody took home?", "Deleted 11 records.")
	if left := c.messages("orders.dlq"); len(left) != 1 {
		t.Errorf("%d letters are left, want the one that is open", len(left))
	}
	c.run(exitDone, "dlq", "purge", "orders.dlq", "--all", "--yes", "-o", "json")
	var said purged
	if err := json.Unmarshal([]byte(c.out), &said); err != nil || !said.Deleted || said.Partitions[1].Open != 1 {
		t.Errorf("%v: %s", err, c.out)
	}
	if left := c.messages("orders.dlq"); len(left) != 0 {
		t.Errorf("%d letters are left", len(left))
	}
	c.letter(13, nil) // The group's offset is before the beginning of the log now.
	c.run(exitDone, "dlq", "redrive", "orders.dlq", "--yes")
	c.says("read 1, redriven 1,")
}

func TestJSONForPrograms(t *testing.T) {
	c := newCounter(t, orders())
	c.letter(0, nil)
	c.letter(1, func(l *dlq.Letter) { l.Reason = dlq.Permanent })
	var stats statistics
	if err := json.Unmarshal([]byte(c.run(exitDone, "dlq", "stats", "orders.dlq", "-o", "json")), &stats); err != nil {
		t.Fatal(err)
	}
	if stats.Records != 2 || stats.Reasons[dlq.Permanent] != 1 || len(stats.Partitions) != 2 || stats.Oldest == nil {
		t.Errorf("%+v", stats)
	}
	var list []listed
	if err := json.Unmarshal([]byte(c.run(exitDone, "dlq", "list", "orders.dlq", "-o", "json", "--reason", "permanent")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Partition != 1 || list[0].FromOffset != 1 || list[0].Error != "no price\x1b[2J today" {
		t.Errorf("%+v", list)
	}
	var letter shown
	if err := json.Unmarshal([]byte(c.run(exitDone, "dlq", "show", "orders.dlq", "0", "0", "--value", "-o", "json")), &letter); err != nil {
		t.Fatal(err)
	}
	if letter.Record == nil || string(letter.Record.Value) != "order-0" || !reflect.DeepEqual(letter.Headers, []string{"tenant", "b"}) {
		t.Errorf("%+v", letter)
	}
	var did redriven
	if err := json.Unmarshal([]byte(c.run(exitDone, "dlq", "redrive", "orders.dlq", "--yes", "-o", "json", "--ledger", "none")), &did); err != nil {
		t.Fatal(err)
	}
	if did.Summary.Redriven != 2 || did.Plan.Records != 2 || did.Group != "orders.dlq.redrive" {
		t.Errorf("%+v", did)
	}
	if c.kafka.Ends("orders.dlq.ledger") != nil {
		t.Error("--ledger none made a ledger")
	}
}

func TestWrongUse(t *testing.T) {
	c := newCounter(t, orders())
	file := t.TempDir() + "/config"
	if err := os.WriteFile(file, []byte("# comment\nbroker = x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"dlq", "stats"}, exitUsage, "accepts 1 arg"},
		{[]string{"dlq", "nonsense"}, exitUsage, "nonsense"},
		{[]string{"dlq", "stats", "x", "--nonsense"}, exitUsage, "--nonsense"},
		{[]string{"dlq", "stats", "x", "-o", "yaml"}, exitUsage, "yaml"},
		{[]string{"dlq", "stats", "x", "--brokers", "localhost"}, exitUsage, "Brokers[0]"},
		{[]string{"dlq", "stats", "orders.dlq", "--after", "yesterday"}, exitUsage, "--after"},
		{[]string{"dlq", "stats", "orders.dlq", "--header", "hunter2"}, exitUsage, "--header"},
		{[]string{"dlq", "stats", "orders.dlq", "--from", "7", "--to", "3"}, exitUsage, "Filter.To"},
		{[]string{"dlq", "show", "orders.dlq", "x", "0"}, exitUsage, "PARTITION"},
		{[]string{"dlq", "redrive", "orders.dlq", "--to-topic", "orders.dlq"}, exitUsage, "RedriveConfig.To"},
		{[]string{"dlq", "redrive", "orders.dlq", "--max-redrives", "-2"}, exitUsage, "MaxRedrives"},
		{[]string{"dlq", "stats", "x", "--config", file}, exitUsage, "line 2"},
		{[]string{"dlq", "stats", "x", "--config", file + ".not"}, exitUsage, "--config"},
		{[]string{"dlq", "stats", "x", "--sasl", "plain", "--sasl-user", "me"}, exitUsage, "HOLDFAST_SASL_PASSWORD"},
		{[]string{"dlq", "stats", "x", "--tls-ca", file}, exitUsage, "tls-ca is of no use without tls"},
		{[]string{"dlq", "stats", "x", "--tls", "--tls-cert", file}, exitUsage, "tls-cert and tls-key must be given together"},
		{[]string{"dlq", "stats", "x", "--sasl-user", "me"}, exitUsage, "sasl-user is of no use without sasl"},
		{[]string{"dlq", "redrive", "orders.dlq", "--parked", "orders.dlq"}, exitUsage, "Parking must use another topic"},
		{[]string{"dlq", "redrive", "orders.dlq", "--to-topic", "orders.dlq.parked"}, exitUsage, "RedriveConfig.To"},
		{[]string{"dlq", "redrive", "orders.dlq", "--to-topic", "gone", "--dry-run"}, exitFailed, "topic gone does not exist"},
		{[]string{"dlq", "import", "orders.dlq", "--skip", "-1"}, exitUsage, "--skip"},
		{[]string{"dlq", "stats", "gone\x1b[2J"}, exitFailed, "gone·[2J"},
		{[]string{"dlq", "redrive", "orders.dlq", "--ledger", "orders"}, exitFailed, "orders cannot be a ledger"},
		{[]string{"dlq", "stats", "gone"}, exitFailed, "topic gone does not exist"},
		{[]string{"dlq", "show", "orders.dlq", "0", "99"}, exitFailed, "no record 99"},
		{[]string{"dlq", "import", "gone"}, exitFailed, "topic gone does not exist"},
		{[]string{"dlq", "purge", "gone"}, exitFailed, "topic gone does not exist"},
		{[]string{"dlq", "--help"}, exitDone, "redrive"},
		{[]string{"--help"}, exitDone, "Exit codes:"},
		{[]string{"--version"}, exitDone, "holdfast version"},
		{[]string{"completion", "bash"}, exitDone, "holdfast"},
		{[]string{"__complete", "dlq", "stats", ""}, exitDone, ":4 Completion"}, // No file is a topic.
		{[]string{"__complete", "dlq", "redrive", "orders.dlq", "--reason", ""}, exitDone, "retries_exhausted"},
		{[]string{"__complete", "--sasl", ""}, exitDone, "scram-sha-512"},
		{[]string{"__complete", "-o", ""}, exitDone, "json"},
	} {
		c.run(tc.code, tc.args...)
		c.says(tc.says)
		if strings.Contains(c.errors, "hunter2") {
			t.Errorf("%v tells what was typed: %s", tc.args, c.errors)
		}
	}
}

// A flag goes before the environment, and that before the file.
func TestSettings(t *testing.T) {
	c := newCounter(t, nil)
	secured := testkit.Kafka(t, testkit.KafkaConfig{Topics: orders(), Users: []testkit.KafkaUser{{Mechanism: "PLAIN", Name: "operator", Password: "hunter2"}}})
	file := t.TempDir() + "/config"
	text := fmt.Sprintf("brokers = %s\nsasl = plain\nsasl-user = nobody\nsasl-password = hunter2\n", strings.Join(secured.Addrs(), ", "))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOLDFAST_CONFIG", file)
	if err := os.Unsetenv("HOLDFAST_BROKERS"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOLDFAST_SASL_USER", "operator")
	c.run(exitDone, "dlq", "stats", "orders.dlq")
	c.run(exitUsage, "dlq", "stats", "orders.dlq", "--sasl-user", "")
	c.says("sasl-user")
	if strings.Contains(c.errors, "hunter2") {
		t.Error("the password is in the error")
	}
}

// stopped buries 40 orders and runs a redrive that a signal ends in the middle.
func (c *counter) stopped(args ...string) {
	c.t.Helper()
	for i := range 40 {
		c.letter(i, nil)
	}
	ctx, stop := context.WithCancel(c.t.Context())
	defer stop()
	go func() {
		for ctx.Err() == nil && c.ends("orders") < 5 {
			time.Sleep(time.Millisecond)
		}
		stop()
	}()
	var out, errs bytes.Buffer
	code := run(ctx, append([]string{"dlq", "redrive", "orders.dlq", "--yes", "--rate", "20"}, args...), nil, &out, &errs)
	c.out, c.errors = out.String(), errs.String()
	if sent := c.ends("orders"); code != exitStopped || sent < 5 || sent == 40 {
		c.t.Fatalf("exit code %d with %d messages sent, said\n%s%s", code, sent, c.out, c.errors)
	}
}

// What is stopped by a signal says where it is, and goes on there.
func TestStoppedRedriveSaysWhere(t *testing.T) {
	c := newCounter(t, orders())
	c.stopped()
	c.says("committed in group orders.dlq.redrive, at 0/", "the same command goes on there")
	c.run(exitDone, "dlq", "redrive", "orders.dlq", "--yes")
	if n := c.ends("orders"); n != 40 {
		t.Errorf("%d messages, want 40", n)
	}
}

// Letters that are selected by their age are others each time, so the group has to be named to go on.
func TestStoppedRedriveByAgeNamesItsGroup(t *testing.T) {
	c := newCounter(t, orders())
	c.stopped("--before", "0s", "--ledger", "none")
	_, group, found := strings.Cut(c.errors, "the same command with --group ")
	if !found {
		t.Fatalf("said\n%s", c.errors)
	}
	group, _, _ = strings.Cut(group, " ")
	c.run(exitDone, "dlq", "redrive", "orders.dlq", "--yes", "--before", "0s", "--ledger", "none", "--group", group)
	if n := c.ends("orders"); n != 40 {
		t.Errorf("%d messages, want 40", n)
	}
}

// A signal ends what waits for somebody to type.
func TestStoppedWhileNobodyTypes(t *testing.T) {
	c := newCounter(t, orders())
	c.letter(0, nil)
	for _, args := range [][]string{{"dlq", "redrive", "orders.dlq"}, {"dlq", "purge", "orders.dlq", "--all"}, {"dlq", "import", "orders.dlq"}} {
		silent, hand := io.Pipe()
		ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
		var out, errs bytes.Buffer
		if code := run(ctx, args, silent, &out, &errs); code != exitStopped {
			t.Errorf("%v: exit code %d, said\n%s%s", args, code, &out, &errs)
		}
		stop()
		hand.Close()
	}
	if len(c.messages("orders")) != 0 || len(c.messages("orders.dlq")) != 1 {
		t.Error("something was changed without consent")
	}
}

// A letter that its target refuses for good is parked, and the exit code says so.
func TestRefusedLetterIsParked(t *testing.T) {
	c := newCounter(t, orders())
	if err := c.kafka.CreateTopicWith("narrow", 1, map[string]string{"max.message.bytes": "2000"}); err != nil {
		t.Fatal(err)
	}
	c.letter(0, nil)
	c.letter(1, func(l *dlq.Letter) { l.Message.Value = bytes.Repeat([]byte("x"), 5000) })
	c.run(exitIncomplete, "dlq", "redrive", "orders.dlq", "--to-topic", "narrow", "--yes")
	c.says("redriven 1, parked 0, failed 1", "1 letters are refused by the target for good, and parked")
	if sent, parked := c.ends("narrow"), c.ends("orders.dlq.parked"); sent != 1 || parked != 1 {
		t.Errorf("%d were sent, %d parked", sent, parked)
	}
}

// When most of what is redriven comes back, the rest stays where it is.
func TestRedriveStopsWhenTooManyComeBack(t *testing.T) {
	c := newCounter(t, orders())
	for i := range 100 {
		c.letter(i, nil)
	}
	ctx, stop := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { // A pipeline that fails as before.
		defer close(over)
		for i := 0; ctx.Err() == nil; {
			if c.ends("orders") <= int64(i) {
				time.Sleep(time.Millisecond)
				continue
			}
			c.letter(1000+i, func(l *dlq.Letter) { l.Redrives = 1 })
			i++
		}
	}()
	c.run(exitStopped, "dlq", "redrive", "orders.dlq", "--yes", "--rate", "20")
	stop()
	<-over
	c.says("too many letters failed again", "the same command goes on there")
	if sent := c.ends("orders"); sent < 20 || sent >= 100 {
		t.Errorf("%d were sent", sent)
	}
}
