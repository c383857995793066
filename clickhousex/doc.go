// Package clickhousex protects clickhouse-go/v2: a Conn whose every call asks a circuit breaker, an Inserter that stores
// batches of structs so that no row is lost or silently changed, and that a repeated insert can be told from a new one by
// a table that deduplicates, and Classify, which says what an error asks for.
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
// Every row of a Write that returned nil is stored. A row may be stored twice when an acknowledgement was lost, or an
// insert failed half done, and the table does not deduplicate, or not for long enough: plain MergeTree without
// non_replicated_deduplication_window, Distributed, Memory, servers before 22.2.
//
// An insert is atomic as long as its rows fall into one partition of the table, are no more than max_insert_block_size, and
// no materialized view hangs on the table. Of any other the server may have stored a part when it answers with an error, so
// only what it checks before it writes is taken to say that nothing is stored. That leaves one gap: where rows of several
// partitions fail in an expression of the sorting key or an index, a part of them may be stored twice.
//
// Set no clickhouse.WithAsync(false) in the context of a Write: then an acknowledgement does not mean stored.
package clickhousex
