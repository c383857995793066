package testkit

import (
	"slices"
	"strings"
)

func (p *chParser) create(replace bool) (any, error) {
	c := &chCreate{replace: replace, table: &chTable{engine: "MergeTree", engineFull: "MergeTree ORDER BY tuple()", settings: map[string]string{}}}
	c.ifNotExists = p.keywords("IF", "NOT", "EXISTS")
	var err error
	if c.name, err = p.tableName(); err != nil {
		return nil, err
	}
	if err := p.onCluster(); err != nil {
		return nil, err
	}
	if err := p.expect("("); err != nil {
		return nil, err
	}
	for !p.punct(")") {
		if err := p.columnDefinition(c.table); err != nil {
			return nil, err
		}
		if !p.punct(",") {
			if err := p.expect(")"); err != nil {
				return nil, err
			}
			break
		}
	}
	if len(c.table.columns) == 0 {
		return nil, chErrorf(chBadArguments, "a table needs a column")
	}
	if p.keywords("ENGINE") {
		p.punct("=")
		if err := p.engine(c.table); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (p *chParser) columnDefinition(t *chTable) error {
	for _, other := range [][]string{{"INDEX"}, {"CONSTRAINT"}, {"PROJECTION"}, {"PRIMARY", "KEY"}} {
		if p.keywords(other...) {
			p.skipUntil(",", ")")
			return nil
		}
	}
	name, err := p.name()
	if err != nil {
		return err
	}
	from := p.at
	if _, err := p.name(); err != nil {
		return err
	}
	if p.punct("(") {
		p.skipUntil(")")
		if err := p.expect(")"); err != nil {
			return err
		}
	}
	typ, err := parseChType(p.textFrom(from))
	if err != nil {
		return err
	}
	col := chTableColumn{chColumn: chColumn{name: name, typ: typ}}
	if p.keywords("NULL") {
		if col.typ, err = wrapChType("Nullable", typ); err != nil {
			return err
		}
	}
	p.keywords("NOT", "NULL")
	for _, kind := range []string{"DEFAULT", "MATERIALIZED", "ALIAS"} {
		if p.keywords(kind) {
			from := p.at
			p.skipUntil(",", ")", "CODEC", "COMMENT", "TTL")
			if col.defaultKind, col.defaultText = kind, p.textFrom(from); col.defaultText == "" {
				return p.unknown()
			}
			if _, err := col.fallback(); err != nil && asChError(err).code == chTypeMismatch {
				return err
			}
		}
	}
	p.skipUntil(",", ")") // CODEC, COMMENT, TTL.
	if slices.ContainsFunc(t.columns, func(c chTableColumn) bool { return c.name == name }) {
		return chErrorf(15, "Column %s already exists", name)
	}
	t.columns = append(t.columns, col)
	return nil
}

func (p *chParser) engine(t *chTable) error {
	start := p.peek().start
	var err error
	if t.engine, err = p.name(); err != nil {
		return err
	}
	if p.punct("(") {
		if args := p.peek(); args.kind == chWord {
			t.version = args.text // Of ReplacingMergeTree(version).
		}
		p.skipUntil(")")
		if err := p.expect(")"); err != nil {
			return err
		}
	}
	for !p.end() && p.peek().text != ";" {
		switch {
		case p.keywords("ORDER", "BY"):
			t.sortingKey = splitKey(p.keyText())
		case p.keywords("PARTITION", "BY"):
			t.partitionKey = p.keyText()
		case p.peek().kind == chWord && strings.EqualFold(p.peek().text, "SETTINGS"):
			if t.settings, err = p.settings(); err != nil {
				return err
			}
		default: // PRIMARY KEY, SAMPLE BY, TTL, COMMENT: known to the real server only.
			p.at++
			p.skipUntil("PARTITION", "ORDER", "PRIMARY", "SAMPLE", "TTL", "SETTINGS", "COMMENT", ";")
		}
	}
	t.engineFull = strings.TrimSpace(p.src[start:p.peek().start])
	return nil
}

// keyText reads the expression of a key.
func (p *chParser) keyText() string {
	from := p.at
	p.skipUntil("PARTITION", "ORDER", "PRIMARY", "SAMPLE", "TTL", "SETTINGS", "COMMENT", ";")
	text := p.textFrom(from)
	if text == "tuple()" {
		return ""
	}
	return text
}

// splitKey gives a sorting key's parts.
func splitKey(text string) []string {
	if inner, ok := strings.CutPrefix(text, "tuple"); ok {
		text = inner
	}
	if strings.HasPrefix(text, "(") {
		text = strings.TrimSuffix(text[1:], ")")
	}
	if text = strings.TrimSpace(text); text == "" {
		return nil
	}
	parts := splitTopLevel(text)
	for i := range parts {
		parts[i] = strings.Trim(parts[i], "`\"")
	}
	return parts
}
