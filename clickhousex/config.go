package clickhousex

import (
	"cmp"
	"log/slog"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

// Config is how a Conn protects its calls. The zero value is a good default.
type Config struct {
	// Breaker is asked before every call. Nil means a breaker of the Conn's own, from BreakerConfig("clickhouse").
	Breaker *breaker.Breaker

	// Retry is the policy of Inserters on this connection that have none of their own. Attempts, Delay and Retryable are
	// those of RetryPolicy where they are zero. The Conn's plain methods never retry.
	Retry retry.Policy

	// Logger is told what an operator should know. Nil means slog.Default().
	Logger *slog.Logger
}

// Validate reports every fault at once. Zero values are no faults.
func (c Config) Validate() error {
	return withRetryDefaults(c.Retry).Validate()
}

// BreakerConfig is the default breaker's configuration under a name of one's own: breaker.DefaultConfig, with outcomes
// by this package's classes.
func BreakerConfig(name string) breaker.Config {
	cfg := breaker.DefaultConfig(name)
	cfg.Classify = outcomeOf
	return cfg
}

// RetryPolicy makes 4 attempts, 150 ms apart at first, of what is Retryable.
func RetryPolicy() retry.Policy {
	return retry.Policy{Attempts: 4, Delay: 150 * time.Millisecond, Retryable: Retryable}
}

func withRetryDefaults(p retry.Policy) retry.Policy {
	standard := RetryPolicy()
	p.Attempts = cmp.Or(p.Attempts, standard.Attempts)
	p.Delay = cmp.Or(p.Delay, standard.Delay)
	if p.Retryable == nil {
		p.Retryable = standard.Retryable
	}
	return p
}

// outcomeOf is what an error means to a circuit.
func outcomeOf(err error) breaker.Outcome {
	switch Classify(err) {
	case ClassNone:
		return breaker.Success
	case ClassTransient, ClassOverload, ClassAmbiguous:
		return breaker.Failure
	default: // Not the server's: the rows', the configuration's, the caller's, our own pool's.
		return breaker.Ignore
	}
}
