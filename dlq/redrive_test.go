package dlq_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/testkit"
)

// office is a Kafka with a dead-letter topic, in a bubble.
type office struct {
	t       *testing.T
	network *testkit.Network
	kafka   *testkit.KafkaServer
}

func newOffice(t *testing.T) *office {
	t.Helper()
	network := new(testkit.Network)
	return &office{t, network, testkit.Kafka(t, testkit.KafkaConfig{Network: network, Topics: map[string]int{
		"orders": 2, "elsewhere": 1, "orders.dlq": 2, "orders.dlq.parked": 1, "ledger": 1,
	}})}
}

// bury dead-letters n orders, each in a record batch of its own.
func (o *office) bury(n int, change func(int, *dlq.Letter)) {
	o.t.Helper()
	for i := range n {
		l := letter()
		l.Message.Partition, l.Message.Offset = i%2, int64(i/2)
		l.Message.Key, l.Message.Value = fmt.Appendf(nil, "key %d", i), fmt.Appendf(nil, "order %d %s", i, strings.Repeat("x", 500))
		l.Reason, l.Redrives = dlq.RetriesExhausted, 0
		change(i, &l)
		record := dlq.Encode(l)
		record.Topic, record.Partition = "orders.dlq", l.Message.Partition
		if err := o.kafka.Produce(o.t.Context(), record); err != nil {
			o.t.Fatal(err)
		}
	}
}

// buryTogether dead-letters n orders of two partitions in one record batch of one partition.
func (o *office) buryTogether(n int) {
	o.t.Helper()
	var records []holdfast.Message
	for i := range n {
		l := letter()
		l.Message.Partition, l.Message.Offset, l.Message.Value, l.Reason = i%2, int64(i), fmt.Appendf(nil, "order %d", i), dlq.Permanent
		record := dlq.Encode(l)
		record.Topic = "orders.dlq"
		records = append(records, record)
	}
	if err := o.kafka.Produce(o.t.Context(), records...); err != nil {
		o.t.Fatal(err)
	}
}

// messages gives what is in a topic, without the filling.
func (o *office) messages(topic string) []string {
	o.t.Helper()
	found, err := o.kafka.Messages(o.t.Context(), topic)
	if err != nil {
		o.t.Fatal(err)
	}
	var values []string
	for _, m := range found {
		value, _, _ := strings.Cut(string(m.Value), " x")
		values = append(values, value)
	}
	return values
}

// clerk is a process that redrives: its clients, and the connections that are cut when it crashes.
type clerk struct {
	o        *office
	consumer *kafkax.Consumer
	producer *kafkax.Producer
	admin    *kafkax.Admin

	mu      sync.Mutex
	conns   []net.Conn
	crashed bool
	calls   int // Of the producer.
	crashAt func(call int, before bool) bool
	crash   context.CancelFunc
}

func (o *office) clerk() *clerk {
	o.t.Helper()
	c := &clerk{o: o}
	cluster := kafkax.Cluster{Brokers: o.kafka.Addrs(), Dial: c.dial}
	var err error
	c.consumer, err = kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{
		Group: "unused", Topics: []string{"unused"}, FetchBytes: 4500, CommitInterval: -1, OutOfRange: kafkax.OutOfRangeEarliest, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		o.t.Fatal(err)
	}
	if c.producer, err = kafkax.NewProducer(cluster, kafkax.ProducerConfig{}); err != nil {
		o.t.Fatal(err)
	}
	if c.admin, err = kafkax.NewAdmin(cluster, kafkax.AdminConfig{}); err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(c.close)
	return c
}

func (c *clerk) close() {
	_ = c.producer.Close(context.Background())
	c.admin.Close()
}

func (c *clerk) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.o.network.Dial(ctx, network, addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crashed {
		return nil, errors.New("crashed")
	}
	if err == nil {
		c.conns = append(c.conns, conn)
	}
	return conn, err
}

// reach lets the process crash if this is where it is to.
func (c *clerk) reach(call int, before bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crashAt != nil && c.crashAt(call, before) && !c.crashed {
		c.crashed = true
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		c.crash()
	}
	if c.crashed {
		return errors.New("crashed")
	}
	return nil
}

func (c *clerk) Partitions(ctx context.Context, topic string) (int, error) {
	return c.producer.Partitions(ctx, topic)
}

func (c *clerk) Produce(ctx context.Context, messages ...holdfast.Message) error {
	return c.producer.Produce(ctx, messages...)
}

func (c *clerk) ProduceTo(ctx context.Context, topic string, partition int, messages ...holdfast.Message) error {
	c.mu.Lock()
	c.calls++
	call := c.calls
	c.mu.Unlock()
	if err := c.reach(call, true); err != nil {
		return err
	}
	if err := c.producer.ProduceTo(ctx, topic, partition, messages...); err != nil {
		return err
	}
	return c.reach(call, false)
}

