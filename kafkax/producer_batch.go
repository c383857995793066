package kafkax

import (
	"context"
	"fmt"
	"log/slog"
	"time"
	"unsafe"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

// recordOverhead is about what a record takes beside its key, value and headers.
const recordOverhead = 32

const entrySize = int(unsafe.Sizeof(entry{}))

// batch is messages for one partition, encoded as they come, with who wants to know what becomes of each.
type batch struct {
	wire.Encoder
	at      place
	entries []entry
	held    int // Of the buffer, in bytes.
	codec   kafka.Compression
	drained bool // It comes from the spool, so it does not go there.

	admitted  time.Time  // Since when the circuit had been as it was when it admitted the last attempt.
	answer    chan error // What the broker says to an attempt.
	nth       int        // Its place in the request of the last attempt.
	tried     bool       // At least one attempt has been made.
	uncertain bool       // An attempt may have written it.
}

// entry is one message of a batch, without its bytes.
type entry struct {
	call  *call // Of Produce; nil for ProduceAsync.
	index int   // In the call.

	ctx  context.Context // Of ProduceAsync.
	done func(error)

	size  int
	asked bool // The partition was asked for, whatever the key.

	drained bool // It comes from the spool.
}

// outcome is what became of messages that failed together. One is shared by all of them.
type outcome struct {
	at        place
	err       error
	ambiguous bool
	permanent bool
	hold      bool
	spooled   bool
	barred    bool // It failed with an earlier one.
}

// failedAt is the outcome of messages that have not been sent.
func failedAt(at place, err error) *outcome {
	return &outcome{at: at, err: err, permanent: holdfast.IsPermanent(err), hold: holdfast.IsHold(err)}
}

// barred is the outcome of messages that must not overtake one that failed with err.
func barred(at place, err error) *outcome {
	return &outcome{
		at: at, err: fmt.Errorf("not sent, because an earlier one of the partition failed: %w", err),
		hold: holdfast.IsHold(err), barred: true,
	}
}

// newBatch gives an empty batch, as a rule with the memory of one that is done.
func (p *Producer) newBatch(at place) *batch {
	b, ok := p.batches.Get().(*batch)
	if !ok {
		b = &batch{codec: p.cfg.Compression, answer: make(chan error, 1)}
	}
	b.at = at
	return b
}

// release gives back what a batch held.
func (p *Producer) release(b *batch) {
	p.buffer.give(b.held)
	b.Reset()
	clear(b.entries)
	b.entries = b.entries[:0]
	b.held, b.tried, b.uncertain = 0, false, false
	p.batches.Put(b)
}

func (b *batch) add(m *holdfast.Message, e entry, now int64) {
	b.Append(m, now)
	b.entries = append(b.entries, e)
	b.drained = e.drained
	b.held += e.size + entrySize
}

// cost is how much room messages take.
func cost(entries []entry) int {
	size := 0
	for _, e := range entries {
		size += e.size + entrySize
	}
	return size
}

// pick makes a batch of some of the messages, to which it hands over what they hold of the buffer.
func (b *batch) pick(keep func(i int) bool) *batch {
	picked := &batch{at: b.at, codec: b.codec, answer: make(chan error, 1), tried: b.tried}
	for i, m := range b.Messages() {
		if keep(i) {
			picked.add(&m, b.entries[i], 0)
		}
	}
	b.held -= picked.held
	return picked
}

// claim takes the message for sending, unless its caller has gone or must not have it sent any more.
func (e *entry) claim(at place) (*outcome, bool) {
	if e.call != nil {
		return e.call.claim(e.index, at)
	}
	if e.ctx.Err() != nil {
		return failedAt(at, context.Cause(e.ctx)), false
	}
	return nil, true
}

// settle tells the caller; nil is success.
func (p *Producer) settle(e *entry, o *outcome) {
	switch {
	case e.call != nil:
		e.call.settle(e.index, o)
	case o == nil:
		p.announce(e.done, nil)
	default:
		p.announce(e.done, &ProduceError{Messages: 1, Failures: []ProduceFailure{o.failure([]int{0}, e.size)}})
	}
}

// announce calls the function of a ProduceAsync. One that panics takes nothing else with it.
func (p *Producer) announce(done func(error), err error) {
	defer func() {
		if r := recover(); r != nil {
			p.cfg.Logger.Error("function given to ProduceAsync panicked", slog.Any("panic", r))
		}
	}()
	done(err)
}

// tell settles every message.
func (p *Producer) tell(b *batch, o *outcome) {
	for i := range b.entries {
		p.settle(&b.entries[i], o)
	}
}

func (o *outcome) failure(indexes []int, size int) ProduceFailure {
	return ProduceFailure{
		Topic: o.at.topic, Partition: o.at.partition, Indexes: indexes, Bytes: size, Err: o.err,
		Ambiguous: o.ambiguous, Permanent: o.permanent, Hold: o.hold, Spooled: o.spooled,
	}
}

func messageSize(m *holdfast.Message) int {
	size := recordOverhead + len(m.Key) + len(m.Value)
	for _, h := range m.Headers {
		size += recordOverhead/4 + len(h.Key) + len(h.Value)
	}
	return size
}
