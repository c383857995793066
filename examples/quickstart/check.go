package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
)

// result is where every order was found.
type result struct {
	produced, stored, dead, lost, duplicated int
	redriven                                 uint64
}

func (r result) String() string {
	return fmt.Sprintf("produced=%d stored=%d dead=%d redriven=%d lost=%d duplicated=%d",
		r.produced, r.stored, r.dead, r.redriven, r.lost, r.duplicated)
}

// check looks for every order in ClickHouse and in the dead-letter queue.
func (s *shop) check(ctx context.Context, cluster kafkax.Cluster, redriven uint64) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rows, err := s.rows(ctx)
	if err != nil {
		return result{}, fmt.Errorf("reading table %s: %w", s.table, err)
	}
	letters, err := s.letters(ctx, cluster)
	if err != nil {
		return result{}, fmt.Errorf("reading topic %s: %w", s.deadLetters, err)
	}
	r := result{produced: s.messages, redriven: redriven}
	for id := range s.messages {
		switch n := rows[id]; {
		case n > 0:
			r.stored++
			r.duplicated += n - 1
		case letters[id]:
			r.dead++
		default:
			r.lost++
		}
	}
	return r, nil
}

// rows counts the rows of every order.
func (s *shop) rows(ctx context.Context) (map[int]int, error) {
	rows, err := s.db.Query(ctx, "SELECT id FROM "+s.table)
	if err != nil {
		return nil, err
	}
	found := make(map[int]int)
	for rows.Next() {
		var id uint64
		if err := rows.Scan(&id); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		found[int(id)]++
	}
	return found, errors.Join(rows.Err(), rows.Close())
}

// letters reads the dead-letter topic to its end and says which orders have a letter there.
func (s *shop) letters(ctx context.Context, cluster kafkax.Cluster) (map[int]bool, error) {
	reader, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: s.group + ".check", Topics: []string{s.deadLetters}})
	if err != nil {
		return nil, err
	}
	var (
		mu    sync.Mutex
		found = make(map[int]bool)
		left  = partitions
	)
	ctx, done := context.WithCancel(ctx)
	defer done()
	err = reader.Consume(ctx, func(ctx context.Context, c holdfast.Claim) error {
		ids, err := readToEnd(ctx, c)
		if err != nil {
			return err
		}
		mu.Lock()
		for _, id := range ids {
			found[id] = true
		}
		if left--; left == 0 {
			done()
		}
		mu.Unlock()
		<-c.Revoked()
		return nil
	})
	return found, err
}

// readToEnd reads the letters that a partition holds and returns their orders. An empty one answers nothing for a second.
func readToEnd(ctx context.Context, c holdfast.Claim) ([]int, error) {
	var ids []int
	for next, _ := c.Committed(); next != c.End(); {
		fetch, cancel := context.WithTimeout(ctx, time.Second)
		messages, err := c.Fetch(fetch)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			continue
		case err != nil:
			return nil, err
		}
		for _, m := range messages {
			if _, err := dlq.Decode(m); err != nil {
				return nil, err
			}
			id, err := strconv.Atoi(string(m.Key))
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
			next = m.Offset + 1
		}
	}
	return ids, nil
}
