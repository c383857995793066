package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/testkit"
)

// years writes n letters, partition by turns, one an hour, the last one now.
func (c *counter) years(n int, change func(int, *dlq.Letter)) {
	c.t.Helper()
	var all []holdfast.Message
	for i := range n {
		at := time.Now().Add(-time.Duration(n-1-i) * time.Hour)
		l := dlq.Letter{
			Message: holdfast.Message{Topic: "orders", Partition: i % 2, Offset: int64(i), Value: []byte(strings.Repeat("x", 200))},
			Reason:  dlq.Permanent, DeadAt: at,
		}
		change(i, &l)
		record := dlq.Encode(l)
		record.Topic, record.Partition, record.Time = "orders.dlq", i%2, at
		all = append(all, record)
	}
	for some := range slices.Chunk(all, 40) {
		c.produce(some...)
	}
}

// listed runs list and gives the original offsets of the letters that it finds.
func (c *counter) listed(args ...string) (offsets []int64) {
	c.t.Helper()
	var found []listed
	if err := json.Unmarshal([]byte(c.run(exitDone, append([]string{"dlq", "list", "orders.dlq", "-o", "json"}, args...)...)), &found); err != nil {
		c.t.Fatal(err)
	}
	for _, l := range found {
		offsets = append(offsets, l.FromOffset)
	}
	return offsets
}

func TestListOfNothing(t *testing.T) {
	c := newCounter(t, orders())
	if got := strings.TrimSpace(c.run(exitDone, "dlq", "list", "orders.dlq", "-o", "json")); got != "[]" {
		t.Errorf("got %s, want []", got)
	}
}

func TestListByAge(t *testing.T) {
	const letters = 10_000
	c := newCounter(t, orders())
	c.years(letters, func(i int, l *dlq.Letter) {
		if i == 2 || i > 5000 && i%1000 != 0 {
			l.Reason = dlq.Panicked
		}
	})
	last := func(n, step int64) (offsets []int64) {
		for i := range n {
			offsets = append(offsets, letters-1-i*step)
		}
		return offsets
	}
	for args, want := range map[string][]int64{
		"-n 5":                                {0, 1, 2, 3, 4},
		"-n 5 --newest":                       last(5, 1),
		"-n 3 --reason permanent":             {0, 1, 3},
		"-n 5 --newest --reason permanent":    {9000, 8000, 7000, 6000, 5000}, // Further and further back.
		"-n 3 --newest --partition 1":         last(3, 2),
		"-n 3 --from 2500 --partition 0":      {5000, 5002, 5004},
		"-n 9 --from 2 --to 4":                {4, 5, 6, 7},
		"-n 9 --newest --from 2 --to 4":       {7, 6, 5, 4},
		"--after 2h30m":                       {9997, 9998, 9999},
		"-n 2 --newest --after 2h30m":         {9999, 9998},
		"--after 2h30m --before 90m":          {9997},
		"-n 2 --newest --reason circuit_open": nil,
	} {
		if got := c.listed(strings.Fields(args)...); !slices.Equal(got, want) {
			t.Errorf("list %s: %v, want %v", args, got, want)
		}
	}
	if got := len(c.listed("-n", "0")); got != letters {
		t.Errorf("%d letters without a limit", got)
	}
	for _, format := range []string{"table", "json"} {
		c.run(exitDone, "dlq", "list", "orders.dlq", "-n", "5", "--newest", "-o", format)
		if !strings.HasPrefix(c.errors, "... and more") {
			t.Errorf("list -o %s does not say that there are more: %s", format, c.errors)
		}
	}
	for _, args := range []string{"-n 4 --from 2 --to 4", "-n 2 --newest --from 4999", "--newest --after 2h30m"} {
		c.run(exitDone, append([]string{"dlq", "list", "orders.dlq"}, strings.Fields(args)...)...)
		if strings.Contains(c.errors, "more") {
			t.Errorf("list %s says that there are more:\n%s", args, c.errors)
		}
	}
}

// What is asked for is not read for the sake of what is not.
func TestListAndExportReadWhatTheyMust(t *testing.T) {
	c := newCounter(t, orders())
	large := []byte(strings.Repeat("x", 20_000))
	c.years(2000, func(_ int, l *dlq.Letter) { l.Message.Value = large })
	c.run(exitDone, "dlq", "stats", "orders.dlq")
	all := c.kafka.Requests(testkit.APIFetch)
	for _, args := range []string{
		"list -n 10", "list -n 10 --newest", "list --after 5h", "export --after 5h", "export --from 900", "stats --after 5h", "stats --quick",
		"show 0 500", "purge --dry-run",
	} {
		words := strings.Fields(args)
		before := c.kafka.Requests(testkit.APIFetch)
		c.run(exitDone, append([]string{"dlq", words[0], "orders.dlq"}, words[1:]...)...)
		if reads := c.kafka.Requests(testkit.APIFetch) - before; reads > all/3 {
			t.Errorf("%s fetches %d times, and for all that there is it takes %d", args, reads, all)
		}
	}
}

func TestStatsAtOnce(t *testing.T) {
	c := newCounter(t, orders())
	c.years(100, func(int, *dlq.Letter) {})
	out := strings.Join(strings.Fields(c.run(exitDone, "dlq", "stats", "orders.dlq", "--quick")), " ")
	if want := "PARTITION FIRST NEXT RECORDS LAST HOUR LAST DAY 0 0 50 50 0 12 1 0 50 50 1 12"; out != want {
		t.Errorf("it says %q, want %q", out, want)
	}
	out = c.run(exitDone, "dlq", "stats", "orders.dlq", "--quick", "-o", "json")
	if !strings.Contains(out, `"last_day": 12`) || strings.Contains(out, "records") {
		t.Errorf("for programs it says %s", out)
	}
}

func TestExportByTime(t *testing.T) {
	c := newCounter(t, orders())
	c.years(5000, func(int, *dlq.Letter) {})
	for args, want := range map[string]int{
		"--after 24h30m": 25, "--after 24h30m --before 90m": 23, "--before 4998h30m": 1, "--after 10m --reason panic": 0, "--partition 1": 2500,
	} {
		out := c.run(exitDone, append([]string{"dlq", "export", "orders.dlq"}, strings.Fields(args)...)...)
		if got := strings.Count(out, "\n"); got != want {
			t.Errorf("export %s: %d letters, want %d", args, got, want)
		}
		c.says(fmt.Sprintf("exported %d records", want))
	}
	// Letters without a time of their own have their record's: those of others.
	c.produce(holdfast.Message{Topic: "orders.dlq", Time: time.Now().Add(-30 * time.Hour), Headers: []holdfast.Header{
		{Key: "__connect.errors.topic", Value: []byte("orders")},
		{Key: "__connect.errors.partition", Value: []byte("0")},
		{Key: "__connect.errors.offset", Value: []byte("7")},
	}})
	if got := strings.Count(c.run(exitDone, "dlq", "export", "orders.dlq", "--after", "30h30m", "--before", "29h30m"), "\n"); got != 2 {
		t.Errorf("%d letters of thirty hours ago, want the one and the other framework's", got)
	}
}
