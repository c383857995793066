package clickhousex

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/retry"
)

// Dedup says how a repeated insert is kept from storing its rows twice, and an equal one from being taken for a repeat.
type Dedup int

const (
	// DedupToken sends a token that names the batch by its Kafka offsets. It works on tables that deduplicate:
	// Replicated ones, and MergeTree with non_replicated_deduplication_window. On others it does nothing. Where no token
	// can be had, from servers before 20.6 and for batches without spans, it is DedupOff.
	DedupToken Dedup = iota

	// DedupOff sends insert_deduplicate=0: two batches with equal rows are stored as two, and so is one whose
	// acknowledgement was lost.
	DedupOff
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

	// Epoch goes into the tokens. Change it when the topic was deleted and made again, so that its offsets mean other
	// messages. Give each pipeline its own when several with one topic write to one table.
	Epoch string

	// MaxSplits bounds the inserts that one Write makes to find the rows which the server refuses. 0 means 256, -1 means
	// that no batch is split. Beyond it, or when more than a fifth of the rows and more than ten are bad, it is the table
	// or the program that is taken to be at fault: holdfast.Hold.
	MaxSplits int

	// Settings go with every insert.
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
	if c.MaxSplits < -1 {
		errs = append(errs, fmt.Errorf("clickhousex: InserterConfig.MaxSplits must be at least 0, or -1 for none, got %d", c.MaxSplits))
	}
	for _, name := range []string{settingToken, settingDeduplicate} {
		if _, found := c.Settings[name]; found {
			errs = append(errs, fmt.Errorf("clickhousex: InserterConfig.Settings must not have %s: it is Dedup's to set", name))
		}
	}
	return errors.Join(errs...)
}

const (
	defaultInsertTimeout = 30 * time.Second
	defaultMaxSplits     = 256

	settingToken       = "insert_deduplication_token"
	settingDeduplicate = "insert_deduplicate"
	settingAsyncWait   = "wait_for_async_insert"
)

// Inserter writes batches of structs into one table. Fields fill columns by their ch tag or name; a column that no field
// names gets its default. Safe for concurrent use.
//
// Each row is checked against the table's column types before it is sent, since the driver coerces silently: 300 into a
// UInt8 becomes 44. A value that would not be stored as it is refuses its row. Floats rounded to the column's width, times
// to its precision, and strings padded to a FixedString's length are taken; the zero time.Time is out of every range.
// Decimals beyond their precision, and what lies inside of tuples, are the driver's to check.
type Inserter[T any] struct {
	*table
}

// table is what all row types have in common.
type table struct {
	conn      *Conn
	name      string
	query     string
	fields    []field
	timeout   time.Duration
	retry     retry.Policy
	dedup     Dedup
	epoch     string
	maxSplits int
	settings  clickhouse.Settings
	logger    *slog.Logger

	layout atomic.Pointer[layout]
	server atomic.Pointer[driver.ServerVersion]
	counts counts
}

// NewInserter makes an Inserter for a table, given as "table" or "database.table". T is a struct or a pointer to one. It
// does not call the server: what is wrong with the table shows in the first Write.
func NewInserter[T any](ch *Conn, name string, cfg InserterConfig) (*Inserter[T], error) {
	var errs []error
	if ch == nil {
		errs = append(errs, errors.New("clickhousex: NewInserter needs a Conn, got nil"))
	}
	quoted, err := quoteTable(name)
	errs = append(errs, err)
	fields, err := fieldsOf(reflect.TypeFor[T]())
	errs = append(errs, err, cfg.Validate())
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	policy := cfg.Retry.WithDefaults(ch.retry)
	return nil, nil
}
