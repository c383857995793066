package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/bench/internal/compare"
	"github.com/holdfast-io/holdfast/clickhousex"
)

// row is what every contender has in hand.
type row struct {
	ID       uint64    `ch:"id"`
	Customer string    `ch:"customer"`
	Amount   float64   `ch:"amount"`
	At       time.Time `ch:"at"`
}

const query = "INSERT INTO bench_insert (id, customer, amount, at)"

// contender makes ready to insert the rows, again and again.
type contender func(addr string, rows []row) (insert func(context.Context) error, closeAll func() error, err error)

func contenders() map[string]contender {
	return map[string]contender{
		"holdfast": inserter,
		"driver":   byBatch(appendEach),
		"struct":   byBatch(appendStructs),
		"slices":   byBatch(appendSlices),
	}
}

func contenderNames() []string { return slices.Sorted(maps.Keys(contenders())) }

// contend inserts count rows in batches, and prints what that cost.
func contend(ctx context.Context, addr, name string, count, batch int) error {
	open, found := contenders()[name]
	if !found || batch < 1 || count < batch || count%batch != 0 {
		return fmt.Errorf("no contender %q that inserts %d rows in batches of %d", name, count, batch)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	insert, closeAll, err := open(addr, rowsOf(batch))
	if err != nil {
		return err
	}
	meter := compare.Start()
	for range count / batch {
		if err := insert(ctx); err != nil {
			return err
		}
	}
	s := meter.Stop(count)
	began := time.Now()
	if err := closeAll(); err != nil {
		return err
	}
	s.Close = time.Since(began)
	return s.Print()
}

func rowsOf(n int) []row {
	rows := make([]row, n)
	at := time.Date(2026, time.March, 1, 0, 0, 0, 0, time.UTC)
	for i := range rows {
		rows[i] = row{
			ID: uint64(i), Customer: fmt.Sprintf("customer-%d", i%1000), Amount: float64(i) / 100, At: at.Add(time.Duration(i) * time.Second),
		}
	}
	return rows
}

// inserter is Holdfast's: all checks on, and places for the tokens, which a server since 22.2 gets.
func inserter(addr string, rows []row) (func(context.Context) error, func() error, error) {
	ch, err := clickhousex.Open(options(addr), clickhousex.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	in, err := clickhousex.NewInserter[row](ch, "bench_insert", clickhousex.InserterConfig{})
	if err != nil {
		return nil, nil, err
	}
	messages := make([]holdfast.Message, len(rows))
	b := holdfast.Batch[row]{Spans: []holdfast.Span{{Topic: "orders", Next: int64(len(rows))}}}
	for i, r := range rows {
		messages[i] = holdfast.Message{Topic: "orders", Offset: int64(i)}
		b.Items = append(b.Items, holdfast.Item[row]{Source: &messages[i], Value: r})
	}
	return func(ctx context.Context) error { return in.Write(ctx, b) }, ch.Close, nil
}

// byBatch is the loop that people write: prepare, append, send. Nothing is checked, nothing repeated.
func byBatch(appendRows func(driver.Batch, []row) error) contender {
	return func(addr string, rows []row) (func(context.Context) error, func() error, error) {
		ch, err := clickhouse.Open(options(addr))
		if err != nil {
			return nil, nil, err
		}
		insert := func(ctx context.Context) error {
			b, err := ch.PrepareBatch(ctx, query)
			if err != nil {
				return err
			}
			defer b.Close()
			if err := appendRows(b, rows); err != nil {
				return err
			}
			return b.Send()
		}
		return insert, ch.Close, nil
	}
}

func appendEach(b driver.Batch, rows []row) error {
	for i := range rows {
		r := &rows[i]
		if err := b.Append(r.ID, r.Customer, r.Amount, r.At); err != nil {
			return err
		}
	}
	return nil
}

func appendStructs(b driver.Batch, rows []row) error {
	for i := range rows {
		if err := b.AppendStruct(&rows[i]); err != nil {
			return err
		}
	}
	return nil
}

// appendSlices is the driver's fastest way, with the slices made anew for each batch.
func appendSlices(b driver.Batch, rows []row) error {
	ids, customers := make([]uint64, 0, len(rows)), make([]string, 0, len(rows))
	amounts, ats := make([]float64, 0, len(rows)), make([]time.Time, 0, len(rows))
	for i := range rows {
		r := &rows[i]
		ids, customers = append(ids, r.ID), append(customers, r.Customer)
		amounts, ats = append(amounts, r.Amount), append(ats, r.At)
	}
	for i, column := range []any{ids, customers, amounts, ats} {
		if err := b.Column(i).Append(column); err != nil {
			return err
		}
	}
	return nil
}
