package clickhousex_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/testkit"
)

// A batch with a row that the driver would have stored as another: 300 does not fit a UInt8. The acknowledgement of the
// insert is lost, and the Inserter repeats it with the same token, so that each row is there once.
func Example() {
	server, err := testkit.StartClickHouse(testkit.ClickHouseConfig{
		Tables: []string{"CREATE TABLE orders (id UInt64, quantity UInt8) ENGINE = MergeTree ORDER BY id"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	server.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true})

	ch, err := clickhousex.Open(&clickhouse.Options{Addr: []string{server.Addr()}}, clickhousex.Config{
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = ch.Close() }()
	type row struct {
		ID       uint64 `ch:"id"`
		Quantity int    `ch:"quantity"`
	}
	store, err := clickhousex.NewInserter[row](ch, "orders", clickhousex.InserterConfig{})
	if err != nil {
		log.Print(err)
		return
	}

	batch := holdfast.Batch[row]{Spans: []holdfast.Span{{Topic: "orders", First: 0, Next: 3}}}
	for i, quantity := range []int{2, 300, 7} {
		batch.Items = append(batch.Items, holdfast.Item[row]{
			Source: &holdfast.Message{Topic: "orders", Offset: int64(i)},
			Value:  row{ID: uint64(i), Quantity: quantity},
		})
	}
	err = store.Write(context.Background(), batch)
	if refused, ok := errors.AsType[*holdfast.BatchError](err); ok {
		for i, err := range refused.Items {
			fmt.Printf("item %d, permanent: %v\n%v\n", i, holdfast.IsPermanent(err), err)
		}
	}
	fmt.Println("inserts:", len(server.Inserts()), "stored:", server.Values("orders", "id"))
	// Output:
	// item 1, permanent: true
	// clickhousex: row 1: column quantity UInt8: int: out of the column's range
	// inserts: 2 stored: [0 2]
}

// What an error asks for. A program with a breaker or retries of its own goes by the class.
func ExampleClassify() {
	for _, err := range []error{
		&clickhouse.Exception{Code: 252, Message: "Too many parts"},
		&clickhouse.Exception{Code: 60, Message: "Table orders does not exist"},
		context.DeadlineExceeded,
	} {
		fmt.Printf("%v, retryable %v, nothing stored %v\n", clickhousex.Classify(err), clickhousex.Retryable(err), clickhousex.SafeToRetry(err))
	}
	// Output:
	// overload, retryable true, nothing stored true
	// config, retryable false, nothing stored true
	// ambiguous, retryable true, nothing stored false
}
