package testkit

import (
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// chType is a ClickHouse data type: how a column of it travels, and how its values look in Go.
type chType interface {
	name() string
	// zero is what a row has that was inserted without the column.
	zero() any
	// decodePrefix and encodePrefix are what stands before the column of a block with rows.
	decodePrefix(r *chReader) error
	encodePrefix(b *proto.Buffer)
	decode(r *chReader, rows int) ([]any, error)
	encode(b *proto.Buffer, values []any)
	literal(l chLiteral) (any, error)
	// compare orders two values of the type, NULL last.
	compare(a, b any) int
}

// chMaxTypeDepth bounds how deep types nest, for the sake of the stack.
const chMaxTypeDepth = 16

// parseChType reads a type's name as it stands in a DDL statement or on the wire.
func parseChType(s string) (chType, error) { return parseChTypeAt(s, 0) }

func parseChTypeAt(s string, depth int) (chType, error) {
	if depth > chMaxTypeDepth {
		return nil, chErrorf(chUnknownType, "types nest deeper than %d", chMaxTypeDepth)
	}
	s = strings.TrimSpace(s)
	base, rest, hasArgs := strings.Cut(s, "(")
	var args []string
	if hasArgs {
		inner, ok := strings.CutSuffix(rest, ")")
		if !ok {
			return nil, chErrorf(chUnknownType, "Unknown data type family: %s", s)
		}
		args = splitTopLevel(inner)
	}
	base = strings.TrimSpace(base)
	switch base {
	case "Nullable", "Array", "LowCardinality":
		if len(args) != 1 {
			return nil, chErrorf(chUnknownType, "%s takes one type, got %s", base, s)
		}
		elem, err := parseChTypeAt(args[0], depth+1)
		if err != nil {
			return nil, err
		}
		return wrapChType(base, elem)
	case "SimpleAggregateFunction":
		if len(args) != 2 {
			return nil, chErrorf(chUnknownType, "SimpleAggregateFunction takes a function and a type, got %s", s)
		}
		return parseChTypeAt(args[1], depth+1)
	case "Map":
		if len(args) != 2 {
			return nil, chErrorf(chUnknownType, "Map takes two types, got %s", s)
		}
		key, err := parseChTypeAt(args[0], depth+1)
		if err != nil {
			return nil, err
		}
		value, err := parseChTypeAt(args[1], depth+1)
		if err != nil {
			return nil, err
		}
		if _, scalar := key.(*chScalar); !scalar {
			if _, scalar = key.(*chLowCardinality); !scalar {
				return nil, chErrorf(chUnknownType, "the stand-in has no Map keys of type %s", key.name())
			}
		}
		return &chMap{key: key, value: value}, nil
	case "Tuple":
		return parseChTuple(args, depth)
	}
	return parseChScalar(base, args)
}

func wrapChType(base string, elem chType) (chType, error) {
	switch base {
	case "Array":
		return &chArray{elem: elem}, nil
	case "Nullable":
		if _, scalar := elem.(*chScalar); !scalar {
			return nil, chErrorf(43, "Nested type %s cannot be inside Nullable type", elem.name())
		}
		return &chNullable{elem: elem}, nil
	default:
		t := &chLowCardinality{elem: elem}
		if n, ok := elem.(*chNullable); ok {
			t.elem, t.nullable = n.elem, true
		}
		if _, scalar := t.elem.(*chScalar); !scalar {
			return nil, chErrorf(43, "LowCardinality of %s is not possible", elem.name())
		}
		return t, nil
	}
}

// splitTopLevel splits at commas that stand in no parentheses and no quotes.
func splitTopLevel(s string) []string {
	var parts []string
	depth, start := 0, 0
	var quote byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0:
			switch c {
			case '\\':
				i++
			case quote:
				quote = 0
			}
		case c == '\'' || c == '`' || c == '"':
			quote = c
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			parts = append(parts, strings.TrimSpace(s[start:i]))
			start = i + 1
		}
	}
	return append(parts, strings.TrimSpace(s[start:]))
}

// noPrefix is for types whose column has nothing before its rows.
type noPrefix struct{}

func (noPrefix) decodePrefix(*chReader) error { return nil }
func (noPrefix) encodePrefix(*proto.Buffer)   {}

// chNullable keeps NULL as nil.
type chNullable struct {
	noPrefix
	elem chType
}

func (t *chNullable) name() string { return "Nullable(" + t.elem.name() + ")" }
func (t *chNullable) zero() any    { return nil }

func (t *chNullable) decode(r *chReader, rows int) ([]any, error) {
	nulls, err := r.bytes(rows)
	if err != nil {
		return nil, err
	}
	values, err := t.elem.decode(r, rows)
	if err != nil {
		return nil, err
	}
	for i, null := range nulls {
		if null != 0 {
			values[i] = nil
		}
	}
	return values, nil
}

func (t *chNullable) encode(b *proto.Buffer, values []any) {
	filled := make([]any, len(values))
	for i, v := range values {
		b.PutBool(v == nil)
		if filled[i] = v; v == nil {
			filled[i] = t.elem.zero()
		}
	}
	t.elem.encode(b, filled)
}

func (t *chNullable) literal(l chLiteral) (any, error) {
	if l.kind == chNullLiteral {
		return nil, nil
	}
	return t.elem.literal(l)
}

func (t *chNullable) compare(a, b any) int { return compareNullable(t.elem, a, b) }

func compareNullable(elem chType, a, b any) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return elem.compare(a, b)
}
