package clickhousex

import "sync/atomic"

// InserterStats is a snapshot of what an Inserter has done. All numbers only grow.
type InserterStats struct {
	Rows      uint64 // Stored.
	Inserts   uint64 // Acknowledged.
	Retries   uint64 // Attempts after the first one of their insert.
	Ambiguous uint64 // Attempts whose outcome is unknown.
	Refused   uint64 // Rows, by the Inserter's checks or by the server. A batch that is written again counts again.
	Splits    uint64 // Inserts that were halved to find refused rows.
}

type counts struct {
	rows, inserts, retries, ambiguous, refused, splits atomic.Uint64
}

func (c *counts) stats() InserterStats {
	return InserterStats{
		Rows:      c.rows.Load(),
		Inserts:   c.inserts.Load(),
		Retries:   c.retries.Load(),
		Ambiguous: c.ambiguous.Load(),
		Refused:   c.refused.Load(),
		Splits:    c.splits.Load(),
	}
}
