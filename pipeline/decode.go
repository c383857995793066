package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"github.com/holdfast-io/holdfast"
)

// DecodeError says that a message's bytes are not what they should be. It is the message's own fault, and the reason in
// its letter is "decode".
type DecodeError struct {
	Format string // Such as "JSON". It goes into the error's text.
	Err    error  // What the decoder said.
}

// Error names the format and says what the decoder said.
func (e *DecodeError) Error() string { return fmt.Sprintf("decode %s: %v", e.Format, e.Err) }

// Unwrap gives the decoder's error.
func (e *DecodeError) Unwrap() error { return e.Err }

// Permanent is true: the bytes will not change.
func (e *DecodeError) Permanent() bool { return true }

// JSON decodes a message's value as encoding/json does; it is a function for Map. A tombstone, whose value is nil, holds
// nothing to decode and is skipped. Anything else that is not JSON for a T is a *DecodeError.
//
// A decoder of another format, such as Avro or Protobuf, is a function of the same form.
func JSON[T any](_ context.Context, m holdfast.Message) (T, error) {
	var v T
	if m.Value == nil {
		return v, holdfast.ErrSkip
	}
	if err := unmarshal(m.Value, &v); err != nil {
		return v, &DecodeError{Format: "JSON", Err: withoutValue(err)}
	}
	return v, nil
}

// unmarshal is json.Unmarshal on the engine of encoding/json/v2, which is several times as fast and has the rules of
// encoding/json as options. What it refuses, encoding/json judges itself: its errors are the ones that people know.
func unmarshal[T any](b []byte, v *T) error {
	if jsonv2.Unmarshal(b, v, likeV1) == nil {
		return nil
	}
	*v = *new(T)
	return json.Unmarshal(b, v)
}

// likeV1 are the rules of encoding/json. Its Number is a type that the engine only knows where it is Go's own.
//
//nolint:gochecknoglobals // Never changed; made once, because it caches what it finds out about types.
var likeV1 = jsonv2.JoinOptions(jsonv1.DefaultOptionsV1(), jsonv2.WithUnmarshalers(
	jsonv2.UnmarshalFromFunc(func(d *jsontext.Decoder, n *json.Number) error {
		b, err := d.ReadValue()
		if err != nil {
			return err
		}
		return json.Unmarshal(b, n)
	})))

// withoutValue keeps the kind of value that did not fit, such as "number", and drops the value itself.
func withoutValue(err error) error {
	if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		kind, _, _ := strings.Cut(mismatch.Value, " ")
		return fmt.Errorf("field %q: a %s does not fit %v", mismatch.Field, kind, mismatch.Type)
	}
	return err
}
