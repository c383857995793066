package dlq

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

const defaultSpoolBytes = 1 << 30

// What can be wrong with a spool.
var (
	// ErrSpoolFull says that messages do not fit within SpoolConfig.MaxBytes. None of those of the call was kept.
	ErrSpoolFull = errors.New("dlq: spool is full")

	// ErrSpoolInUse says that a directory's spool is open already, here or in another process.
	ErrSpoolInUse = errors.New("dlq: spool is in use")

	// ErrSpoolDamaged says that a spool's file cannot be opened any more. It names the file, which stays as it is.
	ErrSpoolDamaged = errors.New("dlq: spool is damaged")

	// ErrSpoolClosed says that a spool was used after Close.
	ErrSpoolClosed = errors.New("dlq: spool is closed")
)

// SpoolConfig bounds a spool. The zero value is good.
type SpoolConfig struct {
	// MaxBytes bounds what the messages take, each with 48 bytes for its place. The file may grow to twice that and 16 MiB, and
	// keeps its size for later. 0 means 1 GiB.
	MaxBytes int64
}

// Validate names every field that cannot be.
func (c SpoolConfig) Validate() error {
	if c.MaxBytes < 0 {
		return fmt.Errorf("dlq: SpoolConfig.MaxBytes must be positive, or 0 for %d, got %d", int64(defaultSpoolBytes), c.MaxBytes)
	}
	return nil
}

func (c SpoolConfig) withDefaults() SpoolConfig {
	c.MaxBytes = cmp.Or(c.MaxBytes, defaultSpoolBytes)
	return c
}

// SpoolStats is a spool at one moment.
type SpoolStats struct {
	Messages int64     // On the disk, the refused ones included.
	Refused  int64     // Set aside: nothing takes them as they are.
	Bytes    int64     // What they count for,
	MaxBytes int64     // and may: SpoolConfig.MaxBytes.
	Oldest   time.Time // When the oldest came here; zero when there is none.
}
