package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/testkit"
)

const wireMessages = 40 // Of each partition.

// wire is a group of pipelines between a Kafka and a ClickHouse that speak their real protocols. What is checked is what
// the servers have, and what is said to them.
type wire struct {
	*journal
	*ledger
	dice    dice
	plan    plan
	kit     *testkit.Network
	kafka   *testkit.KafkaServer
	ch      *testkit.ClickHouseServer
	members []*member
	joined  int
	refused atomic.Int64 // Connections to ClickHouse.
	tally
}

func simulateWire(t *testing.T, seed uint64, seen census) tally {
	t.Helper()
	goroutines := inBubble()
	w := &wire{journal: newJournal(t), dice: dice(seed), plan: drawPlan(seed), kit: new(testkit.Network)}
	defer w.dump()
	w.note("%v", w.plan)
	seen.config("wire", w.plan.pipeline)
	var err error
	w.kafka, err = testkit.StartKafka(testkit.KafkaConfig{
		Brokers: w.plan.brokers, Network: w.kit, Topics: map[string]int{"orders": simPartitions, "orders.dlq": 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	columns := ""
	if w.plan.inserter.Offsets != clickhousex.OffsetsNone {
		columns = ", _topic String, _partition Int32, _offset Int64"
	}
	w.ch, err = testkit.StartClickHouse(testkit.ClickHouseConfig{Network: w.kit, Tables: []string{
		"CREATE TABLE orders (id UInt64, life UInt64, home Int64, code FixedString(2)" + columns + ") " +
			"ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000",
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.ledger = newLedger(w, seen)
	for range w.plan.members {
		w.join()
	}
	w.storm()
	w.heal()
	w.until("everything is settled", w.isSettled)
	for len(w.members) > 0 {
		if err := w.leave(w.take(0)); err != nil {
			t.Errorf("Run returned %v, want nil after a clean drain", err)
		}
	}
	w.check()
	w.ch.Close()
	w.kafka.Close()
	time.Sleep(time.Minute) // For what the servers leave behind.
	synctest.Wait()
	if n := inBubble() - goroutines; n > 0 {
		w.leaked += n
		t.Errorf("%d goroutines more after Run than before", n)
	}
	return w.tally
}

// storm produces while the steps of the plan befall the members and the servers.
func (w *wire) storm() {
	var faults []*active
	for i, s := range w.plan.steps {
		for p := range simPartitions {
			id := p*wireMessages + i
			err := w.kafka.Produce(context.Background(), holdfast.Message{
				Topic: "orders", Partition: p, Key: fmt.Append(nil, i%5), Value: fmt.Append(nil, id),
			})
			if err != nil {
				w.t.Fatal(err)
			}
		}
		time.Sleep(s.pause)
		if s.event != "" {
			w.note("step %d: %v", i, s)
		}
		if f := w.inject(s); f != nil {
			f.until = i + s.times
			faults = append(faults, f)
		} else if s.event != "" {
			w.befall(s)
			w.happened(s.event)
		}
		faults = slices.DeleteFunc(faults, func(f *active) bool {
			over := f.lasts && i >= f.until
			if over {
				f.end()
			}
			return over
		})
	}
	for _, f := range faults {
		f.end()
	}
}

// active is a fault that may strike.
type active struct {
	remove func()
	struck func()
	lasts  bool // It strikes until it is removed.
	until  int  // The step at which it is.
}

func (f *active) end() {
	f.remove()
	f.struck()
}

// inject makes the fault of a step happen; nil if it has none.
func (w *wire) inject(s step) *active {
	if f, ok := kafkaFaults()[s.event]; ok {
		f.Nth = s.nth
		before := w.kafka.Requests(f.API)
		return &active{remove: w.kafka.Inject(f), lasts: f.Times < 0, struck: func() {
			if w.kafka.Requests(f.API)-before >= s.nth {
				w.happened(s.event)
			}
		}}
	}
	f, ok := storeFaults()[s.event]
	if !ok {
		return nil
	}
	f.Nth = s.nth
	inserts, refused := len(w.ch.Inserts()), w.refused.Load()
	return &active{remove: w.ch.Inject(f), lasts: f.Hang || f.HangStored, struck: func() {
		if f.On == testkit.ClickHouseInsert && len(w.ch.Inserts())-inserts >= s.nth || f.Reject && w.refused.Load() > refused {
			w.happened(s.event) // Of the others, the sink says so.
		}
	}}
}

// befall is what a step does to a member, or to a server as a whole.
func (w *wire) befall(s step) {
	m := w.members[s.whom%len(w.members)]
	i := slices.Index(w.members, m)
	seconds := time.Duration(s.times) * time.Second
	switch s.event {
	case "a member joins":
		if len(w.members) < maxMembers {
			w.join()
		}
	case "a member leaves":
		err := w.leave(w.take(i))
		if unlessLeft(err) != nil && !errors.Is(err, kafkax.ErrDrainTimeout) {
			w.t.Errorf("%v: Run returned %v", m, err)
		}
		if len(w.members) == 0 {
			w.join()
		}
	case "a member crashes":
		w.crash(w.take(i), s.doom)
		w.join()
	case "a member is cut off":
		m.setAway(2 * seconds)
	case "the group is rebalanced":
		_ = w.kafka.Rebalance("orders") // It may be about to, anyhow.
	case "Kafka restarts":
		w.kafka.Stop()
		time.Sleep(seconds)
		if err := w.kafka.Start(); err != nil {
			w.t.Fatal(err)
		}
	case "a leader moves":
		if err := w.kafka.MoveLeader("orders", s.whom%simPartitions, s.nth%w.plan.brokers); err != nil {
			w.t.Fatal(err)
		}
	case "ClickHouse restarts":
		w.ch.Stop()
		time.Sleep(seconds)
		if err := w.ch.Start(); err != nil {
			w.t.Fatal(err)
		}
	case "the sink's circuit is forced open":
		m.sink.ForceOpen()
	case "the stage's circuit is forced open":
		m.stage.ForceOpen()
	case "the circuits are reset":
		m.sink.Reset()
		m.stage.Reset()
	default:
		w.t.Fatalf("the plan says %q", s.event)
	}
}

func (w *wire) heal() {
	w.ledger.heal()
	for _, m := range w.members {
		time.Sleep(m.cutOff())
		m.sink.Reset()
		m.stage.Reset()
	}
	w.note("nothing fails any more")
}

func (w *wire) until(what string, holds func() bool) {
	for range 1200 {
		if holds() {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	w.t.Errorf("ten minutes have passed, and not: %s", what)
	for _, m := range w.members {
		w.t.Errorf("%v: health %+v, stats %+v", m, m.Health(), m.Stats())
	}
}

// isSettled tells whether every order is settled and committed, and every letter looked at.
func (w *wire) isSettled() bool {
	orders := w.kafka.Committed("orders", "orders")
	for p := range simPartitions {
		if orders[p] != wireMessages {
			return false
		}
	}
	home := w.kafka.Committed("orders.redrive", "orders.dlq")
	for p, end := range w.kafka.Ends("orders.dlq") {
		if home[p] != end {
			return false
		}
	}
	return len(w.missing()) == 0
}

// work is the stage. Every nineteenth order is skipped, every eleventh is bad.
func (w *wire) work(ctx context.Context, m holdfast.Message) (wireRow, error) {
	id, err := pipeline.JSON[uint64](ctx, m)
	if err != nil {
		return wireRow{}, err
	}
	switch {
	case isSkipped(id):
		return wireRow{}, holdfast.ErrSkip
	case isBad(id):
		return wireRow{}, holdfast.Permanent(errAway)
	}
	switch mishap := w.meet(&m, id); mishap {
	case "the stage fails":
		return wireRow{}, errAway
	case "the stage fails for good":
		return wireRow{}, holdfast.Permanent(errAway)
	case "the stage is to be held":
		return wireRow{}, holdfast.Hold(errHeld)
	case "the stage panics":
		panic(mishap)
	case "the stage is rejected":
		return wireRow{}, breaker.ErrCircuitOpen
	case "the stage does not know whether it has worked":
		return wireRow{}, holdfast.Ambiguous(errAway)
	case "the stage asks for time":
		return wireRow{}, holdfast.RetryAfter(time.Second, errAway)
	case "the stage times out":
		<-ctx.Done()
		return wireRow{}, ctx.Err()
	}
	return rowOf(&m, id), nil
}
