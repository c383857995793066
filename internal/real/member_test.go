package real_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/pipeline"
)

// plan is what a member needs to know. It comes to it through the environment.
type plan struct {
	Brokers                          []string
	ClickHouse                       string
	Group, Topic, DeadLetters, Table string
}

const envPlan = "HOLDFAST_TEST_PLAN"

// TestMain makes this test binary a pipeline of its own when it is started with a plan, so that a test can kill it.
func TestMain(m *testing.M) {
	text := os.Getenv(envPlan)
	if text == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := work(ctx, text); err != nil {
		fmt.Fprintln(os.Stderr, "member:", err)
		os.Exit(1)
	}
}

type order struct {
	ID       uint64 `json:"id"`
	Quantity int    `json:"quantity"`
}

type row struct {
	ID    uint64 `ch:"id"`
	Cents int64  `ch:"cents"`
}

func addPrice(_ context.Context, o order) (row, error) {
	if o.Quantity <= 0 {
		return row{}, holdfast.Permanent(errors.New("the quantity is not positive"))
	}
	return row{ID: o.ID, Cents: int64(o.Quantity) * 499}, nil
}

// work is the quickstart's pipeline, with timeouts that suit a test.
func work(ctx context.Context, text string) error {
	var p plan
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	circuit := clickhousex.BreakerConfig("clickhouse")
	circuit.MaxFailures, circuit.SuccessThreshold, circuit.Timeout = 3, 1, time.Second
	guard, err := breaker.New(circuit)
	if err != nil {
		return err
	}
	ch, err := clickhousex.Open(&clickhouse.Options{Addr: []string{p.ClickHouse}, DialTimeout: time.Second}, clickhousex.Config{Breaker: guard})
	if err != nil {
		return err
	}
	defer ch.Close()
	cluster := kafkax.Cluster{Brokers: p.Brokers}
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{
		Group: p.Group, Topics: []string{p.Topic},
		SessionTimeout: sessionTimeout, HeartbeatInterval: time.Second, CommitInterval: 100 * time.Millisecond,
	})
	if err != nil {
		return err
	}
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		return err
	}
	defer closeProducer(producer)
	dead, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: p.DeadLetters})
	if err != nil {
		return err
	}
	store, err := clickhousex.NewInserter[row](ch, p.Table, clickhousex.InserterConfig{Timeout: 4 * time.Second})
	if err != nil {
		return err
	}
	decode := pipeline.Map("decode", pipeline.JSON[order], pipeline.StageConfig{})
	price := pipeline.Map("price", addPrice, pipeline.StageConfig{Timeout: time.Second})
	pipe, err := pipeline.New(consumer, pipeline.Then(decode, price), store, pipeline.Config{
		DeadLetters: dead,
		Batch:       pipeline.BatchConfig{Count: 1000, Delay: 100 * time.Millisecond},
	})
	if err != nil {
		return err
	}
	return pipe.Run(ctx)
}

func closeProducer(p *kafkax.Producer) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = p.Close(ctx)
}

// member is a pipeline in a process of its own.
type member struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	said  *tail
	ended chan struct{}
	err   error // Set before ended is closed.
}

func startMember(t *testing.T, name string, p plan) *member {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{t: t, name: name, said: new(tail), ended: make(chan struct{})}
	m.cmd = exec.Command(os.Args[0])
	m.cmd.Env = append(os.Environ(), envPlan+"="+string(text))
	m.cmd.Stdout, m.cmd.Stderr = m.said, m.said
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(m.ended)
		m.err = m.cmd.Wait()
	}()
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			t.Logf("the last words of member %s:\n%s", name, m.said)
		}
	})
	return m
}

func (m *member) signal(s syscall.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		m.t.Errorf("member %s: %v: %v", m.name, s, err)
	}
}

// kill ends the member, if it lives, as kill -9 does.
func (m *member) kill() {
	_ = m.cmd.Process.Kill()
	<-m.ended
}

// drain asks the member to end and wants it to end well.
func (m *member) drain() {
	m.t.Helper()
	m.signal(syscall.SIGTERM)
	select {
	case <-m.ended:
		if m.err != nil {
			m.t.Errorf("member %s ended: %v", m.name, m.err)
		}
	case <-time.After(time.Minute):
		m.t.Errorf("member %s has not drained in a minute", m.name)
		m.signal(syscall.SIGQUIT) // Its goroutines are its last words.
		select {
		case <-m.ended:
		case <-time.After(10 * time.Second):
		}
	}
}

// alive fails the test when the member has ended by itself.
func (m *member) alive() {
	m.t.Helper()
	select {
	case <-m.ended:
		m.t.Fatalf("member %s ended by itself: %v", m.name, m.err)
	default:
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 256 << 10

func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, p...)
	if over := len(w.text) - tailBytes; over > 0 {
		w.text = bytes.Clone(w.text[over:])
	}
	return len(p), nil
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.TrimSpace(string(w.text))
}
