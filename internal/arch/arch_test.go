// Package arch holds no code, only the tests that keep the packages of this module apart: who may import whom, and what
// a program links that imports only one of them.
package arch

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/holdfast-io/holdfast"
	root   = "../.."
)

// layer is what the code of one package and of the packages below it may import besides the standard library and
// itself. Test files may import anything.
type layer struct {
	ours    []string // Packages of this module, by their path below it; "." is the root package.
	modules []string // Modules of others.
}

// layers names every library package; the linter's depguard rules say the same, file by file. A new arrow is a decision:
// it is drawn here and told in ARCHITECTURE.md.
func layers() map[string]layer {
	return map[string]layer{
		".":       {},
		"breaker": {},
		"retry": {
			ours:    []string{".", "breaker"},
			modules: []string{"github.com/avast/retry-go/v4"},
		},
		"kafkax": {
			ours:    []string{".", "breaker", "retry", "internal/mutant"},
			modules: []string{"github.com/segmentio/kafka-go"},
		},
		"clickhousex": {
			ours:    []string{".", "breaker", "retry", "internal/mutant"},
			modules: []string{"github.com/ClickHouse/clickhouse-go/v2", "github.com/ClickHouse/ch-go"},
		},
		"dlq": {
			ours:    []string{".", "breaker", "retry"},
			modules: []string{"golang.org/x/time", "go.etcd.io/bbolt"},
		},
		"pipeline": {
			ours:    []string{".", "breaker", "retry", "dlq", "internal/mutant"},
			modules: []string{"golang.org/x/time", "github.com/go-json-experiment/json"},
		},
		"metrics": {
			ours:    []string{".", "breaker", "retry", "dlq", "pipeline"},
			modules: []string{"github.com/prometheus/client_golang"},
		},
		"internal/fates":  {ours: []string{"."}}, // What the tests of producers share.
		"internal/mutant": {},                    // Rules broken on purpose, in a build for one test.
		"testkit": {
			ours: []string{"."},
			modules: []string{
				"github.com/twmb/franz-go", "github.com/twmb/franz-go/pkg/kfake", "github.com/twmb/franz-go/pkg/kmsg",
				"github.com/ClickHouse/clickhouse-go/v2", "github.com/ClickHouse/ch-go",
			},
		},
	}
}

