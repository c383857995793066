package kafkax

import (
	"time"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

// BreakerConfig is what suits a Kafka cluster: a circuit that opens after 5 failures in a row, for 10 s at first, because
// brokers elect a new leader in seconds, and closes after one success. A probe has 30 s: given up before its request has
// timed out, it would not open the circuit again.
func BreakerConfig(name string) breaker.Config {
	return breaker.Config{
		Name: name, MaxFailures: 5, Timeout: 10 * time.Second, SuccessThreshold: 1, ProbeTimeout: 30 * time.Second,
	}
}

// RetryPolicy is what suits a Kafka cluster: 5 attempts, 200 ms apart at first and growing, which spans the election of
// a new leader.
func RetryPolicy() retry.Policy {
	return retry.Policy{Attempts: 5, Delay: 200 * time.Millisecond, Jitter: 0.5}
}
