package real_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-io/holdfast/dlq"
)

const (
	watchEvery = 50 * time.Millisecond
	askTimeout = 2 * time.Second // For one question of the watcher's to a server, which may be dead or stopped.

	// commitsTopic is where Kafka keeps what groups commit. OffsetFetch would tell less, and a coordinator that has just
	// taken over may answer it with what was true a moment ago.
	commitsTopic = "__consumer_offsets"
)

// place is a partition.
type place struct {
	topic     string
	partition int32
}

// watcher sees a flow from outside, with another client than the library's: every commit of the groups, what is in the
// topics, what is in the table. With each look it checks that nothing is committed which is not settled.
type watcher struct {
	t     *testing.T
	plan  plan
	kafka *kgo.Client
	db    driver.Conn

	mu      sync.Mutex
	ids     map[place][]uint64         // Of the orders in the topic, by offset.
	letters map[place][]letter         // In the dead-letter topic, by offset.
	dead    map[uint64]bool            // Orders with a letter.
	ends    map[place]int64            // Of the topics' logs, at the last look.
	stored  map[uint64]int             // Rows of each order, at the last look.
	offsets map[string]map[place]int64 // Last committed by each group.
	checked map[string]map[place]int64 // Up to where what a group has committed is known to be settled.
	looks   int
	faults  []string
}

type letter struct {
	id   uint64
	home bool // It comes back through the pipeline.
}

