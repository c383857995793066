package clickhousex

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

// errChanged says that table or server are not as described when the rows were checked.
var errChanged = holdfast.Hold(errors.New("the table's columns have changed, or the server"))

// insertion is one Write.
type insertion struct {
	*table
	items int
	views []view                   // Of their columns.
	key   func() string            // The batch's among the records. Nil when its items cannot be told from others.
	token func(items []int) string // Of some of the items. Nil without a key.

	record
	rows   *rows
	splits int // Inserts made of halves.
}

func (w *insertion) run(ctx context.Context) error {
	key := ""
	if w.key != nil && !w.records.empty() {
		key = w.key()
		w.record = w.records.take(key)
	}
	err := w.once(ctx)
	if errors.Is(err, errChanged) {
		err = w.once(ctx) // With the columns as they are now.
	}
	if err == nil {
		err = w.trust()
	}
	if err != nil && w.begun() && w.key != nil {
		if key == "" {
			key = w.key()
		}
		w.records.keep(key, w.record)
	}
	return w.verdict(err)
}

func (w *insertion) once(ctx context.Context) error {
	unfit, err := w.check(ctx, layoutLife)
	if err == nil && len(unfit) > 0 && w.rows.layout.age() > trustedLife {
		w.rows.release() // The table may take by now what it did not take then.
		unfit, err = w.check(ctx, trustedLife)
	}
	if err != nil {
		return err
	}
	defer w.rows.release()
	if !w.begun() {
		w.unfit = unfit
	} else if len(unfit) > 0 {
		w.suspect.Store(true)
		return holdfast.Hold(fmt.Errorf("the table takes %d rows no more that may be stored already", len(unfit)))
	}
	return w.insert(ctx, 0, len(w.rows.items))
}

// check converts the items to rows, those of the record when the batch has begun, by a layout of no more than this age.
func (w *insertion) check(ctx context.Context, age time.Duration) (unfit map[int]error, err error) {
	l, err := w.describe(ctx, age)
	if err != nil {
		return nil, err
	}
	var left map[int]error
	if w.begun() {
		left = w.unfit
	}
	w.rows, unfit, err = l.rows(w.items, w.views, left)
	if err != nil {
		w.suspect.Store(true) // Whoever mends it may alter the table.
	}
	return unfit, err
}

// trust refuses to believe that rows are at fault for as long as the server refuses every one.
func (w *insertion) trust() error {
	switch bad := int64(len(w.refused)); {
	case w.stored > 0:
		w.distrust.Store(0)
	case bad > 0 && w.distrust.Load()+bad > toleratedRows:
		return holdfast.Hold(fmt.Errorf("the server has refused the last %d rows, and stored none since", w.distrust.Load()+bad))
	default:
		w.distrust.Add(bad)
	}
	return nil
}

// verdict turns the last error into what Write promises.
func (w *insertion) verdict(err error) error {
	if err == nil {
		refused := make(map[int]error, len(w.unfit)+len(w.refused))
		maps.Copy(refused, w.unfit)
		maps.Copy(refused, w.refused)
		if len(refused) == 0 {
			return nil
		}
		w.counts.refused.Add(uint64(len(refused)))
		return &holdfast.BatchError{Items: refused}
	}
	class := Classify(err)
	err = fmt.Errorf("clickhousex: insert into %s: %w", w.name, err)
	if class == ClassConfig || class == ClassUnknown {
		err = holdfast.Hold(err)
	}
	switch {
	case w.unknown != nil && !errors.Is(err, w.unknown):
		return holdfast.Ambiguous(fmt.Errorf("%w (an earlier attempt may have been stored: %w)", err, w.unknown))
	case w.unknown != nil:
		return holdfast.Ambiguous(err)
	case w.stored > 0:
		return holdfast.Ambiguous(fmt.Errorf("%w (a part of the batch is stored)", err))
	default:
		return err
	}
}

// maxBlockRows is less than any server's default of max_insert_block_size. Above that an insert need not be one block,
// which is stored or not.
const maxBlockRows = 1_000_000

// insert stores the rows [from, to), in halves when they are too many for one insert. What the server refuses as bad data, and has certainly not stored, is halved until
// the bad rows stand alone.
func (w *insertion) insert(ctx context.Context, from, to int) error {
	this := part{from, to}
	switch state := w.parts[this]; {
	case state == partSettled || from == to:
		return nil
	case state == partUntried && (w.unknown != nil || w.isOneInsert(from, to)):
		err := w.try(ctx, from, to)
		switch {
		case err == nil:
			w.counts.rows.Add(uint64(to - from))
			w.counts.inserts.Add(1)
			w.stored += to - from
			w.note(this, partSettled)
			return nil
		case Classify(err) != ClassData || w.unknown != nil:
			return err
		case to-from == 1:
			return w.refuseRow(from, err)
		case w.splits+2 > w.cfg.MaxSplits:
			return holdfast.Hold(fmt.Errorf("the server refuses rows, and %d inserts did not find all: %w", w.splits, err))
		}
		w.splits += 2
		w.counts.splits.Add(1)
	}
	w.note(this, partSplit)
	middle := from + (to-from)/2
	if err := w.insert(ctx, from, middle); err != nil {
		return err
	}
	return w.insert(ctx, middle, to)
}

