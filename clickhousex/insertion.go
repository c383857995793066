package clickhousex

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

// errChanged says that the table's columns are no longer those that the rows were checked against.
var errChanged = holdfast.Hold(errors.New("the table's columns have changed"))

// insertion is one Write.
type insertion struct {
	*table
	items int
	item  func(int) reflect.Value
	named func(refused map[int]error) string // The batch's token, "" when it can have none.

	rows    *rows
	token   string // "" for none.
	refused map[int]error
	bad     int   // Of the refused: by the server.
	splits  int   // Inserts made of halves.
	parts   parts // What became of the ranges of rows that were tried, in an earlier Write of the batch too.
	unknown error // Of an attempt whose rows may be stored; no later one has stored them.
}

// failure is an attempt's error with what it means at this place: before any row was sent nothing is ambiguous, and no
// row is at fault.
type failure struct {
	class Class
	err   error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func (w *insertion) run(ctx context.Context) error {
	err := w.once(ctx)
	if errors.Is(err, errChanged) && len(w.parts) == 0 && w.unknown == nil {
		err = w.once(ctx) // With the columns as they are now.
	}
	return w.verdict(err)
}

func (w *insertion) once(ctx context.Context) error {
	l, err := w.describe(ctx)
	if err != nil {
		return err
	}
	w.refused = make(map[int]error)
	if w.rows, err = l.rows(w.items, w.item, w.refused); err != nil {
		w.layout.CompareAndSwap(l, nil) // Whoever mends it may alter the table.
		return err
	}
	defer w.rows.release()
	w.token = ""
	if w.cfg.Dedup == DedupToken && l.takesToken {
		w.token = w.named(w.refused)
	}
	if !w.unfinished.empty() {
		w.parts = w.unfinished.take(w.named(w.refused))
	}
	err = w.insert(ctx, 0, len(w.rows.items))
	if err != nil && len(w.parts) > 0 {
		if name := w.named(w.refused); name != "" {
			w.unfinished.keep(name, w.parts)
		}
	}
	return err
}

// verdict turns the last error into what Write promises.
func (w *insertion) verdict(err error) error {
	if err == nil {
		if len(w.refused) == 0 {
			return nil
		}
		w.counts.refused.Add(uint64(len(w.refused)))
		return &holdfast.BatchError{Items: w.refused}
	}
	config := Classify(err) == ClassConfig
	err = fmt.Errorf("clickhousex: insert into %s: %w", w.name, err)
	if config {
		err = holdfast.Hold(err)
	}
	switch {
	case w.unknown != nil && !errors.Is(err, w.unknown):
		return holdfast.Ambiguous(fmt.Errorf("%w (an earlier attempt may have been stored: %w)", err, w.unknown))
	case w.unknown != nil:
		return holdfast.Ambiguous(err)
	case w.parts.anyStored():
		return holdfast.Ambiguous(fmt.Errorf("%w (a part of the batch is stored)", err))
	default:
		return err
	}
}

// insert stores the rows [from, to). What the server refuses as bad data, and has certainly not stored, is halved until
// the bad rows stand alone.
func (w *insertion) insert(ctx context.Context, from, to int) error {
	if from == to {
		return nil
	}
	this := part{from, to}
	switch w.parts[this] {
	case partStored:
		return nil
	case partSplit:
	default:
		err := w.try(ctx, from, to)
		switch {
		case err == nil:
			w.counts.rows.Add(uint64(to - from))
			w.counts.inserts.Add(1)
			w.note(this, partStored)
			return nil
		case Classify(err) != ClassData || w.unknown != nil:
			return err
		case to-from == 1:
			return w.refuse(from, err)
		case w.splits+2 > w.cfg.MaxSplits:
			return holdfast.Hold(fmt.Errorf("the server refuses rows, and %d inserts did not find all: %w", w.splits, err))
		}
		w.splits += 2
		w.counts.splits.Add(1)
		w.note(this, partSplit)
	}
	middle := from + (to-from)/2
	if err := w.insert(ctx, from, middle); err != nil {
		return err
	}
	return w.insert(ctx, middle, to)
}

// note does so for a batch that was split only: any other is stored at once or not at all.
func (w *insertion) note(p part, state partState) {
	if w.parts == nil {
		if state == partStored {
			return
		}
		w.parts = make(parts)
	}
	w.parts[p] = state
}

// refuse notes a bad row, until there are too many to be the rows' fault.
func (w *insertion) refuse(row int, err error) error {
	const tolerated, share = 10, 5
	w.bad++
	if w.bad > max(tolerated, len(w.rows.items)/share) {
		return holdfast.Hold(fmt.Errorf("the server refuses more than a fifth of the rows: %w", err))
	}
	reason := "refused by the server"
	var exception *clickhouse.Exception
	if errors.As(err, &exception) {
		reason = fmt.Sprintf("refused by the server with code %d", exception.Code) // Its text may repeat the row.
	}
	item := w.rows.items[row]
	w.refused[item] = &RowError{Row: item, Reason: reason, Err: err}
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
		sent := false
		err := w.attempt(ctx, breaker.Success, func(ctx context.Context) (err error) {
			sent, err = w.send(ctx, from, to)
			return err
		})
		class := Classify(err)
		switch {
		case err == nil, sent && class == ClassNone: // Stored, or known to the server from an earlier attempt.
			w.unknown = nil
			return nil
		case !sent:
			return unsent(class, err)
		case class == ClassAmbiguous || class == ClassCancelled:
			w.unknown = err
			w.counts.ambiguous.Add(1)
		}
		return &failure{class, err}
	})
}

// unsent is what an error means that came before the first row was sent.
func unsent(class Class, err error) error {
	switch class {
	case ClassAmbiguous:
		class = ClassTransient
	case ClassData:
		class = ClassConfig
	}
	return &failure{class, err}
}

// send makes one insert with a batch of its own. Whether the rows were sent decides what an error may mean.
func (w *insertion) send(ctx context.Context, from, to int) (sent bool, err error) {
	token := w.token
	if from > 0 || to < len(w.rows.items) {
		token = partToken(token, w.rows.items[from], w.rows.items[to-1])
	}
	batch, err := w.conn.conn.PrepareBatch(w.with(ctx, w.rows.layout, token), w.query)
	if err != nil {
		return false, err
	}
	defer batch.Close() // Frees the connection when Send was not reached.
	if !w.rows.layout.fits(batch.Columns()) {
		return false, errChanged
	}
	if err := w.rows.fill(batch, from, to); err != nil {
		return false, err
	}
	return true, batch.Send()
}

// with adds the settings that an insert needs.
func (t *table) with(ctx context.Context, l *layout, token string) context.Context {
	settings := make(clickhouse.Settings, len(t.cfg.Settings)+2)
	if l.waitsForAsync {
		settings[settingAsyncWait] = 1 // Whatever a profile says, an acknowledgement must mean stored.
	}
	maps.Copy(settings, t.cfg.Settings)
	if token != "" {
		settings[settingToken] = token
	} else {
		settings[settingDeduplicate] = 0 // Or a table that deduplicates blocks would swallow an equal one.
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
		t.layout.Store(nil) // Look at the table again once it is mended.
	}
	return err
}

func (t *table) retry(ctx context.Context, fn func(context.Context) error) error {
	policy := t.cfg.Retry
	retryable := policy.Retryable
	policy.Retryable = func(err error) bool {
		switch Classify(err) {
		case ClassTransient, ClassOverload, ClassAmbiguous, ClassPool:
			return retryable(err)
		default:
			return false
		}
	}
	return retry.Do(ctx, policy, fn)
}
