package testkit_test

import (
	"context"
	"fmt"
	"log"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast/testkit"
)

// An answer is lost, the client sends the batch again under the same token, and the rows are there once.
func ExampleStartClickHouse() {
	server, err := testkit.StartClickHouse(testkit.ClickHouseConfig{
		Tables: []string{"CREATE TABLE orders (id UInt64) ENGINE = MergeTree ORDER BY id"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	server.Inject(testkit.ClickHouseFault{On: testkit.ClickHouseInsert, LoseAck: true})

	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{server.Addr()}})
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = conn.Close() }()

	ctx := clickhouse.Context(context.Background(), clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplication_token": "orders/0/1-2",
	}))
	for range 2 {
		batch, err := conn.PrepareBatch(ctx, "INSERT INTO orders (id)")
		if err != nil {
			log.Print(err)
			return
		}
		for _, id := range []uint64{1, 2} {
			if err := batch.Append(id); err != nil {
				log.Print(err)
			}
		}
		fmt.Println("failed:", batch.Send() != nil)
	}
	for _, insert := range server.Inserts() {
		fmt.Println(insert.Rows, "rows, stored:", insert.Stored, "acknowledged:", insert.Acknowledged)
	}
	fmt.Println(server.Count("orders"), "rows:", server.Values("orders", "id"))

	// Output:
	// failed: true
	// failed: false
	// 2 rows, stored: true acknowledged: false
	// 2 rows, stored: false acknowledged: true
	// 2 rows: [1 2]
}
