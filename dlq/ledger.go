package dlq

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"

	"github.com/holdfast-io/holdfast"
)

// headerMark tells a record of a ledger that is a mark from those that are entries.
const headerMark = "dlq-mark"

// Log is what is read outside of any group; *kafkax.Admin is one.
type Log interface {
	// Bounds tells each partition's first offset and the one that is written next.
	Bounds(ctx context.Context, topic string) (first, next map[int]int64, err error)

	// Committed tells each partition's offset that a group has committed. Partitions without one are left out.
	Committed(ctx context.Context, group, topic string) (map[int]int64, error)

	// Scan hands out the messages of each partition from its offset in from on, or from its first one, and up to the
	// end as it stood. handle is called in the caller's goroutine; with holdfast.ErrSkip it leaves the rest of a partition
	// out.
	Scan(ctx context.Context, topic string, from map[int]int64, handle func([]holdfast.Message) error) error
}

// LedgerConfig is where a ledger is kept.
type LedgerConfig struct {
	// Topic is required, and must exist with cleanup.policy=compact. Its number of partitions must not change. One topic
	// may serve many dead-letter topics.
	Topic string
}

// Validate names every field that cannot be.
func (c LedgerConfig) Validate() error {
	if c.Topic == "" {
		return errors.New("dlq: LedgerConfig.Topic must name a topic, got \"\"")
	}
	return nil
}

// Ledger remembers in a compacted topic which letters were taken home: their id, and for the how-manieth time. So a
// letter is not taken home twice, whoever tries and however often its topic is read from the start; but it may come
// again when its message has failed again. It is safe for concurrent use.
//
// A letter's id is made of where its message came from. When a topic is deleted and made anew its offsets begin anew, so
// delete its ledger, too: it would take new letters for old ones.
//
// In memory a ledger takes about 50 bytes for each letter that its topic knows of.
type Ledger struct {
	producer Producer
	log      Log
	topic    string

	mu    sync.Mutex
	known map[digest]int // How often the letter was taken home.
	marks map[place]ends
	read  map[int]int64 // What follows the last record read, by partition of the ledger.
}

// digest stands for a letter's id.
type digest [16]byte

func digestOf(id string) digest {
	sum := sha256.Sum256([]byte(id))
	return digest(sum[:len(digest{})])
}

// place is a partition of a dead-letter topic.
type place struct {
	topic     string
	partition int
}

// ends are the offsets that were written next in the partitions of some topics.
type ends map[string]map[int]int64

// entry says that a letter was taken home, or parked, for the how-manieth time.
type entry struct {
	id       string
	redrives int
}

// line is a record's value in the ledger.
type line struct {
	Version  int  `json:"v"`
	Redrives int  `json:"redrives,omitempty"`
	Ends     ends `json:"ends,omitempty"`
}

const ledgerVersion = 1

// NewLedger returns a Ledger that writes through p and reads through log. It does no I/O.
func NewLedger(p Producer, log Log, cfg LedgerConfig) (*Ledger, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if p == nil || log == nil {
		return nil, errors.New("dlq: NewLedger needs a Producer and a Log, got nil")
	}
	return &Ledger{
		producer: p, log: log, topic: cfg.Topic,
		known: make(map[digest]int), marks: make(map[place]ends), read: make(map[int]int64),
	}, nil
}

// knows tells whether a letter was taken home for the n-th time already.
func (l *Ledger) knows(id string, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[digestOf(id)] >= n
}

// load reads what was written since the last time.
func (l *Ledger) load(ctx context.Context) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	from := maps.Clone(l.read)
	l.mu.Unlock()
	err := l.log.Scan(ctx, l.topic, from, l.learn)
	if err != nil {
		return fmt.Errorf("dlq: reading the ledger %s: %w", l.topic, err)
	}
	return nil
}

func (l *Ledger) learn(records []holdfast.Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range records {
		l.read[r.Partition] = max(l.read[r.Partition], r.Offset+1)
		var said line
		if r.Value != nil && (json.Unmarshal(r.Value, &said) != nil || said.Version != ledgerVersion) {
			return fmt.Errorf("record %d of partition %d is not of a ledger, or of a newer version", r.Offset, r.Partition)
		}
		if at, ok := markedPlace(r); ok {
			l.marks[at] = said.Ends
		} else {
			l.note(entry{string(r.Key), said.Redrives})
		}
	}
	return nil
}

func (l *Ledger) note(e entry) {
	key := digestOf(e.id)
	l.known[key] = max(l.known[key], e.redrives)
}

// record writes down what happened to letters of one partition.
func (l *Ledger) record(ctx context.Context, at place, entries []entry) error {
	records := make([]holdfast.Message, len(entries))
	for i, e := range entries {
		records[i] = holdfast.Message{Key: []byte(e.id), Value: line{Version: ledgerVersion, Redrives: e.redrives}.encode()}
	}
	if err := l.write(ctx, at, records...); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		l.note(e)
	}
	return nil
}

// mark writes down where the target topics ended before letters of a partition were sent there: what has come home
// since, and is not recorded, lies behind these ends. Nil ends say that all is recorded.
func (l *Ledger) mark(ctx context.Context, at place, e ends) error {
	record := holdfast.Message{
		Key:     []byte(at.topic + "/" + strconv.Itoa(at.partition)),
		Headers: []holdfast.Header{{Key: headerMark, Value: []byte(at.topic)}},
	}
	if e != nil {
		record.Value = line{Version: ledgerVersion, Ends: e}.encode()
	}
	if err := l.write(ctx, at, record); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marks[at] = e
	return nil
}

// marked is what was marked last for a partition, nil if all is recorded.
func (l *Ledger) marked(at place) ends {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.marks[at]
}

func (l *Ledger) write(ctx context.Context, at place, records ...holdfast.Message) error {
	partitions, err := l.producer.Partitions(ctx, l.topic)
	if err == nil && partitions < 1 {
		err = errors.New("the topic has no partitions")
	}
	if err == nil {
		err = l.producer.ProduceTo(ctx, l.topic, at.partition%partitions, records...)
	}
	if err != nil {
		return fmt.Errorf("dlq: writing the ledger %s: %w", l.topic, err)
	}
	return nil
}

// markedPlace reads which partition a record marks, if it is a mark.
func markedPlace(r holdfast.Message) (place, bool) {
	for _, h := range r.Headers {
		if h.Key == headerMark {
			partition, err := strconv.Atoi(string(r.Key[min(len(h.Value)+1, len(r.Key)):]))
			return place{string(h.Value), partition}, err == nil
		}
	}
	return place{}, false
}

func (v line) encode() []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // Numbers and maps of numbers can be encoded.
	}
	return text
}
