package dlq

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

const (
	drainMessages = 1000    // In one batch at the most.
	drainBytes    = 1 << 20 // About how many bytes of them.
	drainLook     = 8 << 20 // How much is looked at in one go for messages that may be sent.
)

// Drain gives what is kept to send, oldest first, in batches, and removes what was sent: all of a batch when send returns
// nil, all but the named ones when it returns a *holdfast.BatchError, nothing after any other error. A named message
// stays, and so do those behind it that have its key or its partition, in this batch and in later ones; they come again
// with the next Drain. Drain goes on with the others, unless the error is that of an open circuit or of ctx.
//
// What send refuses for good (holdfast.IsPermanent) is set aside together with what the disk has damaged: it stays on the
// disk, holds nobody up, counts as SpoolStats.Refused, and is tried again when the spool is opened next.
//
// Drain returns nil when nothing is left but what was set aside before, and otherwise why something stays. A message is
// sent again when the process ends between sending and removing it. Calls at the same time take turns. The messages are
// copies: send may keep them.
func (s *Spool) Drain(ctx context.Context, send func(context.Context, []holdfast.Message) error) error {
	if send == nil {
		return errors.New("dlq: Spool.Drain needs a func to send with, got nil")
	}
	select {
	case s.drains <- struct{}{}:
		defer func() { <-s.drains }()
	case <-ctx.Done():
		return fmt.Errorf("dlq: spool: %w", ctx.Err())
	}
	d := drain{spool: s, blocked: make(map[uint32]struct{})}
	for {
		batch, more, err := d.next()
		if err != nil {
			return fmt.Errorf("dlq: spool: %w", err)
		}
		if len(batch) > 0 {
			if err := d.pass(ctx, batch, send); err != nil {
				return err
			}
		}
		if !more {
			return d.left
		}
	}
}

// drain is one pass over what is kept.
type drain struct {
	spool   *Spool
	last    uint64              // The last number looked at.
	blocked map[uint32]struct{} // The slots of what stays.
	left    error               // Why the first one stays.
}

// kept is a message in the spool.
type kept struct {
	number  uint64
	cost    int64
	message holdfast.Message
}

// next reads on, until it has a batch or has looked at enough, so that the file is not held for long. There may be more
// although the batch is empty.
func (d *drain) next() (batch []kept, more bool, err error) {
	s := d.spool
	err = s.db.View(func(tx *bolt.Tx) error {
		looked, bytes := 0, 0
		c := tx.Bucket(messageBucket()).Cursor()
		for k, record := c.Seek(binary.BigEndian.AppendUint64(nil, d.last+1)); k != nil; k, record = c.Next() {
			if len(batch) == drainMessages || bytes >= drainBytes || looked >= drainLook {
				more = true
				return nil
			}
			d.last = binary.BigEndian.Uint64(k)
			looked += len(record) + placeBytes
			if s.isRefused(d.last) {
				continue
			}
			_, m, err := decodeRecord(slices.Clone(record))
			if err != nil {
				s.refuse(d.last)
				d.stays(fmt.Errorf("record %d: %w", d.last, err))
				continue
			}
			if d.mayPass(&m) {
				batch = append(batch, kept{d.last, cost(record), m})
				bytes += len(record)
			}
		}
		return nil
	})
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		err = ErrSpoolClosed
	}
	return batch, more, err
}

// pass sends a batch and removes what was sent of it. The error ends the drain.
func (d *drain) pass(ctx context.Context, batch []kept, send func(context.Context, []holdfast.Message) error) error {
	messages := make([]holdfast.Message, len(batch))
	for i, k := range batch {
		messages[i] = k.message
	}
	err := send(ctx, messages)
	partly, ok := errors.AsType[*holdfast.BatchError](err)
	if err != nil && !ok {
		return fmt.Errorf("dlq: spool: %w", err)
	}
	var sent []kept
	for i, k := range batch {
		why := error(nil)
		if ok {
			why = partly.Items[i]
		}
		switch {
		case why == nil && d.mayPass(&k.message):
			sent = append(sent, k)
		case holdfast.IsPermanent(why):
			d.spool.refuse(k.number)
			d.spool.held.add(&k.message, -1)
			d.stays(why)
		default:
			d.block(&k.message)
			d.stays(why)
		}
	}
	if err := d.spool.remove(ctx, sent); err != nil {
		return err
	}
	if err != nil && (ctx.Err() != nil || errors.Is(err, breaker.ErrCircuitOpen)) {
		return d.left
	}
	return nil
}

// stays notes why something stays, for the first time.
func (d *drain) stays(why error) {
	if d.left == nil && why != nil {
		d.left = fmt.Errorf("dlq: spool: %w", why)
	}
}

func (d *drain) block(m *holdfast.Message) {
	slots, n := d.spool.held.of(m)
	for _, slot := range slots[:n] {
		d.blocked[slot] = struct{}{}
	}
}

// mayPass says whether nothing stays that m must not overtake. Otherwise m stays, too. An explicit partition settles what
// m's neighbours are, whatever its key.
func (d *drain) mayPass(m *holdfast.Message) bool {
	slots, n := d.spool.held.of(m)
	if n == 0 {
		return true
	}
	_, blocked := d.blocked[slots[n-1]]
	if blocked {
		d.block(m)
	}
	return !blocked
}

// remove takes messages out that were sent, even when ctx has ended meanwhile.
func (s *Spool) remove(ctx context.Context, sent []kept) error {
	if len(sent) == 0 {
		return nil
	}
	return s.commit(context.WithoutCancel(ctx), &change{
		apply: func(b *bolt.Bucket) error {
			for _, k := range sent {
				if err := b.Delete(binary.BigEndian.AppendUint64(nil, k.number)); err != nil {
					return err
				}
			}
			return nil
		},
		settle: func(err error) {
			if err != nil {
				return
			}
			for _, k := range sent {
				s.held.add(&k.message, -1)
				s.bytes.Add(-k.cost)
			}
			s.count.Add(-int64(len(sent)))
		},
	})
}

func (s *Spool) refuse(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[number] = struct{}{}
}

func (s *Spool) isRefused(number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.refused[number]
	return ok
}
