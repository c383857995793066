package testkit

import "slices"

// chExpr is a condition on a row.
type chExpr struct {
	op      string // "and", "or", "not", "in", "isnull", a comparison, or "const".
	left    *chExpr
	right   *chExpr
	columns []string // More than one for (a, b) IN (...).
	values  []chLiteral
}

func (p *chParser) disjunction() (*chExpr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	left, err := p.conjunction()
	for err == nil && p.keywords("OR") {
		e := &chExpr{op: "or", left: left}
		e.right, err = p.conjunction()
		left = e
	}
	return left, err
}

func (p *chParser) conjunction() (*chExpr, error) {
	left, err := p.condition()
	for err == nil && p.keywords("AND") {
		e := &chExpr{op: "and", left: left}
		e.right, err = p.condition()
		left = e
	}
	return left, err
}

func (p *chParser) condition() (*chExpr, error) {
	if p.keywords("NOT") {
		if err := p.enter(); err != nil {
			return nil, err
		}
		defer func() { p.depth-- }()
		e, err := p.condition()
		return &chExpr{op: "not", left: e}, err
	}
	if p.peek().text == "(" && p.peek().kind == chPunct {
		// "(a, b) IN ..." or a condition in parentheses.
		at := p.at
		p.at++
		if names, err := p.names(); err == nil && p.punct(")") {
			return p.comparison(names)
		}
		p.at = at + 1
		e, err := p.disjunction()
		if err != nil {
			return nil, err
		}
		return e, p.expect(")")
	}
	if tok := p.peek(); tok.kind == chNumber { // WHERE 1, WHERE 0.
		l, err := p.literal()
		return &chExpr{op: "const", values: []chLiteral{l}}, err
	}
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	return p.comparison([]string{name})
}

func (p *chParser) comparison(columns []string) (*chExpr, error) {
	e := &chExpr{columns: columns}
	not := p.keywords("NOT")
	switch {
	case !not && p.keywords("IS"):
		not = p.keywords("NOT")
		if !p.keywords("NULL") {
			return nil, p.unknown()
		}
		e.op = "isnull"
	case p.keywords("IN"):
		e.op = "in"
		l, err := p.literal()
		if err != nil {
			return nil, err
		}
		if e.values = l.items; l.kind != chListLiteral || len(columns) > 1 && len(l.items) == len(columns) && l.items[0].kind != chListLiteral {
			e.values = []chLiteral{l}
		}
	case p.keywords("BETWEEN"):
		low, err := p.operand()
		if err != nil {
			return nil, err
		}
		if !p.keywords("AND") {
			return nil, p.unknown()
		}
		high, err := p.operand()
		if err != nil {
			return nil, err
		}
		e = &chExpr{
			op:    "and",
			left:  &chExpr{op: ">=", columns: columns, values: []chLiteral{low}},
			right: &chExpr{op: "<=", columns: columns, values: []chLiteral{high}},
		}
	case not:
		return nil, p.unknown()
	default:
		tok := p.next()
		op, ok := map[string]string{"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}[tok.text]
		if !ok || tok.kind != chPunct {
			p.at--
			return nil, p.unknown()
		}
		e.op = op
		l, err := p.operand()
		if err != nil {
			return nil, err
		}
		e.values = []chLiteral{l}
	}
	if not {
		e = &chExpr{op: "not", left: e}
	}
	return e, nil
}

// operand is a literal, or currentDatabase(), which is filled in when the condition is compiled.
func (p *chParser) operand() (chLiteral, error) {
	if p.keywords("currentDatabase") || p.keywords("database") {
		if err := p.expect("("); err != nil {
			return chLiteral{}, err
		}
		return chLiteral{kind: chDatabaseLiteral}, p.expect(")")
	}
	return p.literal()
}

// compile turns a condition into a function of a row's index.
func (v *chView) compile(e *chExpr) (func(row int) bool, error) {
	if e.op == "const" {
		yes := e.values[0].text != "0"
		return func(int) bool { return yes }, nil
	}
	if e.left != nil {
		left, err := v.compile(e.left)
		if err != nil {
			return nil, err
		}
		if e.op == "not" {
			return func(row int) bool { return !left(row) }, nil
		}
		right, err := v.compile(e.right)
		if err != nil {
			return nil, err
		}
		if e.op == "and" {
			return func(row int) bool { return left(row) && right(row) }, nil
		}
		return func(row int) bool { return left(row) || right(row) }, nil
	}
	if len(e.columns) > 1 {
		return v.compileTuple(e)
	}
	c, err := v.column(e.columns[0])
	if err != nil {
		return nil, err
	}
	values := make([]any, len(e.values))
	for i, l := range e.values {
		if l.kind == chDatabaseLiteral {
			l = chLiteral{kind: chStringLiteral, text: v.database}
		}
		if values[i], err = c.typ.literal(l); err != nil {
			return nil, err
		}
	}
	// A comparison with NULL is not true, whichever way round.
	order := func(row int, with any) (int, bool) {
		if c.values[row] == nil || with == nil {
			return 0, false
		}
		return c.typ.compare(c.values[row], with), true
	}
	switch e.op {
	case "isnull":
		return func(row int) bool { return c.values[row] == nil }, nil
	case "in":
		return func(row int) bool {
			return slices.ContainsFunc(values, func(with any) bool {
				o, ok := order(row, with)
				return ok && o == 0
			})
		}, nil
	}
	wanted := map[string][]int{"=": {0}, "!=": {-1, 1}, "<": {-1}, "<=": {-1, 0}, ">": {1}, ">=": {0, 1}}[e.op]
	return func(row int) bool {
		o, ok := order(row, values[0])
		return ok && slices.Contains(wanted, max(-1, min(o, 1)))
	}, nil
}

// compileTuple is for (a, b) IN ((1, 2), (3, 4)) and (a, b) = (1, 2).
func (v *chView) compileTuple(e *chExpr) (func(row int) bool, error) {
	if e.op != "in" && e.op != "=" {
		return nil, chErrorf(chSyntax, "the stand-in compares tuples by = and IN only")
	}
	var either *chExpr
	for _, l := range e.values {
		if len(l.items) != len(e.columns) {
			return nil, chErrorf(chTypeMismatch, "%s is no tuple of %d", l, len(e.columns))
		}
		var all *chExpr
		for i, name := range e.columns {
			equal := &chExpr{op: "=", columns: []string{name}, values: l.items[i : i+1]}
			if all == nil {
				all = equal
			} else {
				all = &chExpr{op: "and", left: all, right: equal}
			}
		}
		if either == nil {
			either = all
		} else {
			either = &chExpr{op: "or", left: either, right: all}
		}
	}
	if either == nil {
		return func(int) bool { return false }, nil
	}
	return v.compile(either)
}