func (w *insertion) isOneInsert(from, to int) bool {
	return to-from == 1 || to-from <= maxBlockRows && w.rows.size(from, to) <= w.cfg.MaxBytes
}

// toleratedRows are refused by the server before anything else than the rows is suspected.
const toleratedRows = 10

// refuseRow notes a bad row, until there are too many to be the rows' fault.
func (w *insertion) refuseRow(row int, err error) error {
	const share = 5
	if len(w.refused)+1 > max(toleratedRows, len(w.rows.items)/share) {
		return holdfast.Hold(fmt.Errorf("the server refuses more than a fifth of the rows: %w", err))
	}
	reason := "refused by the server"
	if exception, ok := errors.AsType[*clickhouse.Exception](err); ok {
		reason = fmt.Sprintf("refused by the server with code %d", exception.Code) // Its text may repeat the row.
	}
	item := w.rows.items[row]
	w.refuse(item, &RowError{Row: item, Reason: reason, Err: err})
	w.note(part{row, row + 1}, partSettled)
	return nil
}

// try makes attempts until one stores the rows, each with the same rows and token.
func (w *insertion) try(ctx context.Context, from, to int) error {
	first := true
	return w.retry(ctx, func(ctx context.Context) error {
		if !first {
			w.counts.retries.Add(1)
		}
		first = false
		err := w.attempt(ctx, breaker.Success, func(ctx context.Context) error { return w.send(ctx, from, to) })
		var known *failure
		switch {
		case err == nil: // Stored, or known to the server from an earlier attempt.
			w.unknown = nil
		case errors.As(err, &known) && known.unknown:
			w.unknown = err
			w.counts.ambiguous.Add(1)
		}
		return err
	})
}

// send makes one insert with a batch of its own. Its errors are failures.
func (w *insertion) send(ctx context.Context, from, to int) error {
	token := ""
	if w.cfg.Dedup == DedupToken && w.rows.layout.takesToken && w.token != nil {
		token = w.token(w.rows.items[from:to])
	}
	batch, err := w.conn.conn.PrepareBatch(w.with(ctx, w.rows.layout, token), w.query)
	if err != nil {
		if isSettingTooNew(err) { // The connection goes to an older server than the one that was described.
			w.suspect.Store(true)
			return errChanged
		}
		return beforeSend(err)
	}
	defer batch.Close() // Frees the connection when Send was not reached.
	columns := batch.Columns()
	if !w.rows.layout.fits(columns) {
		w.suspect.Store(true)
		return errChanged
	}
	if err := w.rows.send(columns, from, to); err != nil {
		return beforeSend(err)
	}
	return afterSend(batch.Send())
}

// isSettingTooNew knows the driver's refusal to send a token to a server of before stringSettingsRevision.
func isSettingTooNew(err error) bool {
	return strings.Contains(err.Error(), settingToken+" has unsupported data type")
}

// with adds the settings that an insert needs.
func (t *table) with(ctx context.Context, l *layout, token string) context.Context {
	settings := make(clickhouse.Settings, len(t.cfg.Settings)+4)
	if l.knowsAsync { // Whatever a profile says, and since 26.2 the server: an acknowledgement must mean stored.
		settings[settingAsync] = 0
		settings[settingAsyncWait] = 1
	}
	maps.Copy(settings, t.cfg.Settings)
	if token != "" {
		settings[settingToken] = token
	} else { // Or a table that deduplicates blocks would swallow an equal one.
		settings[settingDeduplicate] = 0
		if l.knowsDedupMode {
			settings[settingDedupMode] = "disable"
		}
	}
	return clickhouse.Context(ctx, clickhouse.WithSettings(settings))
}

// attempt makes one protected call, bounded in time, and tells the breaker how it ended; success is what nil means to it.
func (t *table) attempt(ctx context.Context, success breaker.Outcome, fn func(context.Context) error) error {
	permit, err := t.conn.allow(ctx)
	if err != nil {
		return err
	}
	defer permit.DoneAs(breaker.Failure, nil) // Only a panic comes here without a report.
	deadline := time.Now().Add(t.cfg.Timeout)
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(deadline) {
		deadline = earlier
	}
	inner, release := detach(ctx, deadline)
	err = fn(inner)
	release(err)
	if err == nil {
		permit.DoneAs(success, nil)
		return nil
	}
	err = callerError(ctx, err)
	report(ctx, permit, err)
	if Classify(err) == ClassConfig {
		t.suspect.Store(true) // Look at the table again once it is mended.
	}
	return err
}

func (t *table) retry(ctx context.Context, fn func(context.Context) error) error {
	policy := t.cfg.Retry
	retryable := policy.Retryable
	policy.Retryable = func(err error) bool {
		switch Classify(err) {
		case ClassTransient, ClassOverload, ClassAmbiguous, ClassUnknown, ClassPool:
			return retryable(err)
		default:
			return false
		}
	}
	return retry.Do(ctx, policy, fn)
}
