package dlq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/holdfast-io/holdfast"
)

// spool keeps on the disk what has failed and may go there, and the records with these indexes, in their order. What it
// keeps has not failed any more.
func (t *Topic) spool(ctx context.Context, records []holdfast.Message, indexes []int, failed map[int]error) {
	var why error
	for i, err := range failed {
		if !holdfast.IsHold(err) { // That is for somebody to mend, and would be out of sight on a disk.
			indexes, why = append(indexes, i), err
		}
	}
	if len(indexes) == 0 {
		return
	}
	slices.Sort(indexes)
	messages := make([]holdfast.Message, len(indexes))
	for n, i := range indexes {
		messages[n] = records[i]
	}
	if err := t.cfg.Spool.Append(ctx, messages...); err != nil {
		for _, i := range indexes {
			failed[i] = errors.Join(failed[i], err)
		}
		return
	}
	for _, i := range indexes {
		delete(failed, i)
	}
	if t.spooling.CompareAndSwap(false, true) {
		t.cfg.Logger.Warn("dead letters go to the local disk", slog.String("topic", t.cfg.Topic), slog.Any("err", why))
	}
	signal(t.wake)
}

// drain writes what is in the spool to the topic, whenever there is something and the topic takes it, until Close.
func (t *Topic) drain() {
	defer close(t.ended)
	for {
		select {
		case <-t.wake:
		case <-t.life.Done():
			return
		}
		for tries := 1; ; tries++ {
			if t.cfg.Breaker.WaitUntilReady(t.life) != nil {
				return
			}
			t.spooling.Store(true)
			err := t.cfg.Spool.Drain(t.life, t.redeliver)
			if err == nil {
				break
			}
			if t.life.Err() != nil {
				return
			}
			if tries == 1 {
				t.cfg.Logger.Warn("dead letters stay on the local disk", slog.String("topic", t.cfg.Topic), slog.Any("err", err))
			}
			if sleep(t.life, backoff(tries, err)) != nil {
				return
			}
		}
		if !t.spooling.CompareAndSwap(true, false) {
			continue
		}
		if refused := t.cfg.Spool.Stats().Refused; refused > 0 {
			t.cfg.Logger.Warn("dead letters on the local disk have been written, but for those that are damaged or that the topic refuses",
				slog.String("topic", t.cfg.Topic), slog.Int64("refused", refused))
		} else {
			t.cfg.Logger.Info("dead letters on the local disk have been written", slog.String("topic", t.cfg.Topic))
		}
	}
}

// redeliver is what the spool drains into.
func (t *Topic) redeliver(ctx context.Context, records []holdfast.Message) error {
	var ours []int
	failed := make(map[int]error)
	for i := range records {
		if records[i].Topic == t.cfg.Topic {
			ours = append(ours, i)
		} else {
			failed[i] = fmt.Errorf("dlq: the spool of topic %s has a message for %s: it must be this topic's alone",
				t.cfg.Topic, records[i].Topic)
		}
	}
	maps.Copy(failed, t.deliver(ctx, records, ours))
	if len(failed) > 0 {
		return &holdfast.BatchError{Items: failed}
	}
	return nil
}