func (c *clerk) redrive(ledger bool, cfg dlq.RedriveConfig) *dlq.Redrive {
	c.o.t.Helper()
	cfg.Topic = "orders.dlq"
	cfg.Letters.Logger = slog.New(slog.DiscardHandler)
	var err error
	if ledger {
		if cfg.Letters.Ledger, err = dlq.NewLedger(c, c.admin, dlq.LedgerConfig{Topic: "ledger"}); err != nil {
			c.o.t.Fatal(err)
		}
	}
	r, err := dlq.NewRedrive(c.consumer, c, c.admin, cfg)
	if err != nil {
		c.o.t.Fatal(err)
	}
	return r
}

func (o *office) run(r *dlq.Redrive) dlq.Summary {
	o.t.Helper()
	s, err := r.Run(o.t.Context())
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

func unchanged(int, *dlq.Letter) {}

func TestRedriveTakesLettersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(40, unchanged)
		if err := o.kafka.Produce(t.Context(), holdfast.Message{Topic: "orders.dlq", Value: []byte("no letter")}); err != nil {
			t.Fatal(err)
		}
		r := o.clerk().redrive(false, dlq.RedriveConfig{Strip: []string{"b"}})
		plan, err := r.Plan(t.Context())
		if err != nil || plan.Records != 41 || plan.States[dlq.Open] != 40 || plan.States[dlq.Foreign] != 1 || plan.Topics["orders"] != 40 {
			t.Errorf("the plan is %+v, %v", plan, err)
		}
		if got := o.messages("orders"); got != nil {
			t.Fatalf("a plan sent %v", got)
		}
		s := o.run(r)
		want := dlq.Summary{Read: 41, Redriven: 40, Skipped: map[dlq.State]int{dlq.Foreign: 1}, Next: map[int]int64{0: 21, 1: 20}}
		if !reflect.DeepEqual(s, want) {
			t.Errorf("the summary is\n%+v, want\n%+v", s, want)
		}
		found, err := o.kafka.Messages(t.Context(), "orders")
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range found {
			n := i%20*2 + i/20 // In each partition, in the order of the letters.
			id := fmt.Sprintf("g/orders/%d/%d", i/20, i%20)
			headers := append(letter().Message.Headers,
				holdfast.Header{Key: dlq.HeaderID, Value: []byte(id)}, holdfast.Header{Key: dlq.HeaderRedriveCount, Value: []byte("1")})
			if m.Partition != i/20 || string(m.Key) != fmt.Sprint("key ", n) || !strings.HasPrefix(string(m.Value), fmt.Sprintf("order %d x", n)) ||
				!reflect.DeepEqual(m.Headers, headers) {
				t.Fatalf("message %d is %+v", i, m)
			}
		}
		if again := o.run(r); again.Read != 0 {
			t.Errorf("a second run read %+v", again)
		}
		o.bury(2, unchanged)
		if more := o.run(r); more.Redriven != 2 {
			t.Errorf("a third run found %+v, want the two new letters", more)
		}
		if got := r.Stats(); got != (dlq.RedriveStats{Redriven: 42, Skipped: 1}) {
			t.Errorf("all runs together: %+v", got)
		}
	})
}

// A message that fails again and again is parked, with its letter as it was.
func TestLoopEndsInTheParkingTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(1, unchanged)
		c := o.clerk()
		r := c.redrive(false, dlq.RedriveConfig{})
		dead, err := dlq.NewTopic(c.producer, dlq.TopicConfig{Topic: "orders.dlq"})
		if err != nil {
			t.Fatal(err)
		}
		rounds := 0
		for ; len(o.messages("orders.dlq.parked")) == 0; rounds++ {
			if rounds > 10 {
				t.Fatal("it goes round for ever")
			}
			before := len(o.messages("orders"))
			o.run(r)
			found, err := o.kafka.Messages(t.Context(), "orders")
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range found[before:] { // As a pipeline that cannot do with it writes about it.
				if err := dead.Write(t.Context(), dlq.Letter{Message: m, Reason: dlq.Permanent, Group: "g"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if rounds != 6 {
			t.Errorf("parked in round %d, want 6: it has failed again five times then", rounds)
		}
		letters, err := o.kafka.Messages(t.Context(), "orders.dlq")
		if err != nil {
			t.Fatal(err)
		}
		parked, err := o.kafka.Messages(t.Context(), "orders.dlq.parked")
		if err != nil {
			t.Fatal(err)
		}
		last := letters[len(letters)-1]
		if got := parked[0]; !reflect.DeepEqual(got.Headers, last.Headers) || string(got.Key) != string(last.Key) || string(got.Value) != string(last.Value) {
			t.Errorf("parked is\n%+v, want\n%+v", got, last)
		}
	})
}

// Wherever a process dies, the next one takes home what is left: all of it, and with the ledger nothing twice.
func TestCrashedRedriveGoesOn(t *testing.T) {
	for _, ledger := range []bool{false, true} {
		for crash := 1; ; crash++ {
			name := fmt.Sprintf("ledger %v, crash %d", ledger, crash)
			crashed := false
			if !t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { crashed = crashIn(t, ledger, crash) })
			}) || !crashed {
				break
			}
		}
	}
}

