package testkit

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// chArray keeps an array as []any.
type chArray struct{ elem chType }

func (t *chArray) name() string                   { return "Array(" + t.elem.name() + ")" }
func (t *chArray) zero() any                      { return []any{} }
func (t *chArray) decodePrefix(r *chReader) error { return t.elem.decodePrefix(r) }
func (t *chArray) encodePrefix(b *proto.Buffer)   { t.elem.encodePrefix(b) }

// offsets reads where each row's elements end.
func (r *chReader) offsets(rows int) ([]int, error) {
	raw, err := r.bytes(rows * 8)
	if err != nil {
		return nil, err
	}
	ends := make([]int, rows)
	last := 0
	for i := range ends {
		end := littleEndian(raw[i*8 : i*8+8])
		if end < uint64(last) || end > chMaxRows {
			return nil, fmt.Errorf("array offset %d after %d", end, last)
		}
		last = int(end)
		ends[i] = last
	}
	return ends, nil
}

func (t *chArray) decode(r *chReader, rows int) ([]any, error) {
	ends, err := r.offsets(rows)
	if err != nil {
		return nil, err
	}
	elems, err := decodeSome(t.elem, r, ends)
	if err != nil {
		return nil, err
	}
	values := make([]any, rows)
	start := 0
	for i, end := range ends {
		values[i] = elems[start:end:end]
		start = end
	}
	return values, nil
}

// decodeSome reads as many elements as the offsets say; of none there is nothing on the wire.
func decodeSome(t chType, r *chReader, ends []int) ([]any, error) {
	if len(ends) == 0 || ends[len(ends)-1] == 0 {
		return []any{}, nil
	}
	return t.decode(r, ends[len(ends)-1])
}

func (t *chArray) encode(b *proto.Buffer, values []any) {
	var elems []any
	for _, v := range values {
		elems = append(elems, v.([]any)...)
		b.PutUInt64(uint64(len(elems)))
	}
	if len(elems) > 0 {
		t.elem.encode(b, elems)
	}
}

