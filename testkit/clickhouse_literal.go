package testkit

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// chLiteral is a literal of a statement; it gets its type from the column it meets.
type chLiteral struct {
	kind  chLiteralKind
	text  string
	items []chLiteral
	zone  *time.Location // Of toDateTime('...', 'zone').
}

type chLiteralKind int

const (
	chNumberLiteral chLiteralKind = iota
	chStringLiteral
	chNullLiteral
	chListLiteral     // An array or a tuple.
	chDatabaseLiteral // currentDatabase(), not known before the statement runs.
)

func (l chLiteral) String() string {
	switch l.kind {
	case chStringLiteral:
		return strconv.Quote(l.text)
	case chNullLiteral:
		return "NULL"
	case chListLiteral:
		parts := make([]string, len(l.items))
		for i, item := range l.items {
			parts[i] = item.String()
		}
		return "(" + strings.Join(parts, ", ") + ")"
	default:
		return l.text
	}
}

// typed gives the literal the type that the server would: the narrowest number, or a String.
func (l chLiteral) typed() (chType, any, error) {
	name := "String"
	if l.kind == chNumberLiteral {
		name = "Float64"
		if l.text == "true" || l.text == "false" {
			name = "Bool"
		} else if u, err := strconv.ParseUint(l.text, 10, 64); err == nil {
			name = "UInt" + strconv.Itoa(widthFor(func(bits int) bool { return u>>bits == 0 }))
		} else if i, err := strconv.ParseInt(l.text, 10, 64); err == nil {
			name = "Int" + strconv.Itoa(widthFor(func(bits int) bool { return i>>(bits-1) == -1 }))
		}
	}
	if l.kind == chNullLiteral || l.kind == chListLiteral {
		return nil, nil, chErrorf(chSyntax, "the stand-in cannot select the literal %s", l)
	}
	t, err := parseChType(name)
	if err != nil {
		return nil, nil, err
	}
	v, err := t.literal(l)
	return t, v, err
}

func widthFor(fits func(bits int) bool) int {
	for _, bits := range []int{8, 16, 32} {
		if fits(bits) {
			return bits
		}
	}
	return 64
}

// unquoteSQL reads a single-quoted literal, as settings and parameters travel.
func unquoteSQL(s string) (string, error) {
	if len(s) < 2 || s[0] != '\'' || s[len(s)-1] != '\'' {
		return "", errors.New("value is no quoted literal")
	}
	return unescapeSQL(s[1 : len(s)-1]), nil
}

// unescapeSQL resolves the escapes of a quoted literal: a backslash and, for quotes, doubling.
func unescapeSQL(s string) string {
	if !strings.ContainsAny(s, "\\'`\"") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c == '\\' || c == '\'' || c == '`' || c == '"') && i+1 < len(s) && (c == '\\' || s[i+1] == c) {
			i++
			if c = s[i]; s[i-1] == '\\' {
				switch c {
				case 'n':
					c = '\n'
				case 't':
					c = '\t'
				case 'r':
					c = '\r'
				case '0':
					c = 0
				case 'b':
					c = '\b'
				case 'f':
					c = '\f'
				}
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

// literals reads literals up to a closing parenthesis, bracket or the end.
func (p *chParser) literals() ([]chLiteral, error) {
	var list []chLiteral
	for {
		if tok := p.peek(); tok.kind == chEnd || tok.text == ")" || tok.text == "]" {
			return list, nil
		}
		l, err := p.literal()
		if err != nil {
			return nil, err
		}
		if list = append(list, l); !p.punct(",") {
			return list, nil
		}
	}
}

// chMaxDepth bounds how deep parentheses nest, for the sake of the stack.
const chMaxDepth = 64

func (p *chParser) enter() error {
	if p.depth++; p.depth > chMaxDepth {
		return chErrorf(306, "Too deep recursion while parsing: the stand-in nests %d deep", chMaxDepth)
	}
	return nil
}

// literal reads one literal; when there is none, the parser stays where it is.
func (p *chParser) literal() (l chLiteral, err error) {
	if err := p.enter(); err != nil {
		return chLiteral{}, err
	}
	at := p.at
	defer func() {
		p.depth--
		if err != nil {
			p.at = at
		}
	}()
	tok := p.next()
	switch {
	case tok.kind == chString:
		return chLiteral{kind: chStringLiteral, text: tok.text}, nil
	case tok.kind == chNumber:
		return chLiteral{kind: chNumberLiteral, text: tok.text}, nil
	case tok.kind == chPunct && (tok.text == "-" || tok.text == "+") && p.peek().kind == chNumber:
		sign := strings.TrimPrefix(tok.text, "+")
		return chLiteral{kind: chNumberLiteral, text: sign + p.next().text}, nil
	case tok.kind == chPunct && (tok.text == "(" || tok.text == "["):
		items, err := p.literals()
		if err != nil {
			return chLiteral{}, err
		}
		closing := map[string]string{"(": ")", "[": "]"}[tok.text]
		return chLiteral{kind: chListLiteral, items: items}, p.expect(closing)
	case tok.kind == chWord && strings.EqualFold(tok.text, "NULL"):
		return chLiteral{kind: chNullLiteral}, nil
	case tok.kind == chWord && (strings.EqualFold(tok.text, "true") || strings.EqualFold(tok.text, "false")):
		return chLiteral{kind: chNumberLiteral, text: strings.ToLower(tok.text)}, nil
	case tok.kind == chWord && p.punct("("):
		return p.conversion(strings.ToLower(tok.text))
	}
	p.at = at
	return chLiteral{}, p.unknown()
}

// conversion reads a function that the driver writes around a bound value, or one that needs no row.
func (p *chParser) conversion(function string) (chLiteral, error) {
	switch {
	case function == "now" || function == "today":
		seconds := time.Now().Unix()
		l := chLiteral{kind: chNumberLiteral, text: strconv.FormatInt(seconds, 10)}
		if function == "today" {
			l = chLiteral{kind: chStringLiteral, text: time.Unix(seconds, 0).UTC().Format(time.DateOnly)}
		}
		return l, p.expect(")")
	case function == "array" || function == "tuple":
		items, err := p.literals()
		if err != nil {
			return chLiteral{}, err
		}
		return chLiteral{kind: chListLiteral, items: items}, p.expect(")")
	case function != "cast" && !strings.HasPrefix(function, "to"):
		return chLiteral{}, p.unknown()
	}
	l, err := p.literal()
	if err != nil {
		return l, err
	}
	for p.punct(",") {
		arg, err := p.literal()
		if err != nil {
			return l, err
		}
		if strings.HasPrefix(function, "todatetime") && arg.kind == chStringLiteral {
			if l.zone, err = time.LoadLocation(arg.text); err != nil {
				return l, chErrorf(chBadArguments, "Cannot load time zone %s", arg.text)
			}
		}
	}
	if p.keywords("AS") {
		p.skipUntil(")")
	}
	return l, p.expect(")")
}
