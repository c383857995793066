package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax"
)

const partitions = 4

type order struct {
	ID       uint64 `json:"id"`
	Customer string `json:"customer"`
	Quantity int    `json:"quantity"`
}

type row struct {
	ID       uint64 `ch:"id"`
	Customer string `ch:"customer"`
	Cents    int64  `ch:"cents"`
}

// addPrice is the program's own code: it refuses orders of nothing, for ever.
func addPrice(_ context.Context, o order) (row, error) {
	if o.Quantity <= 0 {
		return row{}, holdfast.Permanent(errors.New("the quantity is not positive"))
	}
	return row{ID: o.ID, Customer: o.Customer, Cents: int64(o.Quantity) * 499}, nil
}

// shop is where orders come from and where they are looked for in the end.
type shop struct {
	at                               place
	messages                         int
	group, topic, deadLetters, table string
	db                               driver.Conn // Past the wall.
}

func newShop(at place, messages int) *shop {
	name := "orders"
	if at.real { // Each run has its own, so that it can be checked.
		name += time.Now().UTC().Format("_20060102_150405")
	}
	return &shop{at: at, messages: messages, group: name, topic: name, deadLetters: name + ".dlq", table: name}
}

// open makes the topics and the table.
func (s *shop) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client := &kafka.Client{Addr: kafka.TCP(s.at.brokers...)}
	response, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{
		{Topic: s.topic, NumPartitions: partitions, ReplicationFactor: 1},
		{Topic: s.deadLetters, NumPartitions: partitions, ReplicationFactor: 1},
	}})
	if err != nil {
		return fmt.Errorf("creating topics at %v: %w", s.at.brokers, err)
	}
	for topic, err := range response.Errors {
		if err != nil {
			return fmt.Errorf("creating topic %s: %w", topic, err)
		}
	}
	if s.db, err = clickhouse.Open(&clickhouse.Options{Addr: []string{s.at.clickhouse}, DialTimeout: 5 * time.Second}); err != nil {
		return err
	}
	ddl := "CREATE TABLE " + s.table + " (id UInt64, customer String, cents Int64) ENGINE = MergeTree ORDER BY id"
	if err = s.db.Exec(ctx, ddl+" SETTINGS non_replicated_deduplication_window = 1000"); err == nil {
		return nil
	}
	if err := s.db.Exec(ctx, ddl); err != nil { // A server too old to recognise a repeated insert.
		return fmt.Errorf("creating table %s at %s: %w", s.table, s.at.clickhouse, err)
	}
	return nil
}

func (s *shop) close() {
	if err := s.db.Close(); err != nil {
		say("closing: %v", err)
	}
}

// poison is how many of the orders cannot be stored: those whose number ends in 500.
func (s *shop) poison() int { return (s.messages + 499) / 1000 }

// produce writes the orders from first up to but not including next, spread over a time.
func (s *shop) produce(ctx context.Context, p *kafkax.Producer, first, next int, over time.Duration) error {
	const chunk = 500
	pause := over * chunk / time.Duration(max(next-first, 1))
	for ; first < next; first += chunk {
		var messages []holdfast.Message
		for id := first; id < min(first+chunk, next); id++ {
			messages = append(messages, s.message(id))
		}
		if err := p.Produce(ctx, messages...); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	return nil
}

func (s *shop) message(id int) holdfast.Message {
	quantity, end := 1+id%7, "}"
	switch id % 2000 {
	case 500:
		quantity = 0
	case 1500:
		end = ""
	}
	value := fmt.Sprintf(`{"id":%d,"customer":"c%d","quantity":%d%s`, id, id%997, quantity, end)
	return holdfast.Message{Topic: s.topic, Key: []byte(strconv.Itoa(id)), Value: []byte(value)}
}

// wait waits until enough is stored, or the pipeline has ended.
func (s *shop) wait(ctx context.Context, ended chan error, enough func(stored int) bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		var stored uint64
		if err := s.db.QueryRow(ctx, "SELECT uniqExact(id) FROM "+s.table).Scan(&stored); err != nil {
			return fmt.Errorf("counting orders: %w", err)
		}
		if enough(int(stored)) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d orders stored, and no more come: %w", stored, ctx.Err())
		case err := <-ended:
			ended <- nil
			return fmt.Errorf("the pipeline ended: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
