package main

import (
	"encoding/json"
	"time"
)

// when is a time: RFC 3339 where that has a word for it, and milliseconds since 1970 for years that it does not know. Kafka
// takes any number for a time, such as one in microseconds.
type when time.Time

// known is nil for a time that is not.
func known(t time.Time) *when {
	if t.IsZero() {
		return nil
	}
	return (*when)(&t)
}

// MarshalJSON never fails.
func (w when) MarshalJSON() ([]byte, error) {
	if text, err := time.Time(w).MarshalJSON(); err == nil {
		return text, nil
	}
	return json.Marshal(time.Time(w).UnixMilli())
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (w *when) UnmarshalJSON(text []byte) error {
	var ms int64
	if err := json.Unmarshal(text, &ms); err == nil && text[0] != 'n' {
		*w = when(time.UnixMilli(ms).UTC())
		return nil
	}
	return (*time.Time)(w).UnmarshalJSON(text)
}
