package main

import (
	"context"
	"errors"
	"time"

	"github.com/cep21/circuit/v4"
	"github.com/cep21/circuit/v4/closers/hystrix"
	"github.com/cep21/circuit/v4/closers/simplelogic"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	mercari "github.com/mercari/go-circuitbreaker"
	"github.com/sony/gobreaker/v2"

	"github.com/holdfast-io/holdfast/breaker"
)

// The same settings for all: 5 consecutive failures, or half of at least 10 calls within 10 s; open for longer than a run.
const (
	failures = 5
	minCalls = 10
	rate     = 0.5
	window   = 10 * time.Second
	openTime = time.Hour
)

var errAway = errors.New("away")

// contender is a circuit breaker and the ways to make a call through it. A nil call is one that it cannot make.
type contender struct {
	name   string
	closed func()     // Consecutive rule, success.
	window func()     // Rate over a time window, success.
	open   func()     // Rejected.
	make   func() any // A new one, with the consecutive rule.
}

//go:noinline
func protected() error { return nil }

func contenders() []contender {
	return []contender{holdfastBreaker(), gobreakerBreaker(), failsafeBreaker(), mercariBreaker(), cep21Breaker(), floor()}
}

// floor is the protected call alone.
func floor() contender { return contender{name: "floor", closed: func() { must(protected()) }} }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func holdfastBreaker() contender {
	ctx := context.Background()
	fn := func(context.Context) error { return protected() }
	make1 := func(cfg breaker.Config) *breaker.Breaker {
		cfg.Timeout = openTime
		b, err := breaker.New(cfg)
		must(err)
		return b
	}
	closed := make1(breaker.Config{MaxFailures: failures})
	rated := make1(breaker.Config{MaxFailures: -1, Window: window, FailureRate: rate, MinCalls: minCalls})
	open := make1(breaker.Config{MaxFailures: failures})
	for range failures {
		_ = open.Execute(ctx, func(context.Context) error { return errAway })
	}
	return contender{
		name:   "holdfast",
		closed: func() { must(closed.Execute(ctx, fn)) },
		window: func() { must(rated.Execute(ctx, fn)) },
		open:   func() { rejected(open.Execute(ctx, fn)) },
		make:   func() any { return make1(breaker.Config{MaxFailures: failures}) },
	}
}

func rejected(err error) {
	if err == nil {
		panic("an open circuit admitted a call")
	}
}

func gobreakerBreaker() contender {
	fn := func() (struct{}, error) { return struct{}{}, protected() }
	consecutive := gobreaker.Settings{
		Timeout:     openTime,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failures },
	}
	rolling := gobreaker.Settings{
		Timeout: openTime, Interval: window, BucketPeriod: time.Second,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.Requests >= minCalls && float64(c.TotalFailures) >= rate*float64(c.Requests)
		},
	}
	closed := gobreaker.NewCircuitBreaker[struct{}](consecutive)
	rated := gobreaker.NewCircuitBreaker[struct{}](rolling)
	open := gobreaker.NewCircuitBreaker[struct{}](consecutive)
	for range failures {
		_, _ = open.Execute(func() (struct{}, error) { return struct{}{}, errAway })
	}
	call := func(b *gobreaker.CircuitBreaker[struct{}]) error {
		_, err := b.Execute(fn)
		return err
	}
	return contender{
		name:   "gobreaker",
		closed: func() { must(call(closed)) },
		window: func() { must(call(rated)) },
		open:   func() { rejected(call(open)) },
		make:   func() any { return gobreaker.NewCircuitBreaker[struct{}](consecutive) },
	}
}

// failsafeBreaker uses failsafe-go's breaker alone, without its policy chain, which costs ten times as much.
func failsafeBreaker() contender {
	consecutive := func() circuitbreaker.CircuitBreaker[any] {
		return circuitbreaker.NewBuilder[any]().WithFailureThreshold(failures).WithDelay(openTime).Build()
	}
	closed, open := consecutive(), consecutive()
	rated := circuitbreaker.NewBuilder[any]().WithFailureRateThreshold(rate, minCalls, window).WithDelay(openTime).Build()
	open.Open()
	call := func(b circuitbreaker.CircuitBreaker[any]) error {
		if !b.TryAcquirePermit() {
			return circuitbreaker.ErrOpen
		}
		err := protected()
		b.RecordError(err)
		return err
	}
	return contender{
		name:   "failsafe",
		closed: func() { must(call(closed)) },
		window: func() { must(call(rated)) },
		open:   func() { rejected(call(open)) },
		make:   func() any { return consecutive() },
	}
}

func mercariBreaker() contender {
	ctx := context.Background()
	fn := func() (any, error) { return nil, protected() }
	consecutive := func() *mercari.CircuitBreaker {
		return mercari.New(mercari.WithTripFunc(mercari.NewTripFuncConsecutiveFailures(failures)), mercari.WithOpenTimeout(openTime),
			mercari.WithCounterResetInterval(0))
	}
	closed, open := consecutive(), consecutive()
	open.SetState(mercari.StateOpen)
	call := func(b *mercari.CircuitBreaker) error {
		_, err := b.Do(ctx, fn)
		return err
	}
	return contender{
		name:   "mercari",
		closed: func() { must(call(closed)) },
		open:   func() { rejected(call(open)) },
		make:   func() any { return consecutive() },
	}
}

func cep21Breaker() contender {
	ctx := context.Background()
	fn := func(context.Context) error { return protected() }
	consecutive := func() *circuit.Circuit {
		return circuit.NewCircuitFromConfig("", circuit.Config{
			General: circuit.GeneralConfig{
				ClosedToOpenFactory: simplelogic.ConsecutiveErrOpenerFactory(simplelogic.ConfigConsecutiveErrOpener{ErrorThreshold: failures}),
				OpenToClosedFactory: hystrix.CloserFactory(hystrix.ConfigureCloser{SleepWindow: openTime}),
			},
			Execution: circuit.ExecutionConfig{Timeout: -1, MaxConcurrentRequests: -1},
		})
	}
	closed, open := consecutive(), consecutive()
	open.OpenCircuit(ctx)
	rated := circuit.NewCircuitFromConfig("", circuit.Config{
		General: circuit.GeneralConfig{
			ClosedToOpenFactory: hystrix.OpenerFactory(hystrix.ConfigureOpener{
				ErrorThresholdPercentage: 100 * rate, RequestVolumeThreshold: minCalls, RollingDuration: window, NumBuckets: 10,
			}),
			OpenToClosedFactory: hystrix.CloserFactory(hystrix.ConfigureCloser{SleepWindow: openTime}),
		},
		Execution: circuit.ExecutionConfig{Timeout: -1, MaxConcurrentRequests: -1},
	})
	return contender{
		name:   "cep21",
		closed: func() { must(closed.Execute(ctx, fn, nil)) },
		window: func() { must(rated.Execute(ctx, fn, nil)) },
		open:   func() { rejected(open.Execute(ctx, fn, nil)) },
		make:   func() any { return consecutive() },
	}
}
