package clickhousex

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast/retry"
)

// Dedup says how a repeated insert is kept from storing its rows twice, and an equal one from being taken for a repeat.
type Dedup int

const (
	// DedupToken sends a token that names the rows by their places in Kafka. It works on tables that deduplicate:
	// Replicated ones, and MergeTree with non_replicated_deduplication_window. On others it does nothing. Where no token
	// can be had, from servers before 22.2 and for items without places (see Inserter.Write), it is DedupOff.
	DedupToken Dedup = iota

	// DedupOff sends insert_deduplicate=0, and deduplicate_insert=disable from 26.2 on: two batches with equal rows are
	// stored as two, and so is one whose acknowledgement was lost.
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
	// that no batch is split. Beyond it, when more than a fifth of the rows and more than ten are bad, or when the server
	// has refused more than ten in a row, over several batches, without storing any, it is the table or the program that
	// is taken to be at fault: holdfast.Hold.
	MaxSplits int

	// MaxBytes bounds the rows of one insert, as they go over the wire without compression; while it is sent the driver has
	// two more copies of them. A batch of more is stored in several inserts. 0 means 128 MiB.
	MaxBytes int

	// Settings go with every insert. An insert is not asynchronous, whatever a profile says, unless async_insert is 1 here;
	// servers before 26.2 then need async_insert_deduplicate=1 as well, or they heed no token.
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
	return errors.Join(append(errs, c.Retry.Validate())...)
}

const (
	defaultInsertTimeout = 30 * time.Second
	defaultMaxSplits     = 256
	defaultMaxBytes      = 128 << 20
)

// The settings of ClickHouse that decide what a repeated insert does, and what an acknowledgement means.
const (
	settingToken       = "insert_deduplication_token"
	settingDeduplicate = "insert_deduplicate"
	settingDedupMode   = "deduplicate_insert" // Overrides insert_deduplicate: ClickHouse#94413.
	settingAsync       = "async_insert"
	settingAsyncWait   = "wait_for_async_insert"
)

func (c InserterConfig) withDefaults(conn *Conn) InserterConfig {
	c.Timeout = cmp.Or(c.Timeout, defaultInsertTimeout)
	c.MaxSplits = max(cmp.Or(c.MaxSplits, defaultMaxSplits), 0)
	c.MaxBytes = cmp.Or(c.MaxBytes, defaultMaxBytes)
	c.Retry = retryOr(c.Retry, conn.retry)
	return c
}