// crashIn tells whether there was a call to crash in.
func crashIn(t *testing.T, ledger bool, crash int) bool {
	const letters = 8
	o := newOffice(t)
	o.bury(letters, unchanged)
	first := o.clerk()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first.crash = cancel
	first.crashAt = func(call int, before bool) bool { return (call-1)*2+1 == crash && before || call*2 == crash && !before }
	slow := dlq.SourceConfig{MessagesPerSecond: 20} // Two letters at a time, of the five of a fetch.
	_, err := first.redrive(ledger, dlq.RedriveConfig{Letters: slow}).Run(ctx)
	first.mu.Lock()
	crashed := first.crashed
	first.mu.Unlock()
	if !crashed {
		if err != nil {
			t.Error(err)
		}
		if crash < 10 {
			t.Errorf("only %d places to crash in", crash-1)
		}
		return false
	}
	o.run(o.clerk().redrive(ledger, dlq.RedriveConfig{}))
	times := make(map[string]int)
	for _, m := range o.messages("orders") {
		times[m]++
	}
	for i := range letters {
		switch n := times[fmt.Sprint("order ", i)]; {
		case n == 0:
			t.Errorf("order %d has not come home", i)
		case n > 1 && ledger:
			t.Errorf("order %d has come home %d times", i, n)
		}
	}
	if s := o.run(o.clerk().redrive(ledger, dlq.RedriveConfig{Group: "another"})); ledger && s.Redriven != 0 {
		t.Errorf("another group redrives again what the ledger should know: %+v", s)
	}
	return true
}

func TestLedgerLetsWhatFailedAgainComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(3, unchanged)
		o.bury(3, unchanged) // The same letters, written twice.
		r := o.clerk().redrive(true, dlq.RedriveConfig{})
		if s := o.run(r); s.Redriven != 3 || s.Skipped[dlq.Redriven] != 3 {
			t.Errorf("redriving letters that are there twice: %+v", s)
		}
		o.bury(3, func(_ int, l *dlq.Letter) { l.Redrives = 1 })
		if s := o.run(r); s.Redriven != 3 {
			t.Errorf("redriving letters of messages that failed again: %+v", s)
		}
		survey, err := r.Survey(t.Context())
		if err != nil || survey.States[dlq.Redriven] != 9 {
			t.Errorf("the survey is %+v, %v", survey, err)
		}
	})
}

// A count that no redrive has written neither starts anew nor passes for one that the ledger knows.
func TestMonstrousCountIsParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(1, func(_ int, l *dlq.Letter) { l.Redrives = math.MaxInt })
		if s := o.run(o.clerk().redrive(true, dlq.RedriveConfig{})); s.Parked != 1 {
			t.Errorf("%+v, want it parked", s)
		}
	})
}

func TestRedriveFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		o.bury(10, func(i int, l *dlq.Letter) {
			l.DeadAt = at.Add(time.Duration(i) * time.Minute)
			if i == 4 {
				l.Reason, l.Group, l.Message.Topic, l.ErrorClass = dlq.Permanent, "h", "elsewhere", "*bad.Luck"
				l.Message.Headers = []holdfast.Header{{Key: "tenant", Value: []byte("7")}}
			}
		})
		for name, tc := range map[string]struct {
			filter dlq.Filter
			want   []string
		}{
			"group":     {dlq.Filter{Groups: []string{"h"}}, []string{"order 4"}},
			"reason":    {dlq.Filter{Reasons: []dlq.Reason{"other", dlq.Permanent}}, []string{"order 4"}},
			"class":     {dlq.Filter{Classes: []string{"*bad.Luck"}}, []string{"order 4"}},
			"topic":     {dlq.Filter{Topics: []string{"elsewhere"}}, []string{"order 4"}},
			"partition": {dlq.Filter{Partitions: []int{1}, To: 2}, []string{"order 1", "order 3"}},
			"offsets":   {dlq.Filter{From: 3, To: 4}, []string{"order 6", "order 7"}},
			"time":      {dlq.Filter{After: at.Add(8 * time.Minute), Before: at.Add(9 * time.Minute)}, []string{"order 8"}},
			"key":       {dlq.Filter{Keys: [][]byte{[]byte("key 5")}}, []string{"order 5"}},
			"header":    {dlq.Filter{Headers: []holdfast.Header{{Key: "tenant", Value: []byte("7")}}}, []string{"order 4"}},
			"two":       {dlq.Filter{Groups: []string{"h"}, Reasons: []dlq.Reason{dlq.Panicked}}, nil},
		} {
			before := len(o.messages("elsewhere"))
			r := o.clerk().redrive(false, dlq.RedriveConfig{To: "elsewhere", Letters: dlq.SourceConfig{Filter: tc.filter}})
			s := o.run(r)
			got := o.messages("elsewhere")[before:]
			slices.Sort(got)
			if !slices.Equal(got, tc.want) || s.Redriven != len(tc.want) || s.Skipped[dlq.Unwanted] != s.Read-len(tc.want) {
				t.Errorf("%s: redrove %v, want %v; %+v", name, got, tc.want, s)
			}
		}
	})
}

