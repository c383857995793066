//go:build mutants

package pipeline_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// mutants break the rules of the library, one each, by a switch in the code. The number is the rule's.
var mutants = []string{
	"1 a failed message is settled without a letter",
	"2 a message is committed when it is fetched",
	"2 a message is committed before those that came earlier",
	"3 a claim that is released goes on committing",
	"4 a letter that could not be written settles its message",
	"5 a rejection is a failure of the message",
	"6 an ambiguous batch is dead-lettered",
	"6 an ambiguous message is dead-lettered",
	"6 an ambiguous batch is written again without its lost claims",
	"7 what is to be held is dead-lettered",
	"8 a partition has messages in flight without bound",
	"8 letters are written without bound",
	"9 a lane has several batches on their way",
	"9 a key has several lanes",
	"9 what was rejected does not stop what comes after it",
	"10 a goroutine outlives Run",
	"11 a panic settles its message",
	"patience: a message does not wait for an open circuit",
	"home: a letter on its way home is written again",
	"drain: what waits is forgotten instead of handed back",
}

// Each mutant runs the simulation in a process of its own, which has to fail within SEEDS seeds.
func TestMutants(t *testing.T) {
	caught := 0
	for _, name := range mutants {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSimulation$", "-test.timeout=5m")
		cmd.Env = append(os.Environ(), "MUTANT="+name, "SEED=1", "SEEDS=200")
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("survived: %s", name)
			continue
		}
		caught++
		t.Logf("caught: %s (%s)", name, symptom(out))
	}
	fmt.Printf("mutants: %d of %d caught\n", caught, len(mutants))
}

// symptom is the first complaint of a simulation.
func symptom(out []byte) string {
	for line := range bytes.Lines(out) {
		text := strings.TrimSpace(string(line))
		if strings.Contains(text, "_test.go:") || strings.HasPrefix(text, "panic:") || strings.HasPrefix(text, "fatal error:") {
			return text
		}
	}
	return "no word"
}
