package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast"
)

// everyKind has a field for each rule of encoding/json that another decoder may have otherwise.
type everyKind struct {
	ID       uint64            `json:"id"`
	Small    int8              `json:"small"`
	Ratio    float64           `json:"ratio"`
	Text     string            `json:"text"`
	Quoted   int               `json:"quoted,string"`
	Bytes    []byte            `json:"bytes"`
	Fixed    [2]byte           `json:"fixed"`
	List     []int             `json:"list"`
	Map      map[int]string    `json:"map"`
	Number   json.Number       `json:"number"`
	Numbers  []json.Number     `json:"numbers"`
	Raw      json.RawMessage   `json:"raw"`
	Any      any               `json:"any"`
	Time     time.Time         `json:"time"`
	Duration time.Duration     `json:"duration"`
	Pointer  *int              `json:"pointer"`
	Upper    upper             `json:"upper"`
	Nested   map[string]nested `json:"nested"`
	nested
	Hidden string `json:"-"`
}

type nested struct {
	Depth int
	Next  *nested
}

// upper decodes itself.
type upper string

func (u *upper) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		return errors.New("empty")
	}
	*u = upper(strings.ToUpper(string(b)))
	return nil
}

var documents = []string{
	`{"id":1,"text":"a","small":-128}`, `{"ID":1,"Text":"b","TEXT":"c"}`, `{"id":1,"id":2}`, ` {"id" : 1 } `, `{"id":1}{"id":2}`, `{"id":1} x`,
	`{"id":-1}`, `{"id":1.0}`, `{"id":1e2}`, `{"id":"1"}`, `{"small":128}`, `{"id":18446744073709551616}`, `{"ratio":1e400}`, `{"ratio":0.1}`,
	`{"quoted":"7"}`, `{"quoted":7}`, `{"quoted":""}`, `{"quoted":"x"}`, `{"quoted":null}`, `{"bytes":"AQI="}`, `{"bytes":"AQI"}`, `{"bytes":"A\nQI="}`, `{"bytes":[1,2]}`,
	`{"fixed":[1]}`, `{"fixed":[1,2,3]}`, `{"list":[1,null,3]}`, `{"list":{}}`, `{"list":[]}`, `{"map":{"1":"a","2":null}}`, `{"map":{"x":"a"}}`,
	`{"number":12.50}`, `{"number":"12"}`, `{"number":"twelve"}`, `{"number":""}`, `{"number":null}`, `{"number":true}`, `{"numbers":[1,"2",3e9]}`, `{"numbers":["x"]}`,
	`{"raw":{"a": [1, 2]}}`, `{"raw":null}`, `{"any":{"a":[1,"b",null,true,1e3]}}`, `{"any":123456789012345678901}`, `{"any":{"a":1,"a":2}}`,
	`{"time":"2026-01-02T03:04:05Z"}`, `{"time":"yesterday"}`, `{"time":null}`, `{"duration":1000}`, `{"duration":"1s"}`, `{"pointer":3}`, `{"pointer":null}`,
	`{"upper":"abc"}`, `{"upper":""}`, `{"upper":1}`, `{"upper":null}`, `{"nested":{"a":{"Depth":1,"next":{"depth":2}}}}`, `{"Depth":4}`, `{"depth":5,"Next":{}}`, `{"Hidden":"x"}`,
	`null`, `[]`, `"text"`, `1`, `true`, ``, ` `, `{`, `{"id"}`, `{"id":}`, `{"id":1,}`, `{'id':1}`, `{"text":"` + "\xff" + `"}`, `{"text":"\ud800"}`, `{"text":"\u00e9\n"}`, `{"text":"a` + "\n" + `"}`,
	"\xef\xbb\xbf{}", `{"text":nul}`, `nullx`, `{"any":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, `{"any":` + strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001) + `}`,
}

// sameAsStandard fails if JSON and encoding/json disagree: on what is a T, and on what it is.
func sameAsStandard[T any](t *testing.T, document []byte) {
	t.Helper()
	var want T
	wanted := json.Unmarshal(document, &want)
	got, err := JSON[T](context.Background(), holdfast.Message{Value: document})
	switch {
	case (err == nil) != (wanted == nil):
		t.Errorf("%q for a %T: %v, but of encoding/json: %v", document, want, err, wanted)
	case err == nil && !reflect.DeepEqual(got, want):
		t.Errorf("%q is %+v, but of encoding/json %+v", document, got, want)
	}
}

func sameAsStandardForAll(t *testing.T, document []byte) {
	t.Helper()
	sameAsStandard[everyKind](t, document)
	sameAsStandard[*everyKind](t, document)
	sameAsStandard[any](t, document)
	sameAsStandard[map[string]any](t, document)
	sameAsStandard[map[string]json.Number](t, document)
	sameAsStandard[json.RawMessage](t, document)
	sameAsStandard[string](t, document)
	sameAsStandard[float64](t, document)
}

func TestJSONIsWhatEncodingJSONSays(t *testing.T) {
	for _, document := range documents {
		sameAsStandardForAll(t, []byte(document))
	}
}

func FuzzJSONIsWhatEncodingJSONSays(f *testing.F) {
	for _, document := range documents {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		if document != nil { // A tombstone is not JSON's.
			sameAsStandardForAll(t, document)
		}
	})
}

func TestJSONOwnsItsValue(t *testing.T) {
	document := []byte(`{"text":"abc","raw":[1],"bytes":"AQI="}`)
	got, err := JSON[everyKind](context.Background(), holdfast.Message{Value: document})
	if err != nil {
		t.Fatal(err)
	}
	clear(document)
	if got.Text != "abc" || string(got.Raw) != "[1]" || got.Bytes[1] != 2 {
		t.Errorf("the value changed with the message's bytes: %+v", got)
	}
}

func BenchmarkJSON(b *testing.B) {
	type order struct {
		ID       uint64 `json:"id"`
		Customer string `json:"customer"`
		Text     string `json:"text"`
	}
	document := []byte(`{"id":123456,"customer":"c97","text":"` + strings.Repeat("x", 160) + `"}`)
	b.Run("pipeline", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := JSON[order](b.Context(), holdfast.Message{Value: document}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var o order
			if err := json.Unmarshal(document, &o); err != nil {
				b.Fatal(err)
			}
		}
	})
}
