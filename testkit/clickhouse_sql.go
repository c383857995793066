package testkit

import (
	"slices"
	"strings"
)

// chTableName is a table's name as a statement gives it; no database means the connection's.
type chTableName struct{ database, table string }

// The statements. Each is what the parser found; the server carries it out.
type (
	chInsert struct {
		table    chTableName
		columns  []string // Empty means all.
		settings map[string]string
		rows     [][]chLiteral // Of VALUES, or of SELECT with literals.
		inline   bool          // The rows are in the statement; otherwise they come as blocks.
	}
	chCreate struct {
		name        chTableName
		ifNotExists bool
		replace     bool
		table       *chTable
	}
	chDrop struct {
		name     chTableName
		ifExists bool
		truncate bool
	}
	chDropDatabase struct{ database string }
	chDescribe     struct{ table chTableName }
	chShowCreate   struct{ table chTableName }
	chExists       struct{ table chTableName }
	// chNothing is a statement that has nothing to do here, such as CREATE DATABASE.
	chNothing struct{}
)

// parseSQL reads one statement.
func parseSQL(body string, params map[string]string) (any, error) {
	tokens, err := scanSQL(body, params)
	if err != nil {
		return nil, err
	}
	p := &chParser{src: body, tokens: tokens}
	stmt, err := p.statement()
	if err != nil {
		return nil, err
	}
	p.punct(";")
	if !p.end() {
		return nil, p.unknown()
	}
	return stmt, nil
}

type chTokenKind int

const (
	chWord   chTokenKind = iota // A bare word: a keyword or a name.
	chQuoted                    // A quoted name.
	chNumber
	chString
	chPunct
	chEnd
)

type chToken struct {
	kind       chTokenKind
	text       string
	start, end int // In the statement.
}

// scanSQL splits a statement into tokens, the last of which is the end. Parameters such as {name:Type} become literals.
func scanSQL(src string, params map[string]string) ([]chToken, error) {
	var tokens []chToken
	for i := 0; i < len(src); {
		start := i
		tok := chToken{start: start}
		switch c := src[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
			continue
		case c == '#' || strings.HasPrefix(src[i:], "--"):
			end := strings.IndexByte(src[i:], '\n')
			if end < 0 {
				end = len(src) - i - 1
			}
			i += end + 1
			continue
		case strings.HasPrefix(src[i:], "/*"):
			end := strings.Index(src[i:], "*/")
			if end < 0 {
				return nil, chErrorf(chSyntax, "Syntax error: comment without an end")
			}
			i += end + 2
			continue
		case c == '\'' || c == '`' || c == '"':
			end := quotedEnd(src, i)
			if end < 0 {
				return nil, chErrorf(chSyntax, "Syntax error: quote without an end at position %d", i+1)
			}
			tok.kind, tok.text = chString, unescapeSQL(src[i+1:end])
			if c != '\'' {
				tok.kind = chQuoted
			}
			i = end + 1
		case c == '{':
			end := strings.IndexByte(src[i:], '}')
			name, typeName, ok := "", "", false
			if end > 0 {
				name, typeName, ok = strings.Cut(src[i+1:i+end], ":")
			}
			value, set := params[strings.TrimSpace(name)]
			if !ok || !set {
				return nil, chErrorf(456, "Substitution is not set at position %d", i+1)
			}
			tok.kind, tok.text = chString, value
			if strings.TrimSpace(typeName) == "Identifier" {
				tok.kind = chQuoted
			}
			i += end + 1
		case c >= '0' && c <= '9':
			for i < len(src) && (isWordByte(src[i]) || src[i] == '.' || (src[i] == '-' || src[i] == '+') && (src[i-1] == 'e' || src[i-1] == 'E')) {
				i++
			}
			tok.kind, tok.text = chNumber, src[start:i]
		case isWordByte(c):
			for i < len(src) && isWordByte(src[i]) {
				i++
			}
			tok.kind, tok.text = chWord, src[start:i]
		default:
			i++
			if i < len(src) && slices.Contains([]string{"<=", ">=", "!=", "<>", "==", "::"}, src[start:i+1]) {
				i++
			}
			tok.kind, tok.text = chPunct, src[start:i]
		}
		tok.end = i
		tokens = append(tokens, tok)
	}
	return append(tokens, chToken{kind: chEnd, start: len(src), end: len(src)}), nil
}

func isWordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// quotedEnd finds the quote that ends the one at start, or -1.
func quotedEnd(src string, start int) int {
	quote := src[start]
	for i := start + 1; i < len(src); i++ {
		switch {
		case src[i] == '\\':
			i++
		case src[i] == quote && i+1 < len(src) && src[i+1] == quote:
			i++
		case src[i] == quote:
			return i
		}
	}
	return -1
}

// chParser walks the tokens of a statement.
type chParser struct {
	src    string
	tokens []chToken
	at     int
	depth  int
}

func (p *chParser) peek() chToken { return p.tokens[p.at] }

func (p *chParser) next() chToken {
	tok := p.tokens[p.at]
	if tok.kind != chEnd {
		p.at++
	}
	return tok
}

// textFrom is the statement's text from a token to where the parser is.
func (p *chParser) textFrom(token int) string {
	if p.at == token {
		return ""
	}
	return p.src[p.tokens[token].start:p.tokens[p.at-1].end]
}

func (p *chParser) end() bool { return p.peek().kind == chEnd }

// keywords consumes the words when they all stand next.
func (p *chParser) keywords(words ...string) bool {
	for i, word := range words {
		// The end token is never a word, so this stays within the tokens.
		if tok := p.tokens[p.at+i]; tok.kind != chWord || !strings.EqualFold(tok.text, word) {
			return false
		}
	}
	p.at += len(words)
	return true
}

