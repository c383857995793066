package testkit_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/testkit"
)

// fakeTest is a test that may skip and fail without being one.
type fakeTest struct {
	skipped, failed string
	cleanups        []func()
}

func (f *fakeTest) Helper()             {}
func (f *fakeTest) Cleanup(do func())   { f.cleanups = append(f.cleanups, do) }
func (f *fakeTest) Logf(string, ...any) {}

func (f *fakeTest) Skipf(format string, args ...any) {
	f.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (f *fakeTest) Fatalf(format string, args ...any) {
	f.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// run runs the body as the testing package would: skipping and failing end it.
func (f *fakeTest) run(body func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		body()
	}()
	<-done
	for _, do := range f.cleanups {
		do()
	}
}

func TestServersFromEnvironment(t *testing.T) {
	for _, tc := range []struct {
		name, kafka, clickhouse, skipped, failed string
	}{
		{name: "none", skipped: "scripts/servers up"},
		{name: "half", kafka: "localhost:9092", skipped: testkit.EnvClickHouse},
		{name: "both", kafka: "localhost:9092,localhost:9093", clickhouse: "localhost:9000"},
		{name: "nonsense", kafka: "localhost:9092,", clickhouse: "localhost", failed: `HOLDFAST_KAFKA must be host:port, got ""`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv(testkit.EnvKafka, tc.kafka)
			t.Setenv(testkit.EnvClickHouse, tc.clickhouse)
			t.Setenv(testkit.EnvZooKeeper, "")
			var (
				f fakeTest
				s *testkit.RealServers
			)
			f.run(func() { s = testkit.Servers(&f) })
			if !strings.Contains(f.skipped, tc.skipped) || (f.skipped == "") != (tc.skipped == "") {
				t.Errorf("skipped with %q, want %q in it", f.skipped, tc.skipped)
			}
			if !strings.Contains(f.failed, tc.failed) || (f.failed == "") != (tc.failed == "") {
				t.Errorf("failed with %q, want %q in it", f.failed, tc.failed)
			}
			if tc.skipped+tc.failed == "" && (len(s.Brokers) != 2 || s.ClickHouse != "localhost:9000") {
				t.Errorf("found %+v", s)
			}
		})
	}
}

// What a test kills runs again after it, and what it does not touch is left alone.
func TestServersRestore(t *testing.T) {
	dir := t.TempDir()
	script, log := filepath.Join(dir, "servers"), filepath.Join(dir, "log")
	if err := os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\necho $* >>%s\n[ $2 != nobody ] || { echo no such server >&2; exit 1; }\n", log), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv(testkit.EnvKafka, "localhost:9092")
	t.Setenv(testkit.EnvClickHouse, "localhost:9000")
	t.Setenv(testkit.EnvServers, script)
	var f fakeTest
	f.run(func() {
		s := testkit.Servers(&f)
		s.NeedScript(&f)
		if err := s.Kill(t.Context(), "kafka-1"); err != nil {
			t.Error(err)
		}
	})
	if got, _ := os.ReadFile(log); string(got) != "kill kafka-1\nup kafka-1\n" {
		t.Errorf("the script was called with\n%s", got)
	}
	f.run(func() {
		if err := testkit.Servers(&f).Stop(t.Context(), "nobody"); err == nil || !strings.Contains(err.Error(), "no such server") {
			t.Errorf("stopping nobody: %v", err)
		}
	})
}

func TestServersWithoutScript(t *testing.T) {
	t.Setenv(testkit.EnvKafka, "localhost:9092")
	t.Setenv(testkit.EnvClickHouse, "localhost:9000")
	t.Setenv(testkit.EnvServers, "")
	var f fakeTest
	f.run(func() { testkit.Servers(&f).NeedScript(&f) })
	if !strings.Contains(f.skipped, testkit.EnvServers) {
		t.Errorf("skipped with %q", f.skipped)
	}
	f.run(func() {
		if err := testkit.Servers(&f).Kill(t.Context(), "clickhouse"); err == nil {
			t.Error("killed without a script")
		}
	})
}
