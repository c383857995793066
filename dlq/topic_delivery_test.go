package dlq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
)

func newTopic(t *testing.T, p dlq.Producer, cfg dlq.TopicConfig) *dlq.Topic {
	t.Helper()
	cfg.Topic = "orders.dlq"
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	topic, err := dlq.NewTopic(p, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return topic
}

// offsets gives the original offsets of the letters in a partition's log.
func (p *producer) offsets(t *testing.T, partition int) (offsets []int64) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.log[partition] {
		l, err := dlq.Decode(r)
		if err != nil {
			t.Fatal(err)
		}
		offsets = append(offsets, l.Message.Offset)
	}
	return offsets
}

// keyed is a Kafka that has one partition for messages with a key, which it counts as -2.
type keyedProducer struct{ producer }

func (p *keyedProducer) Produce(ctx context.Context, messages ...holdfast.Message) error {
	return p.ProduceTo(ctx, messages[0].Topic, -2, messages...)
}

func TestTopicPlacesByKey(t *testing.T) {
	p := &keyedProducer{producer{partitions: 3}}
	all := letters(20)
	for i := range all {
		if all[i].Message.Partition == 4 {
			all[i].Message.Key = nil
		}
	}
	if err := newTopic(t, p, dlq.TopicConfig{Placement: dlq.SameKey}).Write(t.Context(), all...); err != nil {
		t.Fatal(err)
	}
	if got := p.offsets(t, 4%3); !slices.Equal(got, []int64{4, 9, 14, 19}) {
		t.Errorf("without a key: %v", got)
	}
	if got := p.offsets(t, -2); len(got) != 16 || !slices.IsSorted(got) {
		t.Errorf("with a key: %v", got)
	}
	if p.log[-2][0].Topic != "orders.dlq" {
		t.Errorf("they went to %s", p.log[-2][0].Topic)
	}
	if _, err := dlq.NewTopic(&producer{}, dlq.TopicConfig{Topic: "t", Placement: dlq.SameKey}); err == nil || !strings.Contains(err.Error(), "SameKey") {
		t.Errorf("a producer that knows no keys: %v", err)
	}
}

func TestTopicSaysWhoWrote(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	p := &producer{partitions: 1}
	bare := letter()
	bare.Host, bare.App, bare.AppVersion, bare.ClientID = "", "", "", ""
	cfg := dlq.TopicConfig{App: "store", AppVersion: "v7", ClientID: "store-1", Formats: []dlq.Format{dlq.Spring}}
	if err := newTopic(t, p, cfg).Write(t.Context(), bare, letter()); err != nil {
		t.Fatal(err)
	}
	l, _ := dlq.Decode(p.log[0][0])
	if l.Host != host || l.App != "store" || l.AppVersion != "v7" || l.ClientID != "store-1" {
		t.Errorf("it was written by %q of %q %q %q", l.ClientID, l.App, l.AppVersion, l.Host)
	}
	if l, _ := dlq.Decode(p.log[0][1]); l.Host != "h" || l.App != "app" {
		t.Errorf("a letter that says who wrote it says %q of %q now", l.App, l.Host)
	}
	if !slices.ContainsFunc(p.log[0][0].Headers, func(h holdfast.Header) bool { return h.Key == "kafka_dlt-original-offset" }) {
		t.Error("Spring cannot read it")
	}
	if !p.log[0][0].Time.IsZero() {
		t.Errorf("it has the time %v, and not that of its writing", p.log[0][0].Time)
	}
}

// small is a Kafka that refuses what is too large.
type small struct {
	producer
	limit int
}

func size(m holdfast.Message) (n int) {
	for _, h := range m.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n + len(m.Key) + len(m.Value)
}

type tooLargeError struct{ refusedError }

func (tooLargeError) Permanent() bool { return true }

func (p *small) ProduceTo(ctx context.Context, topic string, partition int, messages ...holdfast.Message) error {
	var refused refusedError
	for i, m := range messages {
		if size(m) > p.limit {
			refused = append(refused, i)
		} else if err := p.producer.ProduceTo(ctx, topic, partition, m); err != nil {
			return err
		}
	}
	if len(refused) > 0 {
		return tooLargeError{refused}
	}
	return nil
}