func (p *chParser) punct(text string) bool {
	if tok := p.peek(); tok.kind == chPunct && tok.text == text {
		p.at++
		return true
	}
	return false
}

func (p *chParser) expect(text string) error {
	if !p.punct(text) {
		return p.unknown()
	}
	return nil
}

// unknown is the error for what the parser does not understand here.
func (p *chParser) unknown() error {
	at := p.peek().start
	near := p.src[at:min(at+40, len(p.src))]
	if near == "" {
		near = "(end of query)"
	}
	return chErrorf(chSyntax, "Syntax error: failed at position %d: %s. Testkit's stand-in for ClickHouse knows simple statements only, "+
		"a real server may know this one", at+1, near)
}

func (p *chParser) name() (string, error) {
	if tok := p.peek(); tok.kind == chWord || tok.kind == chQuoted {
		p.at++
		return tok.text, nil
	}
	return "", p.unknown()
}

func (p *chParser) tableName() (chTableName, error) {
	first, err := p.name()
	if err != nil || !p.punct(".") {
		return chTableName{table: first}, err
	}
	second, err := p.name()
	return chTableName{database: first, table: second}, err
}

func (p *chParser) names() ([]string, error) {
	var names []string
	for {
		name, err := p.name()
		if err != nil {
			return nil, err
		}
		names = append(names, name)
		if !p.punct(",") {
			return names, nil
		}
	}
}

func (p *chParser) statement() (any, error) {
	switch {
	case p.keywords("INSERT", "INTO"):
		return p.insert()
	case p.keywords("SELECT"):
		return p.selection()
	case p.keywords("CREATE", "DATABASE"):
		p.keywords("IF", "NOT", "EXISTS")
		_, err := p.name()
		return chNothing{}, err
	case p.keywords("CREATE", "OR", "REPLACE", "TABLE"):
		return p.create(true)
	case p.keywords("CREATE", "TABLE"):
		return p.create(false)
	case p.keywords("DROP", "DATABASE"):
		p.keywords("IF", "EXISTS")
		name, err := p.name()
		return chDropDatabase{name}, err
	case p.keywords("DROP", "TABLE"):
		return p.drop(false)
	case p.keywords("TRUNCATE", "TABLE"), p.keywords("TRUNCATE"):
		return p.drop(true)
	case p.keywords("DESCRIBE", "TABLE"), p.keywords("DESC", "TABLE"), p.keywords("DESCRIBE"), p.keywords("DESC"):
		name, err := p.tableName()
		return chDescribe{name}, err
	case p.keywords("SHOW", "CREATE", "TABLE"):
		name, err := p.tableName()
		return chShowCreate{name}, err
	case p.keywords("EXISTS", "TABLE"), p.keywords("EXISTS"):
		name, err := p.tableName()
		return chExists{name}, err
	}
	return nil, p.unknown()
}

func (p *chParser) drop(truncate bool) (any, error) {
	d := chDrop{truncate: truncate, ifExists: p.keywords("IF", "EXISTS")}
	var err error
	if d.name, err = p.tableName(); err != nil {
		return nil, err
	}
	if err := p.onCluster(); err != nil {
		return nil, err
	}
	p.keywords("SYNC")
	return d, nil
}

func (p *chParser) onCluster() error {
	if !p.keywords("ON", "CLUSTER") {
		return nil
	}
	if tok := p.next(); tok.kind == chPunct || tok.kind == chEnd {
		return p.unknown()
	}
	return nil
}

func (p *chParser) insert() (any, error) {
	p.keywords("TABLE")
	ins := &chInsert{}
	var err error
	if ins.table, err = p.tableName(); err != nil {
		return nil, err
	}
	if p.punct("(") {
		if ins.columns, err = p.names(); err != nil {
			return nil, err
		}
		if err := p.expect(")"); err != nil {
			return nil, err
		}
	}
	if ins.settings, err = p.settings(); err != nil {
		return nil, err
	}
	switch {
	case p.keywords("FORMAT", "Native"), p.keywords("VALUES") && p.end():
		return ins, nil
	case p.keywords("SELECT"):
		row, err := p.literals()
		ins.rows, ins.inline = [][]chLiteral{row}, true
		return ins, err
	}
	for p.punct("(") {
		row, err := p.literals()
		if err != nil {
			return nil, err
		}
		if err := p.expect(")"); err != nil {
			return nil, err
		}
		ins.rows, ins.inline = append(ins.rows, row), true
		p.punct(",")
	}
	if !ins.inline {
		return nil, p.unknown()
	}
	return ins, nil
}

// settings reads "SETTINGS name = value, ..." if it stands here.
func (p *chParser) settings() (map[string]string, error) {
	settings := map[string]string{}
	if !p.keywords("SETTINGS") {
		return settings, nil
	}
	for {
		name, err := p.name()
		if err != nil {
			return nil, err
		}
		if err := p.expect("="); err != nil {
			return nil, err
		}
		value, err := p.literal()
		if err != nil {
			return nil, err
		}
		settings[name] = value.text
		if !p.punct(",") {
			return settings, nil
		}
	}
}

// skipUntil goes on to one of the marks outside of parentheses, or to the end.
func (p *chParser) skipUntil(marks ...string) {
	depth := 0
	for !p.end() {
		tok := p.peek()
		if depth == 0 && (tok.kind == chPunct || tok.kind == chWord) && slices.Contains(marks, strings.ToUpper(tok.text)) {
			return
		}
		if tok.kind == chPunct {
			switch tok.text {
			case "(", "[":
				depth++
			case ")", "]":
				depth--
			}
		}
		p.at++
	}
}
