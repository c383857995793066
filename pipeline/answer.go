package pipeline

import (
	"context"
	"errors"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/retry"
)

var errNoReason = errors.New("pipeline: the sink refused the item and did not say why")

// verdict tells what an error of a sink says of its batch of n items: which it refused, the others being stored, or that
// nobody knows, as when it names an item that is not in the batch, or when something else failed beside.
func verdict(err error, n int) (refused *holdfast.BatchError, ambiguous bool) {
	for e := err; e != nil; e = within(e) {
		if r, ok := e.(*holdfast.BatchError); ok { //nolint:errorlint // What stands around it counts, so it is unwrapped here.
			if namesOthers(r, n) {
				return nil, true
			}
			return r, false
		}
		if a, ok := e.(interface{ Ambiguous() bool }); ok && a.Ambiguous() {
			return nil, true
		}
	}
	_, beside := errors.AsType[*holdfast.BatchError](err)
	return nil, beside || holdfast.IsAmbiguous(err)
}

// within is the one error that err wraps, nil when there are several.
func within(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return errors.Unwrap(err)
	}
	if errs := joined.Unwrap(); len(errs) == 1 { // As errors.Join makes of an error and nil.
		return errs[0]
	}
	return nil
}

// namesOthers tells whether e names an item that a batch of n items does not have. It then speaks of something else.
func namesOthers(e *holdfast.BatchError, n int) bool {
	for i := range e.Items {
		if i < 0 || i >= n {
			return true
		}
	}
	return false
}

// refusal is the error of item i, nil if it is stored.
func refusal(e *holdfast.BatchError, i int) error {
	err, named := e.Items[i]
	if named && err == nil {
		return errNoReason
	}
	return err
}

// waits tells whether an item has to wait because of err, which then is not its own.
func waits(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, breaker.ErrCircuitOpen) || errors.Is(err, breaker.ErrTooManyCalls) ||
		holdfast.IsHold(err) || holdfast.IsAmbiguous(err)
}

// staysUnsure tells whether an item that was or was not ambiguous is so after an attempt that ended with err. Only a
// verdict about the item itself settles it: success, or Permanent.
func staysUnsure(was bool, err error) bool {
	if err == nil {
		return false
	}
	return holdfast.IsAmbiguous(err) || (was && (!holdfast.IsPermanent(err) || holdfast.IsHold(err)))
}

// itemFailure is what it means that a sink refused one item.
func itemFailure(err error) *failure {
	f := &failure{reason: dlq.RetriesExhausted, stage: sinkStage, attempts: 1, err: err}
	if tried, ok := errors.AsType[*retry.Error](err); ok {
		f.attempts, f.err = tried.Attempts, tried.Err
	}
	switch _, panicked := errors.AsType[*PanicError](err); {
	case panicked:
		f.reason = dlq.Panicked
	case holdfast.IsPermanent(err):
		f.reason = permanentReason(err)
	}
	return f
}
