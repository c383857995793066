package main

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast"
)

// unplaced is what import keeps of a record.
func unplaced(messages []holdfast.Message) []holdfast.Message {
	var out []holdfast.Message
	for _, m := range messages {
		out = append(out, holdfast.Message{Partition: m.Partition, Key: m.Key, Value: m.Value, Headers: m.Headers})
	}
	return out
}

func TestExportAndImport(t *testing.T) {
	topics := orders()
	topics["restored"] = 2
	c := newCounter(t, topics)
	c.letter(0, nil)
	c.letter(1, nil)
	c.produce(
		holdfast.Message{Topic: "orders.dlq"},
		holdfast.Message{Topic: "orders.dlq", Partition: 1, Key: []byte{}, Value: []byte{0, 0xff, '\n', '"'}, Headers: []holdfast.Header{
			{Key: "", Value: nil}, {Key: "", Value: []byte{}}, {Key: "\xff\xfe", Value: []byte("\u2028<&>\x00")},
		}},
	)
	c.run(exitDone, "dlq", "export", "orders.dlq")
	c.typed = c.out
	c.run(exitDone, "dlq", "import", "restored")
	c.says("imported 4 records")
	want, got := unplaced(c.messages("orders.dlq")), unplaced(c.messages("restored"))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("restored is\n%+v, want\n%+v", got, want)
	}

	file := t.TempDir() + "/letters"
	c.run(exitDone, "dlq", "export", "orders.dlq", "-f", file, "--origin", "orders")
	c.run(exitUsage, "dlq", "export", "orders.dlq", "-f", file)
	c.run(exitDone, "dlq", "import", "restored", "-f", file, "--skip", "1", "--keep-time")
	c.says("imported 1 records")
	all := c.messages("restored")
	if last := all[len(all)-1]; time.Since(last.Time) > time.Hour || len(all) != 5 {
		t.Errorf("%d records, the last of %v", len(all), last.Time)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the export can be read by others: %v, %v", info.Mode(), err)
	}

	c.typed += "{\"value\":\"hunter2\n"
	c.run(exitFailed, "dlq", "import", "restored")
	c.says("line 5", "--skip 4")
	if strings.Contains(c.errors, "hunter2") {
		t.Errorf("the error holds the payload: %s", c.errors)
	}
}

// A time that RFC 3339 cannot tell comes through, too.
func TestExportOfAFarTime(t *testing.T) {
	topics := orders()
	topics["restored"] = 1
	c := newCounter(t, topics)
	far := time.UnixMilli(1_700_000_000_000_000).UTC() // Microseconds, taken for milliseconds.
	c.letter(0, nil)
	c.produce(holdfast.Message{Topic: "orders.dlq", Time: far})
	c.run(exitDone, "dlq", "list", "orders.dlq", "-a", "-o", "json")
	c.typed = c.run(exitDone, "dlq", "export", "orders.dlq")
	c.run(exitDone, "dlq", "import", "restored", "--keep-time")
	if again := c.run(exitDone, "dlq", "export", "restored"); !strings.Contains(again, `"time":1700000000000000,`) {
		t.Errorf("restored is %s", again)
	}
}

func TestImportRefusesWhatIsNoRecord(t *testing.T) {
	c := newCounter(t, orders())
	c.letter(0, nil)
	line := strings.TrimSpace(c.run(exitDone, "dlq", "export", "orders.dlq"))
	for _, garbage := range []string{"null", "{}", "", "[]", line + "}", line + line, line + " x", `{"headers":[],"offset":-1e99}`} {
		c.typed = garbage + "\n"
		c.run(exitFailed, "dlq", "import", "orders.dlq")
		c.says("line 1: is not a record", "0 lines are written")
	}
	if n := len(c.messages("orders.dlq")); n != 1 {
		t.Errorf("%d records, want the one that was there", n)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte("key"), []byte("value"), "header", []byte("h"), byte(0))
	f.Add([]byte{}, []byte{0xff}, "\xff", []byte{}, byte(7))
	f.Add([]byte("\u009b2J"), []byte("\x7f"), "\u202e", []byte("\U000e0041"), byte(0))
	f.Add([]byte("\u2028"), []byte("{\"base64\":\"\"}"), "", []byte("null"), byte(2))
	f.Fuzz(func(t *testing.T, key, value []byte, name string, header []byte, none byte) {
		m := holdfast.Message{Key: key, Value: value, Headers: []holdfast.Header{{Key: name, Value: header}, {Key: name, Value: value}}}
		for bit, field := range []*[]byte{&m.Key, &m.Value, &m.Headers[0].Value} {
			if none&(1<<bit) != 0 {
				*field = nil
			} else if *field == nil {
				*field = []byte{}
			}
		}
		r := newRecord(&m)
		var line bytes.Buffer
		if err := newEncoder(&line).Encode(&r); err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(line.Bytes(), []byte("\n")); n != 1 {
			t.Fatalf("%d lines", n)
		}
		mustBeText(t, line.String())
		back, err := parseRecord(bytes.TrimSpace(line.Bytes()))
		if err != nil {
			t.Fatalf("%v: %s", err, line.Bytes())
		}
		if got := back.message(); !reflect.DeepEqual(got, m) {
			t.Fatalf("came back as\n%+v, want\n%+v", got, m)
		}
	})
}

func FuzzImport(f *testing.F) {
	f.Add([]byte(`{"partition":0,"key":null,"value":"a","headers":[{"key":"","value":{"base64":"/w=="}}]}`))
	f.Add([]byte(`{"key":{"base64":null}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseRecord(line)
		if err != nil {
			return
		}
		m := r.message()
		again := newRecord(&m)
		if got := again.message(); !reflect.DeepEqual(got, m) {
			t.Fatalf("%+v became %+v", m, got)
		}
	})
}
