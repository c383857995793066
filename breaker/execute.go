package breaker

import (
	"context"
	"errors"
)

// Execute calls fn if the circuit admits it, and returns fn's error as it is. It returns an OpenError or ErrTooManyCalls
// without calling fn. When ctx has ended before, it returns ctx's error without calling fn, and nothing is counted.
//
// When ctx was cancelled by the time fn returns an error, the call is ignored; when its deadline has passed, that is a
// failure. A panic or runtime.Goexit in fn is counted as a failure and passes on.
func (b *Breaker) Execute(ctx context.Context, fn func(context.Context) error) error {
	if ctx == nil || fn == nil {
		return errNoCall
	}
	if b == nil || b.disabled {
		return fn(ctx)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := b.admit()
	if err != nil {
		return err
	}
	o, f := Failure, flags{panicked: true} // As in conclude, which would cost another call.
	defer func() { b.settle(c, o, f) }()
	if err = fn(ctx); err != nil {
		o, f = b.judgeIn(ctx, err)
		return err
	}
	o, f = Success, flags{}
	return nil
}

// ExecuteWithFallback is Execute, and calls fallback with whatever error that returns, rejections included. It does not
// when ctx was cancelled: nobody waits for the answer any more. The breaker does not count what fallback does.
func (b *Breaker) ExecuteWithFallback(
	ctx context.Context, fn func(context.Context) error, fallback func(ctx context.Context, cause error) error,
) error {
	if ctx == nil || fn == nil || fallback == nil {
		return errNoCall
	}
	err := b.Execute(ctx, fn)
	if err == nil || errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	return fallback(ctx, err)
}

// ExecuteValue is Breaker.Execute for a function with a result. It returns what fn returned, or the zero T for a call
// that was not made.
func ExecuteValue[T any](ctx context.Context, b *Breaker, fn func(context.Context) (T, error)) (T, error) {
	var v T
	if fn == nil {
		return v, errNoCall
	}
	err := b.Execute(ctx, func(ctx context.Context) (err error) {
		v, err = fn(ctx)
		return err
	})
	return v, err
}
