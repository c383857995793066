package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-io/holdfast/dlq"
)

// spoolDescs are what is shown of a spool.
type spoolDescs struct {
	messages, refused, bytes, maxBytes, oldest *prometheus.Desc
}

func newSpoolDescs(desc func(subsystem, name, help string, labels ...string) *prometheus.Desc) spoolDescs {
	return spoolDescs{
		messages: desc("spool", "messages", "Messages on the local disk, the refused ones included.", "spool"),
		refused:  desc("spool", "refused_messages", "Messages set aside because nothing takes them as they are.", "spool"),
		bytes:    desc("spool", "bytes", "What the messages on the local disk count for.", "spool"),
		maxBytes: desc("spool", "max_bytes", "What they may count for: at this the spool is full.", "spool"),
		oldest:   desc("spool", "oldest_age_seconds", "Time the oldest message has been on the local disk, 0 without one.", "spool"),
	}
}

func (d spoolDescs) collect(out chan<- prometheus.Metric, name string, s dlq.SpoolStats) {
	age := time.Duration(0)
	if !s.Oldest.IsZero() {
		age = max(0, time.Since(s.Oldest))
	}
	out <- gauge(d.messages, float64(s.Messages), name)
	out <- gauge(d.refused, float64(s.Refused), name)
	out <- gauge(d.bytes, float64(s.Bytes), name)
	out <- gauge(d.maxBytes, float64(s.MaxBytes), name)
	out <- gauge(d.oldest, age.Seconds(), name)
}

// redriveDescs are what is shown of a redrive.
type redriveDescs struct {
	running, letters *prometheus.Desc
}

func newRedriveDescs(desc func(subsystem, name, help string, labels ...string) *prometheus.Desc) redriveDescs {
	return redriveDescs{
		running: desc("redrive", "running", "Whether a run is on: 0 or 1.", "redrive"),
		letters: desc("redrive", "letters_total", "Letters by what became of them.", "redrive", "result"),
	}
}

func (d redriveDescs) collect(out chan<- prometheus.Metric, name string, s dlq.RedriveStats) {
	running := 0.0
	if s.Running {
		running = 1
	}
	out <- gauge(d.running, running, name)
	out <- counter(d.letters, s.Redriven, name, "redriven")
	out <- counter(d.letters, s.Parked, name, "parked")
	out <- counter(d.letters, s.Failed, name, "failed")
	out <- counter(d.letters, s.Returned, name, "returned")
	out <- counter(d.letters, s.Skipped, name, "skipped")
}
