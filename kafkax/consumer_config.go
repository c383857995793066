package kafkax

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

const (
	defaultSessionTimeout    = 30 * time.Second // As kafka-go has it; Kafka allows 6 s to 30 min.
	defaultHeartbeatInterval = 3 * time.Second  // As kafka-go and the Java client have it.
	defaultRebalanceTimeout  = 30 * time.Second // As kafka-go has it.
	defaultDrainTimeout      = 20 * time.Second // Below the 30 s that Kubernetes gives a pod to end.
	defaultCommitInterval    = time.Second
	defaultMaxWait           = 500 * time.Millisecond // As the Java client's fetch.max.wait.ms.
	defaultFetchBytes        = 1 << 20                // As the Java client's max.partition.fetch.bytes.
	defaultPrefetchBytes     = 64 << 20               // Near the Java client's fetch.max.bytes.
	defaultFetchMessages     = 200
	defaultLargestBatch      = 64 << 20

	maxFetchBytes    = 64 << 20
	maxFetchMessages = 1_000_000
	minLargestBatch  = 64 << 10 // Both as wire.Config has them.
	maxLargestBatch  = 1 << 30
)

// Start says where a group begins to read a partition for which it has committed nothing yet.
type Start int

const (
	// StartEarliest begins with the oldest message in the log. It is the zero value, because it loses nothing.
	StartEarliest Start = iota
	// StartLatest begins with what is written after the partition was first claimed. That place is committed at once,
	// so that a restart does not skip what was written in between. A partition that is added to the topic later begins
	// at its end as well: what was written to it before it was noticed, which takes a second or two, and up to half a
	// minute while partitions come again and again, is passed over.
	StartLatest
	// StartAtTime begins with the first message that is no older than ConsumerConfig.StartTime, by the messages' own
	// times, and at the end if there is none. That place is committed at once, as with StartLatest.
	StartAtTime
)

// OutOfRange says what to do when a partition's log does not hold what is to be read next: it was deleted before it was
// read, or the log has lost its end, because the topic is another one of its name or a replica that lagged was elected.
type OutOfRange int

const (
	// OutOfRangeFail ends Consume with an *OffsetOutOfRangeError. It is the zero value, because nothing is lost unnoticed.
	OutOfRangeFail OutOfRange = iota
	// OutOfRangeEarliest goes on with the oldest message in the log: after a deletion, what was deleted is passed over;
	// in a log that has lost its end, all that it holds is read again.
	OutOfRangeEarliest
	// OutOfRangeLatest goes on at the end of the log: all that it holds is passed over.
	OutOfRangeLatest
)

