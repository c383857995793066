package real_test

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/testkit"
)

// slow is how long an insert takes before and after its rows are stored, where a test has to hit it.
const slow = 200 * time.Millisecond

func TestQuickstart(t *testing.T) {
	servers := testkit.Servers(t)
	cmd := exec.CommandContext(t.Context(), "go", "run", "../../examples/quickstart",
		"-brokers", strings.Join(servers.Brokers, ","), "-clickhouse", servers.ClickHouse)
	said, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(said), "produced=20000 stored=19980 dead=20") || !strings.Contains(string(said), "lost=0") {
		t.Errorf("%v\n%s", err, said)
	}
}

func TestPlain(t *testing.T) {
	f := newFlow(t, 0)
	m := f.member("one")
	f.moves(3000)
	f.settle(m)
}

func TestClickHouseKilled(t *testing.T) {
	testkit.Servers(t).NeedScript(t)
	f := newFlow(t, slow)
	m := f.member("one")
	for range 3 {
		f.moves(1000)
		f.inserting()
		f.must(f.servers.Kill(t.Context(), "clickhouse"))
		time.Sleep(2 * time.Second) // The outage.
		f.must(f.servers.Up(t.Context(), "clickhouse"))
	}
	f.moves(1000)
	f.settle(m)
}

func TestClickHouseStopped(t *testing.T) {
	testkit.Servers(t).NeedScript(t)
	f := newFlow(t, slow)
	m := f.member("one")
	f.moves(1000)
	f.inserting()
	f.must(f.servers.Stop(t.Context(), "clickhouse"))
	time.Sleep(15 * time.Second) // The outage.
	f.must(f.servers.Continue(t.Context(), "clickhouse"))
	f.moves(1000)
	f.settle(m)
}

func TestBrokerKilled(t *testing.T) {
	testkit.Servers(t).NeedScript(t)
	f := newFlow(t, 0)
	m := f.member("one")
	for i := range f.servers.Brokers {
		broker := fmt.Sprintf("kafka-%d", i+1)
		f.moves(1000)
		f.must(f.servers.Kill(t.Context(), broker))
		if len(f.servers.Brokers) > 1 {
			f.moves(1000) // The others go on.
		}
		f.must(f.servers.Up(t.Context(), broker))
		f.everywhere()
		f.moves(1000)
	}
	f.settle(m)
}

func TestMemberKilled(t *testing.T) {
	f := newFlow(t, slow)
	for range 2 {
		m := f.member("victim")
		f.moves(1000)
		f.inserting()
		m.kill()
	}
	m := f.member("heir")
	f.everywhere()
	f.settle(m)
}

func TestSecondMemberKilled(t *testing.T) {
	f := newFlow(t, slow)
	one := f.member("one")
	f.moves(1000)
	two := f.member("two")
	f.grouped(2)
	f.everywhere()
	f.inserting()
	two.kill()
	f.grouped(1)
	f.everywhere()
	f.settle(one)
}

// A member is stopped for longer than its session, and goes on with what it was at while another owns its partitions.
func TestZombie(t *testing.T) {
	f := newFlow(t, slow)
	one := f.member("one")
	two := f.member("two")
	f.grouped(2)
	f.everywhere()
	f.inserting()
	one.signal(syscall.SIGSTOP)
	f.grouped(1)
	f.everywhere()
	one.signal(syscall.SIGCONT)
	f.grouped(2)
	f.everywhere()
	f.settle(one, two)
}