// Letters that their pipeline takes home by itself are not the operator's, unless he wants them.
func TestRedriveLeavesWhatComesHomeByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(6, func(i int, l *dlq.Letter) {
			if i < 4 {
				l.Reason = dlq.CircuitOpen
			}
			if i == 2 {
				l.Group = "without a way home"
			}
		})
		c := o.clerk()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := c.consumer.ConsumeAs(ctx, dlq.HomeGroup("g"), []string{"orders.dlq"}, func(_ context.Context, c holdfast.Claim) error {
			c.Commit(1)
			time.AfterFunc(time.Second, cancel)
			<-c.Revoked()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		r := c.redrive(false, dlq.RedriveConfig{})
		if s := o.run(r); s.Redriven != 3 || s.Skipped[dlq.CameHome] != 2 || s.Skipped[dlq.ComesHome] != 1 {
			t.Errorf("redrove %+v", s)
		}
		r = c.redrive(false, dlq.RedriveConfig{TakeHome: true})
		if s := o.run(r); s.Redriven != 6 {
			t.Errorf("redrove %+v of all", s)
		}
	})
}

type circuitState struct {
	mu    sync.Mutex
	state breaker.State
}

func (c *circuitState) State() breaker.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *circuitState) set(s breaker.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = s
}

func TestRedriveWaitsForTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(60, unchanged)
		circuit := &circuitState{state: breaker.Open}
		r := o.clerk().redrive(false, dlq.RedriveConfig{Circuit: circuit})
		done := make(chan dlq.Summary)
		go func() { done <- o.run(r) }()
		time.Sleep(time.Minute)
		if n := len(o.messages("orders")); n != 0 {
			t.Errorf("%d messages through an open circuit", n)
		}
		circuit.set(breaker.HalfOpen)
		time.Sleep(5500 * time.Millisecond)
		if n := len(o.messages("orders")); n < 3 || n > 6 {
			t.Errorf("%d messages in 5.5 s of a half-open circuit, want about one a second", n)
		}
		circuit.set(breaker.Closed)
		if s := <-done; s.Redriven != 60 {
			t.Errorf("redrove %+v", s)
		}
	})
}

func TestRedriveKeepsThePace(t *testing.T) {
	for name, cfg := range map[string]dlq.SourceConfig{
		"messages": {MessagesPerSecond: 10}, "bytes": {BytesPerSecond: 5500},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOffice(t)
				o.bury(100, unchanged)
				began := time.Now()
				s := o.run(o.clerk().redrive(false, dlq.RedriveConfig{Letters: cfg}))
				if took := time.Since(began); s.Redriven != 100 || took < 9*time.Second || took > 20*time.Second {
					t.Errorf("%+v in %v, want 100 letters in about 10 s", s, took)
				}
			})
		})
	}
}

// A run that is ended can be gone on with, and finishes what is on its way.
func TestEndedRedriveGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(100, unchanged)
		r := o.clerk().redrive(false, dlq.RedriveConfig{Letters: dlq.SourceConfig{MessagesPerSecond: 10}})
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		first, err := r.Run(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || first.Redriven == 0 || first.Redriven == 100 {
			t.Fatalf("ended early: %+v, %v", first, err)
		}
		if committed := o.kafka.Committed(r.Group(), "orders.dlq"); !maps.Equal(committed, first.Next) {
			t.Errorf("committed is %v, and the summary says %v", committed, first.Next)
		}
		second := o.run(r)
		if first.Redriven+second.Redriven != 100 || len(o.messages("orders")) != 100 {
			t.Errorf("%d and then %d letters, %d messages", first.Redriven, second.Redriven, len(o.messages("orders")))
		}
	})
}

func TestRedriveStopsWhenTooManyFailAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(200, unchanged)
		c := o.clerk()
		ctx, cancel := context.WithCancel(t.Context())
		var pipeline sync.WaitGroup
		defer pipeline.Wait()
		defer cancel()
		pipeline.Go(func() { // It fails whatever comes.
			seen := 0
			for ctx.Err() == nil {
				found, err := o.kafka.Messages(ctx, "orders")
				if err != nil {
					return
				}
				for _, m := range found[seen:] {
					record := dlq.Encode(dlq.Letter{Message: m, Group: "g"})
					record.Topic = "orders.dlq"
					_ = o.kafka.Produce(ctx, record)
				}
				seen = len(found)
				time.Sleep(time.Second)
			}
		})
		s, err := c.redrive(false, dlq.RedriveConfig{Letters: dlq.SourceConfig{MessagesPerSecond: 10}}).Run(t.Context())
		if !errors.Is(err, dlq.ErrTooManyFailures) || s.Returned < 10 || s.Redriven > 100 {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

// forbidding is a target that may not be written to in one of its partitions.
type forbidding struct {
	*clerk
	partition int
}

func (f forbidding) ProduceTo(ctx context.Context, topic string, partition int, messages ...holdfast.Message) error {
	if topic == "orders" && partition == f.partition {
		return holdfast.Hold(errors.New("forbidden"))
	}
	return f.clerk.ProduceTo(ctx, topic, partition, messages...)
}

// A run that ends when some of the letters are sent and others of the same fetch are not, sends only those the next time.
func TestPartlySentLettersAreNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.buryTogether(10)
		c := o.clerk()
		ledger, err := dlq.NewLedger(c, c.admin, dlq.LedgerConfig{Topic: "ledger"})
		if err != nil {
			t.Fatal(err)
		}
		cfg := dlq.RedriveConfig{Topic: "orders.dlq", Letters: dlq.SourceConfig{Ledger: ledger, Logger: slog.New(slog.DiscardHandler)}}
		r, err := dlq.NewRedrive(c.consumer, forbidding{c, 1}, c.admin, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Run(t.Context()); !holdfast.IsHold(err) {
			t.Fatalf("got %v, want to hear that it is forbidden", err)
		}
		if n := len(o.messages("orders")); n < 1 || n > 5 { // As many as come with one fetch.
			t.Fatalf("%d messages are there, want some of the 5 that are allowed", n)
		}
		o.run(o.clerk().redrive(true, dlq.RedriveConfig{}))
		if got := o.messages("orders"); len(got) != 10 {
			t.Errorf("in the end %v", got)
		}
	})
}

// refusing is a target that never takes one of the messages.
type refusing struct{ *clerk }

func (r refusing) ProduceTo(ctx context.Context, topic string, partition int, messages ...holdfast.Message) error {
	if topic == "orders" {
		i := slices.IndexFunc(messages, func(m holdfast.Message) bool { return string(m.Key) == "key 4" })
		if i >= 0 {
			if err := r.clerk.ProduceTo(ctx, topic, partition, slices.Delete(slices.Clone(messages), i, i+1)...); err != nil {
				return err
			}
			return holdfast.Permanent(refusedError{i})
		}
	}
	return r.clerk.ProduceTo(ctx, topic, partition, messages...)
}

func TestRefusedLetterIsParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(10, unchanged)
		c := o.clerk()
		r, err := dlq.NewRedrive(c.consumer, refusing{c}, c.admin, dlq.RedriveConfig{Topic: "orders.dlq"})
		if err != nil {
			t.Fatal(err)
		}
		s := o.run(r)
		if parked := o.messages("orders.dlq.parked"); s.Redriven != 9 || s.Failed != 1 || !slices.Equal(parked, []string{"order 4"}) {
			t.Errorf("%+v, parked %v", s, parked)
		}
	})
}

func TestRedriveSaysThatItsTargetIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(3, func(_ int, l *dlq.Letter) { l.Message.Topic = "gone" })
		s, err := o.clerk().redrive(false, dlq.RedriveConfig{}).Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "gone") || s.Redriven != 0 {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

// Two who redrive the same at the same time share the partitions, and both come to an end.
func TestTwoRedriveTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(60, unchanged)
		var runs sync.WaitGroup
		for i := range 2 {
			runs.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				o.run(o.clerk().redrive(true, dlq.RedriveConfig{Letters: dlq.SourceConfig{MessagesPerSecond: 10}}))
			})
		}
		runs.Wait()
		if n := len(o.messages("orders")); n != 60 {
			t.Errorf("%d messages came home, want 60", n)
		}
	})
}

// doubting is a target that has written what it does not know it has.
type doubting struct {
	*clerk
	doubts int
}

func (d *doubting) ProduceTo(ctx context.Context, topic string, partition int, messages ...holdfast.Message) error {
	err := d.clerk.ProduceTo(ctx, topic, partition, messages...)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil && topic == "orders" && d.doubts > 0 {
		d.doubts--
		return holdfast.Ambiguous(errors.New("no answer"))
	}
	return err
}

// What may have been written is looked for before it is written again.
func TestLostAcknowledgementIsLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(20, unchanged)
		c := o.clerk()
		ledger, err := dlq.NewLedger(c, c.admin, dlq.LedgerConfig{Topic: "ledger"})
		if err != nil {
			t.Fatal(err)
		}
		r, err := dlq.NewRedrive(c.consumer, &doubting{c, 3}, c.admin, dlq.RedriveConfig{
			Topic: "orders.dlq", Letters: dlq.SourceConfig{Ledger: ledger, Logger: slog.New(slog.DiscardHandler)},
		})
		if err != nil {
			t.Fatal(err)
		}
		if s := o.run(r); s.Redriven != 20 || len(o.messages("orders")) != 20 {
			t.Errorf("%+v, %d messages, want 20", s, len(o.messages("orders")))
		}
	})
}

