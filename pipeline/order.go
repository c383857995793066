package pipeline

// Order says which messages of a partition must not overtake each other on their way into the sink, retries included.
// Offsets are committed contiguously in any case, and what is dead-lettered leaves the order.
type Order int

// The orders.
const (
	// ByPartition keeps the order of each partition. It is the zero value.
	ByPartition Order = iota

	// ByKey keeps the order of a partition's messages with the same key: each key has one of Config.Lanes, which it shares
	// with others. Messages without a key are in no order. While one lane waits the others go on, until 64 messages wait
	// for that lane, or MaxInFlight are in flight.
	ByKey

	// Unordered keeps none.
	Unordered
)
