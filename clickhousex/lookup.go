package clickhousex

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

// errAtWork says that the fate of an attempt is not decided yet. The server has answered, and so has not failed again.
var errAtWork = errors.New("an earlier attempt of the insert is still at work")

// look asks the table, by the columns of Offsets, what has become of a part that may be stored, and notes what that says.
// It does nothing without such columns. Its errors are failures.
func (w *insertion) look(ctx context.Context, p part) error {
	d, doubted := w.doubtOf(p)
	if w.cfg.Offsets == OffsetsNone || !doubted {
		return nil
	}
	running, err := w.isAtWork(ctx, d.query)
	if err != nil {
		return beforeSend(err)
	}
	if running {
		return &failure{class: ClassTransient, text: errAtWork.Error(), err: errAtWork}
	}
	found, err := w.search(ctx, p)
	if err != nil {
		return beforeSend(err)
	}
	switch guarantee := w.guarantee(w.rows.layout); {
	case len(found) == rowsOf(w.missing(p)):
	case guarantee == GuaranteeReplicated, guarantee == GuaranteeWindow && len(found) > 0:
		return nil // Another replica may have it; and the table completes it when the whole is repeated.
	}
	w.find(p, found)
	w.counts.rows.Add(uint64(len(found)))
	return nil
}

// isAtWork says whether the server still carries out the query. One that may not be asked counts as done.
func (t *table) isAtWork(ctx context.Context, query string) (bool, error) {
	var n uint64
	err := t.each(ctx, "SELECT count() FROM system.processes WHERE query_id = ?", func(rows driver.Rows) error { return rows.Scan(&n) }, query)
	if mayNotAsk(err) {
		return false, nil
	}
	return n > 0, err
}

