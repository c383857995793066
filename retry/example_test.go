package retry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

func ExampleDo() {
	tries := 0
	err := retry.Do(context.Background(), retry.Policy{Delay: time.Millisecond}, func(context.Context) error {
		if tries++; tries < 3 {
			return errors.New("connection reset")
		}
		return nil
	})
	fmt.Println(tries, err)
	// Output: 3 <nil>
}

// An HTTP client that retries what may succeed the next time, waits as long as the server asks for, and leaves alone a
// server whose circuit is open.
func ExampleDoValueThrough() {
	answers := []int{http.StatusServiceUnavailable, http.StatusOK, http.StatusNotFound}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(answers[0])
		answers = answers[1:]
	}))
	defer server.Close()
	circuit, err := breaker.New(breaker.DefaultConfig("catalog"))
	if err != nil {
		fmt.Println(err)
		return
	}

	get := func(ctx context.Context) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			return 0, holdfast.Permanent(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		switch {
		case resp.StatusCode >= 500:
			seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
			return 0, holdfast.RetryAfter(time.Duration(seconds)*time.Second, errors.New(resp.Status))
		case resp.StatusCode >= 400:
			return 0, holdfast.Permanent(errors.New(resp.Status)) // Our fault: no retry, and no failure of the server.
		}
		return resp.StatusCode, nil
	}
	policy := retry.Policy{Delay: time.Millisecond, OnAttempt: func(a retry.Attempt) {
		fmt.Printf("attempt %d: %v, %v\n", a.Number, a.Result, a.Err)
	}}
	for range 2 {
		fmt.Println(retry.DoValueThrough(context.Background(), circuit, policy, get))
	}
	fmt.Println("failures:", circuit.Stats().Totals.Failures)
	// Output:
	// attempt 1: retrying, 503 Service Unavailable
	// attempt 2: succeeded, <nil>
	// 200 <nil>
	// attempt 1: gave_up, 404 Not Found
	// 0 retry: gave up after 1 attempt: 404 Not Found
	// failures: 1
}

// A notification that goes to an outbox when the mail server does not take it, or its circuit is open.
func ExampleDoThroughWithFallback() {
	mail, err := breaker.New(breaker.NotificationConfig("mail"))
	if err != nil {
		fmt.Println(err)
		return
	}
	send := func(context.Context) error { return errors.New("421 try later") }
	for range 2 {
		err := retry.DoThroughWithFallback(context.Background(), mail, retry.Policy{Delay: -1}, send,
			func(_ context.Context, cause error) error {
				fmt.Println("outbox, not sent:", errors.Is(cause, breaker.ErrCircuitOpen))
				return nil
			})
		if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// outbox, not sent: false
	// outbox, not sent: true
}

func ExampleCounter() {
	var counter retry.Counter
	policy := retry.Policy{Attempts: 2, Delay: -1, OnAttempt: counter.Observe}
	_ = retry.Do(context.Background(), policy, func(context.Context) error { return errors.New("down") })
	fmt.Printf("%+v\n", counter.Stats())
	// Output: {Attempts:2 Retries:1 Succeeded:0 GaveUp:1 Rejected:0 Canceled:0}
}
