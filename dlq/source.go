package dlq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/holdfast-io/holdfast"
)

// Claims is where a Source gets the claims of its dead-letter topic; *kafkax.Consumer is one.
type Claims interface {
	Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error
}

// SourceConfig says which letters come home, and how fast. The zero value takes all of them, at once and for ever again.
type SourceConfig struct {
	// Filter says which letters are wanted. All others are passed over: they stay where they are, and nothing is known
	// of them but that this group has passed them.
	Filter Filter

	// Parking takes letters that have come back too often. Nil: there is no too often, and a pipeline that writes its
	// letters to the topic that these come from refuses to.
	Parking *Parking

	// Ledger remembers what was taken home, so that it is passed over should it be read again. Nil: nobody does.
	Ledger *Ledger

	// MessagesPerSecond and BytesPerSecond bound what is handed out. 0 means no bound.
	MessagesPerSecond int
	BytesPerSecond    int

	// Logger gets changes of state. Nil means slog.Default().
	Logger *slog.Logger
}

// Validate names every field that cannot be.
func (c SourceConfig) Validate() error {
	errs := []error{c.Filter.Validate()}
	if c.MessagesPerSecond < 0 {
		errs = append(errs, fmt.Errorf("dlq: SourceConfig.MessagesPerSecond must be positive, or 0 for no bound, got %d", c.MessagesPerSecond))
	}
	if c.BytesPerSecond < 0 {
		errs = append(errs, fmt.Errorf("dlq: SourceConfig.BytesPerSecond must be positive, or 0 for no bound, got %d", c.BytesPerSecond))
	}
	if c.Parking != nil && c.Ledger != nil && c.Parking.cfg.Topic == c.Ledger.topic {
		errs = append(errs, fmt.Errorf("dlq: SourceConfig.Parking must use another topic than Ledger, got %q for both", c.Ledger.topic))
	}
	return errors.Join(errs...)
}

// apart refuses that letters are parked or recorded among those that are read: they would be read again, for ever, or
// taken for taken home and deleted.
func (c SourceConfig) apart(topic string) error {
	if c.Parking != nil && c.Parking.cfg.Topic == topic {
		return fmt.Errorf("dlq: SourceConfig.Parking must use another topic than the letters', got %q", topic)
	}
	if c.Ledger != nil && c.Ledger.topic == topic {
		return fmt.Errorf("dlq: SourceConfig.Ledger must use another topic than the letters', got %q", topic)
	}
	return nil
}

func (c SourceConfig) sorter() *sorter {
	return &sorter{filter: c.Filter, parking: c.Parking, ledger: c.Ledger, headers: c.Filter.headers()}
}

// Source reads letters as the messages they were, with their original topic, partition, offset, time and headers, and
// with Message.Letter set. It is a pipeline.Source. Records that are no letters are passed over. It is safe for
// concurrent use.
//
// With a ledger, what its user commits is recorded there first, and committed when the record is acknowledged.
type Source struct {
	claims Claims
	cfg    SourceConfig
	sorter *sorter
	pace   pace
	tally  *tally
}

// NewSource returns a Source over the claims of a dead-letter topic. It does no I/O.
func NewSource(c Claims, cfg SourceConfig) (*Source, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if c == nil {
		return nil, errors.New("dlq: NewSource needs Claims, got nil")
	}
	if named, ok := c.(interface{ Topics() []string }); ok {
		for _, topic := range named.Topics() {
			if err := cfg.apart(topic); err != nil {
				return nil, err
			}
		}
	}
	sorter := cfg.sorter()
	sorter.headers = append(sorter.headers, HeaderOrigTimestamp, HeaderFirstFailedAt) // Which holdfast.Message has.
	return &Source{
		claims: c,
		cfg:    cfg,
		sorter: sorter,
		pace:   newPace(cfg.MessagesPerSecond, cfg.BytesPerSecond),
		tally:  newTally(cmp.Or(cfg.Logger, slog.Default())),
	}, nil
}

// Consume runs handle for each claim of the dead-letter topic until ctx ends, as the claims' own Consume does. A claim's
// Fetch fails when its letters cannot be parked because the configuration forbids it; a later one tries again. When the
// ledger cannot be written for such a reason, handle's context ends, and Consume fails.
func (s *Source) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	if handle == nil {
		return errors.New("dlq: Source.Consume needs a handle func, got nil")
	}
	return s.claims.Consume(ctx, func(ctx context.Context, c holdfast.Claim) error {
		letters := &letterClaim{Claim: c, sorter: s.sorter, pace: s.pace, tally: s.tally, end: -1, home: new(arrivals).home}
		return serveLetters(ctx, letters, func(ctx context.Context, c *letterClaim) error { return handle(ctx, c) })
	})
}
