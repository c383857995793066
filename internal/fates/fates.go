// Package fates keeps what a producer has said of each message, and compares it with what is in the topic. It is for the
// tests of producers.
package fates

import (
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/holdfast-io/holdfast"
)

// Fate is what a producer has said of a message.
type Fate int

// The fates. A message begins as Unsettled.
const (
	Unsettled Fate = iota
	Acknowledged
	NotWritten
	Unknown
)

func (f Fate) String() string {
	return [...]string{"unsettled", "acknowledged", "not written", "unknown"}[f]
}

// Book notes the fates of messages, which are numbered; a message's value is its number. It is safe for concurrent use.
type Book struct {
	mu     sync.Mutex
	all    []Fate
	often  map[int]bool // Those that may be there more than once.
	faults []string
}

// Message makes the next message.
func (b *Book) Message(topic, key string) (id int, m holdfast.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id = len(b.all)
	b.all = append(b.all, Unsettled)
	return id, holdfast.Message{Topic: topic, Key: []byte(key), Value: strconv.AppendInt(nil, int64(id), 10)}
}

// ID gives a message's number, -1 if it is none of a Book.
func ID(m *holdfast.Message) int {
	id, err := strconv.Atoi(string(m.Value))
	if err != nil {
		return -1
	}
	return id
}

// Settle notes what a producer has said of a message.
func (b *Book) Settle(id int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all[id] != Unsettled {
		b.faults = append(b.faults, fmt.Sprintf("message %d is settled twice", id))
	}
	switch {
	case err == nil:
		b.all[id] = Acknowledged
	case holdfast.IsAmbiguous(err):
		b.all[id] = Unknown
	default:
		b.all[id] = NotWritten
	}
}

// Often notes that a message takes a way on which it is written at least once, and perhaps more often.
func (b *Book) Often(id int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.often == nil {
		b.often = make(map[int]bool)
	}
	b.often[id] = true
}

// Count says how many messages have met a fate.
func (b *Book) Count(want Fate) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, got := range b.all {
		if got == want {
			n++
		}
	}
	return n
}

// Check lists what is wrong with what lies in the topic, given partition by partition in order of offset: what was
// acknowledged must be there exactly once and in the order of its key, what was not written must not, and what is unknown
// may be there once. It takes a key's messages to have been made in the order in which they were produced. Of what may be
// there often, the first ones must be in order, and the last ones.
func (b *Book) Check(messages []holdfast.Message) (faults []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	faults = append(faults, b.faults...)
	times := make(map[int]int)
	first := make(map[string]int)
	last := make(map[string][]int)
	for _, m := range messages {
		id := ID(&m)
		if id < 0 || id >= len(b.all) {
			faults = append(faults, fmt.Sprintf("%s/%d at %d: not a message of ours", m.Topic, m.Partition, m.Offset))
			continue
		}
		times[id]++
		if b.all[id] != Acknowledged {
			continue
		}
		key := string(m.Key)
		if before, ok := first[key]; times[id] == 1 && ok && before > id {
			faults = append(faults, fmt.Sprintf("key %s: message %d lies behind %d", m.Key, id, before))
		}
		first[key] = max(first[key], id)
		last[key] = append(slices.DeleteFunc(last[key], func(before int) bool { return before == id }), id)
	}
	for key, ids := range last {
		if !slices.IsSorted(ids) {
			faults = append(faults, fmt.Sprintf("key %s: the last ones are out of order", key))
		}
	}
	for id, fate := range b.all {
		n := times[id]
		if b.often[id] {
			n = min(n, 1)
		}
		if fate == Unsettled || fate == Acknowledged && n != 1 || fate == NotWritten && n != 0 || fate == Unknown && n > 1 {
			faults = append(faults, fmt.Sprintf("message %d is %s, and there %d times", id, fate, n))
		}
	}
	return faults
}
