package dlq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

const (
	markEvery    = 30 * time.Second       // How often the ledger's mark is moved on.
	canaryEvery  = time.Second            // How often a half-open circuit gets a letter.
	circuitEvery = 100 * time.Millisecond // How often an open circuit is looked at. To wait in it would take others' turns.
)

// journey takes the letters of one claim back to where they came from.
type journey struct {
	*run
	claim *letterClaim

	encoder encoder // The reader's.

	marked   ends // What the ledger's mark says, nil if there is none.
	markedAt time.Time
	underway bool // Some of the letters sent last may be there, and are not settled.
}

// stop is a place that letters go to: all of one topic, or one partition of it.
type stop struct {
	place
	letters []int // Indexes of those that get off here.
}

// travel sends letters until the claim has no more, or its drain begins. While some are on their way the next are read.
func (j *journey) travel(ctx context.Context) error {
	if ledger := j.sorter.ledger; ledger != nil {
		j.marked = ledger.marked(j.claim.place)
		j.underway = true // Until it is known what an earlier owner has sent.
		if err := j.recover(ctx); err != nil {
			return err
		}
		j.underway = false
	}
	ahead := newBasket(max(1, aheadTotal/len(j.until)))
	reading, stop := context.WithCancel(ctx)
	var reader sync.WaitGroup
	reader.Go(func() { ahead.close(j.read(reading, ahead)) })
	defer func() {
		stop()
		reader.Wait()
		j.holding.Add(-int64(len(ahead.messages)))
	}()
	for {
		p, err := ahead.take(ctx, j.claim.Revoked())
		if err != nil {
			return err
		}
		err = j.sendAll(ctx, p.messages, p.headers)
		j.holding.Add(-int64(len(p.messages)))
		if err != nil {
			return err
		}
	}
}

// read reads ahead until the claim has no more. What nobody has taken when its drain begins stays where it is.
func (j *journey) read(ctx context.Context, ahead *basket) error {
	for {
		messages, err := j.claim.Fetch(ctx)
		if err != nil {
			return err
		}
		j.holding.Add(int64(len(messages)))
		if err := ahead.put(ctx, j.claim.Revoked(), portion{messages, j.claim.handed}); err != nil {
			return err
		}
	}
}

// sendAll sends letters, as many at a time as the pace allows and the circuit admits.
func (j *journey) sendAll(ctx context.Context, messages []holdfast.Message, headers [][]holdfast.Header) error {
	for len(messages) > 0 {
		n, wait := j.pace.portion(messages)
		if err := j.claim.pause(ctx, wait); err != nil {
			return err
		}
		n, leave, err := j.admit(ctx, n)
		if err != nil {
			return err
		}
		err = j.send(ctx, messages[:n], headers[:n])
		leave()
		if err != nil {
			return err
		}
		messages, headers = messages[n:], headers[n:]
	}
	return nil
}

// arrive takes the ledger's mark back when nothing lies behind it that is not recorded.
func (j *journey) arrive(ctx context.Context) error {
	if entries, _ := j.claim.recordable(); j.marked == nil || j.underway || len(entries) > 0 {
		return nil
	}
	return j.sorter.ledger.mark(ctx, j.claim.place, nil)
}

// admit waits for the circuit, and tells how many of n letters may be sent now. When they are, leave is to be called.
func (j *journey) admit(ctx context.Context, n int) (admitted int, leave func(), err error) {
	for j.cfg.Circuit != nil && j.cfg.Circuit.State() != breaker.Closed {
		if j.cfg.Circuit.State() == breaker.HalfOpen {
			select {
			case j.canary <- struct{}{}:
				return 1, func() {
					_ = j.claim.pause(ctx, canaryEvery) // Until its fate is known, or at least likely.
					<-j.canary
				}, nil
			default: // Another claim's letter is the canary.
			}
		}
		if err := j.claim.pause(ctx, circuitEvery); err != nil {
			return 0, nil, err
		}
	}
	return n, func() {}, nil
}

// send writes letters to where they belong, and settles them.
func (j *journey) send(ctx context.Context, messages []holdfast.Message, headers [][]holdfast.Header) error {
	stops, err := j.stops(ctx, messages)
	if err == nil {
		err = j.mark(ctx, stops)
	}
	if err != nil {
		return err
	}
	j.underway = true
	var mu sync.Mutex
	var refused []int
	var senders sync.WaitGroup
	errs := make([]error, len(stops))
	for i, s := range stops {
		senders.Go(func() {
			var bad []int
			bad, errs[i] = j.sendTo(ctx, s, messages)
			mu.Lock()
			defer mu.Unlock()
			refused = append(refused, bad...)
		})
	}
	senders.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := j.refuse(ctx, refused, messages, headers); err != nil {
		return err
	}
	j.claim.Commit(messages[len(messages)-1].Offset + 1)
	j.underway = false
	j.tally.redriven.Add(int64(len(messages) - len(refused)))
	j.judge()
	return nil
}

