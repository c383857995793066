package dlq

import (
	"context"

	"github.com/holdfast-io/holdfast"
)

// State is what a reader of a dead-letter topic makes of one of its records.
type State string

// The states of a record.
const (
	Open      State = "open"         // A letter that waits for somebody to take it home.
	Exhausted State = "exhausted"    // It has come back too often and is to be parked.
	Redriven  State = "redriven"     // The ledger knows that it was taken home, or parked.
	ComesHome State = "comes_home"   // Its pipeline will take it home by itself,
	CameHome  State = "came_home"    // or has done so.
	Unwanted  State = "unwanted"     // The filter does not want it.
	Foreign   State = "not_a_letter" // It does not say where it came from.
)

// HomeGroup is the consumer group in which the pipeline of a group takes the letters of an open circuit home by itself.
func HomeGroup(group string) string { return group + ".redrive" }

// sorter tells letters that are to be taken home from those that are not.
type sorter struct {
	filter  Filter
	parking *Parking // Nil: none is exhausted.
	ledger  *Ledger  // Nil: nobody knows what was redriven.
	homes   *homes   // Nil: none comes home by itself.
	origin  bool     // Letters are of use only if they say where they came from.
	headers []string // Those of letters' headers that are of use. Nil: all are.
}

// sort reads a record's letter with d.
func (s *sorter) sort(ctx context.Context, record *holdfast.Message, d *decoder) (State, error) {
	err, l := d.decode(record), &d.letter
	switch {
	case err != nil, s.origin && l.Message.Topic == record.Topic:
		return Foreign, nil //nolint:nilerr // That is what the state says.
	case !s.filter.wants(l, record):
		return Unwanted, nil
	case s.ledger != nil && s.ledger.knows(l.id(), l.Redrives+1):
		return Redriven, nil
	}
	if l.Reason == CircuitOpen && s.homes != nil {
		committed, err := s.homes.committed(ctx, l.Group)
		switch {
		case err != nil || len(committed) > 0 && record.Offset >= committed[record.Partition]:
			return ComesHome, err
		case len(committed) > 0:
			return CameHome, nil
		}
	}
	if s.parking.takes(l) {
		return Exhausted, nil
	}
	return Open, nil
}
