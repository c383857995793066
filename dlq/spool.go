package dlq

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/holdfast-io/holdfast"
)

// commitBytes is about how much goes into one transaction. A single Append that is larger is still one.
const commitBytes = 8 << 20

// Spool keeps messages in a directory of this machine until Kafka takes them: durable on this disk, and on no other. It
// has one owner, a Topic or a producer, who fills it and drains it; two of them need a spool each. It is safe for
// concurrent use.
//
// A message's topic, key, value, headers and time are kept, and its partition: the one that it goes to, or -1 when its
// key decides. Offset and letter are not kept.
//
// The memory it takes does not grow with what it keeps, but for a number for each message that is set aside. Order is
// guarded by 4 MiB of counters, among which keys and partitions are spread by hash: two that share one wait for each
// other, and that is all.
type Spool struct {
	cfg     SpoolConfig
	db      *bolt.DB
	held    *slots
	bytes   atomic.Int64
	count   atomic.Int64
	changes chan *change
	drains  chan struct{} // Holds a token while somebody drains.

	mu      sync.Mutex
	refused map[uint64]struct{} // What is set aside until the spool is opened again.

	broken  error // Why the disk is not trusted any longer. The writer's alone.
	shut    sync.Once
	closing chan struct{}
	ended   chan struct{}
}

// change is something to be written, in a transaction that it may share with others.
type change struct {
	bytes  int64
	apply  func(*bolt.Bucket) error
	settle func(error) // Told how it went, before anybody else is.
	done   chan error  // Buffered: the caller may have left.
}

// OpenSpool opens the spool of a directory, which it makes if it is not there, for no other user's eyes. What an earlier
// process left in it is there, however that process ended. A spool that is open already is refused at once with
// ErrSpoolInUse, and a file that the disk has damaged with ErrSpoolDamaged. Where only what a message holds is damaged,
// that message is set aside (Drain). What is damaged while the spool is open ends the process when it is read. The one
// damage that nobody sees is to the page that says what the last transaction was: that one is taken for never finished.
func OpenSpool(dir string, cfg SpoolConfig) (*Spool, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if dir == "" {
		return nil, errors.New("dlq: OpenSpool needs a directory, got \"\"")
	}
	db, err := openFile(dir)
	if err != nil {
		return nil, fmt.Errorf("dlq: spool %s: %w", dir, err)
	}
	s := &Spool{
		cfg: cfg.withDefaults(), db: db, held: newSlots(),
		changes: make(chan *change), drains: make(chan struct{}, 1),
		refused: make(map[uint64]struct{}),
		closing: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := s.recount(); err != nil {
		return nil, errors.Join(fmt.Errorf("dlq: spool %s: %w", dir, err), db.Close())
	}
	go s.write()
	return s, nil
}

// recount learns from the file what is in it.
func (s *Spool) recount() error {
	return s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(messageBucket())
		return b.ForEach(func(key, record []byte) error {
			if len(key) != numberBytes || binary.BigEndian.Uint64(key) > b.Sequence() { // The next one would replace it.
				return damaged(s.db.Path(), fmt.Errorf("it has message %x, and says that the last one is %x", key, b.Sequence()))
			}
			s.count.Add(1)
			s.bytes.Add(cost(record))
			if _, m, err := decodeRecord(record); err == nil { // Drain will speak of one that is damaged.
				s.held.add(&m, 1)
			}
			return nil
		})
	})
}

// Append keeps messages, in their order, and returns nil when they are on the disk. Calls at the same time share a
// transaction; one that is alone waits for nobody.
//
// All messages of a call are kept or none. ErrSpoolFull says that they do not fit. When ctx ends, or the disk fails,
// they may be kept all the same, and the error is holdfast.Ambiguous. When a disk has failed to sync, the spool takes
// nothing more until it is opened again.
func (s *Spool) Append(ctx context.Context, messages ...holdfast.Message) error {
	if len(messages) == 0 {
		return nil
	}
	now := time.Now()
	records := make([][]byte, len(messages))
	var bytes int64
	for i := range messages {
		records[i] = encodeRecord(&messages[i], now)
		bytes += cost(records[i])
	}
	if used := s.bytes.Add(bytes); used > s.cfg.MaxBytes {
		s.bytes.Add(-bytes)
		return fmt.Errorf("%w: %d of %d bytes are taken, %d more are needed", ErrSpoolFull, used-bytes, s.cfg.MaxBytes, bytes)
	}
	s.reckon(messages, 1)
	return s.commit(ctx, &change{
		bytes: bytes,
		apply: func(b *bolt.Bucket) error { return put(b, records) },
		settle: func(err error) {
			if err != nil {
				s.bytes.Add(-bytes)
				s.reckon(messages, -1)
			}
		},
	})
}

