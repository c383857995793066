package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// The environment variables by which [Servers] finds the servers. `scripts/servers up` prints them.
const (
	EnvKafka      = "HOLDFAST_KAFKA"      // Brokers, host:port, separated by commas.
	EnvClickHouse = "HOLDFAST_CLICKHOUSE" // host:port of the native protocol.
	EnvZooKeeper  = "HOLDFAST_ZOOKEEPER"  // host:port; only where replicated tables are wanted.
	EnvServers    = "HOLDFAST_SERVERS"    // The script that started them, and can kill them.
)

// scriptTimeout bounds one call of the script. Starting a broker takes about 5 s.
const scriptTimeout = 2 * time.Minute

// SkipTB is what [Servers] needs of a test. A *testing.T, *testing.B and *testing.F have it.
type SkipTB interface {
	TB
	Skipf(format string, args ...any)
}

// RealServers are an Apache Kafka and a ClickHouse that run beside the test. [Servers] finds them. Its methods may be
// called by many goroutines at once.
type RealServers struct {
	Brokers    []string
	ClickHouse string // host:port of the native protocol.
	ZooKeeper  string // Empty where there is none.

	script string

	mu      sync.Mutex
	touched map[string]bool // What was killed or stopped, and has to run again after the test.
}

// Servers gives the real servers that the environment names, and skips the test when it names none. What the test has
// killed or stopped through them runs again when it has ended.
func Servers(t SkipTB) *RealServers {
	t.Helper()
	kafka, clickhouse := os.Getenv(EnvKafka), os.Getenv(EnvClickHouse)
	if kafka == "" || clickhouse == "" {
		t.Skipf("testkit: %s and %s do not name servers: start them with `eval \"$(scripts/servers up)\"`, "+
			"or with `docker compose up -d --wait` and export %[1]s=localhost:9092 %[2]s=localhost:9000", EnvKafka, EnvClickHouse)
	}
	s := &RealServers{
		Brokers:    strings.Split(kafka, ","),
		ClickHouse: clickhouse,
		ZooKeeper:  os.Getenv(EnvZooKeeper),
		script:     os.Getenv(EnvServers),
		touched:    make(map[string]bool),
	}
	if err := s.validate(); err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := s.restore(); err != nil {
			t.Logf("%v", err)
		}
	})
	return s
}

func (s *RealServers) validate() error {
	var errs []error
	check := func(variable, addr string) {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			errs = append(errs, fmt.Errorf("testkit: %s must be host:port, got %q", variable, addr))
		}
	}
	for _, addr := range s.Brokers {
		check(EnvKafka, addr)
	}
	check(EnvClickHouse, s.ClickHouse)
	if s.ZooKeeper != "" {
		check(EnvZooKeeper, s.ZooKeeper)
	}
	return errors.Join(errs...)
}

// NeedScript skips the test when the servers were not started by scripts/servers, so that nobody can kill them.
func (s *RealServers) NeedScript(t SkipTB) {
	t.Helper()
	if s.script == "" {
		t.Skipf("testkit: %s does not name the script that can kill the servers: start them with `eval \"$(scripts/servers up)\"`", EnvServers)
	}
}

// Kill ends a server as kill -9 does: "clickhouse", "zookeeper", "kafka-1" and so on, or "kafka" for every broker. Up
// starts it again.
func (s *RealServers) Kill(ctx context.Context, server string) error {
	return s.run(ctx, "kill", server)
}

// Stop makes a server hang (SIGSTOP): its connections stay, and nothing answers. Continue lets it go on.
func (s *RealServers) Stop(ctx context.Context, server string) error {
	return s.run(ctx, "stop", server)
}

// Continue lets a stopped server go on.
func (s *RealServers) Continue(ctx context.Context, server string) error {
	return s.run(ctx, "cont", server)
}

// Up starts a killed server with the data it had, lets a stopped one go on, and returns when it is ready.
func (s *RealServers) Up(ctx context.Context, server string) error { return s.run(ctx, "up", server) }

// restore brings back what the test has taken away.
func (s *RealServers) restore() error {
	s.mu.Lock()
	var names []string
	for name := range s.touched {
		names = append(names, name)
	}
	s.mu.Unlock()
	if len(names) == 0 {
		return nil
	}
	return s.run(context.Background(), "up", names...)
}

func (s *RealServers) run(ctx context.Context, command string, servers ...string) error {
	if s.script == "" {
		return fmt.Errorf("testkit: %s %s: %s does not name the script", command, strings.Join(servers, " "), EnvServers)
	}
	s.mu.Lock()
	for _, name := range servers {
		s.touched[name] = true
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, scriptTimeout)
	defer cancel()
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, s.script, append([]string{command}, servers...)...)
	cmd.Stderr = &complaint
	cmd.WaitDelay = time.Second // What the script has started may hold on to its outputs.
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("testkit: %s %s: %w: %s", command, strings.Join(servers, " "), err, bytes.TrimSpace(complaint.Bytes()))
	}
	return nil
}
