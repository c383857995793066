//go:build mutants

package pipeline_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// mutants break the rules of the library, one each, by a switch in the code of that name, and the simulation has to
// complain of just that. The number is the rule's; what a pipeline promises beside the rules has a word instead.
func mutants() map[string]string {
	return map[string]string{
		"1 a failed message is settled without a letter":                       "is not settled|is lost",
		"1 what waits is settled at the drain instead of handed back":          "is not settled|is lost",
		"2 a message is committed when it is fetched":                          "is not settled",
		"2 a message is committed before those that came earlier":              "is not settled",
		"3 a claim that is released goes on committing":                        "after the claim was given up",
		"3 a commit without an answer is not asked after":                      "has not asked what became of the last commit",
		"3 what a generation could not commit is committed under the next one": "which did not give it to it|is committed back",
		"4 a letter that could not be written settles its message":             "is not settled|is lost",
		"5 a rejection is a failure of the message":                            "was rejected, and has a letter",
		"6 an ambiguous batch is dead-lettered":                                "(may be|is) stored, and has a letter",
		"6 an ambiguous message is dead-lettered":                              "(may be|is) stored, and has a letter",
		"6 an ambiguous batch is written again without its lost claims":        "is written again in another batch|is stored twice",
		"6 an ambiguous batch is written again with another token":             "is stored twice",
		"7 what is to be held is dead-lettered":                                "was to be held, and has a letter",
		"8 a partition has messages in flight without bound":                   "messages in flight, more than",
		"8 letters are written without bound":                                  "is one of too many, and has a letter",
		"9 a lane has several batches on their way":                            "is stored (after|behind)",
		"9 a key has several lanes":                                            "is stored (after|behind)",
		"9 what was rejected does not stop what comes after it":                "is stored (after|behind)",
		"9 what is behind a message that is handed back is written":            "is stored (after|behind)",
		"10 a goroutine outlives Run":                                          "goroutines more after Run than before",
		"11 a panic settles its message":                                       "is not settled|is lost",
		"home: a letter on its way home is written again":                      "was on its way home, and has a letter",
		"patience: a message does not wait for an open circuit":                "was to wait, and has a letter",
	}
}

// Each mutant runs the simulation in a process of its own, which has to complain within 200 seeds.
func TestMutants(t *testing.T) {
	all := mutants()
	caught := 0
	for _, name := range slices.SortedFunc(maps.Keys(all), byRule) {
		switch complaint, ok := simulateMutant(t, name, regexp.MustCompile(all[name])); {
		case ok:
			caught++
			t.Logf("caught: %s (%s)", name, complaint)
		case complaint == "":
			t.Errorf("survived: %s", name)
		default:
			t.Errorf("caught for another reason: %s (%s)", name, complaint)
		}
	}
	for rule := range 11 {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(all)), func(name string) bool { return strings.HasPrefix(name, fmt.Sprint(rule+1, " ")) }) {
			t.Errorf("no mutant breaks rule %d", rule+1)
		}
	}
	fmt.Printf("mutants: %d of %d caught\n", caught, len(all))
}

// byRule sorts rule 10 behind rule 9.
func byRule(x, y string) int {
	var m, n int
	_, _ = fmt.Sscan(x, &m) // Words sort as 0.
	_, _ = fmt.Sscan(y, &n)
	if m != n {
		return m - n
	}
	return strings.Compare(x, y)
}

// simulateMutant runs the simulation of a mutant until it complains of what it should, or else gives its first complaint. A
// crash is none, and a mutant may well go round in circles after that.
func simulateMutant(t *testing.T, name string, should *regexp.Regexp) (complaint string, caught bool) {
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestSimulation$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), "MUTANT="+name, "SEED=1", "SEEDS=200")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // It fails, or the mutant has survived.
	}()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		where, what, ok := strings.Cut(strings.TrimSpace(lines.Text()), "_test.go:")
		if !ok || strings.Contains(where, " ") || strings.Contains(what, "what happened:") {
			continue
		}
		said := where + "_test.go:" + what
		if should.MatchString(said) {
			return said, true
		}
		complaint = cmp.Or(complaint, said)
	}
	return complaint, false
}
