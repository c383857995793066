package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

// The tool is killed as kill -9 does, in the middle of its work; with the ledger every message comes home once.
func TestKilledRedrive(t *testing.T) {
	const letters = 20_000
	c := newCounter(t, orders())
	batch := make([]holdfast.Message, letters)
	for i := range batch {
		batch[i] = dlq.Encode(dlq.Letter{
			Message: holdfast.Message{Topic: "orders", Partition: i % 2, Offset: int64(i), Value: fmt.Appendf(nil, "order-%d", i)},
			Group:   "billing", Reason: dlq.RetriesExhausted,
		})
		batch[i].Topic, batch[i].Partition = "orders.dlq", i%2
	}
	for some := range slices.Chunk(batch, 1000) {
		c.produce(some...)
	}
	tool := startTool(t, "dlq", "redrive", "orders.dlq", "--yes", "--rate", "10000") // Slow enough to be killed in the middle.
	for c.ends("orders") < letters/4 {
		if tool.over() {
			t.Fatalf("the tool was over before it could be killed: %v", tool.err)
		}
		time.Sleep(time.Millisecond)
	}
	tool.kill()
	c.run(exitDone, "dlq", "redrive", "orders.dlq", "--yes")
	times := make(map[string]int)
	for _, m := range c.messages("orders") {
		times[string(m.Value)]++
	}
	twice := 0
	for _, n := range times {
		twice += n - 1
	}
	if len(times) != letters || twice > 0 {
		t.Errorf("%d of %d messages came home, %d of them twice", len(times), letters, twice)
	}
}

func (c *counter) ends(topic string) (n int64) {
	for _, end := range c.kafka.Ends(topic) {
		n += end
	}
	return n
}

// process is the tool in a process of its own.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // Set before ended is closed.
}

func startTool(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], args...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), envTool+"=yes")
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
		if p.err == nil {
			p.err = errors.New("it ended well")
		}
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// kill ends the process, if it lives, as kill -9 does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}