func TestTopicStripsWhatIsTooLarge(t *testing.T) {
	p := &small{producer{partitions: 1}, 2000}
	fits, large, huge := letter(), letter(), letter()
	large.Message.Offset, huge.Message.Offset = 2, 3
	large.Stack = strings.Repeat("x", 3000)
	huge.Message.Value = bytes.Repeat([]byte("x"), 2000)
	topic := newTopic(t, p, dlq.TopicConfig{Formats: []dlq.Format{dlq.Connect, dlq.Spring}})
	err := topic.Write(t.Context(), fits, large, huge)
	var partly *holdfast.BatchError
	if !errors.As(err, &partly) || len(partly.Items) != 1 || partly.Items[2] == nil {
		t.Fatalf("got %v, want the huge one to stay", err)
	}
	if got := p.offsets(t, 0); !slices.Equal(got, []int64{fits.Message.Offset, 2}) {
		t.Fatalf("letters of %v were written", got)
	}
	r := p.log[0][1]
	if l, err := dlq.Decode(r); err != nil || l.Stack != "" || l.Error != "" || l.Reason != large.Reason || l.Group != large.Group ||
		l.Redrives != large.Redrives || !l.FirstFailedAt.Equal(large.FirstFailedAt) || !l.Message.Time.Equal(large.Message.Time) ||
		fmt.Sprint(l.Message.Headers) != fmt.Sprint(large.Message.Headers) {
		t.Errorf("of the large one this is left: %+v, %v", l, err)
	}
	if last := r.Headers[len(r.Headers)-1]; last.Key != dlq.HeaderStripped {
		t.Errorf("it does not say that it was stripped: %v", last)
	}
}

func TestTopicHasACircuitOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("away")
		p := &producer{partitions: 1, away: map[int]error{0: away}}
		topic := newTopic(t, p, dlq.TopicConfig{})
		for range 5 {
			if err := topic.Write(t.Context(), letter()); !errors.Is(err, away) {
				t.Errorf("got %v", err)
			}
		}
		calls := p.calls
		if err := topic.Write(t.Context(), letter()); !errors.Is(err, breaker.ErrCircuitOpen) || p.calls != calls {
			t.Errorf("the sixth: %v after %d calls", err, p.calls-calls)
		}
		p.set(nil)
		time.Sleep(20 * time.Second)
		if err := topic.Write(t.Context(), letter()); err != nil {
			t.Errorf("when it was back: %v", err)
		}
	})
}

func TestTopicSpoolsWhileKafkaIsAway(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		spool := openSpool(t, dir, dlq.SpoolConfig{})
		p := &producer{partitions: 3, away: map[int]error{0: errors.New("away"), 1: errors.New("away")}}
		topic := newTopic(t, p, dlq.TopicConfig{Spool: spool})
		for range 30 { // Letters of partition 2 are written, and of all others kept.
			if err := topic.Write(t.Context(), letters(50)...); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if got := spool.Stats().Messages; got == 0 || got > 30*50 {
			t.Errorf("%d letters in the spool", got)
		}
		p.set(nil)
		time.Sleep(time.Minute)
		if got := spool.Stats().Messages; got != 0 {
			t.Errorf("%d letters stay in the spool", got)
		}
		for from := range 5 {
			var got []int64
			for _, o := range p.offsets(t, from%3) {
				if o%5 == int64(from) {
					got = append(got, o)
				}
			}
			for i, o := range got {
				if o != int64(i%10*5+from) {
					t.Errorf("letters of partition %d are out of order or twice: %v", from, got)
					break
				}
			}
			if len(got) != 300 {
				t.Errorf("%d letters of partition %d, want 300", len(got), from)
			}
		}
		if err := topic.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A letter does not overtake those that wait on the disk, although Kafka would take it.
func TestTopicLettersQueueBehindTheSpool(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		spool := openSpool(t, dir, dlq.SpoolConfig{})
		p := &producer{partitions: 2, away: map[int]error{0: errors.New("away")}}
		topic := newTopic(t, p, dlq.TopicConfig{Spool: spool})
		write := func(partition int, offsets ...int64) {
			t.Helper()
			var some []dlq.Letter
			for _, o := range offsets {
				l := letter()
				l.Message.Key = fmt.Append(nil, o)
				l.Message.Partition, l.Message.Offset = partition, o
				some = append(some, l)
			}
			if err := topic.Write(t.Context(), some...); err != nil {
				t.Fatal(err)
			}
		}
		write(0, 1, 2, 3, 4, 5)
		synctest.Wait() // The first attempt to write them has failed, and the next one waits.
		p.set(nil)
		write(0, 6)
		write(1, 7)
		if got := [][]int64{p.offsets(t, 0), p.offsets(t, 1)}; len(got[0]) != 0 || !slices.Equal(got[1], []int64{7}) {
			t.Errorf("written before those that wait: %v", got)
		}
		time.Sleep(time.Minute)
		if got := p.offsets(t, 0); !slices.Equal(got, []int64{1, 2, 3, 4, 5, 6}) {
			t.Errorf("they were written as %v", got)
		}
		if err := topic.Close(); err != nil {
			t.Error(err)
		}
	})
}

