package pipeline_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/testkit"
)

// Rule 7, with real protocols: what is configured wrong at the start holds what needs it and nothing else, is named, opens
// no circuit, and the pipeline goes on by itself when it is mended.
func TestFaultsOfConfigurationAtTheStart(t *testing.T) {
	const accessDenied, topicDenied = 497, 29
	both := map[string]int{"orders": 1, "orders.dlq": 1}
	type fault struct {
		topics  map[string]int
		tables  []string
		place   string // Of the trouble.
		cause   string // In its text.
		stored  uint64 // Rows that are there nevertheless, of 10 with a poison in the middle.
		spoil   func(*plant) (mend func() error)
		letters int // That are there nevertheless.
	}
	for name, c := range map[string]fault{
		"no table": {
			topics: both, place: "sink", cause: "orders", letters: 1,
			spoil: func(pl *plant) func() error { return func() error { return pl.ch.CreateTable(ordersTable) } },
		},
		"table denied": {
			topics: both, tables: []string{ordersTable}, place: "sink", cause: "497", letters: 1,
			spoil: func(pl *plant) func() error {
				remove := pl.ch.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, Times: -1, Code: accessDenied, Message: "orders: Not enough privileges"})
				return func() error {
					remove()
					return nil
				}
			},
		},
		"no dead-letter topic": {
			topics: map[string]int{"orders": 1}, tables: []string{ordersTable}, place: "check of the dead-letter queue", cause: "orders.dlq", stored: 5,
			spoil: func(pl *plant) func() error { return func() error { return pl.kafka.CreateTopic("orders.dlq", 1) } },
		},
		"dead-letter topic denied": {
			topics: both, tables: []string{ordersTable}, place: "orders/0 dead letters", cause: "orders.dlq", stored: 5,
			spoil: func(pl *plant) func() error {
				remove := pl.kafka.Inject(testkit.Fault{API: testkit.APIProduce, Topic: "orders.dlq", Times: -1, Code: topicDenied})
				return func() error {
					remove()
					return nil
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pl := newPlant(t, c.topics, pipeline.Config{}, c.tables...)
				mend := c.spoil(pl)
				pl.orders(0, 5)
				if err := pl.kafka.Produce(t.Context(), holdfast.Message{Topic: "orders", Value: []byte("poison")}); err != nil {
					t.Fatal(err)
				}
				pl.orders(5, 10)
				pl.until("in trouble", func() bool { return pl.Health().Degraded() })
				time.Sleep(10 * time.Minute)
				named := false
				for _, trouble := range pl.Health().Troubles {
					named = named || (trouble.Place == c.place && strings.Contains(trouble.Why, c.cause))
				}
				if h := pl.Health(); !named || !h.Live || !h.Ready {
					t.Errorf("health %+v does not name %s at %s", h, c.cause, c.place)
				}
				if got := pl.Stats().Letters; pl.circuit.State() != breaker.Closed || len(got) != c.letters {
					t.Errorf("circuit %v, letters %v", pl.circuit.State(), got)
				}
				if stored := pl.Stats().Stored; stored < c.stored || pl.committed() > int64(c.stored) {
					t.Errorf("%d rows, committed %d", stored, pl.committed())
				}
				if err := mend(); err != nil {
					t.Fatal(err)
				}
				pl.until("stored", func() bool { return pl.ch.Count("orders") == 10 && len(pl.letters()) == 1 })
				pl.until("healthy", func() bool { return !pl.Health().Degraded() })
				pl.stop()
				if got := pl.committed(); got != 11 {
					t.Errorf("committed %d", got)
				}
			})
		})
	}
}

// A dead-letter topic with fewer partitions than its source is none of these: letters of several partitions share one.
func TestNarrowDeadLetterTopicHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlant(t, map[string]int{"orders": 4, "orders.dlq": 1}, pipeline.Config{}, ordersTable)
		for p := range 4 {
			if err := pl.kafka.Produce(t.Context(), holdfast.Message{Topic: "orders", Partition: p, Value: []byte("poison")}); err != nil {
				t.Fatal(err)
			}
		}
		pl.until("dead-lettered", func() bool { return len(pl.letters()) == 4 })
		if h := pl.Health(); h.Degraded() {
			t.Errorf("health %+v", h)
		}
		pl.stop()
	})
}
