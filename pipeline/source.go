package pipeline

import (
	"context"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

// Source hands out claims; *kafkax.Consumer and *dlq.Source are Sources.
type Source interface {
	// Consume runs handle for each claim, each in a goroutine of its own, until ctx ends. Then it begins the drain of
	// every claim, waits for the handlers and returns nil. It returns the first error that a handler returned, but for
	// one whose claim alone was being drained, or its own when it cannot go on. The context that handle gets is the claim's: it does not end with ctx, but with a
	// cause when the drain budget is spent or the claim is lost.
	Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error
}

// DeadLetters is where messages go that could not be processed; *dlq.Topic is one.
//
// One with a method Check(ctx context.Context, sources ...string) error, as *dlq.Topic has, is asked when Run begins whether
// letters of those topics can be written, until it says so by nil. Meanwhile Health and the log tell of it, and what needs no
// letter is processed: a dead-letter queue that is away or missing stops nothing before there is a letter to write.
type DeadLetters interface {
	// Write returns nil when all letters are durable. A *holdfast.BatchError names those that are not; after any
	// other error, and one that is joined with another, none is taken to be. Letters may be written more than once.
	Write(ctx context.Context, letters ...dlq.Letter) error
}

// Sink takes what the stages made.
//
// Write returns nil when every item is stored. A *holdfast.BatchError names the items that were refused; all others are
// stored: where order matters, it names all from the first one that has to wait on. An error for which
// holdfast.IsAmbiguous holds says that items may be stored, and so does a *holdfast.BatchError that is joined with another
// error: the same batch is written again until its fate is known. Any other error says that nothing is stored, and speaks of
// the sink, not of the items: the batch is written again, or, once a circuit is open, treated as Config.DeadLetterAfter
// says; holdfast.Permanent speaks of all items, which are dead-lettered. The sink must not keep the batch after it has
// returned, and must return when its context ends.
//
// A Write should bound its own time. One that hangs keeps its place among Config.Batch.Writers, what its circuit lets probe,
// and the order of the partitions it has messages of: those go no further, as Stats and, after Config.StallAfter, Health
// say. Its context ends when the last of those is given up, by a rebalance or the drain. One that goes on even then keeps its
// place, and Run from returning; Health calls it a sink that does not return.
//
// Write must be safe for concurrent use, as a http.Handler must: it is called for several batches at a time
// (Config.Batch.Writers, one more for letters on their way home, and those whose fate was not known when a circuit
// opened), also with Writers 1. Batches that are written at the same time share nothing that Order keeps in order.
//
// A sink with a circuit inside shows it by two more methods, IsOpen() bool and WaitUntilReady(context.Context) error, so
// that the pipeline can see that it is open and wait until it is not. One that wants batches of one partition's messages,
// with a single span, says so by a method OneSpan() bool.
type Sink[T any] interface {
	Write(ctx context.Context, b holdfast.Batch[T]) error
}

// writeTo hands b to a sink. A panic there leaves unknown what is stored.
func writeTo[T any](ctx context.Context, sink Sink[T], b holdfast.Batch[T]) error {
	err := guarded(func() error { return sink.Write(ctx, b) })
	if _, panicked := err.(*PanicError); panicked { //nolint:errorlint // One further in is an item's.
		return holdfast.Ambiguous(err)
	}
	return err
}

// wantsOneSpan asks a sink whether a batch should hold messages of one partition only.
func wantsOneSpan[T any](sink Sink[T]) bool {
	s, ok := sink.(interface{ OneSpan() bool })
	return ok && s.OneSpan()
}

// validateSink asks a sink of this package for the faults of its making.
func validateSink[T any](sink Sink[T]) error {
	if s, ok := sink.(interface{ validate() error }); ok {
		return s.validate()
	}
	return nil
}

// sibling is what a Source offers so that the letters of an open circuit can come home by themselves: its own group's
// name, and the claims of other topics for another group.
type sibling interface {
	Group() string
	ConsumeAs(ctx context.Context, group string, topics []string, handle func(context.Context, holdfast.Claim) error) error
}