// search gives the rows of the part that the table has, and that are not noted as found.
func (w *insertion) search(ctx context.Context, p part) (found []int, err error) {
	wanted := make(map[partition]map[place][]int)
	for _, run := range w.missing(p) {
		for row := run.from; row < run.to; row++ {
			o := w.origins[w.rows.items[row]]
			at := partition{o.Topic, o.Partition}
			if wanted[at] == nil {
				wanted[at] = make(map[place][]int)
			}
			here := place{o.Offset, o.Index}
			wanted[at][here] = append(wanted[at][here], row)
		}
	}
	columns := []string{"_offset"}
	if w.cfg.Offsets == OffsetsOfValues {
		columns = append(columns, "_index")
	}
	query := "SELECT " + strings.Join(columns, ", ") + " FROM " + w.quoted + " WHERE _topic = ? AND _partition = ? AND ("
	for at, rowsAt := range wanted {
		offsets := make([]int64, 0, len(rowsAt))
		for here := range rowsAt {
			offsets = append(offsets, here.offset)
		}
		for some := range slices.Chunk(stretches(offsets), maxStretches) {
			err := w.each(ctx, query+strings.Join(some, " OR ")+")", func(rows driver.Rows) error {
				numbers, err := scanNumbers(rows)
				if err != nil {
					return err
				}
				here := place{offset: numbers[0]}
				if len(numbers) > 1 {
					here.index = int(numbers[1])
				}
				found = append(found, rowsAt[here]...)
				delete(rowsAt, here)
				return nil
			}, at.topic, at.id)
			if err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// maxStretches bounds the conditions of one query, and maxGap how far apart two offsets of one condition may lie: letters
// come from anywhere in a topic, and all that lies between two of them is not to be read.
const (
	maxStretches = 500
	maxGap       = 100
)

// stretches are the conditions that select these offsets, and few others. It sorts them.
func stretches(offsets []int64) (conditions []string) {
	slices.Sort(offsets)
	for from, i := 0, 1; i <= len(offsets); i++ {
		if i == len(offsets) || offsets[i]-offsets[i-1] > maxGap {
			conditions = append(conditions, fmt.Sprintf("_offset BETWEEN %d AND %d", offsets[from], offsets[i-1]))
			from = i
		}
	}
	return conditions
}

// scanNumbers reads a row of integers, of whatever width.
func scanNumbers(rows driver.Rows) ([]int64, error) {
	types := rows.ColumnTypes()
	values := make([]any, len(types))
	for i, t := range types {
		values[i] = reflect.New(t.ScanType()).Interface()
	}
	if err := rows.Scan(values...); err != nil {
		return nil, err
	}
	numbers := make([]int64, len(values))
	for i, value := range values {
		switch v := reflect.ValueOf(value).Elem(); {
		case v.CanInt():
			numbers[i] = v.Int()
		case v.CanUint():
			numbers[i] = int64(v.Uint())
		default:
			return nil, holdfast.Hold(errors.New("the columns of Offsets must be integers that are not nullable"))
		}
	}
	return numbers, nil
}

// passed says how far the table has come in each partition, where that was asked. Safe for concurrent use.
type passed struct {
	mu    sync.Mutex
	reach map[partition]reach
}

type reach struct {
	next int64 // Where this Inserter's next span begins, if the partition stays where it is.
	last int64 // The last offset that the table had when the partition came here.
}

func (p *passed) of(at partition) (reach, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, known := p.reach[at]
	return r, known
}

func (p *passed) note(at partition, r reach) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reach == nil {
		p.reach = make(map[partition]reach)
	}
	p.reach[at] = r
}

// by notes that spans were written.
func (p *passed) by(spans []holdfast.Span) {
	for _, s := range spans {
		at := partition{s.Topic, s.Partition}
		if r, known := p.of(at); known {
			p.note(at, reach{s.Next, r.last})
		}
	}
}

// resume asks the table for what it has of a batch that an earlier process, or another member, may have written: as far as
// it had come when the partition came here, and for every message that has come back from a dead-letter queue.
func (w *insertion) resume(ctx context.Context) error {
	if w.cfg.Offsets == OffsetsNone || len(w.rows.items) == 0 {
		return nil
	}
	suspect := false
	for _, s := range w.spans {
		at := partition{s.Topic, s.Partition}
		r, known := w.passed.of(at)
		if !known || r.next != s.First {
			last, err := w.lastStored(ctx, at, s.First)
			if err != nil {
				return err
			}
			r = reach{s.First, last}
			w.passed.note(at, r)
		}
		suspect = suspect || r.last >= s.First
	}
	home := w.comesHome()
	if !suspect && !home {
		return nil
	}
	if home {
		w.skip(w.repeated())
	}
	whole := part{0, len(w.rows.items)}
	return w.ask(ctx, func(ctx context.Context) error {
		found, err := w.search(ctx, whole)
		if err == nil {
			w.find(whole, found)
		}
		return err
	})
}

// comesHome says whether a row's message has been in a dead-letter queue.
func (w *insertion) comesHome() bool {
	claimed := make(map[partition]bool)
	for _, s := range w.spans {
		claimed[partition{s.Topic, s.Partition}] = true
	}
	var last partition
	for k, item := range w.rows.items {
		o := w.origins[item]
		if at := (partition{o.Topic, o.Partition}); k == 0 || at != last {
			if !claimed[at] {
				return true
			}
			last = at
		}
	}
	return false
}

// repeated gives the rows that are among the batch before: a letter may lie in its queue twice.
func (w *insertion) repeated() (rows []int) {
	seen := make(map[origin]bool, len(w.rows.items))
	for row, item := range w.rows.items {
		if o := w.origins[item]; seen[o] {
			rows = append(rows, row)
		} else {
			seen[o] = true
		}
	}
	return rows
}

// lastStored asks for the last offset of a partition that the table has, from first on; one less when it has none.
func (w *insertion) lastStored(ctx context.Context, at partition, first int64) (last int64, err error) {
	last = first - 1
	const query = " WHERE _topic = ? AND _partition = ? AND _offset >= ?"
	err = w.ask(ctx, func(ctx context.Context) error {
		return w.each(ctx, "SELECT count(), max(_offset) FROM "+w.quoted+query, func(rows driver.Rows) error {
			numbers, err := scanNumbers(rows)
			if err == nil && numbers[0] > 0 {
				last = numbers[1]
			}
			return err
		}, at.topic, at.id, first)
	})
	return last, err
}

// ask makes one protected read, by the policy.
func (t *table) ask(ctx context.Context, fn func(context.Context) error) error {
	return t.retry(ctx, anyway, func(ctx context.Context) error {
		return t.attempt(ctx, breaker.Ignore, func(ctx context.Context) error {
			if err := fn(ctx); err != nil {
				return beforeSend(err)
			}
			return nil
		})
	})
}
