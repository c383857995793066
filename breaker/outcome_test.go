package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

type permanent bool

func (p permanent) Error() string   { return "permanent" }
func (p permanent) Permanent() bool { return bool(p) }

func TestDefaultClassify(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want breaker.Outcome
	}{
		{nil, breaker.Success},
		{errDown, breaker.Failure},
		{context.DeadlineExceeded, breaker.Failure},
		{context.Canceled, breaker.Ignore},
		{fmt.Errorf("query: %w", context.Canceled), breaker.Ignore},
		{permanent(true), breaker.Ignore},
		{permanent(false), breaker.Failure},
		{fmt.Errorf("row 7: %w", errors.Join(errDown, permanent(true))), breaker.Ignore},
		{holdfast.Permanent(errDown), breaker.Ignore},
		{holdfast.Hold(errDown), breaker.Ignore},
		{fmt.Errorf("insert: %w", holdfast.Hold(errDown)), breaker.Ignore},
		{holdfast.Ambiguous(errDown), breaker.Failure},
		{holdfast.RetryAfter(1, errDown), breaker.Failure},
		{breaker.ErrCircuitOpen, breaker.Ignore},
		{fmt.Errorf("inner: %w", &breaker.OpenError{}), breaker.Ignore},
		{breaker.ErrTooManyCalls, breaker.Ignore},
	} {
		if got := breaker.DefaultClassify(tt.err); got != tt.want {
			t.Errorf("%v (%T): %v, want %v", tt.err, tt.err, got, tt.want)
		}
	}
}

func TestClassifyIsAskedForErrorsOnly(t *testing.T) {
	var asked []error
	b := steady(t, func(c *breaker.Config) {
		c.Classify = func(err error) breaker.Outcome {
			asked = append(asked, err)
			return breaker.Success
		}
	})
	run(t, b, 1, succeed)
	run(t, b, 1, fail)
	allow(t, b).Done(nil)
	allow(t, b).Done(errDown)
	ctx, cancel := context.WithCancel(t.Context())
	_ = b.Execute(ctx, func(context.Context) error { cancel(); return errDown })
	if len(asked) != 2 || !is(asked[0], errDown) || !is(asked[1], errDown) {
		t.Errorf("asked about %v", asked)
	}
	if got, want := b.Stats().Totals, (breaker.Totals{Calls: 5, Successes: 4, Ignored: 1}); got != want {
		t.Errorf("totals %+v, want %+v", got, want)
	}
}

func TestTimeoutsAreCounted(t *testing.T) {
	b := mustNew(t, breaker.Config{MaxFailures: -1})
	timeouts := []error{context.DeadlineExceeded, os.ErrDeadlineExceeded, &net.DNSError{IsTimeout: true}, fmt.Errorf("read: %w", os.ErrDeadlineExceeded)}
	for _, err := range append(timeouts, errDown, &net.DNSError{}) {
		run(t, b, 1, func(context.Context) error { return err })
		allow(t, b).Done(err)
		allow(t, b).DoneAs(breaker.Failure, err)
		allow(t, b).DoneAs(breaker.Ignore, err)
	}
	if got, want := b.Stats().Totals, (breaker.Totals{Calls: 24, Failures: 18, Timeouts: 12, Ignored: 6}); got != want {
		t.Errorf("totals %+v, want %+v", got, want)
	}
}