// The next process writes what the last one has kept.
func TestTopicWritesWhatAnEarlierProcessKept(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		spool := openSpool(t, dir, dlq.SpoolConfig{})
		gone := newTopic(t, &producer{partitions: 3, away: map[int]error{-1: errors.New("away")}}, dlq.TopicConfig{Spool: spool})
		if err := gone.Write(t.Context(), letters(10)...); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := gone.Close(); err != nil {
				t.Error(err)
			}
		}
		p := &producer{partitions: 5} // As many as the letters came from, by now.
		topic := newTopic(t, p, dlq.TopicConfig{Spool: spool})
		synctest.Wait()
		for from := range 5 {
			if got := p.offsets(t, from); !slices.Equal(got, []int64{int64(from), int64(from + 5)}) {
				t.Errorf("partition %d has letters of %v", from, got)
			}
		}
		if err := topic.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestTopicSpoolsWhatIsRefused(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		spool := openSpool(t, dir, dlq.SpoolConfig{})
		p := &small{producer{partitions: 1}, 2000}
		var log bytes.Buffer
		topic := newTopic(t, p, dlq.TopicConfig{Spool: spool, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		huge := letter()
		huge.Message.Value = bytes.Repeat([]byte("x"), 2000)
		if err := topic.Write(t.Context(), huge); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := topic.Write(t.Context(), letter()); err != nil || len(p.log[0]) != 1 {
			t.Errorf("%d letters written behind it, %v", len(p.log[0]), err)
		}
		if stats := spool.Stats(); stats.Messages != 1 || stats.Refused != 1 {
			t.Errorf("the spool has %+v", stats)
		}
		if err := topic.Close(); err != nil {
			t.Error(err)
		}
		if !strings.Contains(log.String(), "level=WARN msg=\"dead letters on the local disk have been written, but") {
			t.Errorf("nobody is told that one stays: %s", &log)
		}
	})
}

func TestTopicSpoolsNotWhatSomebodyHasToMend(t *testing.T) {
	spool := openSpool(t, t.TempDir(), dlq.SpoolConfig{MaxBytes: 1})
	denied, away := holdfast.Hold(errors.New("access denied")), errors.New("away")
	p := &producer{partitions: 2, away: map[int]error{0: denied, 1: away}}
	topic := newTopic(t, p, dlq.TopicConfig{Spool: spool})
	err := topic.Write(t.Context(), letters(2)...)
	var partly *holdfast.BatchError
	if !errors.As(err, &partly) || !errors.Is(partly.Items[0], denied) || errors.Is(partly.Items[0], dlq.ErrSpoolFull) {
		t.Errorf("got %v", err)
	}
	// And what is not kept has not been written.
	if partly == nil || !errors.Is(partly.Items[1], away) || !errors.Is(partly.Items[1], dlq.ErrSpoolFull) {
		t.Errorf("got %v", err)
	}
	if err := topic.Close(); err != nil {
		t.Error(err)
	}
}

// What must not overtake the spool and does not fit into it stays with the caller.
func TestTopicSpoolIsFull(t *testing.T) {
	spool := openSpool(t, t.TempDir(), dlq.SpoolConfig{MaxBytes: 3000})
	p := &producer{partitions: 1, away: map[int]error{0: errors.New("away")}}
	topic := newTopic(t, p, dlq.TopicConfig{Spool: spool})
	written := 0
	for {
		err := topic.Write(t.Context(), letter())
		if err == nil {
			written++
			continue
		}
		var partly *holdfast.BatchError
		if !errors.As(err, &partly) || !errors.Is(partly.Items[0], dlq.ErrSpoolFull) {
			t.Errorf("got %v", err)
		}
		break
	}
	if got := spool.Stats().Messages; got != int64(written) || got == 0 {
		t.Errorf("%d letters acknowledged, and %d kept", written, got)
	}
	if err := topic.Close(); err != nil {
		t.Error(err)
	}
}