// A target that takes letters of several partitions of origin out of one partition may leave several of them in doubt.
func TestLostAcknowledgementsOfOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.buryTogether(20)
		c := o.clerk()
		ledger, err := dlq.NewLedger(c, c.admin, dlq.LedgerConfig{Topic: "ledger"})
		if err != nil {
			t.Fatal(err)
		}
		r, err := dlq.NewRedrive(c.consumer, &doubting{c, 6}, c.admin, dlq.RedriveConfig{
			Topic: "orders.dlq", Letters: dlq.SourceConfig{Ledger: ledger, Logger: slog.New(slog.DiscardHandler)},
		})
		if err != nil {
			t.Fatal(err)
		}
		if s := o.run(r); s.Redriven != 20 || len(o.messages("orders")) != 20 {
			t.Errorf("%+v, %d messages, want 20", s, len(o.messages("orders")))
		}
	})
}

// blind is a log that cannot read the target for now.
type blind struct{ dlq.Log }

func (b blind) Scan(ctx context.Context, topic string, from map[int]int64, handle func([]holdfast.Message) error) error {
	if topic == "orders" {
		return errors.New("cannot read")
	}
	return b.Log.Scan(ctx, topic, from, handle)
}

// A run that cannot find out what the one before it has sent, leaves that to the next.
func TestDoubtOutlivesARunThatCannotClearIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.buryTogether(10)
		c := o.clerk()
		ledger, err := dlq.NewLedger(c, c.admin, dlq.LedgerConfig{Topic: "ledger"})
		if err != nil {
			t.Fatal(err)
		}
		run := func(target dlq.Target, log dlq.Log) (dlq.Summary, error) {
			r, err := dlq.NewRedrive(c.consumer, target, log, dlq.RedriveConfig{
				Topic: "orders.dlq", Letters: dlq.SourceConfig{Ledger: ledger, Logger: slog.New(slog.DiscardHandler)},
			})
			if err != nil {
				t.Fatal(err)
			}
			return r.Run(t.Context())
		}
		if _, err := run(forbidding{c, 1}, c.admin); !holdfast.IsHold(err) {
			t.Fatalf("got %v, want to hear that it is forbidden", err)
		}
		if _, err := run(c, blind{c.admin}); err == nil {
			t.Fatal("a run that cannot read its target has gone on")
		}
		if _, err := run(c, c.admin); err != nil {
			t.Fatal(err)
		}
		if got := o.messages("orders"); len(got) != 10 {
			t.Errorf("in the end %v", got)
		}
	})
}

// sealed is a producer that may not write to the ledger any more, after so many calls.
type sealed struct {
	*clerk
	after atomic.Int64
}

func (s *sealed) ProduceTo(ctx context.Context, topic string, partition int, messages ...holdfast.Message) error {
	if topic == "ledger" && s.after.Add(-1) < 0 {
		return holdfast.Hold(errors.New("forbidden"))
	}
	return s.clerk.ProduceTo(ctx, topic, partition, messages...)
}

// A run whose ledger takes the mark, and then nothing more, ends and says so. What it has sent is not sent again by a run
// that may write there.
func TestRedriveSaysThatItsLedgerIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.buryTogether(40)
		c := o.clerk()
		p := &sealed{clerk: c}
		p.after.Store(1)
		ledger, err := dlq.NewLedger(p, c.admin, dlq.LedgerConfig{Topic: "ledger"})
		if err != nil {
			t.Fatal(err)
		}
		r, err := dlq.NewRedrive(c.consumer, c, c.admin, dlq.RedriveConfig{
			Topic: "orders.dlq", Letters: dlq.SourceConfig{Ledger: ledger, MessagesPerSecond: 10, Logger: slog.New(slog.DiscardHandler)},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := r.Run(ctx); !holdfast.IsHold(err) {
			t.Errorf("got %v, want to hear that it is forbidden", err)
		}
		if n := len(o.messages("orders")); n == 0 || n == 40 {
			t.Errorf("%d messages before it ended, want some", n)
		}
		o.run(o.clerk().redrive(true, dlq.RedriveConfig{}))
		if n := len(o.messages("orders")); n != 40 {
			t.Errorf("%d messages in the end, want 40", n)
		}
	})
}

// stubborn is a target that takes nothing for now.
type stubborn struct{ *clerk }

func (s stubborn) ProduceTo(ctx context.Context, topic string, partition int, messages ...holdfast.Message) error {
	if topic == "orders" {
		return errors.New("not now")
	}
	return s.clerk.ProduceTo(ctx, topic, partition, messages...)
}

