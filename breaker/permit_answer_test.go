package breaker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

// TestAnswered: what comes after it is not the dependency's time, what came before is.
func TestAnswered(t *testing.T) {
	for _, tt := range []struct {
		before, after time.Duration
		open          bool
	}{
		{0, time.Minute, false},
		{999 * time.Millisecond, time.Minute, false},
		{time.Second, 0, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			b, err := breaker.New(breaker.Config{SlowCallDuration: time.Second, SlowMinCalls: 1})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			permit, err := b.Allow()
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(tt.before)
			permit.Answered()
			time.Sleep(tt.after)
			permit.Done(nil)
			if b.IsOpen() != tt.open {
				t.Errorf("%v before and %v after the answer: open %v", tt.before, tt.after, b.IsOpen())
			}
		})
	}
	var none breaker.Permit
	none.Answered() // Of a disabled breaker.
}
