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
	return errors.Join(append(errs, c.Retry.Validate())...)
}

const (
	defaultInsertTimeout = 30 * time.Second
	defaultMaxSplits     = 256
)

// The settings of ClickHouse that decide what a repeated insert does.
const (
	settingToken       = "insert_deduplication_token"
	settingDeduplicate = "insert_deduplicate"
	settingAsyncWait   = "wait_for_async_insert"
)

func (c InserterConfig) withDefaults(conn *Conn) InserterConfig {
	c.Timeout = cmp.Or(c.Timeout, defaultInsertTimeout)
	c.MaxSplits = max(cmp.Or(c.MaxSplits, defaultMaxSplits), 0)
	c.Retry = retryOr(c.Retry, conn.retry)
	return c
}
