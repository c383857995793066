package clickhousex

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast/retry"
)

// Dedup says how a repeated insert is kept from storing its rows twice, and an equal one from being taken for a repeat.
type Dedup int

const (
	// DedupToken sends a token that names the rows by their places in Kafka. It works on tables that deduplicate:
	// Replicated ones, and MergeTree with non_replicated_deduplication_window. On others it does nothing. Items without
	// places (see Inserter.Write) are written as with DedupOff. Servers before 22.2 take no tokens: a table there that
	// deduplicates blocks of equal rows needs Offsets, which make them differ, and without them every Write is held.
	DedupToken Dedup = iota

	// DedupOff sends insert_deduplicate=0, and deduplicate_insert=disable from 26.2 on: two batches with equal rows are
	// stored as two, and so is one whose acknowledgement was lost.
	DedupOff
)

// Offsets says which columns of the table say where in Kafka a row comes from. The Inserter fills them, and asks the
// table for them before it repeats an insert whose outcome is not known: what is stored is not sent again. It asks as well
// before the first insert of a partition, up to the last offset that the table has of it, so that a program that was
// killed begins where it had come to, and not where it had committed.
//
// That last question is asked once for each partition that comes to this Inserter, and not again while its batches follow
// one another. For the server it is SELECT count(), max(_offset) with a topic, a partition and a least offset: it reads the
// three columns of the whole table, unless these stand first in the sorting key, or have a data skipping index of minmax
// (for _offset, which grows with the parts). A large table wants one of these: the first Write of each partition waits for
// the answer, for Timeout at most, and is tried again after that.
//
// What the columns say is the message's first life's: for one that has come back from a dead-letter queue its topic,
// partition and offset before. Reading them needs the right to SELECT. All servers that the inserts may go to must have
// the same rows; what a replica does not have yet counts as not stored, and is left to its deduplication.
type Offsets int

const (
	// OffsetsNone fills none.
	OffsetsNone Offsets = iota

	// OffsetsOfMessages fills _topic (String), _partition and _offset (integers), for messages that become one row each.
	OffsetsOfMessages

	// OffsetsOfValues fills _index (an integer) as well, for messages that may become several rows of the table.
	OffsetsOfValues
)

// InserterConfig is how an Inserter writes. The zero value is a good default.
type InserterConfig struct {
	// Timeout bounds one attempt, from getting a connection to the acknowledgement. 0 means 30 s.
	Timeout time.Duration

	// Retry is the policy within one Write. Zero fields take those of the Conn's policy. What its Retryable refuses
	// is not retried; what the Inserter knows not to be worth it is not either.
	Retry retry.Policy

	// Dedup is how repeated inserts are told apart from equal ones. The default is DedupToken.
	Dedup Dedup

	// Offsets are the columns that say where a row comes from. The default is none.
	Offsets Offsets

	// Epoch goes into the tokens. Change it when the topic was deleted and made again, so that its offsets mean other
	// messages. Give each pipeline its own when several with one topic write to one table.
	Epoch string

	// MaxRows bounds the rows of one insert: a batch of more is written in several. 0 means 1,000,000, which is the most,
	// since a server makes several blocks of more, of which it may store some only.
	MaxRows int

	// InFlight is how many inserts of one Write are on their way at a time, when MaxRows makes it several. Each needs a
	// connection of the pool. They are stored in any order. 0 means 1.
	InFlight int

	// MaxSplits bounds the inserts that one Write makes to find the rows which the server refuses, of too many partitions
	// (max_partitions_per_insert_block) among them: what an expression of the server's makes of a row is not known here, so
	// these are halved in their order, until each insert has few enough. Where rows of more than 100 partitions are the rule,
	// raise the server's limit in Settings. 0 means 256, -1 means
	// that no batch is split. Beyond it, when more than a fifth of the rows and more than ten are bad, or when the server
	// has refused more than ten in a row, over several batches, without storing any, it is the table or the program that
	// is taken to be at fault: holdfast.Hold.
	MaxSplits int

	// MaxBytes bounds the rows of one insert, as they go over the wire without compression; while it is sent the driver has
	// two more copies of them. A batch of more is stored in several inserts. 0 means 128 MiB.
	MaxBytes int

	// Settings go with every insert. An insert is not asynchronous, whatever a profile says, unless async_insert is 1 here.
	// Then it still waits until its rows are stored, but less keeps a repeated one from being stored twice: the package's
	// documentation says what does.
	Settings clickhouse.Settings
}