func (t *chArray) literal(l chLiteral) (any, error) {
	if l.kind != chListLiteral {
		return nil, chErrorf(chTypeMismatch, "%s is no literal of type %s", l, t.name())
	}
	values := make([]any, len(l.items))
	for i, item := range l.items {
		var err error
		if values[i], err = t.elem.literal(item); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (t *chArray) compare(a, b any) int {
	return slices.CompareFunc(a.([]any), b.([]any), t.elem.compare)
}

// chMap keeps a map as map[any]any.
type chMap struct{ key, value chType }

func (t *chMap) name() string { return "Map(" + t.key.name() + ", " + t.value.name() + ")" }
func (t *chMap) zero() any    { return map[any]any{} }

func (t *chMap) decodePrefix(r *chReader) error {
	if err := t.key.decodePrefix(r); err != nil {
		return err
	}
	return t.value.decodePrefix(r)
}

func (t *chMap) encodePrefix(b *proto.Buffer) {
	t.key.encodePrefix(b)
	t.value.encodePrefix(b)
}

func (t *chMap) decode(r *chReader, rows int) ([]any, error) {
	ends, err := r.offsets(rows)
	if err != nil {
		return nil, err
	}
	keys, err := decodeSome(t.key, r, ends)
	if err != nil {
		return nil, err
	}
	elems, err := decodeSome(t.value, r, ends)
	if err != nil {
		return nil, err
	}
	values := make([]any, rows)
	start := 0
	for i, end := range ends {
		m := make(map[any]any, end-start)
		for j := start; j < end; j++ {
			m[keys[j]] = elems[j]
		}
		values[i] = m
		start = end
	}
	return values, nil
}

func (t *chMap) encode(b *proto.Buffer, values []any) {
	var keys, elems []any
	for _, v := range values {
		m := v.(map[any]any)
		for _, key := range t.sortedKeys(m) {
			keys = append(keys, key)
			elems = append(elems, m[key])
		}
		b.PutUInt64(uint64(len(keys)))
	}
	if len(keys) > 0 {
		t.key.encode(b, keys)
		t.value.encode(b, elems)
	}
}

func (t *chMap) sortedKeys(m map[any]any) []any {
	return slices.SortedFunc(maps.Keys(m), t.key.compare)
}

func (t *chMap) literal(l chLiteral) (any, error) {
	return nil, chErrorf(chSyntax, "the stand-in has no literals of type %s: insert them in a batch", t.name())
}

func (t *chMap) compare(a, b any) int {
	x, y := a.(map[any]any), b.(map[any]any)
	kx, ky := t.sortedKeys(x), t.sortedKeys(y)
	if c := slices.CompareFunc(kx, ky, t.key.compare); c != 0 {
		return c
	}
	for _, key := range kx {
		if c := t.value.compare(x[key], y[key]); c != 0 {
			return c
		}
	}
	return 0
}

// chTuple keeps a tuple as []any.
type chTuple struct {
	names []string // Empty strings where unnamed.
	elems []chType
}

func parseChTuple(args []string, depth int) (chType, error) {
	t := &chTuple{}
	for _, arg := range args {
		// "name Type" or "Type": a type has no blank before its first parenthesis.
		head, _, _ := strings.Cut(arg, "(")
		name, typeName := "", arg
		if first, _, named := strings.Cut(strings.TrimSpace(head), " "); named {
			name, typeName = strings.Trim(first, "`\""), arg[len(first):]
		}
		elem, err := parseChTypeAt(typeName, depth+1)
		if err != nil {
			return nil, err
		}
		t.names, t.elems = append(t.names, name), append(t.elems, elem)
	}
	if len(t.elems) == 0 {
		return nil, chErrorf(chUnknownType, "Tuple cannot be empty")
	}
	return t, nil
}

func (t *chTuple) name() string {
	parts := make([]string, len(t.elems))
	for i, elem := range t.elems {
		parts[i] = strings.TrimSpace(t.names[i] + " " + elem.name())
	}
	return "Tuple(" + strings.Join(parts, ", ") + ")"
}

func (t *chTuple) zero() any {
	v := make([]any, len(t.elems))
	for i, elem := range t.elems {
		v[i] = elem.zero()
	}
	return v
}

func (t *chTuple) decodePrefix(r *chReader) error {
	for _, elem := range t.elems {
		if err := elem.decodePrefix(r); err != nil {
			return err
		}
	}
	return nil
}

func (t *chTuple) encodePrefix(b *proto.Buffer) {
	for _, elem := range t.elems {
		elem.encodePrefix(b)
	}
}

func (t *chTuple) decode(r *chReader, rows int) ([]any, error) {
	var values []any
	for i, elem := range t.elems {
		column, err := elem.decode(r, rows)
		if err != nil {
			return nil, err
		}
		for row, v := range column {
			if i == 0 {
				values = append(values, make([]any, len(t.elems)))
			}
			values[row].([]any)[i] = v
		}
	}
	return values, nil
}

func (t *chTuple) encode(b *proto.Buffer, values []any) {
	column := make([]any, len(values))
	for i, elem := range t.elems {
		for row, v := range values {
			column[row] = v.([]any)[i]
		}
		elem.encode(b, column)
	}
}

func (t *chTuple) literal(l chLiteral) (any, error) {
	if l.kind != chListLiteral || len(l.items) != len(t.elems) {
		return nil, chErrorf(chTypeMismatch, "%s is no literal of type %s", l, t.name())
	}
	values := make([]any, len(t.elems))
	for i, item := range l.items {
		var err error
		if values[i], err = t.elems[i].literal(item); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (t *chTuple) compare(a, b any) int {
	x, y := a.([]any), b.([]any)
	for i, elem := range t.elems {
		if c := elem.compare(x[i], y[i]); c != 0 {
			return c
		}
	}
	return 0
}
