package dlq

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast"
)

// Filter says which letters are wanted. The zero value wants all. A letter must meet every field that is set, and of a
// list one entry.
type Filter struct {
	Groups     []string          // The consumer groups that gave up.
	Reasons    []Reason          // Why they did.
	Classes    []string          // The errors' classes: Letter.ErrorClass.
	Topics     []string          // Where the messages came from.
	Partitions []int             // Of the dead-letter topic.
	From       int64             // Offsets in the dead-letter topic: from this one on,
	To         int64             // and before this one; 0 means that there is no end.
	After      time.Time         // Dead-lettered then or later,
	Before     time.Time         // and before this; zero means that there is no bound.
	Keys       [][]byte          // The messages' keys.
	Headers    []holdfast.Header // The message has one of these, with this value.
}

// Validate names every field that cannot be.
func (f Filter) Validate() error {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("dlq: Filter."+format, args...))
		}
	}
	i := slices.Index(f.Reasons, "")
	refuse(i >= 0, "Reasons[%d] must be a reason, got \"\"", i)
	for i, p := range f.Partitions {
		refuse(p < 0, "Partitions[%d] must not be negative, got %d", i, p)
	}
	refuse(f.From < 0, "From must not be negative, got %d", f.From)
	refuse(f.To < 0 || f.To > 0 && f.To <= f.From, "To must be above From (%d), or 0 for no end, got %d", f.From, f.To)
	refuse(!f.Before.IsZero() && !f.After.Before(f.Before), "Before must be later than After (%s), or zero, got %s",
		f.After.Format(time.RFC3339), f.Before.Format(time.RFC3339))
	return errors.Join(errs...)
}

// wants tells whether l, which lies where record does, is wanted.
func (f *Filter) wants(l *Letter, record *holdfast.Message) bool {
	return among(f.Groups, l.Group) && among(f.Reasons, l.Reason) && among(f.Classes, l.ErrorClass) && among(f.Topics, l.Message.Topic) &&
		among(f.Partitions, record.Partition) && record.Offset >= f.From && (f.To == 0 || record.Offset < f.To) &&
		f.wantsTime(diedAt(l, record)) &&
		(len(f.Keys) == 0 || slices.ContainsFunc(f.Keys, func(k []byte) bool { return bytes.Equal(k, l.Message.Key) })) &&
		(len(f.Headers) == 0 || slices.ContainsFunc(l.Message.Headers, f.wantsHeader))
}

// headers names those of a letter's headers that the filter looks at, and those without which it cannot be taken home.
func (f *Filter) headers() []string {
	headers := []string{HeaderOrigTopic, HeaderOrigPartition, HeaderOrigOffset, HeaderGroup, HeaderReason, HeaderRedriveCount}
	if len(f.Classes) > 0 {
		headers = append(headers, HeaderErrorClass)
	}
	if !f.After.IsZero() || !f.Before.IsZero() {
		headers = append(headers, HeaderDeadAt)
	}
	return headers
}

func (f *Filter) wantsTime(t time.Time) bool {
	return !t.Before(f.After) && (f.Before.IsZero() || t.Before(f.Before))
}

func (f *Filter) wantsHeader(h holdfast.Header) bool {
	return slices.ContainsFunc(f.Headers, func(w holdfast.Header) bool { return w.Key == h.Key && bytes.Equal(w.Value, h.Value) })
}

// diedAt is when a letter was written: as it says, or as its record's time has it.
func diedAt(l *Letter, record *holdfast.Message) time.Time {
	if l.DeadAt.IsZero() {
		return record.Time
	}
	return l.DeadAt
}

func among[T comparable](wanted []T, got T) bool {
	return len(wanted) == 0 || slices.Contains(wanted, got)
}
