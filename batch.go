package holdfast

import (
	"fmt"
	"maps"
	"slices"
)

// Span is a run of offsets of one partition: [First, Next), whatever was skipped or dead-lettered in it included. The
// offsets are those of the claim (Message.ClaimOffset).
type Span struct {
	Topic     string
	Partition int
	First     int64
	Next      int64
}

// Item is one value on its way to a sink, with the message it came from. A message may become several values: Index says
// which of them this is, from 0.
type Item[T any] struct {
	Source *Message
	Index  int
	Value  T
}

// Batch is what a sink writes in one go. Each item's offset lies in one of the spans. A batch that is written again after
// a failure has the same spans, and the same items in the same order, unless the sink said that none of it is stored.
type Batch[T any] struct {
	Spans []Span
	Items []Item[T]
}

// BatchError says which items of a batch were refused, by their index. All others are stored. An item's error is its
// own: it does not speak of the sink.
type BatchError struct {
	Items map[int]error
}

// Error names the first refused item and how many there are.
func (e *BatchError) Error() string {
	if len(e.Items) == 0 {
		return "holdfast: batch error without items"
	}
	first := slices.Min(slices.Collect(maps.Keys(e.Items)))
	return fmt.Sprintf("holdfast: %d of the batch's items refused, first item %d: %v", len(e.Items), first, e.Items[first])
}

// Unwrap gives the items' errors in index order, for errors.Is and errors.As.
func (e *BatchError) Unwrap() []error {
	errs := make([]error, 0, len(e.Items))
	for _, i := range slices.Sorted(maps.Keys(e.Items)) {
		errs = append(errs, e.Items[i])
	}
	return errs
}
