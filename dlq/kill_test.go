package dlq_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

// victimDir names the directory of the spool in which this program, started by itself, works until it is killed.
const victimDir = "HOLDFAST_SPOOL_VICTIM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		fmt.Fprintln(os.Stderr, victim(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const lanes = 4

// victim appends in several lanes, a key each, and drains, for ever. It says so before it opens the spool, after each
// append and in the middle of each drain.
func victim(dir string) error {
	fmt.Println("open")
	s, err := dlq.OpenSpool(dir, dlq.SpoolConfig{MaxBytes: 8 << 20})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for lane := range lanes {
		go func() { failed <- fill(s, lane) }()
	}
	go func() { failed <- empty(s) }()
	return <-failed
}

func fill(s *dlq.Spool, lane int) error {
	for n := 0; ; {
		var some []holdfast.Message
		var said strings.Builder
		for range 1 + rand.IntN(3) {
			n++
			m := laneMessage(os.Getpid(), lane, n)
			some = append(some, m)
			fmt.Fprintf(&said, "kept %s\n", name(&m))
		}
		err := s.Append(context.Background(), some...)
		if errors.Is(err, dlq.ErrSpoolFull) {
			continue
		}
		if err != nil {
			return err
		}
		_, _ = os.Stdout.WriteString(said.String())
	}
}

func empty(s *dlq.Spool) error {
	for {
		err := s.Drain(context.Background(), func(_ context.Context, messages []holdfast.Message) error {
			failed := make(map[int]error)
			var said strings.Builder
			for i := range messages {
				if rand.IntN(2) == 0 {
					failed[i] = io.ErrUnexpectedEOF
					continue
				}
				fmt.Fprintf(&said, "sent %s\n", name(&messages[i]))
			}
			_, _ = os.Stdout.WriteString(said.String())
			return &holdfast.BatchError{Items: failed}
		})
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
	}
}

// laneMessage is the n-th message of a lane. Its value repeats its name, over several pages at times.
func laneMessage(pid, lane, n int) holdfast.Message {
	key := fmt.Sprintf("%d.%d", pid, lane)
	value := strings.Repeat(fmt.Sprintf("%s.%d ", key, n), 1+n*n%1000)
	return holdfast.Message{Topic: "t", Partition: -1, Key: []byte(key), Value: []byte(value)}
}

func name(m *holdfast.Message) string {
	first, _, _ := strings.Cut(string(m.Value), " ")
	return first
}

// A process that fills and drains a spool is killed at random moments, HOLDFAST_SPOOL_KILLS times or 10. Each time the
// next process finds a whole spool: what was acknowledged is there or was sent, nothing is torn, and each key's messages
// are in order.
func TestSpoolSurvivesKill(t *testing.T) {
	kills := 10
	if n, err := strconv.Atoi(os.Getenv("HOLDFAST_SPOOL_KILLS")); err == nil {
		kills = n
	}
	dir := t.TempDir()
	missing := make(map[string]bool) // Kept and not sent.
	for round := range kills {
		if round%5 == 0 {
			dir, missing = t.TempDir(), make(map[string]bool)
		}
		lines := 1 // Killed while it opens.
		if round%3 != 0 {
			lines += rand.IntN(800)
		}
		killAfter(t, dir, lines, missing)
		verify(t, dir, missing)
	}
}

// killAfter has a victim work in dir until it has said so many lines, kills it, and notes what it had said.
func killAfter(t *testing.T, dir string, lines int, missing map[string]bool) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), victimDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := bufio.NewReader(out)
	for said := 1; ; said++ {
		line, err := read.ReadString('\n')
		if said == lines {
			_ = cmd.Process.Kill()
		}
		if err != nil {
			if said < lines {
				t.Error("it ended by itself")
			}
			break // A torn last line was said by nobody: what it speaks of is known to none.
		}
		what, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch what {
		case "kept":
			if _, sent := missing[name]; !sent {
				missing[name] = true
			}
		case "sent":
			missing[name] = false // Maybe before it was said to be kept.
		}
	}
	_ = cmd.Wait()
}

// verify opens the spool that a killed process left, takes out what is in it, looks at it, and puts it back.
func verify(t *testing.T, dir string, missing map[string]bool) {
	t.Helper()
	s, err := dlq.OpenSpool(dir, dlq.SpoolConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var all []holdfast.Message
	if err := s.Drain(t.Context(), func(_ context.Context, messages []holdfast.Message) error {
		all = append(all, messages...)
		return nil
	}); err != nil {
		t.Error(err)
	}
	last := make(map[string]int)
	there := make(map[string]bool)
	for i := range all {
		m := &all[i]
		var pid, lane, n int
		if _, err := fmt.Sscanf(name(m), "%d.%d.%d", &pid, &lane, &n); err != nil {
			t.Fatalf("message %q: %v", name(m), err)
		}
		if !reflect.DeepEqual(*m, laneMessage(pid, lane, n)) {
			t.Errorf("message %s is torn", name(m))
		}
		if n <= last[string(m.Key)] {
			t.Errorf("message %s comes after %d", name(m), last[string(m.Key)])
		}
		last[string(m.Key)], there[name(m)] = n, true
	}
	for name, lost := range missing {
		if lost && !there[name] {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	if err := errors.Join(s.Append(t.Context(), all...), s.Close()); err != nil {
		t.Error(err)
	}
}
