package clickhousex

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

// errChanged says that table or server are not as described when the rows were checked.
var errChanged = holdfast.Hold(errors.New("the table's columns have changed, or the server"))

// insertion is one Write.
type insertion struct {
	*table
	items int
	views []view // Of their columns.

	// Nil when the batch's items cannot be told from others.
	key     func() string            // The batch's among the records.
	token   func(items []int) string // Of some of the items.
	origins []origin                 // Of the items, with Offsets only.
	spans   []holdfast.Span

	rows    *rows
	filling sync.Mutex  // Guards their scratch memory.
	shrunk  atomic.Bool // An insert was halved for want of memory.

	*record // Nil before the rows are known.
}

func (w *insertion) run(ctx context.Context) error {
	key := ""
	if w.key != nil && !w.records.empty() {
		key = w.key()
		if w.record = w.records.take(key); w.record != nil {
			w.splits = 0
		}
	}
	err := w.once(ctx)
	if errors.Is(err, errChanged) {
		err = w.once(ctx) // With the columns as they are now.
	}
	if err == nil {
		err = w.trust()
	}
	switch {
	case err == nil:
		w.passed.by(w.spans)
	case w.begun() && w.key != nil:
		if key == "" {
			key = w.key()
		}
		w.records.keep(key, w.record)
	}
	return w.verdict(err)
}

func (w *insertion) once(ctx context.Context) error {
	if err := w.unmarked(); err != nil {
		return err
	}
	unfit, err := w.check(ctx, layoutLife)
	if err == nil && len(unfit) > 0 && w.rows.layout.age() > trustedLife {
		w.rows.release() // The table may take by now what it did not take then.
		unfit, err = w.check(ctx, trustedLife)
	}
	if err != nil {
		return err
	}
	defer w.rows.release()
	if err := w.misfit(unfit); err != nil {
		w.suspect.Store(true)
		return err
	}
	if w.begun() {
		if len(unfit) > 0 {
			w.suspect.Store(true)
			return holdfast.Hold(fmt.Errorf("the table takes %d rows no more that may be stored already", len(unfit)))
		}
		return w.insertAll(ctx)
	}
	w.record = newRecord(unfit)
	if err := w.resume(ctx); err != nil {
		return err
	}
	return w.insertAll(ctx)
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
	err = w.failed(err)
	if !w.begun() {
		return err
	}
	switch doubt := w.anyDoubt(); {
	case doubt != nil && !errors.Is(err, doubt):
		return holdfast.Ambiguous(fmt.Errorf("%w (an earlier attempt may have been stored: %w)", err, doubt))
	case doubt != nil:
		return holdfast.Ambiguous(err)
	default:
		return holdfast.Ambiguous(fmt.Errorf("%w (a part of the batch is stored)", err))
	}
}

// failed names the table, and holds what is the configuration's fault, or may well be.
func (t *table) failed(err error) error {
	class := Classify(err)
	err = fmt.Errorf("clickhousex: insert into %s: %w", t.name, err)
	if class == ClassConfig || class == ClassUnknown {
		return holdfast.Hold(err)
	}
	return err
}

// cut halves rows that are too many for one insert, or too many bytes, until none are.
func (w *insertion) cut(parts []part, p part, bytes int) []part {
	switch {
	case p.rows() == 0:
		return parts
	case p.rows() == 1, p.rows() <= w.cfg.MaxRows && w.size(p) <= bytes:
		return append(parts, p)
	default:
		one, other := p.halves()
		return w.cut(w.cut(parts, one, bytes), other, bytes)
	}
}

func (w *insertion) size(p part) int { return w.rows.size(p.from, p.to) }

