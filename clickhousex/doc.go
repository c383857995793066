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
// insert failed half done, and nothing keeps the repetition apart. What does is said in the log when the table is first
// read, and by Inserter.Check:
//
//   - replicated: a Replicated or Shared MergeTree remembers its last inserts (replicated_deduplication_window), by their
//     token from ClickHouse 22.2 on, and by their rows before that, which needs InserterConfig.Offsets.
//   - window: a MergeTree with non_replicated_deduplication_window (from 21.4 on), in the same way.
//   - columns: with InserterConfig.Offsets the rows say where they come from, and the Inserter asks the table for them
//     before it repeats an insert: in any engine that can be read back at once, in any version. What a Distributed table
//     stores later is not seen in time.
//   - none: plain MergeTree, Distributed, Memory.
//
// With async_insert=1 in InserterConfig.Settings a nil from Write means stored as well, since it waits. But the server keeps
// such rows for a while and stores them with others', even after the connection was lost. So the columns are no guarantee
// then, and what the table remembers is one only from 26.2 on, or from 23.7 on with async_insert_deduplicate=1.
//
// What is remembered is bounded: an outage that outlasts the window, in inserts of all writers or in time, ends it. Where
// materialized views hang on the table, servers before 26.2 deduplicate the table only. A batch that is written again by
// another process after a crash is known again by its token if it is cut the same, and by Offsets however it is cut; by
// Offsets it is not seen that another member of the group has stored rows, and committed none, when the partition comes back
// at the very offset where it was left.
//
// Two pipelines that write one table from one topic need Epochs of their own, or the table takes the second's rows for the
// first's. Nobody can see that from inside of one pipeline, so nothing checks it.
//
// An insert is atomic as long as its rows fall into one partition of the table, are no more than max_insert_block_size, and
// no materialized view hangs on the table. Of any other the server may have stored a part when it answers with an error, so
// only what it checks before it writes is taken to say that nothing is stored. That leaves one gap: where rows of several
// partitions fail in an expression of the sorting key or an index, a part of them may be stored twice. When a server has not
// the memory for an insert that is atomic, nothing of it is taken to be stored, and it is halved; of one that is not, the
// table has to be asked first, or it stays whole.
//
// Inserts are halved so down to 1 MiB, as their rows go over the wire, since a server takes as much for each column of any
// insert; below that they are tried again as with any overload, after ever longer waits, and the circuit counts the
// failures. Later inserts are no larger than what the server took, and twice as large with each minute of success.
//
// Set no clickhouse.WithAsync(false) in the context of a Write: then an acknowledgement does not mean stored.
package clickhousex
