package clickhousex

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

// Config is how a Conn protects its calls. The zero value is a good default.
type Config struct {
	// Breaker is asked before every call. Nil means a breaker of the Conn's own, from BreakerConfig("clickhouse").
	Breaker *breaker.Breaker

	// Retry is the policy of Inserters on this connection. What it leaves at zero is as in RetryPolicy. The
	// Conn's plain methods never retry.
	Retry retry.Policy

	// Logger is told what an operator should know. Nil means slog.Default().
	Logger *slog.Logger
}

// Validate reports every fault at once. Zero values are no faults.
func (c Config) Validate() error {
	return retryFault("Config", retryOr(c.Retry, RetryPolicy()))
}

// retryFault is what is wrong with the field Retry of a config.
func retryFault(config string, p retry.Policy) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("clickhousex: %s.Retry: %w", config, err)
	}
	return nil
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

// retryOr fills what p leaves at zero from other.
func retryOr(p, other retry.Policy) retry.Policy {
	p.Attempts = cmp.Or(p.Attempts, other.Attempts)
	p.Delay = cmp.Or(p.Delay, other.Delay)
	p.MaxDelay = cmp.Or(p.MaxDelay, other.MaxDelay)
	p.Multiplier = cmp.Or(p.Multiplier, other.Multiplier)
	p.Jitter = cmp.Or(p.Jitter, other.Jitter)
	p.MaxElapsed = cmp.Or(p.MaxElapsed, other.MaxElapsed)
	if p.Retryable == nil {
		p.Retryable = other.Retryable
	}
	if p.OnAttempt == nil {
		p.OnAttempt = other.OnAttempt
	}
	return p
}

// outcomeOf is what an error means to a circuit.
func outcomeOf(err error) breaker.Outcome {
	if errors.Is(err, errAtWork) {
		return breaker.Ignore
	}
	switch Classify(err) {
	case ClassNone:
		return breaker.Success
	case ClassTransient, ClassOverload, ClassAmbiguous:
		return breaker.Failure
	default: // Not the server's: the rows', the configuration's, the caller's, our own pool's.
		return breaker.Ignore
	}
}
