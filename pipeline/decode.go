package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-io/holdfast"
)

// DecodeError says that a message's bytes are not what they should be. It is the message's own fault, and the reason in
// its letter is "decode".
type DecodeError struct {
	Format string
	Err    error
}

func (e *DecodeError) Error() string { return fmt.Sprintf("decode %s: %v", e.Format, e.Err) }
func (e *DecodeError) Unwrap() error { return e.Err }

// Permanent is true: the bytes will not change.
func (e *DecodeError) Permanent() bool { return true }

// JSON decodes a message's value; it is a function for Map. A tombstone, whose value is nil, holds nothing to decode and
// is skipped. Anything else that is not JSON for a T is a *DecodeError.
func JSON[T any](_ context.Context, m holdfast.Message) (T, error) {
	var v T
	if m.Value == nil {
		return v, holdfast.ErrSkip
	}
	if err := json.Unmarshal(m.Value, &v); err != nil {
		return v, &DecodeError{Format: "JSON", Err: withoutValue(err)}
	}
	return v, nil
}

// withoutValue keeps the kind of value that did not fit, such as "number", and drops the value itself.
func withoutValue(err error) error {
	if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		kind, _, _ := strings.Cut(mismatch.Value, " ")
		return fmt.Errorf("field %q: a %s does not fit %v", mismatch.Field, kind, mismatch.Type)
	}
	return err
}