func (s *Spool) reckon(messages []holdfast.Message, sign int) {
	for i := range messages {
		s.held.add(&messages[i], sign)
	}
	s.count.Add(int64(sign * len(messages)))
}

// Holds says whether m must not overtake what is kept here: something of its topic that has its key, or goes to the
// partition that m names. It is true from before Append returns until Drain has removed the last of them, and may be
// true without need. It does no I/O.
func (s *Spool) Holds(m *holdfast.Message) bool { return s.held.holds(m) }

// Stats says how full the spool is.
func (s *Spool) Stats() SpoolStats {
	s.mu.Lock()
	refused := len(s.refused)
	s.mu.Unlock()
	stats := SpoolStats{Messages: s.count.Load(), Refused: int64(refused), Bytes: s.bytes.Load(), MaxBytes: s.cfg.MaxBytes}
	_ = s.db.View(func(tx *bolt.Tx) error { // Fails once it is closed, and then nothing is the oldest.
		if _, record := tx.Bucket(messageBucket()).Cursor().First(); record != nil {
			stats.Oldest, _, _ = decodeRecord(record)
		}
		return nil
	})
	return stats
}

// Close gives the directory up; what is kept stays there. Calls in progress fail with ErrSpoolClosed, or are finished.
// Whoever drains must have ended before. Closing again does nothing.
func (s *Spool) Close() error {
	var err error
	s.shut.Do(func() {
		close(s.closing)
		<-s.ended
		err = s.db.Close()
	})
	return err
}

// commit has a change written and waits for it. Whether anybody waits or not, settle is called once.
func (s *Spool) commit(ctx context.Context, c *change) error {
	c.done = make(chan error, 1)
	err := ctx.Err()
	if err == nil {
		select {
		case s.changes <- c:
		case <-ctx.Done():
			err = ctx.Err()
		case <-s.closing:
			err = ErrSpoolClosed
		}
	}
	if err != nil {
		c.settle(err)
		return fmt.Errorf("dlq: spool: %w", err)
	}
	select {
	case err = <-c.done:
	case <-ctx.Done():
		err = holdfast.Ambiguous(ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("dlq: spool: %w", err)
	}
	return nil
}

// write is the one goroutine that writes. Whatever has come in while it wrote goes into its next transaction.
func (s *Spool) write() {
	defer close(s.ended)
	for {
		select {
		case c := <-s.changes:
			group := s.gather(c)
			err := s.update(group)
			for _, c := range group {
				c.settle(err)
				c.done <- err
			}
		case <-s.closing:
			return
		}
	}
}

func (s *Spool) gather(first *change) []*change {
	group := []*change{first}
	for bytes := first.bytes; bytes < commitBytes; {
		select {
		case c := <-s.changes:
			group = append(group, c)
			bytes += c.bytes
		default:
			return group
		}
	}
	return group
}

// update writes changes in one transaction. A write that the disk refused, for want of space for instance, left nothing
// behind. After any other failure, that of a sync above all, nobody knows what the disk has, and later writes would
// stand on pages that may not be there ("PostgreSQL's fsync() surprise", LWN, 2018).
func (s *Spool) update(group []*change) error {
	if s.broken != nil {
		return s.broken
	}
	err := s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(messageBucket())
		for _, c := range group {
			if err := c.apply(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		return nil
	}
	if _, refused := errors.AsType[*fs.PathError](err); !refused {
		err = holdfast.Ambiguous(fmt.Errorf("the disk has failed, and nothing more is written until the spool is opened again: %w", err))
		s.broken = err
	}
	return err
}
