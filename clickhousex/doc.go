// Package clickhousex protects clickhouse-go/v2: a Conn whose every call asks a circuit breaker, an Inserter that stores
// batches of structs so that no row is lost, none silently changed and none stored twice where the table can tell, and
// Classify, which says what an error asks for.
//
//	ch, err := clickhousex.Open(&clickhouse.Options{Addr: []string{"localhost:9000"}}, clickhousex.Config{})
//	...
//	store, err := clickhousex.NewInserter[Row](ch, "orders", clickhousex.InserterConfig{})
//	...
//	err = store.Write(ctx, batch)
//
// What the driver leaves to its users is done here: a fresh batch for each attempt, sent once; the attempt bounded in
// time; the connection given back on every path; values checked before the driver coerces them; and an insert whose
// acknowledgement was lost told apart from one that failed.
//
// One layer retries: the Inserter does, the plain methods of a Conn do not.
//
// # What is guaranteed
//
// Every row of a Write that returned nil is stored. A row may be stored twice when an acknowledgement was lost and the
// table does not deduplicate: plain MergeTree without non_replicated_deduplication_window, Distributed, Memory, servers
// before 20.6. An insert is one atomic block as long as its rows fall into one partition of the table and no materialized
// view hangs on it. Set no WithAsync(false) in the context of a Write: then an acknowledgement does not mean stored.
package clickhousex
