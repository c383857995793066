package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

var errNoPrice = errors.New("no price")

func Example() {
	b, err := breaker.New(breaker.Config{Name: "orders-db", MaxFailures: 2, Jitter: -1})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	for range 3 {
		err = b.Execute(ctx, func(context.Context) error { return errors.New("connection refused") })
		fmt.Println(err, "-", b.State())
	}
	fmt.Println("not called:", errors.Is(err, breaker.ErrCircuitOpen))
	// Output:
	// connection refused - closed
	// connection refused - open
	// breaker: circuit "orders-db" open, retry after 1m0s - open
	// not called: true
}

// A call with a result. A row that is not there is an answer like any other, no failure of the database.
func ExampleExecuteValue() {
	b, err := breaker.New(breaker.Config{Name: "prices", Classify: func(err error) breaker.Outcome {
		if errors.Is(err, errNoPrice) {
			return breaker.Success
		}
		return breaker.DefaultClassify(err)
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, item := range []string{"tea", "unicorn"} {
		price, err := breaker.ExecuteValue(context.Background(), b, func(context.Context) (int, error) {
			if item == "tea" {
				return 3, nil
			}
			return 0, errNoPrice
		})
		fmt.Println(price, err)
	}
	fmt.Println("failures:", b.Stats().Totals.Failures)
	// Output:
	// 3 <nil>
	// 0 no price
	// failures: 0
}

// A fallback settles what could not be done: here it keeps the message for later, whether the call failed or was not made.
func ExampleBreaker_ExecuteWithFallback() {
	b, err := breaker.New(breaker.Config{Name: "payments", MaxFailures: 1, Jitter: -1})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, message := range []string{"a", "b"} {
		err := b.ExecuteWithFallback(context.Background(),
			func(context.Context) error { return errors.New("payment service is down") },
			func(_ context.Context, cause error) error {
				fmt.Printf("dead letter %s: %v\n", message, cause)
				return nil // Settled: it is in the dead-letter queue.
			})
		if err != nil {
			fmt.Println("keep", message, err)
		}
	}
	// Output:
	// dead letter a: payment service is down
	// dead letter b: breaker: circuit "payments" open, retry after 1m0s
}

// A registry of services, each with a breaker of its own that is made when it is first called.
func ExampleGroup() {
	services := breaker.NewGroup()
	call := func(service string, fn func(context.Context) error) error {
		b, err := services.GetOrCreate(breaker.AggressiveConfig(service))
		if err != nil {
			return err
		}
		return b.Execute(context.Background(), fn)
	}
	for range 3 {
		_ = call("billing", func(context.Context) error { return errors.New("503") })
		_ = call("search", func(context.Context) error { return nil })
	}
	for _, name := range []string{"billing", "search"} {
		fmt.Println(name, services.StatsAll()[name].State)
	}
	services.ResetAll()
	fmt.Println("billing", services.StatsAll()["billing"].State)
	// Output:
	// billing open
	// search closed
	// billing closed
}

// Allow and Done are for a call whose end is somewhere else than its beginning.
func ExampleBreaker_Allow() {
	b, err := breaker.New(breaker.DefaultConfig("stream"))
	if err != nil {
		fmt.Println(err)
		return
	}
	permit, err := b.Allow()
	if err != nil {
		fmt.Println("not now:", err)
		return
	}
	onClose := func(err error) { permit.Done(err) }
	onClose(nil)
	fmt.Println(b.Stats().Totals.Successes)
	// Output: 1
}

// A loop that must not run against an open circuit waits instead of asking again and again.
func ExampleBreaker_WaitUntilReady() {
	b, err := breaker.New(breaker.Config{Name: "warehouse", MaxFailures: 1, Timeout: 10 * time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	answers := []error{errors.New("down"), nil, nil}
	for _, answer := range answers {
		if err := b.WaitUntilReady(ctx); err != nil {
			return // The context has ended.
		}
		fmt.Println(b.Execute(ctx, func(context.Context) error { return answer }))
	}
	fmt.Println(b.State())
	// Output:
	// down
	// <nil>
	// <nil>
	// closed
}

func ExampleConfig_WithCallbacks() {
	cfg := breaker.DefaultConfig("mail").WithCallbacks(
		func(c breaker.Counts) bool { return c.Failures >= 2 },
		func(name string, from, to breaker.State) { fmt.Println(name, from, "->", to) },
	)
	b, err := breaker.New(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, answer := range []error{errors.New("down"), nil, errors.New("down")} {
		_ = b.Execute(context.Background(), func(context.Context) error { return answer })
	}
	// Output: mail closed -> open
}
