package clickhousex

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

// send makes one insert of those rows of a part that the table is not known to have, with a batch of its own. Its errors
// are failures. Query is the insert's id for the server, or empty.
func (w *insertion) send(ctx context.Context, p part, query string) error {
	l, missing := w.rows.layout, w.missing(p)
	if len(missing) == 0 {
		return nil
	}
	token := ""
	if w.cfg.Dedup == DedupToken && l.takesToken && w.token != nil {
		items := w.rows.items[missing[0].from:missing[0].to:missing[0].to]
		for _, run := range missing[1:] {
			items = append(items, w.rows.items[run.from:run.to]...)
		}
		token = w.token(items)
	}
	batch, err := w.conn.conn.PrepareBatch(w.with(ctx, l, token, query), w.query)
	if err != nil {
		if isSettingTooNew(err) { // The connection goes to an older server than the one that was described.
			w.suspect.Store(true)
			return errChanged
		}
		return beforeSend(err)
	}
	defer batch.Close() // Frees the connection when Send was not reached.
	columns := batch.Columns()
	if !l.fits(columns) {
		w.suspect.Store(true)
		return errChanged
	}
	if err := w.fill(columns, missing); err != nil {
		return beforeSend(err)
	}
	return afterSend(batch.Send(), l.facts.atomic() && !w.cfg.isOn(settingAsync))
}

// fill gives the rows to the columns of a fresh batch, which take them in one go.
func (w *insertion) fill(columns []column.Interface, runs []part) error {
	w.filling.Lock()
	defer w.filling.Unlock()
	if len(runs) == 1 {
		return w.rows.send(columns, runs[0].from, runs[0].to)
	}
	left := make(map[int]error, w.items)
	for i := range w.items {
		left[i] = errFound
	}
	for _, run := range runs {
		for _, item := range w.rows.items[run.from:run.to] {
			delete(left, item)
		}
	}
	rest, unfit, err := w.rows.layout.rows(w.items, w.views, left)
	if err != nil {
		return err
	}
	defer rest.release()
	if len(unfit) > 0 { // Its Valuer has changed its mind; without it the row would count as stored.
		return errChanged
	}
	return rest.send(columns, 0, len(rest.items))
}

// errFound is why a row is left out.
var errFound = errors.New("the table has it")

// isSettingTooNew knows the driver's refusal to send a token to a server of before stringSettingsRevision.
func isSettingTooNew(err error) bool {
	return strings.Contains(err.Error(), settingToken+" has unsupported data type")
}

// with adds the settings that an insert needs, and its id.
func (t *table) with(ctx context.Context, l *layout, token, query string) context.Context {
	settings := make(clickhouse.Settings, len(t.cfg.Settings)+4)
	if l.knowsAsync { // Whatever a profile says, and since 26.2 the server: an acknowledgement must mean stored.
		settings[settingAsync] = 0
		settings[settingAsyncWait] = 1
	}
	maps.Copy(settings, t.cfg.Settings)
	switch {
	case token != "":
		settings[settingToken] = token
	case t.cfg.Dedup == DedupToken && t.cfg.Offsets != OffsetsNone: // Without a token, but no two blocks of rows are equal.
	default: // A table that deduplicates blocks would swallow an equal one.
		settings[settingDeduplicate] = 0
		if l.knowsDedupMode {
			settings[settingDedupMode] = dedupModeOff
		}
	}
	return clickhouse.Context(ctx, clickhouse.WithSettings(settings), clickhouse.WithQueryID(query))
}

// queryID names an attempt, where the server will be asked whether it is still at work on it.
func (w *insertion) queryID() string {
	if w.cfg.Offsets == OffsetsNone {
		return "" // The server makes one.
	}
	return "holdfast-" + rand.Text()
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

// retry makes attempts by the policy for as long as they are worth it, and slows down for a server that is overloaded.
func (t *table) retry(ctx context.Context, worth func(error) bool, fn func(context.Context) error) error {
	policy := t.cfg.Retry
	retryable := policy.Retryable
	policy.Retryable = func(err error) bool {
		switch Classify(err) {
		case ClassTransient, ClassOverload, ClassAmbiguous, ClassUnknown, ClassPool:
			return worth(err) && retryable(err)
		default:
			return false
		}
	}
	return retry.Do(ctx, policy, func(ctx context.Context) error {
		err := fn(ctx)
		if Classify(err) == ClassOverload {
			return holdfast.RetryAfter(t.pace.refused(), err)
		}
		return err
	})
}