// ConsumerConfig says what to read and how. Group and Topics are required for Consume, the zero value of everything else
// is a good default.
type ConsumerConfig struct {
	// Group is the consumer group to be a member of.
	Group string

	// Topics are what to read, each named once. One that does not exist yet is waited for.
	Topics []string

	// Start is where to begin in a partition for which the group has committed nothing: StartEarliest by default.
	Start Start

	// StartTime goes with StartAtTime, and only with it.
	StartTime time.Time

	// OutOfRange is OutOfRangeFail by default. The others log every place where they go on, and count it in
	// GroupStats.
	OutOfRange OutOfRange

	// SessionTimeout is how long the group waits for a sign of life before it gives the member's partitions to others.
	// 0 means 30 s.
	SessionTimeout time.Duration

	// HeartbeatInterval is how often a sign of life is given, at most a third of SessionTimeout. 0 means 3 s.
	HeartbeatInterval time.Duration

	// RebalanceTimeout is how long the group waits, once it is being rebalanced, for its members to let go of what they
	// have. 0 means 30 s.
	RebalanceTimeout time.Duration

	// DrainTimeout is how long handlers may work on after their claims were revoked. It must be below RebalanceTimeout
	// by two HeartbeatIntervals: one until the rebalance is noticed, one for the last commit. 0 means 20 s.
	DrainTimeout time.Duration

	// CommitInterval is the least time between two coalesced commits. What lies between is redelivered after a crash.
	// 0 means 1 s, -1 means as fast as the broker answers.
	CommitInterval time.Duration

	// MaxWait is how long a broker holds a fetch for which it has no message. 0 means 500 ms.
	MaxWait time.Duration

	// FetchBytes is how much a broker puts into one answer, as it is stored; a batch that is larger comes whole all the
	// same. 0 means 1 MiB.
	FetchBytes int

	// PrefetchBytes bounds what is fetched ahead of all handlers together, as it is stored. Each partition has an equal
	// share of it, whatever the others do, for two answers: one that its handler is being given, and the one after it.
	// With so many partitions that a share is below 2 FetchBytes, answers are smaller. A batch that is larger than that
	// is not fetched ahead, but once Fetch waits for it. 0 means 64 MiB.
	PrefetchBytes int

	// FetchMessages is how many messages Fetch returns at most. Until then they take no more memory than in the log, but
	// that the batch they belong to is decompressed. 0 means 200.
	FetchMessages int

	// BatchBytes is how large a record batch may be, decompressed. A larger one ends Consume. It must be at least
	// FetchBytes and 64 KiB. 0 means 64 MiB.
	BatchBytes int

	// ReadCommitted hides messages of aborted transactions, and those of open ones until they are committed.
	ReadCommitted bool

	// Breaker is asked before every commit and every connection to fetch over, and hears how the commit, and the
	// connection's first fetch, ended; nil means none. While it is open no connection is made that was lost, nothing is
	// committed, CommitSync waits, and heartbeats go on, so that partitions are kept. The last commit of a drain does
	// not ask it. BreakerConfig is what suits one. It may be shared, as with a Producer.
	Breaker *breaker.Breaker

	// Logger is told of changes of state. Nil means slog.Default().
	Logger *slog.Logger
}

// Validate reports all that is wrong with the configuration, in one error.
func (c ConsumerConfig) Validate() error {
	errs := []error{validateSubscription(c.Group, c.Topics)}
	bad := func(field, want string, got any) {
		errs = append(errs, fmt.Errorf("kafkax: ConsumerConfig.%s must be %s, got %v", field, want, got))
	}
	if c.Start < StartEarliest || c.Start > StartAtTime {
		bad("Start", "StartEarliest, StartLatest or StartAtTime", int(c.Start))
	}
	if c.Start == StartAtTime && c.StartTime.UnixMilli() < 0 || c.Start != StartAtTime && !c.StartTime.IsZero() {
		bad("StartTime", "after 1970 with Start: StartAtTime, and zero without it", c.StartTime)
	}
	if c.OutOfRange < OutOfRangeFail || c.OutOfRange > OutOfRangeLatest {
		bad("OutOfRange", "OutOfRangeFail, OutOfRangeEarliest or OutOfRangeLatest", int(c.OutOfRange))
	}
	d := c.withDefaults()
	for _, f := range []struct {
		name     string
		set, def time.Duration
	}{
		{"SessionTimeout", c.SessionTimeout, defaultSessionTimeout},
		{"HeartbeatInterval", c.HeartbeatInterval, defaultHeartbeatInterval},
		{"RebalanceTimeout", c.RebalanceTimeout, defaultRebalanceTimeout},
		{"DrainTimeout", c.DrainTimeout, defaultDrainTimeout},
		{"MaxWait", c.MaxWait, defaultMaxWait},
	} {
		if f.set != 0 && (f.set < time.Millisecond || f.set.Milliseconds() > math.MaxInt32) {
			bad(f.name, fmt.Sprintf("at least 1ms and below 24 days, or 0 for %v", f.def), f.set)
		}
	}
	if d.HeartbeatInterval > d.SessionTimeout/3 {
		bad("HeartbeatInterval", fmt.Sprintf("at most a third of SessionTimeout (%v)", d.SessionTimeout), d.HeartbeatInterval)
	}
	if most := d.RebalanceTimeout - 2*d.HeartbeatInterval; d.DrainTimeout > most {
		bad("DrainTimeout", fmt.Sprintf("at most RebalanceTimeout (%v) less two HeartbeatIntervals (%v), that is %v",
			d.RebalanceTimeout, d.HeartbeatInterval, most), d.DrainTimeout)
	}
	if c.CommitInterval < 0 && c.CommitInterval != -1 {
		bad("CommitInterval", fmt.Sprintf("positive, 0 for %v, or -1 for none", defaultCommitInterval), c.CommitInterval)
	}
	if c.FetchBytes < 0 || c.FetchBytes > maxFetchBytes {
		bad("FetchBytes", fmt.Sprintf("positive and at most %d, or 0 for %d", maxFetchBytes, defaultFetchBytes), c.FetchBytes)
	}
	if c.PrefetchBytes < 0 {
		bad("PrefetchBytes", fmt.Sprintf("positive, or 0 for %d", defaultPrefetchBytes), c.PrefetchBytes)
	}
	if c.FetchMessages < 0 || c.FetchMessages > maxFetchMessages {
		bad("FetchMessages", fmt.Sprintf("positive and at most %d, or 0 for %d", maxFetchMessages, defaultFetchMessages), c.FetchMessages)
	}
	if least := max(d.FetchBytes, minLargestBatch); d.BatchBytes < least || d.BatchBytes > maxLargestBatch {
		bad("BatchBytes", fmt.Sprintf("at least %d, not below FetchBytes, and at most %d, or 0 for %d", least, maxLargestBatch, defaultLargestBatch), d.BatchBytes)
	}
	return errors.Join(errs...)
}

