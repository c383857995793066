package holdfast_test

import (
	"os"
	"strings"
	"testing"
)

// The README's program is the one that compiles here.
func TestReadmeShowsTheExample(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(readme), "```go\n")
	block, _, closed := strings.Cut(block, "```")
	if !found || !closed {
		t.Fatal("README.md has no Go program")
	}
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(source), "func Example() {\n")
	body, _, _ = strings.Cut(body, "\n}\n")
	lines := strings.Split(body, "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "\t")
	}
	if want := strings.Join(lines, "\n"); strings.TrimSpace(block) != strings.TrimSpace(want) {
		t.Errorf("README.md shows\n%s\nand example_test.go has\n%s", block, want)
	}
}
