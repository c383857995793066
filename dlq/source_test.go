package dlq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
)

// log is a claim over records that are all there, handed out a few at a time.
type log struct {
	holdfast.Claim
	records   []holdfast.Message
	chunk     int
	committed []int64
}

func (l *log) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return handle(ctx, l)
}

func (l *log) Partition() (string, int)   { return "orders.dlq", 7 }
func (l *log) Committed() (int64, string) { return 0, "" }
func (l *log) Commit(next int64)          { l.committed = append(l.committed, next) }

func (l *log) Fetch(context.Context) ([]holdfast.Message, error) {
	if len(l.records) == 0 {
		return nil, holdfast.ErrRevoked
	}
	n := min(l.chunk, len(l.records))
	chunk := l.records[:n]
	l.records = l.records[n:]
	return chunk, nil
}

func record(offset int64, change func(*dlq.Letter)) holdfast.Message {
	l := letter()
	l.Message.Offset = 100 + offset
	change(&l)
	m := dlq.Encode(l)
	m.Topic, m.Partition, m.Offset = "orders.dlq", 7, offset
	return m
}

func source(t *testing.T, l *log) *dlq.Source {
	t.Helper()
	s, err := dlq.NewSource(l, dlq.SourceConfig{Filter: dlq.Filter{Groups: []string{"g"}, Reasons: []dlq.Reason{dlq.CircuitOpen}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSourceGivesTheMessageBack(t *testing.T) {
	l := &log{chunk: 10, records: []holdfast.Message{record(0, func(*dlq.Letter) {})}}
	var got []holdfast.Message
	if err := source(t, l).Consume(t.Context(), func(ctx context.Context, c holdfast.Claim) (err error) {
		got, err = c.Fetch(ctx)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := letter()
	m := got[0]
	if m.Topic != "orders" || m.Partition != 3 || m.Offset != 100 || !m.Time.Equal(want.Message.Time) {
		t.Errorf("it comes from %s/%d offset %d of %v", m.Topic, m.Partition, m.Offset, m.Time)
	}
	if m.Letter == nil || m.Letter.ID != "g/orders/3/100" || m.Letter.Topic != "orders.dlq" || m.Letter.Partition != 7 || m.Letter.Redrives != 1 {
		t.Errorf("its letter is %+v", m.Letter)
	}
	if m.ClaimOffset() != 0 {
		t.Errorf("its place in the claim is %d, want 0", m.ClaimOffset())
	}
}

// What is passed over is committed with the letter before it, never before that is settled, and at once when nothing
// is outstanding.
func TestSourceCommitsWhatItPassesOver(t *testing.T) {
	poison := func(l *dlq.Letter) { l.Reason = dlq.Undecodable }
	others := func(l *dlq.Letter) { l.Group = "h" }
	mine := func(*dlq.Letter) {}
	foreign := holdfast.Message{Topic: "orders.dlq", Partition: 7, Offset: 1}
	l := &log{chunk: 2, records: []holdfast.Message{
		record(0, poison), foreign,
		record(2, mine), record(3, others),
		record(4, poison), record(5, mine),
		record(6, mine), record(7, poison),
	}}
	err := source(t, l).Consume(t.Context(), func(ctx context.Context, c holdfast.Claim) error {
		fetch := func(want ...int64) {
			t.Helper()
			messages, err := c.Fetch(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var offsets []int64
			for _, m := range messages {
				offsets = append(offsets, m.ClaimOffset())
			}
			if !slices.Equal(offsets, want) {
				t.Fatalf("fetched %v, want %v", offsets, want)
			}
		}
		committed := func(want ...int64) {
			t.Helper()
			if !slices.Equal(l.committed, want) {
				t.Fatalf("committed %v, want %v", l.committed, want)
			}
		}
		fetch(2)
		committed(2) // The poison and the foreign record before it.
		fetch(5)
		committed(2) // 2 is outstanding, so 3 and 4 wait.
		c.Commit(3)
		committed(2, 3) // 5 is outstanding.
		c.Commit(6)
		committed(2, 3, 6)
		fetch(6)
		c.Commit(7)
		committed(2, 3, 6, 8)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// However fetches and commits take turns, nothing is committed past a letter that is outstanding, and in the end
// everything is.
func TestSourceCommitsAsFarAsLettersAreSettled(t *testing.T) {
	for seed := range uint64(2000) {
		dice := rand.New(rand.NewPCG(seed, 0))
		l := &log{chunk: 1 + dice.IntN(5)}
		mine := make(map[int64]bool)
		end := int64(1 + dice.IntN(30))
		for o := range end {
			mine[o] = dice.IntN(2) == 0
			l.records = append(l.records, record(o, func(l *dlq.Letter) {
				if !mine[o] {
					l.Group = "h"
				}
			}))
		}
		err := source(t, l).Consume(t.Context(), func(ctx context.Context, c holdfast.Claim) error {
			var outstanding []int64
			settled := int64(0)
			for over := false; !over || len(outstanding) > 0; {
				if !over && (len(outstanding) == 0 || dice.IntN(2) == 0) {
					messages, err := c.Fetch(ctx)
					over = err != nil
					for _, m := range messages {
						outstanding = append(outstanding, m.ClaimOffset())
					}
				} else {
					n := 1 + dice.IntN(len(outstanding))
					settled, outstanding = outstanding[n-1]+1, outstanding[n:]
					c.Commit(settled)
				}
				for _, next := range l.committed {
					for o := settled; o < next; o++ {
						if mine[o] {
							t.Fatalf("seed %d: committed up to %d, and %d is outstanding", seed, next, o)
						}
					}
				}
				if !slices.IsSorted(l.committed) {
					t.Fatalf("seed %d: commits go back: %v", seed, l.committed)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := l.committed[len(l.committed)-1]; got != end {
			t.Fatalf("seed %d: committed up to %d of %d", seed, got, end)
		}
	}
}

// What has been fetched is not lost when letters cannot be parked: the next Fetch goes on with it.
func TestSourceKeepsWhatItHasWhenItCannotPark(t *testing.T) {
	for _, withLedger := range []bool{false, true} {
		t.Run(fmt.Sprintf("ledger %v", withLedger), func(t *testing.T) {
			p := &producer{partitions: 1, away: map[int]error{0: holdfast.Hold(errors.New("forbidden"))}}
			parking, err := dlq.NewParking(p, dlq.ParkingConfig{Topic: "orders.dlq.parked"})
			if err != nil {
				t.Fatal(err)
			}
			cfg := dlq.SourceConfig{Parking: parking}
			if withLedger {
				if cfg.Ledger, err = dlq.NewLedger(&producer{partitions: 1}, new(shelf), dlq.LedgerConfig{Topic: "ledger"}); err != nil {
					t.Fatal(err)
				}
			}
			l := &log{chunk: 3, records: []holdfast.Message{
				record(0, func(*dlq.Letter) {}), record(1, func(l *dlq.Letter) { l.Redrives = 5 }), record(2, func(*dlq.Letter) {}),
			}}
			exhausted := l.records[1].Headers
			s, err := dlq.NewSource(l, cfg)
			if err != nil {
				t.Fatal(err)
			}
			err = s.Consume(t.Context(), func(ctx context.Context, c holdfast.Claim) error {
				if _, err := c.Fetch(ctx); !holdfast.IsHold(err) {
					t.Errorf("got %v, want to hear that it is forbidden", err)
				}
				if len(l.committed) > 0 {
					t.Errorf("committed %v before anything is parked", l.committed)
				}
				p.set(nil)
				messages, err := c.Fetch(ctx)
				if err != nil || len(messages) != 2 || messages[0].ClaimOffset() != 0 || messages[1].ClaimOffset() != 2 {
					t.Errorf("then %v, %v, want letters 0 and 2", messages, err)
				}
				c.Commit(3)
				if _, err := c.Fetch(ctx); !errors.Is(err, holdfast.ErrRevoked) {
					t.Errorf("at the end %v", err)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if parked := p.log[0]; len(parked) != 1 || !reflect.DeepEqual(parked[0].Headers, exhausted) {
				t.Errorf("%d letters are parked, or not the right one, want letter 1 once", len(parked))
			}
			if !slices.Equal(slices.Compact(l.committed), []int64{3}) {
				t.Errorf("committed %v, want 3", l.committed)
			}
		})
	}
}