func (c ConsumerConfig) withDefaults() ConsumerConfig {
	c.Topics = slices.Clone(c.Topics)
	c.SessionTimeout = cmp.Or(c.SessionTimeout, defaultSessionTimeout)
	c.HeartbeatInterval = cmp.Or(c.HeartbeatInterval, defaultHeartbeatInterval)
	c.RebalanceTimeout = cmp.Or(c.RebalanceTimeout, defaultRebalanceTimeout)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, defaultDrainTimeout)
	c.CommitInterval = max(cmp.Or(c.CommitInterval, defaultCommitInterval), 0)
	c.MaxWait = cmp.Or(c.MaxWait, defaultMaxWait)
	c.FetchBytes = cmp.Or(c.FetchBytes, defaultFetchBytes)
	c.PrefetchBytes = cmp.Or(c.PrefetchBytes, defaultPrefetchBytes)
	c.FetchMessages = cmp.Or(c.FetchMessages, defaultFetchMessages)
	c.BatchBytes = cmp.Or(c.BatchBytes, defaultLargestBatch)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

// share is how much each of n partitions asks a broker for at a time, so that two answers for each of them stay within
// PrefetchBytes.
func (c ConsumerConfig) share(n int) int {
	return max(min(c.FetchBytes, c.PrefetchBytes/2/max(n, 1)-wire.AnswerHead), 1)
}

func validateSubscription(group string, topics []string) error {
	var errs []error
	if group == "" {
		errs = append(errs, errors.New("kafkax: the consumer's Group must not be empty"))
	}
	if len(topics) == 0 {
		errs = append(errs, errors.New("kafkax: the consumer's Topics must name at least one topic, got none"))
	}
	for i, topic := range topics {
		if err := checkTopicName(topic); err != nil {
			errs = append(errs, fmt.Errorf("kafkax: the consumer's Topics[%d]: %w", i, err))
		}
		if slices.Contains(topics[:i], topic) {
			errs = append(errs, fmt.Errorf("kafkax: the consumer's Topics[%d] must be named once, got %q again", i, topic))
		}
	}
	return errors.Join(errs...)
}