// TestLayersExist fails when a library package is missing, and when there is one that no layer speaks of.
func TestLayersExist(t *testing.T) {
	pkgs := list(t)
	for _, name := range slices.Sorted(maps.Keys(layers())) {
		if _, ok := pkgs[importPath(name)]; !ok {
			t.Errorf("package %s is missing: it is part of the library", importPath(name))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(pkgs)) {
		if p := pkgs[path]; p.ours() && p.layer() == "" && !p.program() {
			t.Errorf("package %s belongs to no layer: give it one in layers() and in .golangci.yml", path)
		}
	}
}

// TestArrows checks each import statement of each library package.
func TestArrows(t *testing.T) {
	pkgs := list(t)
	for _, path := range slices.Sorted(maps.Keys(pkgs)) {
		p := pkgs[path]
		if p.layer() == "" {
			continue
		}
		allowed := layers()[p.layer()]
		for _, imported := range p.Imports {
			q, ok := pkgs[imported]
			switch {
			case !ok:
				t.Errorf("%s imports %s, which go list does not know", path, imported)
			case q.Standard:
			case q.ours():
				if q.layer() != p.layer() && !slices.Contains(allowed.ours, q.layer()) {
					t.Errorf("%s imports %s: %s may import only %q of ours", path, imported, p.layer(), allowed.ours)
				}
			case !slices.Contains(allowed.modules, q.Module.Path):
				t.Errorf("%s imports %s: %s may import only the modules %q", path, imported, p.layer(), allowed.modules)
			}
		}
	}
}

// TestReach checks what a library package brings in through others: none of the modules that go.mod requires for its
// own sake may come along unless a layer below asks for it.
func TestReach(t *testing.T) {
	pkgs, required := list(t), requirements(t).direct()
	for _, path := range slices.Sorted(maps.Keys(pkgs)) {
		p := pkgs[path]
		if p.layer() == "" {
			continue
		}
		reached := make(map[string]string) // A package of each module.
		for _, dep := range p.Deps {
			if m := pkgs[dep].Module; m != nil {
				reached[m.Path] = dep
			}
		}
		for _, m := range required {
			if dep, ok := reached[m]; ok && !slices.Contains(mayLink(p.layer()), m) {
				t.Errorf("%s reaches %s, and so links the module %s", path, dep, m)
			}
		}
	}
}

// TestPrograms keeps what is for tests out of the commands, and lets them import no more than they need. Examples show
// how things are put together, so they may import anything.
func TestPrograms(t *testing.T) {
	may := layer{
		ours: []string{".", "breaker", "retry", "kafkax", "dlq"},
		modules: []string{
			"github.com/segmentio/kafka-go", "github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/cheggaaa/pb/v3", "golang.org/x/term",
		},
	}
	pkgs := list(t)
	commands := 0
	for _, path := range slices.Sorted(maps.Keys(pkgs)) {
		p := pkgs[path]
		if !strings.HasPrefix(path, module+"/cmd/") {
			continue
		}
		commands++
		for _, dep := range p.Deps {
			if pkgs[dep].layer() == "testkit" {
				t.Errorf("%s reaches %s, which is for tests", path, dep)
			}
		}
		for _, imported := range p.Imports {
			q := pkgs[imported]
			switch {
			case q.Standard:
			case q.ours() && !slices.Contains(may.ours, q.layer()):
				t.Errorf("%s imports %s: a command may import only %q of ours", path, imported, may.ours)
			case !q.ours() && !slices.Contains(may.modules, q.Module.Path):
				t.Errorf("%s imports %s: a command may import only the modules %q", path, imported, may.modules)
			}
		}
	}
	if commands == 0 {
		t.Error("there is no command")
	}
}

// TestBreakerAlone builds a program that imports only the breaker: no module but this one may be in it, and its go.sum
// may have nothing to vouch for.
func TestBreakerAlone(t *testing.T) {
	c := consume(t, "breaker")
	if want := []string{module}; !slices.Equal(c.modules, want) {
		t.Errorf("a program that imports only breaker links %q, want %q", c.modules, want)
	}
	if len(c.sum) != 0 {
		t.Errorf("a program that imports only breaker needs a go.sum:\n%s", c.sum)
	}
}

// TestKafkaAlone builds a program that imports only kafkax. Of the modules that this one requires for its own sake, only
// kafkax's may be in it, and none of the named ones, required by us or by others.
func TestKafkaAlone(t *testing.T) {
	c := consume(t, "kafkax")
	required, allowed := requirements(t).direct(), mayLink("kafkax")
	for _, m := range c.modules {
		if slices.Contains(required, m) && !slices.Contains(allowed, m) {
			t.Errorf("a program that imports only kafkax links %s", m)
		}
		for _, never := range []string{
			"github.com/twmb", "github.com/ClickHouse", "github.com/prometheus", "github.com/spf13/cobra", "go.etcd.io", "go.opentelemetry.io",
		} {
			if strings.HasPrefix(m+"/", never+"/") {
				t.Errorf("a program that imports only kafkax links %s, of %s", m, never)
			}
		}
	}
	if want := "github.com/segmentio/kafka-go"; !slices.Contains(c.modules, want) {
		t.Errorf("a program that imports only kafkax links %q: without %s this test proves nothing", c.modules, want)
	}
}

// mayLink gives the modules that the named layer and those below it ask for.
func mayLink(name string) []string {
	l := layers()[name]
	mods := slices.Clone(l.modules)
	for _, below := range l.ours {
		mods = append(mods, mayLink(below)...)
	}
	return mods
}

// listed is what go list tells of one package.
type listed struct {
	ImportPath string
	Standard   bool
	Module     *struct{ Path string }
	Imports    []string
	Deps       []string
}

func (p *listed) ours() bool { return p.Module != nil && p.Module.Path == module }

// program says that the package is, or belongs to, something that is run and that nobody else can import, or holds only
// tests.
func (p *listed) program() bool {
	below := strings.TrimPrefix(p.ImportPath, module+"/")
	return strings.HasPrefix(below, "cmd/") || strings.HasPrefix(below, "examples/") || below == "internal/arch" || below == "internal/real"
}

// layer names the layer that the package belongs to, "" if none.
func (p *listed) layer() string {
	if !p.ours() {
		return ""
	}
	for name := range layers() {
		if p.ImportPath == importPath(name) || name != "." && strings.HasPrefix(p.ImportPath, importPath(name)+"/") {
			return name
		}
	}
	return ""
}

func importPath(layer string) string {
	if layer == "." {
		return module
	}
	return module + "/" + layer
}

// list gives the packages of this module and all they depend on, test files left out.
func list(t *testing.T) map[string]*listed {
	t.Helper()
	watch(t)
	out := run(t, root, nil, "go", "list", "-deps", "-json=ImportPath,Standard,Module,Imports,Deps", "./...")
	pkgs := make(map[string]*listed)
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(listed)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("output of go list: %v", err)
		}
		pkgs[p.ImportPath] = p
	}
}

