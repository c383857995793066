package breaker_test

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

func TestEventsCarryTheCountsAsTheyStood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []breaker.Event
		b := steady(t, func(c *breaker.Config) {
			c.MaxFailures, c.Window = 2, time.Second
			c.OnEvent = func(e breaker.Event) { got = append(got, e) }
		})
		began := time.Now()
		run(t, b, 3, succeed)
		run(t, b, 2, fail)
		time.Sleep(time.Second)
		run(t, b, 1, succeed)
		closed, open, half := breaker.Closed, breaker.Open, breaker.HalfOpen
		want := []breaker.Event{
			{Name: "steady", At: began, From: closed, To: open, Cause: breaker.CauseConsecutiveFailures, OpenFor: time.Second, Counts: breaker.Counts{
				Calls: 5, Successes: 3, Failures: 2, ConsecutiveFailures: 2, WindowCalls: 5, WindowFailures: 2,
			}},
			{Name: "steady", At: began.Add(time.Second), From: open, To: half, Cause: breaker.CauseTimeout},
			{Name: "steady", At: began.Add(time.Second), From: half, To: closed, Cause: breaker.CauseRecovered, Counts: breaker.Counts{
				Calls: 1, Successes: 1,
			}},
		}
		if !slices.Equal(got, want) {
			t.Fatalf("\n got %+v\nwant %+v", got, want)
		}
	})
}

func TestListenerThatPanicsIsLogged(t *testing.T) {
	var log bytes.Buffer
	told := 0
	b := steady(t, func(c *breaker.Config) {
		c.OnStateChange = func(string, breaker.State, breaker.State) { panic("listener") }
		c.OnEvent = func(breaker.Event) { told++ }
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	run(t, b, 1, fail)
	b.Reset()
	if told != 2 {
		t.Errorf("the other listener was told %d times, want 2", told)
	}
	if got := log.String(); strings.Count(got, "circuit breaker listener panicked") != 2 || !strings.Contains(got, "breaker=steady to=open panic=listener") {
		t.Errorf("log:\n%s", got)
	}
}

func TestListenerThatExitsSilencesNobody(t *testing.T) {
	told := 0
	var b *breaker.Breaker
	b = steady(t, func(c *breaker.Config) {
		c.OnEvent = func(breaker.Event) {
			told++
			if told == 1 {
				b.Reset()        // One more to tell.
				runtime.Goexit() // As t.FailNow does.
			}
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(t, b, 1, fail)
	}()
	<-done
	wantState(t, b, breaker.Closed)
	b.ForceOpen()
	if told != 3 {
		t.Errorf("told %d times, want 3", told)
	}
	checkConserved(t, b)
}

// TestListenerThatEndsItsGoroutineLeaksNoCall ends each goroutine that tells of a change: one after its call, one before.
func TestListenerThatEndsItsGoroutineLeaksNoCall(t *testing.T) {
	for name, change := range map[string]func(*breaker.Config){
		"Goexit": func(c *breaker.Config) {
			c.OnEvent = func(breaker.Event) { runtime.Goexit() }
		},
		"a logger that panics": func(c *breaker.Config) {
			c.OnEvent = func(breaker.Event) { panic("listener") }
			c.Logger = slog.New(panickingHandler{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := steady(t, change, func(c *breaker.Config) { c.MaxConcurrentCalls = 1 })
				made := 0
				execute := func(answer error) {
					done := make(chan struct{})
					go func() {
						defer close(done)
						defer func() { _ = recover() }()
						_ = b.Execute(t.Context(), func(context.Context) error { made++; return answer })
					}()
					<-done
				}
				execute(errDown)
				wantState(t, b, breaker.Open)
				time.Sleep(time.Second)
				execute(nil) // Ends as it tells of half-open, before the call.
				if s := b.Stats(); s.State != breaker.HalfOpen || s.RunningCalls != 0 || s.Totals.Ignored != 1 || made != 1 {
					t.Fatalf("%d calls were made, want 1: %+v", made, s)
				}
				execute(nil) // Ends as it tells of closed.
				wantState(t, b, breaker.Closed)
				execute(nil)
				if s := b.Stats(); made != 3 || s.RunningCalls != 0 {
					t.Fatalf("%d calls were made, want 3: %+v", made, s)
				}
			})
		})
	}
}

type panickingHandler struct{ slog.Handler }

func (panickingHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (panickingHandler) Handle(context.Context, slog.Record) error { panic("handler") }

func TestNames(t *testing.T) {
	if got := []string{breaker.Closed.String(), breaker.Open.String(), breaker.HalfOpen.String(), breaker.State(9).String()}; !slices.Equal(got, []string{"closed", "open", "half-open", "State(9)"}) {
		t.Errorf("states: %q", got)
	}
	seen := map[string]bool{}
	for c := breaker.CauseConsecutiveFailures; c <= breaker.CauseReset; c++ {
		if s := c.String(); seen[s] || strings.HasPrefix(s, "Cause(") {
			t.Errorf("cause %d is %q", int(c), s)
		}
		seen[c.String()] = true
	}
}