// stops finds out where each message goes.
func (j *journey) stops(ctx context.Context, messages []holdfast.Message) ([]stop, error) {
	if j.cfg.To != "" {
		all := stop{place: place{j.cfg.To, -1}, letters: make([]int, len(messages))}
		for i := range messages {
			all.letters[i] = i
		}
		return []stop{all}, nil
	}
	var stops []stop
	partitions := make(map[string]int)
	var last place // Of a message,
	n := -1        // and which stop that was.
	for i := range messages {
		m := &messages[i]
		if n >= 0 && m.Partition == last.partition && m.Topic == last.topic {
			stops[n].letters = append(stops[n].letters, i)
			continue
		}
		last = place{m.Topic, m.Partition}
		if partitions[m.Topic] == 0 {
			err := j.claim.persist(ctx, func() (err error) {
				partitions[m.Topic], err = j.target.Partitions(ctx, m.Topic)
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("target %s: %w", m.Topic, err)
			}
		}
		at := place{m.Topic, m.Partition % max(1, partitions[m.Topic])}
		n = slices.IndexFunc(stops, func(s stop) bool { return s.place == at })
		if n < 0 {
			n = len(stops)
			stops = append(stops, stop{at, make([]int, 0, len(messages)-i)})
		}
		stops[n].letters = append(stops[n].letters, i)
	}
	return stops, nil
}

// sendTo writes letters until they are there or refused for good.
func (j *journey) sendTo(ctx context.Context, s stop, all []holdfast.Message) (refused []int, err error) {
	left := s.letters
	err = j.claim.persist(ctx, func() error {
		messages := all
		if len(left) < len(all) {
			messages = make([]holdfast.Message, 0, len(left))
			for _, i := range left {
				messages = append(messages, all[i])
			}
		}
		var err error
		if s.partition < 0 {
			err = j.target.Produce(ctx, messages...)
		} else {
			err = j.target.ProduceTo(ctx, s.topic, s.partition, messages...)
		}
		if err == nil {
			return nil
		}
		failed := notWritten(err, len(left))
		for n, i := range failed {
			failed[n] = left[i]
		}
		left = failed
		if holdfast.IsPermanent(err) {
			refused, left = append(refused, left...), nil
			return nil
		}
		if holdfast.IsAmbiguous(err) && j.sorter.ledger != nil {
			// Who is there need not be sent again.
			if err := j.recover(ctx); err != nil {
				return err
			}
			left = slices.DeleteFunc(left, func(i int) bool {
				id, redrives, _ := journeyOf(&all[i])
				return j.sorter.ledger.knows(id, redrives)
			})
			if len(left) == 0 {
				return nil
			}
		}
		return fmt.Errorf("target %s: %w", s.topic, err)
	})
	return refused, err
}

// refuse parks what the target does not take.
func (j *journey) refuse(ctx context.Context, refused []int, messages []holdfast.Message, headers [][]holdfast.Header) error {
	if len(refused) == 0 {
		return nil
	}
	slices.Sort(refused)
	parked := make([]holdfast.Message, len(refused))
	for n, i := range refused {
		parked[n] = holdfast.Message{Key: messages[i].Key, Value: messages[i].Value, Headers: headers[i]}
	}
	err := j.claim.persist(ctx, func() error { return j.cfg.Letters.Parking.park(ctx, j.claim.partition, parked) })
	if err == nil {
		j.tally.failed.Add(int64(len(refused)))
	}
	return err
}

// home makes m, the record, what is written. Only its offset stays the record's.
func (j *journey) home(l *Letter, m *holdfast.Message) {
	e := &j.encoder
	e.begin(len(l.Message.Headers) + 2)
	for _, h := range l.Message.Headers {
		if !slices.Contains(j.cfg.Strip, h.Key) {
			e.headers = append(e.headers, h)
		}
	}
	e.id(l)
	e.number(HeaderRedriveCount, int64(l.Redrives)+1)
	m.Topic, m.Partition = cmp.Or(j.cfg.To, l.Message.Topic), l.Message.Partition
	m.Headers = e.end()
	m.Time = time.Time{} // It is written now.
}

// journeyOf reads from a message that came home whose letter it was, and for the how-manieth time it came.
func journeyOf(m *holdfast.Message) (id string, redrives int, ok bool) {
	for _, h := range m.Headers {
		switch h.Key {
		case HeaderID:
			id = string(h.Value)
		case HeaderRedriveCount:
			redrives = parseCount(string(h.Value))
		}
	}
	return id, redrives, id != "" && redrives > 0
}

// mark has the ledger know where the letters that are sent next will be found.
func (j *journey) mark(ctx context.Context, stops []stop) error {
	ledger := j.sorter.ledger
	if ledger == nil {
		return nil
	}
	marks := maps.Clone(j.marked)
	if marks == nil {
		marks = make(ends)
	}
	moved := time.Since(j.markedAt) >= markEvery
	for _, s := range stops {
		if marks[s.topic] == nil {
			marks[s.topic], moved = nil, true
		}
	}
	if !moved {
		return nil
	}
	if err := j.claim.flush(ctx); err != nil {
		return err
	}
	for topic := range marks {
		_, next, err := j.log.Bounds(ctx, topic)
		if err != nil {
			return fmt.Errorf("target %s: %w", topic, err)
		}
		marks[topic] = next
	}
	if err := j.claim.persist(ctx, func() error { return ledger.mark(ctx, j.claim.place, marks) }); err != nil {
		return err
	}
	j.marked, j.markedAt = marks, time.Now()
	return nil
}

// recover has the ledger know of letters that have come home and were not recorded: those behind its mark. Several who
// send may do so at once.
func (j *journey) recover(ctx context.Context) error {
	ledger := j.sorter.ledger
	for topic, marked := range j.marked {
		err := j.log.Scan(ctx, topic, marked, func(records []holdfast.Message) error {
			var found []entry
			for i := range records {
				if id, n, ok := journeyOf(&records[i]); ok && !ledger.knows(id, n) {
					found = append(found, entry{id, n})
				}
			}
			if len(found) == 0 {
				return nil
			}
			return ledger.record(ctx, j.claim.place, found)
		})
		if err != nil {
			return fmt.Errorf("reading target %s: %w", topic, err)
		}
	}
	return nil
}