// gomod is what these tests need of a go.mod.
type gomod struct {
	Go      string
	Require []struct {
		Path     string
		Indirect bool
	}
}

func requirements(t *testing.T) gomod {
	t.Helper()
	var m gomod
	if err := json.Unmarshal(run(t, root, nil, "go", "mod", "edit", "-json"), &m); err != nil {
		t.Fatalf("output of go mod edit: %v", err)
	}
	return m
}

func (m gomod) direct() []string {
	var paths []string
	for _, r := range m.Require {
		if !r.Indirect {
			paths = append(paths, r.Path)
		}
	}
	return paths
}

// consumer is a program of someone else's that was built, its module with it.
type consumer struct {
	modules []string // Linked into it.
	sum     []byte   // Its go.sum, nil if it has none.
}

// consume builds a program in a module of its own that imports one package of ours and nothing else. The program gets
// our go.sum only if it cannot do without, so that building it asks nothing of the network that our own build did not.
func consume(t *testing.T, name string) consumer {
	t.Helper()
	watch(t)
	ours, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(file, format string, args ...any) {
		if err := os.WriteFile(filepath.Join(dir, file), fmt.Appendf(nil, format, args...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.org/consumer\n\ngo %s\n\nrequire %s v0.0.0\n\nreplace %s => %q\n",
		requirements(t).Go, module, module, ours)
	write("main.go", "package main\n\nimport _ %q\n\nfunc main() {}\n", importPath(name))
	if len(mayLink(name)) > 0 {
		sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
		if err != nil {
			t.Fatal(err)
		}
		write("go.sum", "%s", sum)
	}

	run(t, dir, []string{"GOFLAGS=-mod=mod", "GOWORK=off"}, "go", "build", "-o", "consumer", ".")
	info, err := buildinfo.ReadFile(filepath.Join(dir, "consumer"))
	if err != nil {
		t.Fatal(err)
	}
	var c consumer
	for _, m := range info.Deps {
		c.modules = append(c.modules, m.Path)
	}
	if c.sum, err = os.ReadFile(filepath.Join(dir, "go.sum")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return c
}

// watch looks into every directory of the module. The go command reuses a test's earlier result until a file changes
// that the test itself looked at, and the files here are read by other processes.
func watch(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// run gives what the command printed, and fails the test with what it complained of.
func run(t *testing.T, dir string, env []string, command ...string) []byte {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, stderr.Bytes())
	}
	return stdout.Bytes()
}