// A spool that somebody else has filled is not emptied into the dead-letter topic.
func TestTopicLeavesAloneWhatIsNotItsOwn(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		spool := openSpool(t, dir, dlq.SpoolConfig{})
		keep(t, spool, holdfast.Message{Topic: "orders", Partition: -1, Key: []byte("k")})
		p := &producer{partitions: 1}
		topic := newTopic(t, p, dlq.TopicConfig{Spool: spool})
		time.Sleep(time.Minute)
		if len(p.log) != 0 || spool.Stats().Messages != 1 {
			t.Errorf("%v was written", p.log)
		}
		if err := topic.Close(); err != nil {
			t.Error(err)
		}
	})
}

// described is a Kafka whose topics can be looked at.
type described struct {
	producer
	topics map[string]map[string]string
}

func (p *described) DescribeTopic(_ context.Context, topic string) (int, map[string]string, error) {
	config, ok := p.topics[topic]
	if !ok {
		return 0, nil, errors.New("unknown topic")
	}
	n, _ := strconv.Atoi(config["partitions"])
	return n, config, nil
}

func TestTopicCheck(t *testing.T) {
	source := map[string]string{"partitions": "3", "max.message.bytes": "1000000", "retention.ms": "1000", "cleanup.policy": "compact"}
	for name, c := range map[string]struct {
		own           map[string]string
		sources       []string
		fault, warned string
	}{
		"fits": {own: map[string]string{
			"partitions": "3", "max.message.bytes": "1100000", "retention.ms": "1000", "retention.bytes": "-1", "cleanup.policy": "delete",
		}},
		"more than fits": {own: map[string]string{"partitions": "9", "max.message.bytes": "2000000", "retention.ms": "-1"}},
		"does not tell":  {own: map[string]string{"partitions": "3"}},
		"missing":        {fault: "unknown topic"},
		"no partitions":  {own: map[string]string{"partitions": "0"}, fault: "no partitions"},
		"its own source": {own: source, sources: []string{"orders.dlq"}, fault: "its own sources"},
		"no source":      {own: map[string]string{"partitions": "3"}, sources: []string{"orders", "other"}, fault: "topic other: unknown topic"},
		"compacted":      {own: map[string]string{"partitions": "3", "cleanup.policy": "compact,delete"}, fault: "cleanup.policy must be delete"},
		"too small":      {own: map[string]string{"partitions": "3", "max.message.bytes": "999999"}, fault: "max.message.bytes must be at least 1011264"},
		"several faults": {
			own:   map[string]string{"partitions": "3", "max.message.bytes": "999999", "cleanup.policy": "compact"},
			fault: "at least 1011264", warned: "",
		},
		"narrow":        {own: map[string]string{"partitions": "2"}, warned: "fewer partitions"},
		"as small":      {own: map[string]string{"partitions": "3", "max.message.bytes": "1000000"}, warned: "no room for the headers"},
		"sooner":        {own: map[string]string{"partitions": "3", "retention.ms": "999"}, warned: "sooner than its source"},
		"bounded bytes": {own: map[string]string{"partitions": "3", "retention.bytes": "1000"}, warned: "by size"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &described{topics: map[string]map[string]string{"orders": source}}
			if c.own != nil {
				p.topics["orders.dlq"] = c.own
			}
			if c.sources == nil {
				c.sources = []string{"orders"}
			}
			var log bytes.Buffer
			topic := newTopic(t, p, dlq.TopicConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			err := topic.Check(t.Context(), c.sources...)
			if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("got %v, want %q", err, c.fault)
			}
			if (log.Len() == 0) != (c.warned == "") || !strings.Contains(log.String(), c.warned) {
				t.Errorf("warned %q, want %q", log.String(), c.warned)
			}
		})
	}
	if err := newTopic(t, &producer{partitions: 1}, dlq.TopicConfig{}).Check(t.Context(), "orders"); err != nil {
		t.Errorf("a producer that cannot look: %v", err)
	}
	if err := newTopic(t, &producer{}, dlq.TopicConfig{}).Check(t.Context(), "orders"); err == nil {
		t.Error("a producer that finds no partitions")
	}
}
