// Package pipeline moves messages from a source through stages into a sink, and settles every one of them.
//
// A message is settled in exactly one way: its values are stored by the sink, it is skipped on purpose, or a letter about
// it is acknowledged by the dead-letter queue. A partition's committed offset is the end of its contiguous settled prefix.
// So after a crash messages may be processed again, from the committed offset on, but none is missing.
//
//	decode := pipeline.Map("decode", pipeline.JSON[Order], pipeline.StageConfig{})
//	enrich := pipeline.Map("enrich", addRegion, pipeline.StageConfig{Breaker: regions, Timeout: time.Second})
//	p, err := pipeline.New(consumer, pipeline.Then(decode, enrich), store, pipeline.Config{DeadLetters: dead})
//	err = p.Run(ctx)
//
// Each claimed partition has a goroutine that fetches and runs the stages, or with Config.Order several. What they make is
// gathered over all partitions into batches. Several are on their way to the sink at a time, but none has messages that must
// not overtake those in another; so order is kept, retries included. A dead-lettered message leaves the order.
//
// When a circuit is open, messages are dead-lettered at once, after a while or never, as Config.DeadLetterAfter says.
// Letters of an open circuit come back by themselves when the source and the dead-letter queue know how, as
// *kafkax.Consumer and *dlq.Topic do: they are read by the group named like the pipeline's own with ".redrive" behind it.
//
// A message waits, rather than being dead-lettered, while it may already be stored, while something is configured wrong
// (holdfast.Hold), and while the dead-letter queue itself is away. Health and the log say which, and where.
//
// # Twice
//
// A message is processed at least once. Whoever reads it again, after a crash or a rebalance, stores it again, and only a
// sink that recognises it makes that once: by the rows' offsets however the batch is cut then, or by a token where it is cut
// the same, as the documentation of clickhousex says.
//
// That something may be stored is remembered while its partition is kept, and not beyond: it is a message like any other to
// whoever reads it then. It is written again; only where a circuit is open still, and Config.DeadLetterAfter has run out, it
// gets a letter though it may be stored, and is written again when that has come home. With -1 it never does.
package pipeline
