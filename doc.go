// Package holdfast holds the words that cross Holdfast's packages: a message and the claim it was fetched from, a batch
// and the spans it settles, and the verdicts with which user code says what an error means.
//
// The library's promise is one sentence: a message is never lost. Its offset is committed only after it was processed
// behind a circuit breaker, or is durably in the dead-letter queue. The promise is kept by the packages beside this one:
//
//   - breaker: the circuit breaker
//   - retry: retries that know an open circuit
//   - kafkax: Kafka consumer and producer
//   - clickhousex: ClickHouse connection and inserter
//   - dlq: dead letters, and their way home
//   - pipeline: source, stages and sink, and the settling of every message
//
// This package imports the standard library only, so that a program's own stages and sinks can name its types without
// linking a driver.
package holdfast