// insertAll stores all rows, in the same inserts for as long as the batch has this record.
func (w *insertion) insertAll(ctx context.Context) error {
	if w.inserts == nil {
		w.inserts = w.cut(nil, part{0, len(w.rows.items)}, w.pace.limit(w.cfg.MaxBytes))
	}
	if w.cfg.InFlight > 1 && len(w.inserts) > 1 {
		return w.insertMany(ctx)
	}
	for _, p := range w.inserts {
		if err := w.insert(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// insertMany has several inserts in flight, and begins none after one has failed. Those in flight are not cancelled, which
// would leave their outcome unknown.
func (w *insertion) insertMany(ctx context.Context) error {
	var (
		work   sync.WaitGroup
		slots  = make(chan struct{}, w.cfg.InFlight)
		errs   = make([]error, len(w.inserts))
		panics = make(chan any, len(w.inserts)) // Of the program's own code, such as Retry.OnAttempt.
		failed atomic.Bool
	)
	for i, p := range w.inserts {
		slots <- struct{}{}
		if failed.Load() {
			break
		}
		work.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					failed.Store(true)
					panics <- v
				}
				<-slots
			}()
			if errs[i] = w.insert(ctx, p); errs[i] != nil {
				failed.Store(true)
			}
		})
	}
	work.Wait()
	select {
	case v := <-panics:
		panic(v) // In the caller's goroutine, who may recover it.
	default:
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// insert stores a part. What has certainly not been stored of it is halved: when the server refuses it as bad data, until
// the bad rows stand alone, and when the server has not the memory for it, down to what takes memory however small it is.
func (w *insertion) insert(ctx context.Context, p part) error {
	switch w.state(p) {
	case partSettled:
		return nil
	case partUntried:
		missing := w.missing(p)
		if len(missing) == 0 {
			return nil // The table was found to have it.
		}
		err := w.try(ctx, p)
		_, doubted := w.doubtOf(p)
		switch {
		case err == nil:
			w.settled(p)
			return nil
		case doubted:
			return err
		case isTooLarge(err) && w.divisible(p):
			one, other := p.halves()
			w.pace.shrink(max(w.size(one), w.size(other)))
			w.shrunk.Store(true)
			w.note(p, partSplit)
		case Classify(err) != ClassData:
			return err
		case rowsOf(missing) == 1:
			return w.refuseRow(p, missing[0].from, err)
		case !w.split(p, w.cfg.MaxSplits):
			return holdfast.Hold(fmt.Errorf("the server refuses rows, and %d inserts did not find all: %w", w.splits, err))
		}
		w.counts.splits.Add(1)
	case partSplit:
	}
	one, other := p.halves()
	if err := w.insert(ctx, one); err != nil {
		return err
	}
	return w.insert(ctx, other)
}

// settled notes and counts that a part is stored.
func (w *insertion) settled(p part) {
	rows := w.settle(p)
	w.counts.rows.Add(uint64(rows))
	w.counts.inserts.Add(1)
	w.pace.stored()
}

// toleratedRows are refused by the server before anything else than the rows is suspected.
const toleratedRows = 10

// refuseRow notes a bad row, the only one of its part, until there are too many to be the rows' fault.
func (w *insertion) refuseRow(p part, row int, err error) error {
	const share = 5
	reason := "refused by the server"
	if exception, ok := errors.AsType[*clickhouse.Exception](err); ok {
		reason = fmt.Sprintf("refused by the server with code %d", exception.Code) // Its text may repeat the row.
	}
	item := w.rows.items[row]
	fault := &RowError{Row: item, Reason: reason, Err: err}
	if !w.refuse(p, item, fault, max(toleratedRows, len(w.rows.items)/share)) {
		return holdfast.Hold(fmt.Errorf("the server refuses more than a fifth of the rows: %w", err))
	}
	return nil
}

// try makes attempts until one stores the part's rows, each with the same rows and token, but for those that the table was
// found to have.
func (w *insertion) try(ctx context.Context, p part) error {
	first, tooLarge := true, 0
	err := w.retry(ctx, func(error) bool { return tooLarge < w.patience() || !w.divisible(p) }, func(ctx context.Context) error {
		if !first {
			w.counts.retries.Add(1)
		}
		first = false
		query := w.queryID()
		err := w.attempt(ctx, breaker.Success, func(ctx context.Context) error {
			if err := w.look(ctx, p); err != nil {
				return err
			}
			return w.send(ctx, p, query)
		})
		var known *failure
		if errors.As(err, &known) && known.unknown {
			if isException(err) {
				query = "" // The server has done with it.
			}
			w.mayBeStored(p, doubt{err, query})
			w.counts.ambiguous.Add(1)
		}
		if isTooLarge(err) {
			tooLarge++
		}
		return err
	})
	if isTooLarge(err) && w.cfg.Offsets != OffsetsNone {
		// When this fails as well, the part may be stored, and stays whole.
		_ = w.attempt(ctx, breaker.Ignore, func(ctx context.Context) error { return w.look(ctx, p) })
	}
	return err
}

// divisible says whether halves of a part would need so much less memory that they are worth a try.
func (w *insertion) divisible(p part) bool { return p.rows() > 1 && w.size(p) > minHalved }

// patience is how often an insert is tried that the server has not the memory for. The first time, others may have had it.
func (w *insertion) patience() int {
	if w.shrunk.Load() {
		return 1
	}
	return 2
}

// isTooLarge says that the server had not the memory for an insert.
func isTooLarge(err error) bool {
	known, ok := errors.AsType[*failure](err)
	return ok && known.tooLarge
}
