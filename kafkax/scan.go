package kafkax

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

// scanReaders is how many partitions Scan reads at once, each over a connection of its own.
const scanReaders = 4

// Scan hands what a topic holds to handle: each partition from its offset in from, or from its first one, up to its end
// as it stood when Scan was called. Nothing is committed. handle is called in the caller's goroutine, with some messages
// of one partition at a time, each partition's in their order; it may keep them. When it returns holdfast.ErrSkip, the
// rest of that partition is left out. When it returns another error, Scan ends and returns that one.
//
// Messages of aborted transactions are left out, and an open one is the end of its partition. What is deleted before it
// is read is left out, too. A partition that brings nothing for AdminConfig.Timeout ends Scan with an error.
func (a *Admin) Scan(ctx context.Context, topic string, from map[int]int64, handle func([]holdfast.Message) error) error {
	if handle == nil {
		return errors.New("kafkax: Scan needs a handle func, got nil")
	}
	ctx, end := a.begin(ctx)
	defer end()
	scans, err := a.plan(ctx, topic, from)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	found := make(chan scanned)
	defer func() { // Of handle's panic, too.
		cancel(nil)
		for range found { // Until all readers have ended.
		}
	}()
	todo := make(chan *scan, len(scans))
	for _, s := range scans {
		todo <- s
	}
	close(todo)
	var readers sync.WaitGroup
	for range min(scanReaders, len(scans)) {
		readers.Go(func() {
			for s := range todo {
				if err := s.run(ctx, found); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	go func() {
		readers.Wait()
		close(found)
	}()
	for f := range found {
		if f.of.enough.Load() {
			continue
		}
		err := handle(f.messages)
		f.of.enough.Store(errors.Is(err, holdfast.ErrSkip))
		if err != nil && !f.of.enough.Load() {
			return err
		}
	}
	return context.Cause(ctx)
}

// scan is what Scan has still to read of one partition.
type scan struct {
	place
	admin     *Admin
	next, end int64
	enough    atomic.Bool // The rest is not wanted.
}

// scanned is some of what a scan has read.
type scanned struct {
	of       *scan
	messages []holdfast.Message
}

func (s *scan) goesOn() bool { return s.next < s.end && !s.enough.Load() }

// plan says what there is to read.
func (a *Admin) plan(ctx context.Context, topic string, from map[int]int64) ([]*scan, error) {
	first, end, err := a.bounds(ctx, topic, true)
	if err != nil {
		return nil, err
	}
	for p, offset := range from {
		if _, ok := first[p]; !ok {
			return nil, fmt.Errorf("kafkax: scan of %s/%d: %w", topic, p, kafka.UnknownTopicOrPartition)
		}
		if offset < 0 {
			return nil, fmt.Errorf("kafkax: scan of %s/%d: the offset must not be below 0, got %d", topic, p, offset)
		}
	}
	var scans []*scan
	for p := range first {
		if next := max(first[p], from[p]); next < end[p] {
			scans = append(scans, &scan{place: place{topic, p}, admin: a, next: next, end: end[p]})
		}
	}
	slices.SortFunc(scans, func(a, b *scan) int { return a.partition - b.partition })
	return scans, nil
}

// run reads the partition, and waits out what passes.
func (s *scan) run(ctx context.Context, found chan<- scanned) error {
	var t trouble
	moved := time.Now()
	for s.goesOn() {
		before := s.next
		err := s.session(ctx, found)
		if s.next > before {
			t.over()
			moved = time.Now()
		}
		if errors.Is(err, kafka.OffsetOutOfRange) {
			err = s.skipDeleted(ctx, err)
		}
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !isPassing(err), errors.Is(err, ErrOldBatch), errors.Is(err, ErrLargeBatch):
			return fmt.Errorf("kafkax: scan of %s/%d: %w", s.topic, s.partition, err)
		}
		t.failed()
		if time.Since(moved) > s.admin.cfg.Timeout {
			return fmt.Errorf("kafkax: scan of %s/%d: nothing for %v, last: %w", s.topic, s.partition, s.admin.cfg.Timeout, err)
		}
		if !t.wait(ctx) {
			return context.Cause(ctx)
		}
	}
	return nil
}

var (
	// errNoProgress says that a leader has nothing to show although its log goes on.
	errNoProgress = errors.New("the leader shows no more messages")

	// errUnaware says what passes in a broker that has just become the leader, or is none any more. Whether there is such
	// a partition, the cluster's layout will tell.
	errUnaware = errors.New("the leader does not know that it has the partition")
)

// session reads over one connection until the end, or until it fails.
func (s *scan) session(ctx context.Context, found chan<- scanned) error {
	_, addr, err := s.admin.net.leader(ctx, s.topic, s.partition)
	if err != nil {
		return err
	}
	cfg := wire.Config{MaxBytes: defaultLargestBatch, Buffers: wire.NewBuffers(defaultFetchBytes)}
	conn, err := wire.Dial(ctx, s.admin.net.dialer(), "tcp", addr, cfg)
	if err != nil {
		return err
	}
	defer conn.Close()
	reader := wire.NewReader(cfg, defaultFetchMessages)
	for s.goesOn() {
		err := conn.Send(wire.Request{
			Topic: s.topic, Partition: s.partition, Offset: s.next,
			MaxWait: defaultMaxWait, MaxBytes: defaultFetchBytes, ReadCommitted: true,
		})
		if err != nil {
			return err
		}
		answer, err := conn.Receive(ctx)
		if errors.Is(err, kafka.UnknownTopicOrPartition) {
			return errUnaware
		}
		if err != nil {
			return err
		}
		if answer.NextOffset <= s.next {
			return errNoProgress
		}
		reader.Begin(answer)
		for reader.More() && s.goesOn() {
			if err := s.read(ctx, reader, found); err != nil {
				return err
			}
		}
	}
	return nil
}

// read passes on what the reader has next, up to the end.
func (s *scan) read(ctx context.Context, reader *wire.Reader, found chan<- scanned) error {
	messages, next, err := reader.Next()
	if err != nil {
		return err
	}
	for len(messages) > 0 && messages[len(messages)-1].Offset >= s.end {
		messages = messages[:len(messages)-1]
	}
	if len(messages) > 0 {
		select {
		case found <- scanned{s, messages}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.next = next
	return nil
}

// skipDeleted goes on where the log begins now, if that is why an offset is out of range.
func (s *scan) skipDeleted(ctx context.Context, err error) error {
	first, _, rangeErr := s.admin.bounds(ctx, s.topic, true)
	switch {
	case rangeErr != nil:
		return rangeErr
	case first[s.partition] > s.next:
		s.next = first[s.partition]
		return nil
	}
	return err
}