// A run whose target is away gives partitions up to another one, and goes on with the others.
func TestRedriveInTroubleGivesPartitionsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(20, unchanged)
		c := o.clerk()
		r, err := dlq.NewRedrive(c.consumer, stubborn{c}, c.admin, dlq.RedriveConfig{
			Topic: "orders.dlq", Letters: dlq.SourceConfig{Logger: slog.New(slog.DiscardHandler)},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		troubled := make(chan error, 1)
		go func() {
			_, err := r.Run(ctx)
			troubled <- err
		}()
		time.Sleep(10 * time.Second)
		second, stop := context.WithTimeout(t.Context(), 20*time.Second)
		defer stop()
		if _, err := o.clerk().redrive(false, dlq.RedriveConfig{}).Run(second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the second run ended with %v", err)
		}
		if n := len(o.messages("orders")); n != 10 {
			t.Errorf("%d messages, want those of the partition that was given up", n)
		}
		if err := <-troubled; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the run in trouble ended with %v", err)
		}
	})
}

// What is left may be nothing that is ever handed out: letters that are deleted meanwhile, or markers of transactions.
func TestRedriveEndsWhereNoLetterIsLeft(t *testing.T) {
	for name, leave := range map[string]func(*office){
		"deleted": func(o *office) {
			o.bury(100, unchanged)
			time.AfterFunc(3*time.Second, func() {
				for p := range 2 {
					if err := o.kafka.DeleteRecords("orders.dlq", p, 50); err != nil {
						o.t.Error(err)
					}
				}
			})
		},
		"marker": func(o *office) {
			writer, err := kgo.NewClient(kgo.SeedBrokers(o.kafka.Addrs()...), kgo.Dialer(o.network.Dial), kgo.TransactionalID("t"))
			if err != nil {
				o.t.Fatal(err)
			}
			defer writer.Close()
			if err := writer.BeginTransaction(); err != nil {
				o.t.Fatal(err)
			}
			record, err := writer.ProduceSync(o.t.Context(), &kgo.Record{Topic: "orders.dlq"}).First()
			if err != nil {
				o.t.Fatal(err)
			}
			if err := writer.EndTransaction(o.t.Context(), kgo.TryCommit); err != nil {
				o.t.Fatal(err)
			}
			if err := o.kafka.DeleteRecords("orders.dlq", int(record.Partition), record.Offset+1); err != nil {
				o.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOffice(t)
				leave(o)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				s, err := o.clerk().redrive(true, dlq.RedriveConfig{Letters: dlq.SourceConfig{MessagesPerSecond: 10}}).Run(ctx)
				if err != nil {
					t.Errorf("%+v, %v", s, err)
				}
			})
		})
	}
}

// The ledger of a pipeline's way home knows what the pipeline has settled, and nothing else.
func TestSourceKeepsTheLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.bury(20, unchanged)
		c := o.clerk()
		take := func(group string, settle int64) (got int) {
			ledger, err := dlq.NewLedger(c, c.admin, dlq.LedgerConfig{Topic: "ledger"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			s, err := dlq.NewSource(as{c.consumer, group}, dlq.SourceConfig{Ledger: ledger, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			if err := s.Consume(ctx, func(ctx context.Context, claim holdfast.Claim) error {
				for {
					messages, err := claim.Fetch(ctx)
					if err != nil {
						return err
					}
					mu.Lock()
					got += len(messages)
					mu.Unlock()
					claim.Commit(min(messages[len(messages)-1].ClaimOffset()+1, settle))
				}
			}); err != nil {
				t.Fatal(err)
			}
			return got
		}
		if n := take("first", 7); n != 20 {
			t.Errorf("the first got %d letters, want 20", n)
		}
		if n := take("second", 10); n != 6 {
			t.Errorf("the second got %d letters, want the 3 of each partition that the first did not settle", n)
		}
	})
}

// as is a consumer's claims for a group.
type as struct {
	consumer *kafkax.Consumer
	group    string
}

func (a as) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return a.consumer.ConsumeAs(ctx, a.group, []string{"orders.dlq"}, handle)
}

// Letters in a format that does not say where a message came from can only be sent where the operator says.
func TestLettersWithoutOriginNeedATarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		lost := holdfast.Message{Topic: "orders.dlq", Value: []byte("lost"), Headers: []holdfast.Header{
			{Key: "x-error-message", Value: []byte("no")}, {Key: "x-retry-count", Value: []byte("1")}, {Key: "x-produce-time", Value: []byte("1700000000000000000")},
		}}
		if err := o.kafka.Produce(t.Context(), lost); err != nil {
			t.Fatal(err)
		}
		if s := o.run(o.clerk().redrive(false, dlq.RedriveConfig{})); s.Redriven != 0 || s.Skipped[dlq.Foreign] != 1 {
			t.Errorf("without a target: %+v", s)
		}
		if s := o.run(o.clerk().redrive(false, dlq.RedriveConfig{To: "elsewhere"})); s.Redriven != 1 {
			t.Errorf("with a target: %+v", s)
		}
	})
}

