package clickhousex

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"unsafe"

	"github.com/holdfast-io/holdfast"
)

// origin is where a row comes from, as the columns of Offsets say it: the message in its first life, and which of its
// values the row is.
type origin struct {
	Topic     string `ch:"_topic"`
	Partition int    `ch:"_partition"`
	Offset    int64  `ch:"_offset"`
	Index     int    `ch:"_index"`
}

func originOf[T any](item *holdfast.Item[T]) origin {
	m := item.Source
	return origin{Topic: m.Topic, Partition: m.Partition, Offset: m.Offset, Index: item.Index}
}

// marksOf gives the fields of origin that have columns, none of which may be one of the row's own.
func marksOf(offsets Offsets, own []field) ([]field, error) {
	if offsets == OffsetsNone {
		return nil, nil
	}
	marks, err := fieldsOf(reflect.TypeFor[origin]())
	if err != nil {
		return nil, err
	}
	marks = marks[:offsets.columns()]
	for _, mark := range marks {
		if slices.ContainsFunc(own, func(f field) bool { return f.column == mark.column }) {
			err = errors.Join(err, fmt.Errorf("clickhousex: the row type must have no field for column %q, which InserterConfig.Offsets fills", mark.column))
		}
	}
	return marks, err
}

// columns is how many columns these are.
func (o Offsets) columns() int {
	switch o {
	case OffsetsOfMessages:
		return 3
	case OffsetsOfValues:
		return 4
	default:
		return 0
	}
}

// mark has the columns of Offsets filled.
func (w *insertion) mark(of func(item int) origin) {
	n := w.cfg.Offsets.columns()
	if n == 0 {
		return
	}
	w.origins = make([]origin, w.items)
	for i := range w.origins {
		w.origins[i] = of(i)
	}
	rows := viewOf(&w.origins[0], unsafe.Sizeof(w.origins[0]))
	for _, f := range w.fields[len(w.fields)-n:] {
		w.views = append(w.views, rows.field(f))
	}
}

// unmarked says why the columns of Offsets cannot be filled for this batch.
func (w *insertion) unmarked() error {
	switch {
	case w.cfg.Offsets == OffsetsNone:
		return nil
	case w.origins == nil:
		return holdfast.Hold(errors.New("InserterConfig.Offsets needs items with a Source, whose claim offset lies in one of the batch's Spans"))
	case w.cfg.Offsets == OffsetsOfMessages && slices.ContainsFunc(w.origins, func(o origin) bool { return o.Index > 0 }):
		return holdfast.Hold(errors.New("a message has become several rows, which OffsetsOfMessages cannot tell apart: use OffsetsOfValues, with a column _index"))
	default:
		return nil
	}
}

// misfit gives the refusal of a row for the sake of its origin, which is the table's fault.
func (w *insertion) misfit(unfit map[int]error) error {
	own := w.fields[:len(w.fields)-w.cfg.Offsets.columns()]
	for _, fault := range unfit {
		row, ok := errors.AsType[*RowError](fault)
		if ok && row.Column != "" && !slices.ContainsFunc(own, func(f field) bool { return f.column == row.Column }) {
			return holdfast.Hold(errors.New(fault.Error())) // Not the row's own fault any more.
		}
	}
	return nil
}
