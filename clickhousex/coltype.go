package clickhousex

import (
	"strings"
)

// colType is a ClickHouse type, taken apart as far as filling a column needs it.
type colType struct {
	name     string    // As the server wrote it.
	element  string    // Without LowCardinality and Nullable: "FixedString(3)".
	base     string    // Without parameters, too: "UInt8", "FixedString", "Array".
	params   []string  // The base's parameters, split at the top level.
	names    []string  // Of the elements of a Tuple or Nested, where they have names.
	elements []colType // What an Array, Map, Tuple or Nested is made of.
	nullable bool
	lowCard  bool
}

func parseType(name string) colType {
	t := colType{name: name, base: name}
	for {
		t.element = t.base
		base, params, found := strings.Cut(t.base, "(")
		if !found {
			return t
		}
		params = strings.TrimSuffix(params, ")")
		switch base {
		case "LowCardinality":
			t.lowCard, t.base = true, params
		case "Nullable":
			t.nullable, t.base = true, params
		case "SimpleAggregateFunction": // Stored as its last parameter.
			if parts := splitParams(params); len(parts) > 1 {
				t.base = parts[len(parts)-1]
				continue
			}
			return t
		default:
			t.base, t.params = base, splitParams(params)
			t.parseElements()
			return t
		}
	}
}

func (t *colType) parseElements() {
	switch t.base {
	case "Array", "Map":
		for _, param := range t.params {
			t.elements = append(t.elements, parseType(param))
		}
	case "Tuple", "Nested":
		for _, param := range t.params {
			name, element := "", param
			if i := endOfName(param); i > 0 {
				name, element = strings.Trim(param[:i], "`"), strings.TrimSpace(param[i:])
			}
			t.names, t.elements = append(t.names, name), append(t.elements, parseType(element))
		}
	}
}

// endOfName is where the name of an element ends, 0 if it has none: there is a space then, outside of the quotes of a name
// and of a type's parentheses.
func endOfName(param string) int {
	quoted := false
	for i := range len(param) {
		switch {
		case param[i] == '`':
			quoted = !quoted
		case quoted:
		case param[i] == '(':
			return 0
		case param[i] == ' ':
			return i
		}
	}
	return 0
}

// splitParams splits at commas outside of parentheses and quotes.
func splitParams(s string) []string {
	var (
		params []string
		depth  int
		quote  byte // The one that is open.
		start  int
	)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0 && c == '\\':
			i++
		case c == quote:
			quote = 0
		case quote != 0:
		case c == '\'' || c == '`':
			quote = c
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			params = append(params, strings.TrimSpace(s[start:i]))
			start = i + 1
		}
	}
	return append(params, strings.TrimSpace(s[start:]))
}

// isFlat is true of types whose column is one value after the other and nothing else.
func (t colType) isFlat() bool {
	switch t.base {
	case "Int8", "Int16", "Int32", "Int64", "Int128", "Int256", "UInt8", "UInt16", "UInt32", "UInt64", "UInt128", "UInt256",
		"Float32", "Float64", "BFloat16", "Bool", "String", "FixedString", "Enum8", "Enum16", "UUID", "IPv4", "IPv6",
		"Date", "Date32", "DateTime", "DateTime64", "Time", "Time64", "Decimal":
		return true
	default:
		return false
	}
}
