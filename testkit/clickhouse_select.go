package testkit

import (
	"slices"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// chSelect is a SELECT over one table, or over none.
type chSelect struct {
	items    []chItem
	distinct bool
	from     *chTableName
	final    bool
	where    *chExpr
	order    []chOrder
	limit    int // -1 means all.
	offset   int
}

// chItem is one expression behind SELECT.
type chItem struct {
	name     string // Of the result's column: the alias, or the expression's text.
	star     bool
	column   string
	literal  *chLiteral
	function string // In lower case: an aggregate, or one that needs no row.
	args     []string
	distinct bool
}

type chOrder struct {
	column string
	desc   bool
}

func (p *chParser) selection() (any, error) {
	s := &chSelect{limit: -1, distinct: p.keywords("DISTINCT")}
	for {
		item, err := p.item()
		if err != nil {
			return nil, err
		}
		if s.items = append(s.items, item); !p.punct(",") {
			break
		}
	}
	if p.keywords("FROM") {
		name, err := p.tableName()
		if err != nil {
			return nil, err
		}
		s.from, s.final = &name, p.keywords("FINAL")
	}
	var err error
	if p.keywords("WHERE") || p.keywords("PREWHERE") {
		if s.where, err = p.disjunction(); err != nil {
			return nil, err
		}
	}
	if p.keywords("ORDER", "BY") {
		for {
			name, err := p.name()
			if err != nil {
				return nil, err
			}
			p.keywords("ASC")
			s.order = append(s.order, chOrder{column: name, desc: p.keywords("DESC")})
			if !p.punct(",") {
				break
			}
		}
	}
	if p.keywords("LIMIT") {
		if s.limit, err = p.count(); err != nil {
			return nil, err
		}
		if p.punct(",") {
			s.offset = s.limit
			if s.limit, err = p.count(); err != nil {
				return nil, err
			}
		}
	}
	if p.keywords("OFFSET") {
		if s.offset, err = p.count(); err != nil {
			return nil, err
		}
	}
	if _, err := p.settings(); err != nil {
		return nil, err
	}
	if p.keywords("FORMAT") { // The native protocol has its own.
		if _, err := p.name(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (p *chParser) count() (int, error) {
	tok := p.next()
	n, err := strconv.Atoi(tok.text)
	if tok.kind != chNumber || err != nil {
		p.at--
		return 0, p.unknown()
	}
	return n, nil
}

func (p *chParser) item() (chItem, error) {
	from := p.at
	item := chItem{}
	switch tok := p.peek(); {
	case p.punct("*"):
		return chItem{star: true}, nil
	case tok.kind == chQuoted || tok.kind == chWord && p.tokens[p.at+1].text != "(" && !strings.EqualFold(tok.text, "NULL") &&
		!strings.EqualFold(tok.text, "true") && !strings.EqualFold(tok.text, "false"):
		item.column = tok.text
		p.at++
	default:
		if l, err := p.literal(); err == nil {
			item.literal = &l
		} else if tok.kind != chWord {
			return item, err
		} else if err := p.call(&item); err != nil {
			return item, err
		}
	}
	item.name = item.column
	if item.name == "" {
		item.name = p.textFrom(from)
	}
	if p.keywords("AS") {
		var err error
		item.name, err = p.name()
		return item, err
	}
	return item, nil
}

func (p *chParser) call(item *chItem) error {
	item.function = strings.ToLower(p.next().text)
	if err := p.expect("("); err != nil {
		return err
	}
	item.distinct = p.keywords("DISTINCT")
	if !p.punct("*") && p.peek().text != ")" {
		var err error
		if item.args, err = p.names(); err != nil {
			return err
		}
	}
	return p.expect(")")
}

// chView is what a SELECT reads: a table's columns and the rows that count.
type chView struct {
	columns  []chTableColumn
	rows     []int
	database string // The connection's.
}

func (v *chView) column(name string) (*chTableColumn, error) {
	for i := range v.columns {
		if v.columns[i].name == name {
			return &v.columns[i], nil
		}
	}
	return nil, chErrorf(chUnknownName, "Missing columns: '%s' while processing query", name)
}

// run carries the SELECT out on the view.
func (s *chSelect) run(v *chView) (*chBlock, error) {
	if s.where != nil {
		keep, err := v.compile(s.where)
		if err != nil {
			return nil, err
		}
		v.rows = slices.DeleteFunc(v.rows, func(row int) bool { return !keep(row) })
	}
	if slices.ContainsFunc(s.items, chItem.aggregates) {
		return s.aggregate(v)
	}
	for _, o := range slices.Backward(s.order) {
		c, err := v.column(o.column)
		if err != nil {
			return nil, err
		}
		slices.SortStableFunc(v.rows, func(a, b int) int {
			if o.desc {
				a, b = b, a
			}
			return c.typ.compare(c.values[a], c.values[b])
		})
	}
	out := &chBlock{}
	for _, item := range s.items {
		columns, err := item.columns(v)
		if err != nil {
			return nil, err
		}
		out.columns = append(out.columns, columns...)
	}
	out.rows = len(v.rows)
	if s.distinct {
		out.distinct()
	}
	out.limit(s.offset, s.limit)
	return out, nil
}

// columns gives the item's values for the view's rows.
func (i chItem) columns(v *chView) ([]chColumn, error) {
	pick := func(c *chTableColumn, name string) chColumn {
		values := make([]any, len(v.rows))
		for n, row := range v.rows {
			values[n] = c.values[row]
		}
		return chColumn{name: name, typ: c.typ, values: values}
	}
	switch {
	case i.star:
		var all []chColumn
		for n := range v.columns {
			if c := &v.columns[n]; c.ordinary() {
				all = append(all, pick(c, c.name))
			}
		}
		return all, nil
	case i.column != "":
		c, err := v.column(i.column)
		if err != nil {
			return nil, err
		}
		return []chColumn{pick(c, i.name)}, nil
	}
	l := i.literal
	if l == nil {
		text, ok := map[string]string{
			"version": chVersion, "timezone": "UTC", "servertimezone": "UTC", "hostname": "testkit", "currentuser": "default",
			"currentdatabase": v.database, "database": v.database,
		}[i.function]
		if !ok {
			return nil, chErrorf(chUnknownFunction, "Unknown function %s (or one the stand-in does not have)", i.function)
		}
		l = &chLiteral{kind: chStringLiteral, text: text}
	}
	t, value, err := l.typed()
	if err != nil {
		return nil, err
	}
	return []chColumn{{name: i.name, typ: t, values: slices.Repeat([]any{value}, len(v.rows))}}, nil
}

// aggregates says whether the item is one value for all rows.
func (i chItem) aggregates() bool {
	return slices.Contains([]string{"count", "uniq", "uniqexact", "min", "max", "sum", "any"}, i.function)
}

func (s *chSelect) aggregate(v *chView) (*chBlock, error) {
	out := &chBlock{rows: 1}
	for _, item := range s.items {
		c := chColumn{name: item.name}
		var value any
		var err error
		switch {
		case item.literal != nil:
			c.typ, value, err = item.literal.typed()
		case item.aggregates():
			c.typ, value, err = item.fold(v)
		default:
			err = chErrorf(chNotAnAggregate, "Column %s is not under aggregate function and not in GROUP BY keys "+
				"(which the stand-in does not have)", item.name)
		}
		if err != nil {
			return nil, err
		}
		c.values = []any{value}
		out.columns = append(out.columns, c)
	}
	out.limit(s.offset, s.limit)
	return out, nil
}

// fold computes an aggregate function. Like the server's, it passes over NULLs.
func (i chItem) fold(v *chView) (chType, any, error) {
	var columns []*chTableColumn
	for _, name := range i.args {
		c, err := v.column(name)
		if err != nil {
			return nil, nil, err
		}
		columns = append(columns, c)
	}
	rows := slices.DeleteFunc(slices.Clone(v.rows), func(row int) bool {
		return slices.ContainsFunc(columns, func(c *chTableColumn) bool { return c.values[row] == nil })
	})
	counted := chUnsigned[uint64]("UInt64", 8)
	switch {
	case i.function == "count" && !i.distinct && len(columns) <= 1:
		return counted, uint64(len(rows)), nil
	case strings.HasPrefix(i.function, "uniq") && len(columns) > 0, i.function == "count" && i.distinct && len(columns) > 0:
		seen := map[string]bool{}
		var key proto.Buffer
		for _, row := range rows {
			key.Reset()
			for _, c := range columns {
				c.typ.encode(&key, c.values[row:row+1])
			}
			seen[string(key.Buf)] = true
		}
		return counted, uint64(len(seen)), nil
	case len(columns) != 1 || i.distinct:
		return nil, nil, chErrorf(42, "the stand-in cannot compute %s", i.name)
	}
	c := columns[0]
	if i.function == "sum" {
		return sumColumn(c, rows)
	}
	value := c.typ.zero()
	for n, row := range rows {
		o := 0
		if n > 0 {
			o = c.typ.compare(c.values[row], value)
		}
		if n == 0 || i.function == "min" && o < 0 || i.function == "max" && o > 0 {
			value = c.values[row]
		}
	}
	return c.typ, value, nil
}

// sumColumn adds integers exactly and floats as they come; the result wraps as the server's does.
func sumColumn(c *chTableColumn, rows []int) (chType, any, error) {
	var whole uint64
	var float float64
	kind := "UInt64"
	for _, row := range rows {
		switch x := c.values[row].(type) {
		case int8:
			whole, kind = whole+uint64(x), "Int64"
		case int16:
			whole, kind = whole+uint64(x), "Int64"
		case int32:
			whole, kind = whole+uint64(x), "Int64"
		case int64:
			whole, kind = whole+uint64(x), "Int64"
		case uint8:
			whole += uint64(x)
		case uint16:
			whole += uint64(x)
		case uint32:
			whole += uint64(x)
		case uint64:
			whole += x
		case float32:
			float, kind = float+float64(x), "Float64"
		case float64:
			float, kind = float+x, "Float64"
		default:
			return nil, nil, chErrorf(43, "the stand-in cannot sum %s", c.typ.name())
		}
	}
	t, err := parseChType(kind)
	switch kind {
	case "Int64":
		return t, int64(whole), err
	case "Float64":
		return t, float, err
	default:
		return t, whole, err
	}
}

// distinct keeps the first of equal rows.
func (b *chBlock) distinct() {
	seen := map[string]bool{}
	var keep []int
	var key proto.Buffer
	for row := range b.rows {
		key.Reset()
		for _, c := range b.columns {
			c.typ.encode(&key, c.values[row:row+1])
		}
		if k := string(key.Buf); !seen[k] {
			seen[k] = true
			keep = append(keep, row)
		}
	}
	for i, c := range b.columns {
		values := make([]any, len(keep))
		for n, row := range keep {
			values[n] = c.values[row]
		}
		b.columns[i].values = values
	}
	b.rows = len(keep)
}

func (b *chBlock) limit(offset, limit int) {
	from := min(offset, b.rows)
	to := b.rows
	if limit >= 0 {
		to = min(from+limit, to)
	}
	for i, c := range b.columns {
		b.columns[i].values = c.values[from:to]
	}
	b.rows = to - from
}
