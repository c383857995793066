package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

// errGoexit is the value of a PanicError that is none.
var errGoexit = errors.New("the goroutine was ended by runtime.Goexit")

// PanicError is a panic in user code, caught. It is the message's own fault. So is a call of runtime.Goexit, such as that in
// testing.T.FailNow, and an error of the program's whose methods panic when they are asked what it means.
type PanicError struct {
	Value any
	Stack []byte
}

func newPanicError(value any) *PanicError { return &PanicError{Value: value, Stack: debug.Stack()} }

// Error gives the panic's value, without the stack.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// guarded calls code of the program's in a goroutine of its own, which that may end without harm, and returns its error,
// vetted. A panic, and runtime.Goexit, are returned as a *PanicError.
func guarded(fn func() error) (err error) {
	var call sync.WaitGroup
	call.Go(func() {
		returned := false
		defer func() {
			if r := recover(); r != nil {
				err = newPanicError(r)
			} else if !returned {
				err = newPanicError(errGoexit)
			}
		}()
		err = vetted(fn())
		returned = true
	})
	call.Wait()
	return err
}

// guardedValue is guarded for a function with a result.
func guardedValue[A, B any](ctx context.Context, fn func(context.Context, A) (B, error), in A) (out B, err error) {
	err = guarded(func() (err error) {
		out, err = fn(ctx, in)
		return err
	})
	return out, err
}

// outlast runs fn until it has returned. Code of the program's that ends fn's goroutine makes it begin anew.
func outlast(fn func()) {
	for returned := false; !returned; {
		var run sync.WaitGroup
		run.Go(func() {
			fn()
			returned = true
		})
		run.Wait()
	}
}

// vetted returns err after having asked it all that the pipeline asks an error, so that methods of it that panic do so
// here, where that is caught.
func vetted(err error) error {
	if err == nil || err == holdfast.ErrSkip { //nolint:errorlint // Nothing in it could panic.
		return err
	}
	if partly, ok := err.(*holdfast.BatchError); ok { //nolint:errorlint // One further in is asked as a part of err.
		for _, item := range partly.Items {
			_ = vetted(item)
		}
		return err
	}
	for _, target := range []error{holdfast.ErrSkip, context.DeadlineExceeded, breaker.ErrCircuitOpen, breaker.ErrTooManyCalls} {
		_ = errors.Is(err, target)
	}
	_, _, _ = holdfast.IsPermanent(err), holdfast.IsHold(err), holdfast.IsAmbiguous(err)
	_, _ = holdfast.RetryDelay(err)
	_ = errorText(err)
	_, _ = errors.AsType[*PanicError](err)
	_, _ = errors.AsType[*DecodeError](err)
	_, _ = errors.AsType[*retry.Error](err)
	_, _ = errors.AsType[*breaker.OpenError](err)
	if partly, ok := errors.AsType[*holdfast.BatchError](err); ok {
		_ = vetted(partly)
	}
	return err
}

// errorText is what err says, or its type if it panics instead, as a nil pointer in an error may.
func errorText(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("%T", err)
		}
	}()
	return err.Error()
}
