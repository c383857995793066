package dlq

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

const defaultMaxFailures = 0.5

// ErrTooManyFailures says that a run stopped because too many of its letters failed again.
var ErrTooManyFailures = errors.New("dlq: too many letters failed again")

// Consumer is what a Redrive needs in order to read; *kafkax.Consumer is one. Where letters are deleted that the group has
// not passed, by retention or by hand, it must go on with the oldest one that is left (kafkax.OutOfRangeEarliest).
type Consumer interface {
	ConsumeAs(ctx context.Context, group string, topics []string, handle func(context.Context, holdfast.Claim) error) error
}

// Target is where a Redrive writes; *kafkax.Producer is one.
type Target interface {
	Producer

	// Produce is ProduceTo with the partition chosen by the message's key.
	Produce(ctx context.Context, messages ...holdfast.Message) error
}

// Circuit is what a Redrive sees of the circuit before that which failed; *breaker.Breaker is one.
type Circuit interface {
	State() breaker.State
}

// RedriveConfig says which letters are redriven, where to and how. Topic is required.
type RedriveConfig struct {
	// Topic is the dead-letter topic.
	Topic string

	// Letters says which letters, how fast, what is kept of it, and which are to be parked. Without Parking, letters are
	// parked in Topic + ".parked" with the default bound; one whose MaxRedrives is -1 turns that off.
	Letters SourceConfig

	// To names the topic that messages are written to, in the partition of their key. Empty: each goes back to the topic
	// and the partition that it came from.
	To string

	// Group is the consumer group whose offsets remember how far a redrive has come. Empty: Topic + ".redrive", and if
	// there is a filter or To, a word made of these. So the same redrive goes on where it was, and another one begins at
	// the start.
	Group string

	// TakeHome redrives also those letters that a pipeline takes home by itself.
	TakeHome bool

	// Strip names headers that are left out of what is written. The letter's own always are.
	Strip []string

	// Circuit is the circuit of what the messages had failed on. While it is open nothing is written, and while it is
	// half-open one letter a second. Nil: always closed.
	Circuit Circuit

	// MaxFailures is the share of letters, in (0, 1], that may be refused or come back before a run stops. It counts
	// from the 20th on. 0 means 0.5, -1 means that none is too many.
	MaxFailures float64
}

// Validate names every field that cannot be.
func (c RedriveConfig) Validate() error {
	errs := []error{c.Letters.Validate(), c.Letters.apart(c.Topic)}
	if c.Topic == "" {
		errs = append(errs, errors.New("dlq: RedriveConfig.Topic must name a topic, got \"\""))
	}
	if c.To != "" && c.To == c.Topic {
		errs = append(errs, fmt.Errorf("dlq: RedriveConfig.To must not be the dead-letter topic itself, got %q", c.To))
	}
	if l := c.Letters.Ledger; l != nil && c.To == l.topic {
		errs = append(errs, fmt.Errorf("dlq: RedriveConfig.To must not be the ledger's topic, got %q", c.To))
	}
	if p := c.Letters.Parking; p != nil && c.To == p.cfg.Topic || p == nil && c.Topic != "" && c.To == ParkedTopic(c.Topic) {
		errs = append(errs, fmt.Errorf("dlq: RedriveConfig.To must not be the topic in which letters are parked, got %q", c.To))
	}
	if i := slices.Index(c.Strip, ""); i >= 0 {
		errs = append(errs, fmt.Errorf("dlq: RedriveConfig.Strip[%d] must name a header, got \"\"", i))
	}
	if c.MaxFailures != -1 && !(c.MaxFailures >= 0 && c.MaxFailures <= 1) {
		errs = append(errs, fmt.Errorf("dlq: RedriveConfig.MaxFailures must be in (0, 1], 0 for %v or -1 for no bound, got %v",
			defaultMaxFailures, c.MaxFailures))
	}
	return errors.Join(errs...)
}

// Redrive writes letters back, as the messages they were, to where they came from or to a topic of your choice. Other
// groups of that topic see them again; to take letters through one pipeline only, give it a Source.
//
// What is written carries the original key, value and headers, but for those that Strip names, and two headers of its
// own: HeaderID and HeaderRedriveCount. Topic writes the latter into the letter if the message fails again, so that a
// message that fails for ever is parked at last.
//
// A letter is committed after its message is acknowledged. So a run that ends early, however it ends, is gone on with by
// the next one, which writes again what was acknowledged and not committed. With a ledger it is not written again: before
// the first message a run marks in the ledger where the targets end, and one that finds a mark reads the targets from
// there on. What remains is a request that a broker has taken from a process that is dead, or fenced, and appends to its
// log after the next owner of the partition has read it, which is at the earliest when the dead one's session is over.
// And two runs at once, in different groups over the same letters, know of each other's letters only by what was recorded
// before they began.
//
// Within a partition of the dead-letter topic, messages for one partition are written in the order of their letters. A
// Redrive is safe for concurrent use; Run may be called many times, but once at a time.
type Redrive struct {
	consumer Consumer
	target   Target
	log      Log
	cfg      RedriveConfig
	logger   *slog.Logger
	current  atomic.Pointer[run] // Nil when none runs.

	mu   sync.Mutex // Held for the change from current to past.
	past RedriveStats
}

// NewRedrive returns a Redrive. It does no I/O.
func NewRedrive(c Consumer, t Target, log Log, cfg RedriveConfig) (*Redrive, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if c == nil || t == nil || log == nil {
		return nil, errors.New("dlq: NewRedrive needs a Consumer, a Target and a Log, got nil")
	}
	cfg.MaxFailures = cmp.Or(cfg.MaxFailures, defaultMaxFailures)
	cfg.Group = cmp.Or(cfg.Group, cfg.defaultGroup())
	cfg.Strip = slices.Clone(cfg.Strip)
	if cfg.Letters.Parking == nil {
		parking, err := NewParking(t, ParkingConfig{Topic: ParkedTopic(cfg.Topic)})
		if err != nil {
			return nil, err
		}
		cfg.Letters.Parking = parking
	}
	return &Redrive{consumer: c, target: t, log: log, cfg: cfg, logger: cmp.Or(cfg.Letters.Logger, slog.Default())}, nil
}

// ParkedTopic is where a Redrive of a dead-letter topic parks letters unless told otherwise.
func ParkedTopic(topic string) string { return topic + ".parked" }

// defaultGroup is the same for the same letters and target.
func (c RedriveConfig) defaultGroup() string {
	type choice struct {
		Filter Filter
		To     string
		Home   bool
	}
	word := func(c choice) string {
		sum := sha256.Sum256(fmt.Appendf(nil, "%#v", c))
		return hex.EncodeToString(sum[:4])
	}
	group := c.Topic + ".redrive"
	if own := word(choice{c.Letters.Filter, c.To, c.TakeHome}); own != word(choice{}) {
		group += "." + own
	}
	return group
}

// Group is the consumer group whose offsets remember how far the redrive has come.
func (r *Redrive) Group() string { return r.cfg.Group }

func (r *Redrive) sorter() *sorter {
	s := r.cfg.Letters.sorter()
	s.origin = r.cfg.To == ""
	if !r.cfg.TakeHome {
		s.homes = newHomes(r.log, r.cfg.Topic)
	}
	return s
}
