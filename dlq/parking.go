package dlq

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-io/holdfast"
)

const defaultMaxRedrives = 5

// ParkingConfig is where letters end that come back again and again.
type ParkingConfig struct {
	// Topic takes them. Required; it must exist. A letter is parked as the record that it was, so that it can be read,
	// and redriven, from there.
	Topic string

	// MaxRedrives is how often a message may come home and fail again before its letter is parked. 0 means 5, -1 means
	// that none is parked.
	MaxRedrives int
}

// Validate names every field that cannot be.
func (c ParkingConfig) Validate() error {
	var errs []error
	if c.Topic == "" {
		errs = append(errs, errors.New("dlq: ParkingConfig.Topic must name a topic, got \"\""))
	}
	if c.MaxRedrives < -1 {
		errs = append(errs, fmt.Errorf("dlq: ParkingConfig.MaxRedrives must be positive, 0 for %d or -1 for no bound, got %d",
			defaultMaxRedrives, c.MaxRedrives))
	}
	return errors.Join(errs...)
}

// Parking ends the loop of a message that fails however often it is redriven. It is safe for concurrent use.
type Parking struct {
	producer Producer
	cfg      ParkingConfig
}

// NewParking returns a Parking that writes through p. It does no I/O.
func NewParking(p Producer, cfg ParkingConfig) (*Parking, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if p == nil {
		return nil, errors.New("dlq: NewParking needs a Producer, got nil")
	}
	cfg.MaxRedrives = cmp.Or(cfg.MaxRedrives, defaultMaxRedrives)
	return &Parking{producer: p, cfg: cfg}, nil
}

// takes tells whether a letter has come back too often. Nobody's Parking takes none.
func (p *Parking) takes(l *Letter) bool {
	return p != nil && p.cfg.MaxRedrives > 0 && l.Redrives >= p.cfg.MaxRedrives
}

// EndsLoops tells a pipeline whether a letter that fails again and again is parked some day. If not, the pipeline does not
// take letters from the topic that it writes them to.
func (c *letterClaim) EndsLoops() bool {
	return c.sorter.parking != nil && c.sorter.parking.cfg.MaxRedrives > 0
}

// park returns nil when all records, of one partition, are acknowledged in the parking topic. Their time is that of
// parking, so that no topic's retention counts how long they have lain already. Records that are parked again after an
// error may stand there twice.
func (p *Parking) park(ctx context.Context, partition int, records []holdfast.Message) error {
	partitions, err := p.producer.Partitions(ctx, p.cfg.Topic)
	if err == nil && partitions < 1 {
		err = errNoPartitions
	}
	if err == nil {
		err = p.producer.ProduceTo(ctx, p.cfg.Topic, partition%partitions, records...)
	}
	if err != nil {
		return fmt.Errorf("dlq: parking in %s: %w", p.cfg.Topic, err)
	}
	return nil
}
