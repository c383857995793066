package kafkax

import (
	"cmp"
	"context"
	"errors"
	"log/slog"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

// fetcher feeds one claim, over a connection of its own to the partition's leader.
type fetcher struct {
	claim *claim

	membership *membership
	request    wire.Request
	config     wire.Config
	log        *slog.Logger
}

func newFetcher(g *generation, c *claim) *fetcher {
	return &fetcher{
		claim: c, membership: g.membership,
		request: wire.Request{
			Topic: c.topic, Partition: c.partition, Offset: c.begin,
			MaxWait: g.cfg.MaxWait, MaxBytes: g.cfg.share(len(g.claims)), ReadCommitted: g.cfg.ReadCommitted,
		},
		config: g.wire,
		log:    g.log.With(slog.String("topic", c.topic), slog.Int("partition", c.partition)),
	}
}

// run fetches until ctx ends, through whatever weather there is. It returns an error only for what no patience changes, and
// once all that came before it is handed out: it may be in the log no more.
func (f *fetcher) run(ctx context.Context) error {
	var t trouble
	for {
		err := f.session(ctx, &t)
		if errors.Is(err, kafka.OffsetOutOfRange) {
			if err = f.checkRange(ctx, err); err == nil {
				continue
			}
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // The claim is over, whatever the fetch met.
		}
		f.claim.fetchFailed(err)
		if lasts(err) {
			if f.claim.awaitHunger(ctx) != nil {
				return nil //nolint:nilerr // The claim is over.
			}
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

// lasts asks whether no patience changes err: an offset that the log does not hold, a denied access, a batch that cannot
// be read.
func lasts(err error) bool {
	_, ok := errors.AsType[*OffsetOutOfRangeError](err)
	return ok || isRefusal(err) || errors.Is(err, errShrunk) || errors.Is(err, ErrOldBatch) || errors.Is(err, ErrLargeBatch)
}

// session fetches over one connection until it fails. The circuit is asked for the connection, and hears whether its first
// fetch was answered; that one does not wait for messages.
func (f *fetcher) session(ctx context.Context, t *trouble) (err error) {
	permit, err := f.membership.cfg.Breaker.Allow()
	if err != nil {
		return err
	}
	defer func() {
		if isAnswer(err) {
			permit.Done(nil)
		}
		permit.Done(err)
	}()
	_, addr, err := f.membership.net.leader(ctx, f.claim.topic, f.claim.partition)
	if err != nil {
		return err
	}
	config := f.config
	config.Large = func(ctx context.Context) error {
		permit.Done(nil)
		return f.claim.awaitHunger(ctx)
	}
	conn, err := wire.Dial(ctx, f.membership.net.dialer(), "tcp", addr, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	first := f.request
	first.MaxWait = 0
	if err := conn.Send(first); err != nil {
		return err
	}
	for {
		answer, err := conn.Receive(ctx)
		if err != nil {
			if answer.HighWatermark > 0 { // So that the lag of a partition with a bad batch grows.
				f.claim.end.Store(answer.HighWatermark)
			}
			return err
		}
		permit.Done(nil)
		if n := t.over(); n > 0 {
			f.claim.fetched()
			f.log.LogAttrs(ctx, slog.LevelInfo, "fetching again", slog.Int("failures", n))
		}
		f.claim.end.Store(answer.HighWatermark)
		moved := answer.NextOffset > f.request.Offset
		f.request.Offset = answer.NextOffset
		// The broker works on the next answer while the handler works on this one.
		err = conn.Send(f.request)
		if moved && !f.deliver(ctx, answer) {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// isAnswer tells what a broker said from it having said nothing. A failed login is not to be believed, see isRefusal.
func isAnswer(err error) bool {
	_, code := errors.AsType[kafka.Error](err)
	_, batch := errors.AsType[*RecordBatchError](err)
	return (code || batch) && !errors.Is(err, kafka.SASLAuthenticationFailed)
}

// deliver hands an answer over, and reports whether it could before ctx ended.
func (f *fetcher) deliver(ctx context.Context, a wire.Answer) bool {
	f.claim.prefetched.Add(int64(a.Size()))
	select {
	case f.claim.answers <- a:
		return true
	case <-ctx.Done():
		return false
	}
}

// checkRange makes sure that an offset is out of range for good: a leader that has just taken over may not know the end
// of its log yet. It goes on elsewhere, if it may: behind what was deleted at once, but before where it is only with
// another claim, as a claim's offsets do not go back.
func (f *fetcher) checkRange(ctx context.Context, err error) error {
	rangeErr := f.membership.net.outOfRange(ctx, f.claim.place, f.request.Offset)
	outside, ok := errors.AsType[*OffsetOutOfRangeError](rangeErr)
	switch {
	case !ok:
		return cmp.Or(rangeErr, err)
	case outside.Offset > outside.End && f.membership.cfg.OutOfRange != OutOfRangeFail:
		return errShrunk
	}
	next, err := f.membership.elsewhere(ctx, outside)
	if err == nil {
		f.request.Offset = next
	}
	return err
}
