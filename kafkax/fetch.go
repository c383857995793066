package kafkax

import (
	"context"
	"errors"
	"log/slog"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

// fetcher feeds one claim, over a connection of its own to the partition's leader.
type fetcher struct {
	claim   *claim
	net     *network
	request wire.Request
	config  wire.Config
	log     *slog.Logger
}

func newFetcher(m *membership, c *claim) *fetcher {
	return &fetcher{
		claim: c, net: m.net,
		request: wire.Request{
			Topic: c.topic, Partition: c.partition, Offset: c.begin,
			MaxWait: m.cfg.MaxWait, MaxBytes: m.cfg.FetchBytes, ReadCommitted: m.cfg.ReadCommitted,
		},
		config: wire.Config{MaxBytes: m.cfg.AnswerBytes},
		log:    m.log.With(slog.String("topic", c.topic), slog.Int("partition", c.partition)),
	}
}

// run fetches until ctx ends, through whatever weather there is. It returns an error only for what no patience changes: an
// offset that the log does not hold, a denied access, a batch that cannot be read.
func (f *fetcher) run(ctx context.Context) error {
	var t trouble
	for {
		err := f.session(ctx, &t)
		if errors.Is(err, kafka.OffsetOutOfRange) {
			err = f.checkRange(ctx, err)
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // The claim is over, whatever the fetch met.
		}
		if _, ok := errors.AsType[*OffsetOutOfRangeError](err); ok || isRefusal(err) || errors.Is(err, wire.ErrOldFormat) || errors.Is(err, wire.ErrTooLarge) {
			return err
		}
		if t.failed() {
			f.log.LogAttrs(ctx, slog.LevelWarn, "fetch failed, trying again", slog.Any("err", err))
		}
		if !t.wait(ctx) {
			return nil
		}
	}
}

// session fetches over one connection until it fails.
func (f *fetcher) session(ctx context.Context, t *trouble) error {
	addr, err := f.net.leader(ctx, f.claim.topic, f.claim.partition)
	if err != nil {
		return err
	}
	conn, err := wire.Dial(ctx, f.net.dialer(), "tcp", addr, f.config)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Send(f.request); err != nil {
		return err
	}
	for {
		resp, err := conn.Receive(ctx)
		if err != nil {
			return err
		}
		if n := t.over(); n > 0 {
			f.log.LogAttrs(ctx, slog.LevelInfo, "fetching again", slog.Int("failures", n))
		}
		f.claim.end.Store(resp.HighWatermark)
		moved := resp.NextOffset > f.request.Offset
		f.request.Offset = resp.NextOffset
		// The broker works on the next answer while the handler works on this one.
		err = conn.Send(f.request)
		if moved && !f.deliver(ctx, resp) {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// deliver hands an answer over, and reports whether it could before ctx ended. One without messages says what follows
// the last one.
func (f *fetcher) deliver(ctx context.Context, resp wire.Response) bool {
	f.claim.prefetched.Add(int64(resp.Size))
	select {
	case f.claim.answers <- answer{messages: resp.Messages, next: resp.NextOffset, size: resp.Size}:
		return true
	case <-ctx.Done():
		return false
	}
}

// checkRange makes sure that an offset is out of range for good: a leader that has just taken over may not know the end
// of its log yet.
func (f *fetcher) checkRange(ctx context.Context, err error) error {
	first, end, rangeErr := logRange(ctx, f.net.client, f.claim.topic, f.claim.partition)
	if rangeErr != nil {
		return rangeErr
	}
	if offset := f.request.Offset; offset < first || offset > end {
		return &OffsetOutOfRangeError{Topic: f.claim.topic, Partition: f.claim.partition, Offset: offset, First: first, End: end}
	}
	return err
}
