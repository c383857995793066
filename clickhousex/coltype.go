package clickhousex

import (
	"strings"
)

// colType is a ClickHouse type, taken apart as far as filling a column needs it.
type colType struct {
	name     string   // As the server wrote it.
	base     string   // Without LowCardinality, Nullable and parameters: "UInt8", "FixedString", "Array".
	params   []string // The base's parameters, split at the top level.
	nullable bool
	lowCard  bool
}

func parseType(name string) colType {
	t := colType{name: name, base: name}
	for {
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
			return t
		}
	}
}

// splitParams splits at commas outside of parentheses and quotes.
func splitParams(s string) []string {
	var (
		params []string
		depth  int
		quoted bool
		start  int
	)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '\'':
			quoted = !quoted
		case quoted:
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
