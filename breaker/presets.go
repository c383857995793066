package breaker

import "time"

// DefaultConfig opens after 5 failures in a row, for 60 s, and closes after 2 successes: the zero Config with a name.
func DefaultConfig(name string) Config {
	return Config{Name: name, MaxFailures: 5, Timeout: 60 * time.Second, SuccessThreshold: 2}
}

// AggressiveConfig guards what must not be hammered: it opens after 3 failures in a row, for 30 s, lets 100 calls run at
// once, and closes after 3 successes.
func AggressiveConfig(name string) Config {
	return Config{Name: name, MaxFailures: 3, Timeout: 30 * time.Second, MaxConcurrentCalls: 100, SuccessThreshold: 3}
}

// ConservativeConfig is slow to judge: it opens after 10 failures in a row, for 120 s, and closes after 5 successes.
func ConservativeConfig(name string) Config {
	return Config{Name: name, MaxFailures: 10, Timeout: 120 * time.Second, SuccessThreshold: 5}
}

// NotificationConfig is for mails, pushes and webhooks, which are better late than in the way: it opens after 3 failures
// in a row, for 120 s, lets 50 calls run at once, and closes after 1 success.
func NotificationConfig(name string) Config {
	return Config{Name: name, MaxFailures: 3, Timeout: 120 * time.Second, MaxConcurrentCalls: 50, SuccessThreshold: 1}
}

// WithCallbacks gives a copy with these two callbacks. Nil leaves the one that is there.
func (c Config) WithCallbacks(shouldTrip func(Counts) bool, onStateChange func(name string, from, to State)) Config {
	if shouldTrip != nil {
		c.ShouldTrip = shouldTrip
	}
	if onStateChange != nil {
		c.OnStateChange = onStateChange
	}
	return c
}