// Validate reports every fault at once. Zero values are no faults.
func (c InserterConfig) Validate() error {
	var errs []error
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("clickhousex: InserterConfig.Timeout must be at least 0, got %v", c.Timeout))
	}
	if c.Dedup != DedupToken && c.Dedup != DedupOff {
		errs = append(errs, fmt.Errorf("clickhousex: InserterConfig.Dedup must be DedupToken or DedupOff, got %d", c.Dedup))
	}
	if c.Offsets < OffsetsNone || c.Offsets > OffsetsOfValues {
		errs = append(errs, fmt.Errorf("clickhousex: InserterConfig.Offsets must be OffsetsNone, OffsetsOfMessages or OffsetsOfValues, got %d", c.Offsets))
	}
	if c.MaxRows < 0 || c.MaxRows > maxBlockRows {
		errs = append(errs, fmt.Errorf("clickhousex: InserterConfig.MaxRows must be at least 1 and at most %d, or 0 for that, got %d", maxBlockRows, c.MaxRows))
	}
	if c.InFlight < 0 {
		errs = append(errs, fmt.Errorf("clickhousex: InserterConfig.InFlight must be at least 1, or 0 for 1, got %d", c.InFlight))
	}
	if c.MaxSplits < -1 {
		errs = append(errs, fmt.Errorf("clickhousex: InserterConfig.MaxSplits must be at least 0, or -1 for none, got %d", c.MaxSplits))
	}
	if c.MaxBytes < 0 {
		errs = append(errs, fmt.Errorf("clickhousex: InserterConfig.MaxBytes must be at least 0, got %d", c.MaxBytes))
	}
	for _, name := range []string{settingToken, settingDeduplicate, settingDedupMode} {
		if _, found := c.Settings[name]; found {
			errs = append(errs, fmt.Errorf("clickhousex: InserterConfig.Settings must not have %s: it is Dedup's to set", name))
		}
	}
	if wait, found := c.Settings[settingAsyncWait]; found {
		errs = append(errs, fmt.Errorf("clickhousex: InserterConfig.Settings must not have %s: it is always 1, got %v", settingAsyncWait, wait))
	}
	return errors.Join(append(errs, retryFault("InserterConfig", c.Retry))...)
}

const (
	defaultInsertTimeout = 30 * time.Second
	defaultMaxSplits     = 256
	defaultMaxBytes      = 128 << 20

	// maxBlockRows is less than any server's default of max_insert_block_size. Above that an insert need not be one block,
	// which is stored or not.
	maxBlockRows = 1_000_000
)

// The settings of ClickHouse that decide what a repeated insert does, and what an acknowledgement means.
const (
	settingToken       = "insert_deduplication_token"
	settingDeduplicate = "insert_deduplicate"
	settingDedupMode   = "deduplicate_insert" // Overrides insert_deduplicate: ClickHouse#94413.
	dedupModeOff       = "disable"
	settingAsync       = "async_insert"
	settingAsyncWait   = "wait_for_async_insert"
	settingAsyncDedup  = "async_insert_deduplicate"
)

// isOn says whether the program turns a setting on.
func (c InserterConfig) isOn(setting string) bool {
	value, found := c.Settings[setting]
	return found && !slices.Contains([]string{"0", "false"}, fmt.Sprint(value))
}

func (c InserterConfig) withDefaults(conn *Conn) InserterConfig {
	c.Timeout = cmp.Or(c.Timeout, defaultInsertTimeout)
	c.MaxRows = cmp.Or(c.MaxRows, maxBlockRows)
	c.InFlight = cmp.Or(c.InFlight, 1)
	c.MaxSplits = max(cmp.Or(c.MaxSplits, defaultMaxSplits), 0)
	c.MaxBytes = cmp.Or(c.MaxBytes, defaultMaxBytes)
	c.Retry = retryOr(c.Retry, conn.retry)
	return c
}
