package real_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

const (
	narrowBytes = 100_000 // What the topic takes.
	hugeLetter  = 45      // Too large for it whatever is left out.
)

// TestLettersOutliveKafka kills Kafka while letters are written. All are taken, by the disk where Kafka is away, and all come
// to the topic in the order of their keys when it is back. What is too large for the topic is stripped, and what is too
// large even so stays on the disk.
func TestLettersOutliveKafka(t *testing.T) {
	servers := testkit.Servers(t)
	servers.NeedScript(t)
	r := newRedriving(t, servers.Brokers, 0)
	narrow := r.topic + ".narrow"
	if err := r.admin.CreateTopic(t.Context(), narrow, 2, map[string]string{"max.message.bytes": fmt.Sprint(narrowBytes)}); err != nil {
		t.Fatal(err)
	}
	producer, err := kafkax.NewProducer(kafkax.Cluster{Brokers: servers.Brokers}, kafkax.ProducerConfig{
		Timeout: 2 * time.Second, Retry: retry.Policy{Attempts: 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closeProducer(producer)
	dir := t.TempDir()
	spool, err := dlq.OpenSpool(dir, dlq.SpoolConfig{})
	if err != nil {
		t.Fatal(err)
	}
	topic, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: narrow, Spool: spool, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	const letters = 90
	kept := int64(0)
	for n := range letters {
		switch n {
		case letters / 3:
			if err := servers.Kill(t.Context(), "kafka"); err != nil {
				t.Fatal(err)
			}
		case 2 * letters / 3:
			kept = spool.Stats().Messages
			if err := servers.Up(t.Context(), "kafka"); err != nil {
				t.Fatal(err)
			}
		}
		if err := topic.Write(t.Context(), narrowLetter(r.topic, n)); err != nil {
			t.Fatalf("letter %d: %v", n, err)
		}
	}
	if kept < letters/3 {
		t.Errorf("%d letters were on the disk at the end of the outage, want %d at least", kept, letters/3)
	}
	for deadline := time.Now().Add(patience); spool.Stats().Messages != 1 || spool.Stats().Refused != 1; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v the spool has %+v", patience, spool.Stats())
		}
	}
	if err := errors.Join(topic.Close(), spool.Close()); err != nil {
		t.Error(err)
	}
	var came [2][]int64 // As they came first.
	stripped, twice := 0, 0
	if err := r.admin.Scan(t.Context(), narrow, nil, func(messages []holdfast.Message) error {
		for _, m := range messages {
			l, err := dlq.Decode(m)
			if err != nil {
				return err
			}
			if slices.Contains(came[m.Partition], l.Message.Offset) {
				twice++
				continue
			}
			came[m.Partition] = append(came[m.Partition], l.Message.Offset)
			want := narrowLetter(r.topic, int(l.Message.Offset))
			if m.Headers[len(m.Headers)-1].Key == dlq.HeaderStripped {
				stripped++
			} else if l.Stack != want.Stack {
				t.Errorf("letter %d has lost its stack", l.Message.Offset)
			}
			if !bytes.Equal(l.Message.Value, want.Message.Value) {
				t.Errorf("letter %d came with another value", l.Message.Offset)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("letters=%d spooled=%d stripped=%d twice=%d", letters, kept, stripped, twice)
	for p := range came {
		if len(came[p]) < letters/2-1 || !slices.IsSorted(came[p]) {
			t.Errorf("partition %d has letters %v", p, came[p])
		}
	}
	if len(came[0])+len(came[1]) != letters-1 || stripped != letters/10 {
		t.Errorf("%d letters came, %d of them stripped", len(came[0])+len(came[1]), stripped)
	}

	// Nobody has dropped the one that no topic takes, and without a spool it stays with the caller.
	if spool, err = dlq.OpenSpool(dir, dlq.SpoolConfig{}); err != nil || spool.Stats().Messages != 1 {
		t.Fatalf("the next process finds %+v, %v", spool.Stats(), err)
	}
	_ = spool.Close()
	bare, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: narrow})
	if err != nil {
		t.Fatal(err)
	}
	err = bare.Write(t.Context(), narrowLetter(r.topic, hugeLetter), narrowLetter(r.topic, hugeLetter+2))
	partly, named := errors.AsType[*holdfast.BatchError](err)
	if !named || len(partly.Items) != 1 || !holdfast.IsPermanent(partly.Items[0]) {
		t.Errorf("without a spool: %v", err)
	}
}

// narrowLetter is the n-th letter of an outage: every tenth is too large for the topic with all that it tells.
func narrowLetter(topic string, n int) dlq.Letter {
	l := dlq.Letter{
		Message: holdfast.Message{Topic: topic, Partition: n % 2, Offset: int64(n), Key: fmt.Append(nil, n%2), Value: fmt.Appendf(nil, "message %d", n)},
		Group:   "billing", Reason: dlq.Panicked, Stack: strings.Repeat("y", 3000), DeadAt: time.Now(),
	}
	switch {
	case n == hugeLetter:
		l.Message.Value = bytes.Repeat([]byte("x"), narrowBytes)
	case n%10 == 3:
		l.Message.Value = bytes.Repeat([]byte("x"), narrowBytes-3000)
	}
	return l
}

// TestToolSecurely has the tool told by flags, by the environment and by a file how to get in, through TLS and every kind
// of authentication.
func TestToolSecurely(t *testing.T) {
	r := newRedriving(t, testkit.Servers(t).Brokers, 6)
	brokers, ca := os.Getenv("HOLDFAST_KAFKA_TLS"), os.Getenv("HOLDFAST_KAFKA_CA")
	if brokers == "" || ca == "" {
		t.Skip("HOLDFAST_KAFKA_TLS and HOLDFAST_KAFKA_CA do not name brokers with TLS and their certificate: scripts/servers has them")
	}
	tool := buildTool(t)
	file := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("# The way in.\nbrokers = %s\ntls = true\ntls-ca = %s\nsasl = plain\nsasl-user = holdfast\nsasl-password = secret\n", brokers, ca)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--brokers", brokers, "--tls", "--tls-ca", ca, "--sasl", "scram-sha-512", "--sasl-user", "holdfast"}
	for name, way := range map[string]struct {
		flags, environment []string
		says               string // Of what is wrong.
	}{
		"flags": {flags: flags, environment: []string{"HOLDFAST_SASL_PASSWORD=secret"}},
		"environment": {environment: []string{
			"HOLDFAST_BROKERS=" + brokers, "HOLDFAST_TLS=true", "HOLDFAST_TLS_CA=" + ca,
			"HOLDFAST_SASL=scram-sha-256", "HOLDFAST_SASL_USER=holdfast", "HOLDFAST_SASL_PASSWORD=secret",
		}},
		"file":                   {environment: []string{"HOLDFAST_CONFIG=" + file}},
		"a flag before the file": {flags: []string{"--sasl", "scram-sha-256"}, environment: []string{"HOLDFAST_CONFIG=" + file}},
		"a wrong password":       {flags: flags, environment: []string{"HOLDFAST_SASL_PASSWORD=guess"}, says: "uthentication"},
		"an unknown certificate": {flags: slices.DeleteFunc(slices.Clone(flags), func(s string) bool { return s == "--tls-ca" || s == ca }), environment: []string{"HOLDFAST_SASL_PASSWORD=secret"}, says: "certificate"},
		"no encryption":          {flags: []string{"--brokers", brokers, "--sasl", "plain", "--sasl-user", "holdfast"}, environment: []string{"HOLDFAST_SASL_PASSWORD=secret"}, says: "wants TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), tool, append([]string{"dlq", "export", r.topic + ".dlq"}, way.flags...)...)
			cmd.Env = append([]string{"HOME=" + t.TempDir()}, way.environment...)
			var out, errs strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &errs
			err := cmd.Run()
			if way.says == "" && (err != nil || strings.Count(out.String(), "\n") != 6) {
				t.Errorf("%v, exported\n%s%s", err, &out, &errs)
			}
			if way.says != "" && (cmd.ProcessState.ExitCode() != 1 || !strings.Contains(errs.String(), way.says)) {
				t.Errorf("%v, said %s", err, &errs)
			}
			if strings.Contains(errs.String(), "secret") || strings.Contains(errs.String(), "guess") {
				t.Errorf("the password is in %s", &errs)
			}
		})
	}
}

// buildTool makes the operator's tool.
func buildTool(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "holdfast")
	if said, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../../cmd/holdfast").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	return path
}