func TestRedriveRefusesNonsense(t *testing.T) {
	_, err := dlq.NewRedrive(nil, nil, nil, dlq.RedriveConfig{
		To: "", MaxFailures: 2, Strip: []string{""},
		Letters: dlq.SourceConfig{MessagesPerSecond: -1, BytesPerSecond: -1, Filter: dlq.Filter{From: -1, To: -1, Reasons: []dlq.Reason{""}, Partitions: []int{-1}}},
	})
	for _, field := range []string{
		"RedriveConfig.Topic", "MaxFailures", "Strip[0]", "MessagesPerSecond", "BytesPerSecond", "Filter.From", "Filter.To", "Reasons[0]",
		"Partitions[0] must not be negative, got -1",
	} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not speak of %s", err, field)
		}
	}
	if _, err := dlq.NewRedrive(nil, nil, nil, dlq.RedriveConfig{Topic: "t", To: "t"}); err == nil || !strings.Contains(err.Error(), "RedriveConfig.To") {
		t.Errorf("got %v", err)
	}
	if _, err := dlq.NewRedrive(nil, nil, nil, dlq.RedriveConfig{Topic: "t"}); err == nil || !strings.Contains(err.Error(), "NewRedrive") {
		t.Errorf("got %v", err)
	}
	soon := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	err = dlq.Filter{After: soon, Before: soon}.Validate()
	if want := "Before must be later than After (2026-03-04T05:06:07Z), or zero, got 2026-03-04T05:06:07Z"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
	if _, err := dlq.NewParking(nil, dlq.ParkingConfig{MaxRedrives: -2}); err == nil || !strings.Contains(err.Error(), "ParkingConfig.Topic") || !strings.Contains(err.Error(), "MaxRedrives") {
		t.Errorf("got %v", err)
	}
	if _, err := dlq.NewLedger(nil, nil, dlq.LedgerConfig{}); err == nil || !strings.Contains(err.Error(), "LedgerConfig.Topic") {
		t.Errorf("got %v", err)
	}
}

// Parked or recorded among the letters themselves, a letter would be read again for ever, or taken for taken home.
func TestTopicsMustDiffer(t *testing.T) {
	c := &clerk{} // Nobody asks it.
	parking, err := dlq.NewParking(c, dlq.ParkingConfig{Topic: "a"})
	if err != nil {
		t.Fatal(err)
	}
	ledger, err := dlq.NewLedger(c, c.admin, dlq.LedgerConfig{Topic: "a"})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		cfg  dlq.RedriveConfig
		want string
	}{
		"parks among the letters":   {dlq.RedriveConfig{Topic: "a", Letters: dlq.SourceConfig{Parking: parking}}, "SourceConfig.Parking"},
		"records among the letters": {dlq.RedriveConfig{Topic: "a", Letters: dlq.SourceConfig{Ledger: ledger}}, "SourceConfig.Ledger"},
		"records among the parked":  {dlq.RedriveConfig{Topic: "b", Letters: dlq.SourceConfig{Parking: parking, Ledger: ledger}}, "SourceConfig.Parking"},
		"writes among the parked":   {dlq.RedriveConfig{Topic: "b", To: "a", Letters: dlq.SourceConfig{Parking: parking}}, "RedriveConfig.To"},
		"writes to the default":     {dlq.RedriveConfig{Topic: "b", To: "b.parked"}, "RedriveConfig.To"},
		"writes among the records":  {dlq.RedriveConfig{Topic: "b", To: "a", Letters: dlq.SourceConfig{Ledger: ledger}}, "RedriveConfig.To"},
	} {
		if err := test.cfg.Validate(); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "got ") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, cfg := range []dlq.SourceConfig{{Parking: parking}, {Ledger: ledger}} {
		if _, err := dlq.NewSource(topics{"b", "a"}, cfg); err == nil || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("a source: got %v", err)
		}
		if _, err := dlq.NewSource(topics{"b"}, cfg); err != nil {
			t.Errorf("a source of another topic: %v", err)
		}
	}
}

// A func that is missing is an error, and not a panic once there is something for it.
func TestMissingFuncs(t *testing.T) {
	c := &clerk{}
	r, err := dlq.NewRedrive(c.consumer, c, c.admin, dlq.RedriveConfig{Topic: "orders.dlq"})
	if err != nil {
		t.Fatal(err)
	}
	source, err := dlq.NewSource(topics{"orders.dlq"}, dlq.SourceConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for want, err := range map[string]error{
		"Spool.Drain needs":    new(dlq.Spool).Drain(t.Context(), nil),
		"Redrive.Browse needs": r.Browse(t.Context(), nil, nil),
		"Source.Consume needs": source.Consume(t.Context(), nil),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want one with %q", err, want)
		}
	}
}

// topics are claims that tell which topics they are of.
type topics []string

func (t topics) Topics() []string { return t }

func (topics) Consume(context.Context, func(context.Context, holdfast.Claim) error) error { return nil }
