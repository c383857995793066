package breaker_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast-io/holdfast/breaker"
)

func TestGroupMakesOneOfEachUnderRaces(t *testing.T) {
	var g breaker.Group // The zero one.
	const names, goroutines = 300, 4
	var arrived [names]atomic.Int32
	var got [names][goroutines]*breaker.Breaker
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			for n := range names {
				for arrived[n].Add(1); arrived[n].Load() < goroutines; { // All meet at each name.
					runtime.Gosched()
				}
				b, err := g.GetOrCreate(breaker.DefaultConfig(fmt.Sprint(n)))
				if err != nil {
					t.Error(err)
				}
				got[n][i] = b
			}
		})
	}
	wg.Wait()
	for n := range names {
		for i := range goroutines {
			if got[n][i] == nil || got[n][i] != got[n][0] || got[n][i].Name() != fmt.Sprint(n) {
				t.Fatalf("name %d: goroutine %d got another breaker", n, i)
			}
		}
	}
	if all := g.StatsAll(); len(all) != names || all["3"].Name != "3" {
		t.Fatalf("StatsAll: %+v", all)
	}
}

func TestGroup(t *testing.T) {
	g := breaker.NewGroup()
	b := steady(t)
	if err := g.Add(b); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(steady(t)); !errors.Is(err, breaker.ErrDuplicateBreaker) {
		t.Fatalf("a second one of the name: %v", err)
	}
	if err := g.Add(nil); err == nil {
		t.Fatal("nil was added")
	}
	if got, ok := g.Get("steady"); !ok || got != b {
		t.Fatal("Get gives another one")
	}
	if _, ok := g.Get("other"); ok {
		t.Fatal("Get gives one that is not there")
	}
	if _, err := g.GetOrCreate(breaker.Config{Name: "bad", MaxProbes: -1}); err == nil {
		t.Fatal("a bad configuration was taken")
	}
	if err := g.Execute(t.Context(), "other", succeed); !errors.Is(err, breaker.ErrUnknownBreaker) {
		t.Fatalf("Execute on one that is not there: %v", err)
	}
	if err := g.Execute(t.Context(), "steady", fail); !errors.Is(err, errDown) {
		t.Fatal(err)
	}
	if s := g.StatsAll()["steady"]; s.State != breaker.Open || s.Totals.Failures != 1 {
		t.Fatalf("stats %+v", s)
	}
	g.ResetAll()
	wantState(t, b, breaker.Closed)
}
