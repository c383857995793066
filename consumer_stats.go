package holdfast

import "time"

// ConsumerStats is a snapshot of a consumer: a group that it is or was a member of each, in order of name.
type ConsumerStats struct {
	Groups []GroupStats
}

// GroupStats is a snapshot of one group's membership. Counters only grow as long as the consumer lives.
type GroupStats struct {
	Group      string
	Member     string // Empty while not joined.
	Generation int    // 0 while not joined.

	Generations     uint64 // Joined so far.
	Commits         uint64 // Partitions' offsets accepted by the coordinator.
	CommitsFailed   uint64 // Refused, or lost with a request or its answer. They are tried again.
	CommitsFenced   uint64 // Refused because the generation was over. They are not.
	OutOfRange      uint64 // Offsets that a log did not hold, and the configuration said where to go on.
	PassedOver      uint64 // Offsets that were left unread by that.
	LateCompletions uint64 // Commits asked for after the claim was lost or its handler had returned. They are dropped.

	LastDrain     time.Duration // From the revoke until the last handler had returned.
	DrainTimeouts uint64        // Drains that took longer than they may.

	Partitions []PartitionStats // What handlers have of the present generation, empty while not joined.
}

// PartitionStats is a snapshot of one claim. Its counters are those of all claims of the partition that the consumer has
// had in this group.
type PartitionStats struct {
	Topic      string
	Partition  int
	Committed  int64 // What the group's coordinator holds, as far as known. -1 for nothing.
	Position   int64 // What the handler will fetch next.
	End        int64 // The high watermark as last seen, -1 before the first answer.
	Lag        int64 // End minus Committed, or minus Position where nothing is committed yet. -1 while End is unknown.
	Prefetched int64 // Bytes that wait for the handler.
	FetchError error // Why nothing can be fetched at present, such as a batch with a wrong checksum. It is tried for ever.

	FetchesFailed   uint64 // Attempts to fetch that failed.
	Commits         uint64 // As in GroupStats, of this partition alone, and so the next ones.
	CommitsFenced   uint64
	LateCompletions uint64
	LastDrain       time.Duration // Of the claim before this one, until its handler had returned.
}
