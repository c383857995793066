package dlq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast"
)

// Entry is a record of a dead-letter topic, as Browse shows it.
type Entry struct {
	Record holdfast.Message // As it lies there.
	Letter Letter           // What it says; zero for what is no letter.
	State  State
}

// Browse shows every record of the dead-letter topic, each partition in its order, up to the end as it stood, and the
// state that it is in for this redrive. It reads from the offsets given, or from the first one on for partitions that
// have none. Of what the filter does not want it leaves out the partitions and offsets. When show returns
// holdfast.ErrSkip, the rest of that partition is left out; another error ends Browse, which returns it. It changes
// nothing. Letters that a run has redriven and, killed, not recorded, are shown as open.
func (r *Redrive) Browse(ctx context.Context, from map[int]int64, show func(Entry) error) error {
	if show == nil {
		return errors.New("dlq: Redrive.Browse needs a func to show entries to, got nil")
	}
	letters := &r.cfg.Letters
	if err := letters.Ledger.load(ctx); err != nil {
		return err
	}
	first, next, err := r.log.Bounds(ctx, r.cfg.Topic)
	if err != nil {
		return fmt.Errorf("dlq: topic %s: %w", r.cfg.Topic, err)
	}
	begin := make(map[int]int64, len(first))
	for p, offset := range first {
		begin[p] = next[p]
		if among(letters.Filter.Partitions, p) {
			begin[p] = min(max(offset, from[p], letters.Filter.From), next[p])
		}
	}
	s := r.sorter()
	s.headers = nil // All are for show.
	var d decoder
	return r.log.Scan(ctx, r.cfg.Topic, begin, func(records []holdfast.Message) error {
		for i := range records {
			if letters.Filter.To > 0 && records[i].Offset >= letters.Filter.To {
				return holdfast.ErrSkip
			}
			state, err := s.sort(ctx, &records[i], &d)
			if err != nil {
				return err
			}
			if err := show(Entry{records[i], d.letter, state}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Survey counts what lies in the dead-letter topic.
func (r *Redrive) Survey(ctx context.Context) (Survey, error) { return r.survey(ctx, nil) }

// Plan counts what a run would find if it began now.
func (r *Redrive) Plan(ctx context.Context) (Survey, error) {
	committed, err := r.log.Committed(ctx, r.cfg.Group, r.cfg.Topic)
	if err != nil {
		return Survey{}, fmt.Errorf("dlq: redrive of %s: %w", r.cfg.Topic, err)
	}
	return r.survey(ctx, committed)
}

func (r *Redrive) survey(ctx context.Context, from map[int]int64) (Survey, error) {
	s := NewSurvey()
	err := r.Browse(ctx, from, func(e Entry) error {
		s.Add(&e)
		return nil
	})
	return s, err
}

// Survey is what lies in a dead-letter topic, counted. Letters that the filter does not want, and records that are no
// letters, are in Records and States only.
type Survey struct {
	Records int   // All that were read.
	Bytes   int64 // Of keys, values and headers of the open letters.
	States  map[State]int

	// The open letters and the exhausted ones.
	Reasons map[Reason]int
	Classes map[string]int // Of their errors.
	Topics  map[string]int // Where they came from.
	Groups  map[string]int
	Oldest  time.Time // Zero if there is none.
	Newest  time.Time
}

// NewSurvey has counted nothing. The zero Survey cannot count.
func NewSurvey() Survey {
	return Survey{
		States: make(map[State]int), Reasons: make(map[Reason]int), Classes: make(map[string]int),
		Topics: make(map[string]int), Groups: make(map[string]int),
	}
}

// Add counts an entry, for who browses and wants to count what he sees.
func (s *Survey) Add(e *Entry) {
	s.Records++
	s.States[e.State]++
	if e.State != Open && e.State != Exhausted {
		return
	}
	if e.State == Open {
		s.Bytes += int64(sizeOf(&e.Record))
	}
	s.Reasons[e.Letter.Reason]++
	s.Classes[e.Letter.ErrorClass]++
	s.Topics[e.Letter.Message.Topic]++
	s.Groups[e.Letter.Group]++
	at := diedAt(&e.Letter, &e.Record)
	if s.Oldest.IsZero() || at.Before(s.Oldest) {
		s.Oldest = at
	}
	if at.After(s.Newest) {
		s.Newest = at
	}
}
