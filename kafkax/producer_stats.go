package kafkax

import "sync/atomic"

// ProducerStats is a snapshot of a Producer. Counters only grow.
type ProducerStats struct {
	Written    uint64 // Messages acknowledged by all in-sync replicas.
	NotWritten uint64 // Messages that failed and are not written, those aside that are still in the spool.
	Ambiguous  uint64 // Messages that failed and may be written, those aside that are still in the spool.
	Requests   uint64 // Produce requests sent. Each carries a batch for at least one partition.
	Identities uint64 // Producer ids taken: 1, and one more when the outcome of a batch stayed unknown, or topics long out of use were forgotten.
	Spooled    uint64 // Messages put into the spool.
	Drained    uint64 // Messages of the spool that were written; those of an earlier process are among them.
	Spool      bool   // There are messages in the spool, or there may be: nobody has seen it empty.
	Buffered   int    // Bytes taken and not yet settled, their overhead included.
}

type producerCounts struct {
	written, notWritten, ambiguous, requests, identities, spooled, drained atomic.Uint64
}

// note counts n messages that were settled with o.
func (c *producerCounts) note(n int, o *outcome) {
	switch {
	case o == nil:
		c.written.Add(uint64(n))
	case o.ambiguous:
		c.ambiguous.Add(uint64(n))
	default:
		c.notWritten.Add(uint64(n))
	}
}

// Stats is what the Producer has done so far.
func (p *Producer) Stats() ProducerStats {
	return ProducerStats{
		Written: p.counts.written.Load(), NotWritten: p.counts.notWritten.Load(), Ambiguous: p.counts.ambiguous.Load(),
		Requests: p.counts.requests.Load(), Identities: p.counts.identities.Load(), Buffered: int(p.buffer.used.Load()),
		Spooled: p.counts.spooled.Load(), Drained: p.counts.drained.Load(), Spool: p.outbox != nil && p.outbox.filled.Load(),
	}
}
