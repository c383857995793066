package testkit

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// ClickHouseEvent is something that a ClickHouse client does.
type ClickHouseEvent string

// What a fault can be tied to. An INSERT of a batch is two events: clickhouse-go's PrepareBatch is the first, its Send
// the second.
const (
	ClickHouseConnect ClickHouseEvent = "connect" // A connection is opened.
	ClickHousePing    ClickHouseEvent = "ping"
	ClickHouseQuery   ClickHouseEvent = "query"   // Any statement but INSERT.
	ClickHousePrepare ClickHouseEvent = "prepare" // The text of an INSERT, before its data.
	ClickHouseInsert  ClickHouseEvent = "insert"  // All data of an INSERT has come; one without rows does not count.
)

// ClickHouseFault is something that goes wrong between a client and the server. When: On and Table select events, Nth and
// Times count among the selected. What: exactly one of Code, LoseAck, Cut, Hang, HangStored, Reject and Delay.
//
// An event is struck by no more than one fault, the oldest that is due; all others count it, though.
type ClickHouseFault struct {
	On ClickHouseEvent

	// Table strikes only statements on this table, "table" or "database.table". Zero: any statement, and those on none.
	Table string

	Nth   int // The first event to strike, counted from Inject; 0 and 1 are the next one.
	Times int // How many events in a row to strike. 0: one. -1: all, until removed.

	// Code is the exception to answer with, 252 for TOO_MANY_PARTS. Nothing is done of what was asked; of an INSERT
	// nothing is stored. The connection stays. Message is its text; zero is a text that names the fault.
	Code    int32
	Message string

	// LoseAck does what was asked, and cuts the connection instead of answering.
	LoseAck bool

	// Cut cuts the connection and does nothing of what was asked.
	Cut bool

	// Hang does nothing and keeps silent. When the fault is removed, what was asked is done, late, whether the client
	// still waits or not: as a stopped server process does when it goes on.
	Hang bool

	// HangStored does what was asked and keeps the answer back until the fault is removed.
	HangStored bool

	// Reject refuses to connect, as a port does on which nobody listens. A client that dials through
	// [ClickHouseServer.Dial] sees ECONNREFUSED; any other sees its connection accepted and cut at once. Only for
	// ClickHouseConnect.
	Reject bool

	// Delay does what was asked, this much later.
	Delay time.Duration
}

// Validate joins everything that is wrong with f.
func (f ClickHouseFault) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("testkit: ClickHouseFault."+format, args...))
	}
	events := []ClickHouseEvent{ClickHouseConnect, ClickHousePing, ClickHouseQuery, ClickHousePrepare, ClickHouseInsert}
	if !slices.Contains(events, f.On) {
		fault("On must be one of %v, got %q", events, f.On)
	}
	if f.Table != "" && (f.On == ClickHouseConnect || f.On == ClickHousePing) {
		fault("Table must be empty for %q, got %q", f.On, f.Table)
	}
	if f.Nth < 0 {
		fault("Nth must not be negative, got %d", f.Nth)
	}
	if f.Times < -1 {
		fault("Times must be -1 or more, got %d", f.Times)
	}
	if f.Code < 0 {
		fault("Code must not be negative, got %d", f.Code)
	}
	if f.Message != "" && f.Code == 0 {
		fault("Message must come with a Code, got %q", f.Message)
	}
	if f.Delay < 0 {
		fault("Delay must not be negative, got %s", f.Delay)
	}
	if f.Reject && f.On != ClickHouseConnect {
		fault("Reject must be for %q only, got %q", ClickHouseConnect, f.On)
	}
	if (f.LoseAck || f.HangStored) && f.On != ClickHouseInsert && f.On != ClickHouseQuery {
		fault("LoseAck and HangStored must be for %q or %q, got %q", ClickHouseInsert, ClickHouseQuery, f.On)
	}
	effects := 0
	for _, set := range []bool{f.Code != 0, f.LoseAck, f.Cut, f.Hang, f.HangStored, f.Reject, f.Delay != 0} {
		if set {
			effects++
		}
	}
	if effects != 1 {
		fault("Code, LoseAck, Cut, Hang, HangStored, Reject and Delay must be set one at a time, got %d of them", effects)
	}
	return errors.Join(faults...)
}

// exception is what f answers with.
func (f *ClickHouseFault) exception() *chError {
	return chErrorf(f.Code, "%s", cmp.Or(f.Message, fmt.Sprintf("testkit: injected at %s", f.On)))
}

// Inject makes f happen from now on, and returns a function that ends it, which may be called more than once. It panics
// when f is not valid, as that is a mistake in the test.
func (s *ClickHouseServer) Inject(f ClickHouseFault) (remove func()) {
	if err := f.Validate(); err != nil {
		panic(err)
	}
	if f.Table != "" && !strings.Contains(f.Table, ".") {
		f.Table = chDefaultDatabase + "." + f.Table
	}
	a := &chArmed{ClickHouseFault: f, wait: max(f.Nth, 1) - 1, left: cmp.Or(f.Times, 1), removed: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = append(s.armed, a)
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.armed = slices.DeleteFunc(s.armed, func(b *chArmed) bool { return a == b })
		close(a.removed)
	})
}

// chArmed is a fault that may strike.
type chArmed struct {
	ClickHouseFault
	wait    int           // Events to let pass.
	left    int           // Events to strike, -1 for all.
	removed chan struct{} // Closed at the end of the fault.
}

// strike counts an event, and returns the fault that strikes it, if one does.
func (s *ClickHouseServer) strike(on ClickHouseEvent, table string) *chArmed {
	s.mu.Lock()
	defer s.mu.Unlock()
	var hit *chArmed
	for _, a := range s.armed {
		switch {
		case a.On != on || a.Table != "" && a.Table != table:
		case a.wait > 0:
			a.wait--
		case hit == nil && a.left != 0:
			a.left = max(a.left-1, -1)
			hit = a
		}
	}
	return hit
}
