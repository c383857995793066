package pipeline

// Order says which messages of a partition must not overtake each other on their way into the sink, retries included.
// Offsets are committed contiguously in any case, and what is dead-lettered leaves the order.
type Order int

// The orders.
const (
	// ByPartition keeps the order of each partition. It is the zero value.
	ByPartition Order = iota

	// ByKey keeps the order of a partition's messages with the same key. Messages without a key are in no order.
	ByKey

	// Unordered keeps none.
	Unordered
)
