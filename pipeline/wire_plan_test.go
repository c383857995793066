package pipeline_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/testkit"
)

// plan is all that a seed fixes of a simulation over real protocols: how things are, and what befalls them. What becomes
// of a message in the stage is fixed too, see stageMishaps.
type plan struct {
	brokers  int
	members  int
	pipeline pipeline.Config
	consumer kafkax.ConsumerConfig
	inserter clickhousex.InserterConfig
	steps    []step
}

// step is what happens after one more message of each partition was produced.
type step struct {
	pause time.Duration
	event string // Nothing, mostly.
	whom  int    // The member, or the partition.
	nth   int    // Of the requests of a kind, the one that is struck.
	times int    // For how long: steps, or seconds.
	doom  doom   // Of a crash.
}

func (s step) String() string {
	return fmt.Sprintf("%v %q whom=%d nth=%d times=%d %+v", s.pause, s.event, s.whom, s.nth, s.times, s.doom)
}

func drawPlan(seed uint64) plan {
	r := dice(seed).of("wire")
	p := plan{
		brokers:  1 + r.IntN(2),
		members:  1 + r.IntN(maxMembers),
		pipeline: drawConfig(seed, r),
		consumer: kafkax.ConsumerConfig{
			Group: "orders", Topics: []string{"orders"},
			// The emulator begins to wait anew with every join: were it to wait for longer than members that have given up take
			// to join again, it would wait for ever.
			SessionTimeout: 6 * time.Second, HeartbeatInterval: 500 * time.Millisecond, RebalanceTimeout: 3 * time.Second, DrainTimeout: 1500 * time.Millisecond,
			CommitInterval: one(r, 0, -1, 200*time.Millisecond), FetchMessages: one(r, 0, 3),
		},
		inserter: clickhousex.InserterConfig{Timeout: 4 * time.Second, Offsets: one(r, clickhousex.OffsetsNone, clickhousex.OffsetsNone, clickhousex.OffsetsOfMessages)},
	}
	p.pipeline.DrainTimeout = 5 * time.Second
	for range wireMessages {
		p.steps = append(p.steps, drawStep(r))
	}
	return p
}

func drawStep(r *rand.Rand) step {
	s := step{
		pause: time.Duration(r.IntN(400)) * time.Millisecond,
		whom:  r.IntN(100), nth: 1 + r.IntN(3), times: 1 + r.IntN(6),
		doom: doom{api: one(r, testkit.APIOffsetCommit, testkit.APIProduce, testkit.APIFetch, testkit.APIHeartbeat, "insert"), nth: 1 + r.IntN(4), served: r.IntN(2) == 0},
	}
	if r.IntN(2) == 0 {
		s.event = one(r, slices.Concat(slices.Sorted(maps.Keys(kafkaFaults())), slices.Sorted(maps.Keys(storeFaults())), troubles(), troubles())...)
	}
	return s
}

// troubles befall a member or a server as a whole, see wire.befall.
func troubles() []string {
	return []string{
		"a member joins", "a member leaves", "a member crashes", "a member is cut off", "the group is rebalanced",
		"Kafka restarts", "a leader moves", "ClickHouse restarts",
		"the sink's circuit is forced open", "the stage's circuit is forced open", "the circuits are reset",
	}
}

// kafkaFaults strike the n-th request of a kind. Those that strike several go on for some steps.
func kafkaFaults() map[string]testkit.Fault {
	return map[string]testkit.Fault{
		"the answer to a letter is lost":        {API: testkit.APIProduce, Topic: "orders.dlq", LoseAck: true},
		"a letter is cut off":                   {API: testkit.APIProduce, Topic: "orders.dlq", Cut: true},
		"a letter times out and is there":       {API: testkit.APIProduce, Topic: "orders.dlq", Code: 7},
		"the dead-letter queue is away":         {API: testkit.APIProduce, Topic: "orders.dlq", Code: 19, Times: -1},
		"the answer to a commit is lost":        {API: testkit.APIOffsetCommit, LoseAck: true},
		"a commit is cut off":                   {API: testkit.APIOffsetCommit, Cut: true},
		"the coordinator loads":                 {API: testkit.APIOffsetCommit, Code: 14},
		"the coordinator has moved":             {API: testkit.APIOffsetCommit, Code: 16},
		"a commit is fenced":                    {API: testkit.APIOffsetCommit, Code: 22},
		"the committed offsets are not told":    {API: testkit.APIOffsetFetch, Cut: true},
		"a fetch is cut off":                    {API: testkit.APIFetch, Cut: true},
		"a fetch asks the wrong broker":         {API: testkit.APIFetch, Topic: "orders", Code: 6},
		"heartbeats are cut off":                {API: testkit.APIHeartbeat, Cut: true, Times: 3},
		"the answer to a heartbeat is lost":     {API: testkit.APIHeartbeat, LoseAck: true},
		"a join is cut off":                     {API: testkit.APIJoinGroup, Cut: true},
		"the answer to an assignment is lost":   {API: testkit.APISyncGroup, LoseAck: true},
		"the brokers do not say who leads what": {API: testkit.APIMetadata, Cut: true},
	}
}

// storeFaults strike the n-th event of a kind.
func storeFaults() map[string]testkit.ClickHouseFault {
	return map[string]testkit.ClickHouseFault{
		"the answer to an insert is lost":      {On: testkit.ClickHouseInsert, LoseAck: true},
		"an insert is cut off":                 {On: testkit.ClickHouseInsert, Cut: true},
		"an insert hangs and is stored late":   {On: testkit.ClickHouseInsert, Hang: true},
		"an insert is stored, and not told of": {On: testkit.ClickHouseInsert, HangStored: true},
		"an insert takes its time":             {On: testkit.ClickHouseInsert, Delay: 2 * time.Second},
		"there are too many parts":             {On: testkit.ClickHouseInsert, Code: 252, Times: 2},
		"there is no memory":                   {On: testkit.ClickHouseInsert, Code: 241},
		"there is no such table":               {On: testkit.ClickHousePrepare, Code: 60, Times: 3},
		"access is denied":                     {On: testkit.ClickHousePrepare, Code: 497, Times: 2},
		"ClickHouse takes no connection":       {On: testkit.ClickHouseConnect, Reject: true, Times: 5},
	}
}

// stageMishaps is what may become of a message in the stage; which one is fixed by the seed, the message, and how often
// it has been there.
func stageMishaps() []string {
	return []string{
		"the stage fails", "the stage fails for good", "the stage is to be held", "the stage panics", "the stage is rejected",
		"the stage does not know whether it has worked", "the stage asks for time", "the stage times out",
	}
}

// happenings are all that may befall a pipeline over real protocols.
func happenings() []string {
	return slices.Concat(slices.Collect(maps.Keys(kafkaFaults())), slices.Collect(maps.Keys(storeFaults())), troubles(), stageMishaps())
}

// String is the plan, for the log and for comparing.
func (p plan) String() string {
	var steps strings.Builder
	for _, s := range p.steps {
		fmt.Fprintln(&steps, s)
	}
	return fmt.Sprintf("%d brokers, %d members, %+v, %+v, %+v\n%s", p.brokers, p.members, p.pipeline, p.consumer, p.inserter, &steps)
}