// watch looks until the test ends.
func watch(t *testing.T, p plan) *watcher {
	t.Helper()
	from := make(map[string]map[int32]kgo.Offset)
	for _, topic := range []string{p.Topic, p.DeadLetters} {
		from[topic] = make(map[int32]kgo.Offset)
		for i := range int32(partitions) {
			from[topic][i] = kgo.NewOffset().AtStart()
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Brokers...), kgo.ConsumePartitions(from), kgo.ConsumeTopics(commitsTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RetryTimeout(askTimeout), kgo.DisableClientMetrics(),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.MetadataMaxAge(time.Second)) // Commits have no topic before the first one.
	if err != nil {
		t.Fatal(err)
	}
	db, err := clickhouse.Open(&clickhouse.Options{Addr: []string{p.ClickHouse}, DialTimeout: askTimeout, ReadTimeout: askTimeout})
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{
		t: t, plan: p, kafka: client, db: db,
		ids: make(map[place][]uint64), letters: make(map[place][]letter), dead: make(map[uint64]bool),
		ends: make(map[place]int64), stored: make(map[uint64]int),
		offsets: make(map[string]map[place]int64), checked: make(map[string]map[place]int64),
	}
	for _, group := range []string{p.Group, p.Group + ".redrive"} {
		w.offsets[group], w.checked[group] = make(map[place]int64), make(map[place]int64)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.read(ctx) })
	running.Go(func() {
		for tick := time.Tick(watchEvery); ctx.Err() == nil; <-tick {
			_ = w.look(ctx) // A server that does not answer is asked again.
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		client.Close()
		_ = db.Close()
	})
	return w
}

// read follows the topics.
func (w *watcher) read(ctx context.Context) {
	for ctx.Err() == nil {
		fetches := w.kafka.PollFetches(ctx)
		w.mu.Lock()
		fetches.EachRecord(w.note)
		w.mu.Unlock()
	}
}

func (w *watcher) note(r *kgo.Record) {
	if r.Topic == commitsTopic {
		w.noteCommit(r)
		return
	}
	at := place{r.Topic, r.Partition}
	id, err := strconv.ParseUint(string(r.Key), 10, 64)
	if err != nil {
		w.fault("%v offset %d has the key %q", at, r.Offset, r.Key)
	}
	if r.Topic == w.plan.Topic {
		if r.Offset != int64(len(w.ids[at])) {
			w.fault("%v: offset %d follows %d", at, r.Offset, len(w.ids[at]))
		}
		w.ids[at] = append(w.ids[at], id)
		return
	}
	if r.Offset != int64(len(w.letters[at])) {
		w.fault("%v: offset %d follows %d", at, r.Offset, len(w.letters[at]))
	}
	home := false
	for _, h := range r.Headers {
		home = home || h.Key == dlq.HeaderReason && string(h.Value) == string(dlq.CircuitOpen)
	}
	w.letters[at] = append(w.letters[at], letter{id, home})
	w.dead[id] = true
}

func (w *watcher) noteCommit(r *kgo.Record) {
	var (
		key   kmsg.OffsetCommitKey
		value kmsg.OffsetCommitValue
	)
	if len(r.Key) < 2 || binary.BigEndian.Uint16(r.Key) > 1 || r.Value == nil {
		return // About a group's members, or the end of a commit's life.
	}
	if err := errors.Join(key.ReadFrom(r.Key), value.ReadFrom(r.Value)); err != nil {
		w.fault("commit at offset %d of partition %d: %v", r.Offset, r.Partition, err)
		return
	}
	offsets, ours := w.offsets[key.Group]
	if !ours {
		return
	}
	at := place{key.Topic, key.Partition}
	if last := offsets[at]; value.Offset < last {
		w.fault("group %s went back from %d to %d in %v", key.Group, last, value.Offset, at)
	}
	offsets[at] = value.Offset
}

// fault notes what must not be. Callers hold mu.
func (w *watcher) fault(format string, args ...any) {
	if len(w.faults) < 20 {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

// look takes what is committed first, and then asks what is settled: by then that can only be more. What is committed
// while ClickHouse does not answer is looked at as soon as it does.
func (w *watcher) look(ctx context.Context) error {
	committed := make(map[string]map[place]int64)
	w.mu.Lock()
	for group, offsets := range w.offsets {
		committed[group] = maps.Clone(offsets)
	}
	w.mu.Unlock()
	stored, err := w.rows(ctx)
	if err != nil {
		return err
	}
	ends, err := w.logEnds(ctx)
	if err != nil {
		return err
	}
	if err := w.caughtUp(ctx, ends); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stored, w.ends = stored, ends
	w.looks++
	for group, offsets := range committed {
		for at, offset := range offsets {
			w.check(group, at, offset)
		}
	}
	return nil
}

// check faults what the group has newly committed and is neither stored nor dead-lettered. Callers hold mu.
func (w *watcher) check(group string, at place, committed int64) {
	var lost []int64
	for offset := w.checked[group][at]; offset < committed; offset++ {
		if !w.settled(at, offset) {
			lost = append(lost, offset)
		}
	}
	w.checked[group][at] = max(w.checked[group][at], committed)
	if len(lost) > 0 {
		w.fault("group %s has committed %d in %v, and %d offsets from %d to %d are not settled",
			group, committed, at, len(lost), lost[0], lost[len(lost)-1])
	}
}

// settled tells whether a message is stored or dead-lettered, and a letter stored if it is one that comes home. Callers
// hold mu.
func (w *watcher) settled(at place, offset int64) bool {
	switch {
	case offset < int64(len(w.ids[at])):
		id := w.ids[at][offset]
		return w.stored[id] > 0 || w.dead[id]
	case offset < int64(len(w.letters[at])):
		l := w.letters[at][offset]
		return !l.home || w.stored[l.id] > 0
	default: // Beyond the log's end.
		return false
	}
}

func (w *watcher) rows(ctx context.Context) (map[uint64]int, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	rows, err := w.db.Query(ctx, "SELECT id FROM "+w.plan.Table)
	if err != nil {
		return nil, err
	}
	stored := make(map[uint64]int)
	for rows.Next() {
		var id uint64
		if err := rows.Scan(&id); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		stored[id]++
	}
	return stored, errors.Join(rows.Err(), rows.Close())
}

func (w *watcher) logEnds(ctx context.Context) (map[place]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	for _, name := range []string{w.plan.Topic, w.plan.DeadLetters} {
		topic := kmsg.NewListOffsetsRequestTopic()
		topic.Topic = name
		for p := range int32(partitions) {
			part := kmsg.NewListOffsetsRequestTopicPartition()
			part.Partition, part.Timestamp = p, -1
			topic.Partitions = append(topic.Partitions, part)
		}
		req.Topics = append(req.Topics, topic)
	}
	ends := make(map[place]int64)
	var errs []error
	for _, shard := range w.kafka.RequestSharded(ctx, req) {
		if shard.Err != nil {
			errs = append(errs, shard.Err)
			continue
		}
		for _, t := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				errs = append(errs, kerr.ErrorForCode(p.ErrorCode))
				ends[place{t.Topic, p.Partition}] = p.Offset
			}
		}
	}
	return ends, errors.Join(errs...)
}

// caughtUp waits until everything below the ends has been read.
func (w *watcher) caughtUp(ctx context.Context, ends map[place]int64) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	behind := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for at, end := range ends {
			if int64(len(w.ids[at])+len(w.letters[at])) < end {
				return true
			}
		}
		return false
	}
	for behind() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// members tells how many members the pipeline's group has, and whether it is at rest.
func (w *watcher) members(ctx context.Context) (members int, stable bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = []string{w.plan.Group}
	answer, err := req.RequestWith(ctx, w.kafka)
	if err != nil {
		return 0, false, err
	}
	group := answer.Groups[0]
	return len(group.Members), group.State == "Stable", kerr.ErrorForCode(group.ErrorCode)
}

// sight is what the watcher saw at its last look.
type sight struct {
	stored    map[uint64]int
	dead      map[uint64]bool
	ends      map[place]int64
	committed map[place]int64 // By the pipeline's group.
	letters   int
	looks     int
}

func (w *watcher) sight() sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := sight{
		stored: w.stored, dead: maps.Clone(w.dead), ends: w.ends,
		committed: maps.Clone(w.offsets[w.plan.Group]), looks: w.looks,
	}
	for _, letters := range w.letters {
		s.letters += len(letters)
	}
	return s
}

// verdict reports everything that was seen and must not be.
func (w *watcher) verdict() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, fault := range w.faults {
		w.t.Error(fault)
	}
}
