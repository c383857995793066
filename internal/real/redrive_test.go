package real_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/testkit"
)

// redriveKills is how often the tool is killed before it may finish.
const redriveKills = 2

// TestKilledRedrive kills the tool with -9 in the middle of a redrive and starts it again: every message is delivered,
// and with the ledger once. LETTERS sets how many there are.
func TestKilledRedrive(t *testing.T) {
	servers := testkit.Servers(t)
	tool := buildTool(t)
	letters := 20_000
	if text := os.Getenv("LETTERS"); text != "" {
		var err error
		if letters, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, ledger := range []string{"", "none"} {
		t.Run("ledger "+ledger, func(t *testing.T) {
			r := newRedriving(t, servers.Brokers, letters)
			args := []string{"dlq", "redrive", r.topic + ".dlq", "--yes", "--brokers", strings.Join(servers.Brokers, ",")}
			if ledger != "" {
				args = append(args, "--ledger", ledger)
			}
			for kill := range redriveKills {
				r.kill(exec.Command(tool, args...), (kill+1)*letters/(redriveKills+1))
			}
			if said, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, said)
			}
			r.verdict(ledger == "")
		})
	}
}

// TestLoopIsParked has the tool redrive a message that its pipeline never gets through, until its letter is parked.
func TestLoopIsParked(t *testing.T) {
	r := newRedriving(t, testkit.Servers(t).Brokers, 0)
	quiet := slog.New(slog.DiscardHandler)
	cluster := kafkax.Cluster{Brokers: testkit.Servers(t).Brokers}
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeProducer(producer)
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: r.topic, Topics: []string{r.topic}, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	dead, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: r.topic + ".dlq"})
	if err != nil {
		t.Fatal(err)
	}
	never := pipeline.Each(func(context.Context, holdfast.Item[holdfast.Message]) error {
		return holdfast.Permanent(errors.New("never"))
	})
	same := pipeline.Map("same", func(_ context.Context, m holdfast.Message) (holdfast.Message, error) { return m, nil }, pipeline.StageConfig{})
	pipe, err := pipeline.New(consumer, same, never, pipeline.Config{DeadLetters: dead, Batch: pipeline.BatchConfig{Delay: -1}, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- pipe.Run(ctx) }()
	if err := producer.Produce(t.Context(), holdfast.Message{Topic: r.topic, Key: []byte("k"), Value: []byte("poison")}); err != nil {
		t.Fatal(err)
	}
	tool := buildTool(t)
	for round := range 6 {
		for deadline := time.Now().Add(patience); r.count(r.topic+".dlq") <= round; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no letter in round %d", round)
			}
		}
		args := []string{"dlq", "redrive", r.topic + ".dlq", "--yes", "-o", "json", "--brokers", strings.Join(testkit.Servers(t).Brokers, ",")}
		said, err := exec.CommandContext(t.Context(), tool, args...).Output()
		var did struct {
			Summary struct{ Redriven, Parked int }
		}
		err = errors.Join(err, json.Unmarshal(said, &did))
		if err != nil || (did.Summary.Parked == 1) != (round == 5) || did.Summary.Redriven+did.Summary.Parked != 1 {
			t.Fatalf("round %d: %v\n%s", round, err, said)
		}
	}
	if n := r.count(r.topic + ".dlq.parked"); n != 1 {
		t.Errorf("%d letters are parked, want 1", n)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// count is how many records there are in a topic.
func (r *redriving) count(topic string) (n int) {
	r.t.Helper()
	first, next, err := r.admin.Bounds(r.t.Context(), topic)
	if err != nil {
		r.t.Fatal(err)
	}
	for p := range next {
		n += int(next[p] - first[p])
	}
	return n
}

// redriving is a topic, and another with letters about messages of it.
type redriving struct {
	t       *testing.T
	admin   *kafkax.Admin
	topic   string
	letters int
}

func newRedriving(t *testing.T, brokers []string, letters int) *redriving {
	t.Helper()
	cluster := kafkax.Cluster{Brokers: brokers}
	admin, err := kafkax.NewAdmin(cluster, kafkax.AdminConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeProducer(producer)
	r := &redriving{t, admin, "redrive" + time.Now().UTC().Format("_20060102_150405.000"), letters}
	for _, topic := range []string{r.topic, r.topic + ".dlq"} {
		if err := admin.CreateTopic(t.Context(), topic, partitions, nil); err != nil {
			t.Fatal(err)
		}
	}
	dead, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: r.topic + ".dlq"})
	if err != nil {
		t.Fatal(err)
	}
	all := make([]dlq.Letter, letters)
	for i := range all {
		all[i] = dlq.Letter{
			Message: holdfast.Message{Topic: r.topic, Partition: i % partitions, Offset: int64(i), Value: fmt.Appendf(nil, "message %d", i)},
			Group:   "billing", Reason: dlq.RetriesExhausted, Error: "no price today", DeadAt: time.Now(),
		}
	}
	for some := range slices.Chunk(all, 2000) {
		if err := dead.Write(t.Context(), some...); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// kill starts the tool, and kills it when so many messages have come home.
func (r *redriving) kill(cmd *exec.Cmd, home int) {
	r.t.Helper()
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if r.count(r.topic) >= home {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d messages have not come home in %v", home, patience)
		}
	}
}

// verdict looks for every message.
func (r *redriving) verdict(once bool) {
	r.t.Helper()
	times := make(map[string]int)
	if err := r.admin.Scan(context.WithoutCancel(r.t.Context()), r.topic, nil, func(messages []holdfast.Message) error {
		for _, m := range messages {
			times[string(m.Value)]++
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	twice := 0
	for _, n := range times {
		twice += n - 1
	}
	r.t.Logf("letters=%d delivered=%d twice=%d", r.letters, len(times), twice)
	if len(times) != r.letters || once && twice > 0 {
		r.t.Errorf("%d of %d messages were delivered, %d of them again", len(times), r.letters, twice)
	}
}
