package main

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/holdfast-io/holdfast"
)

// record is a line of an export.
type record struct {
	Partition int      `json:"partition"`
	Offset    int64    `json:"offset"`
	Time      when     `json:"time"`
	Key       blob     `json:"key"`
	Value     blob     `json:"value"`
	Headers   []header `json:"headers"`
}

type header struct {
	Key   blob `json:"key"`
	Value blob `json:"value"`
}

func newRecord(m *holdfast.Message) record {
	r := record{Partition: m.Partition, Offset: m.Offset, Time: when(m.Time.UTC()), Key: m.Key, Value: m.Value, Headers: make([]header, len(m.Headers))}
	for i, h := range m.Headers {
		r.Headers[i] = header{blob(h.Key), h.Value}
	}
	return r
}

// message is the record as it is written again; its time is left to the caller.
func (r *record) message() holdfast.Message {
	m := holdfast.Message{Partition: r.Partition, Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		m.Headers = append(m.Headers, holdfast.Header{Key: string(h.Key), Value: h.Value})
	}
	return m
}

// blob is any bytes: a JSON string where they are text, {"base64": "..."} where they are not, null where there are none.
type blob []byte

type encoded struct {
	Base64 []byte `json:"base64"`
}

// MarshalJSON loses no byte.
func (b blob) MarshalJSON() ([]byte, error) {
	switch {
	case b == nil:
		return []byte("null"), nil
	case utf8.Valid(b):
		return json.Marshal(string(b))
	}
	return json.Marshal(encoded{b})
}

// UnmarshalJSON reads what MarshalJSON wrote, and nothing else.
func (b *blob) UnmarshalJSON(text []byte) error {
	switch text[0] {
	case 'n':
		*b = nil
		return nil
	case '"':
		var s string
		if err := json.Unmarshal(text, &s); err != nil {
			return err
		}
		*b = []byte(s)
		return nil
	case '{':
		var e encoded
		if err := json.Unmarshal(text, &e); err != nil {
			return err
		}
		if e.Base64 == nil {
			break
		}
		*b = e.Base64
		return nil
	}
	return fmt.Errorf(`must be a string, null or {"base64": "..."}`)
}
