package testkit

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// chTableColumn is a table's column with all its values.
type chTableColumn struct {
	chColumn
	defaultKind string // DEFAULT, MATERIALIZED, ALIAS or empty.
	defaultText string
}

// ordinary says whether INSERT without columns and SELECT * mean this one too.
func (c *chTableColumn) ordinary() bool {
	return c.defaultKind != "MATERIALIZED" && c.defaultKind != "ALIAS"
}

// fallback is the value of a row that was inserted without the column.
func (c *chTableColumn) fallback() (any, error) {
	if c.defaultKind == "" {
		return c.typ.zero(), nil
	}
	tokens, err := scanSQL(c.defaultText, nil)
	if err != nil {
		return nil, err
	}
	p := &chParser{src: c.defaultText, tokens: tokens}
	if l, err := p.literal(); err == nil && p.end() {
		return c.typ.literal(l)
	}
	if c.ordinary() {
		return nil, chErrorf(chSyntax, "the stand-in cannot compute DEFAULT %s of column %s: insert the column", c.defaultText, c.name)
	}
	return c.typ.zero(), nil
}

// chTable is a table with its rows and what it remembers of its last inserts.
type chTable struct {
	columns      []chTableColumn
	rows         int
	engine       string
	engineFull   string // The engine's whole clause.
	version      string // ReplacingMergeTree's column.
	sortingKey   []string
	partitionKey string
	settings     map[string]string
	recent       []string // The last inserts' tokens and hashes, oldest first.
}

func (t *chTable) column(name string) *chTableColumn {
	for i := range t.columns {
		if t.columns[i].name == name {
			return &t.columns[i]
		}
	}
	return nil
}

// header gives the columns that an INSERT will fill, without values.
func (t *chTable) header(names []string) (*chBlock, error) {
	b := &chBlock{}
	if len(names) == 0 {
		for _, c := range t.columns {
			if c.ordinary() {
				b.columns = append(b.columns, chColumn{name: c.name, typ: c.typ})
			}
		}
		return b, nil
	}
	for i, name := range names {
		c := t.column(name)
		switch {
		case c == nil:
			return nil, chErrorf(chNoSuchColumn, "No such column %s in table", name)
		case !c.ordinary():
			return nil, chErrorf(44, "Cannot insert column %s, because it is %s column", name, c.defaultKind)
		case slices.Contains(names[:i], name):
			return nil, chErrorf(15, "Column %s specified more than once", name)
		}
		b.columns = append(b.columns, chColumn{name: name, typ: c.typ})
	}
	return b, nil
}

// append stores a block whose columns are some of the table's, with their types.
func (t *chTable) append(b *chBlock) error {
	values := make([][]any, len(t.columns))
	for i := range t.columns {
		c := &t.columns[i]
		at := slices.IndexFunc(b.columns, func(in chColumn) bool { return in.name == c.name })
		if at >= 0 {
			values[i] = b.columns[at].values
			continue
		}
		v, err := c.fallback()
		if err != nil {
			return err
		}
		values[i] = slices.Repeat([]any{v}, b.rows)
	}
	if t.engine == "Null" {
		return nil
	}
	for i := range t.columns {
		t.columns[i].values = append(t.columns[i].values, values[i]...)
	}
	t.rows += b.rows
	return nil
}

func (t *chTable) truncate() {
	for i := range t.columns {
		t.columns[i].values = nil
	}
	t.rows, t.recent = 0, nil
}

// window is how many inserts the table remembers, and whether it knows equal ones without a token too. A window that was
// not asked for by the table's own definition knows tokens only.
func (t *chTable) window(standard int) (inserts int, byHash bool) {
	setting, known := "non_replicated_deduplication_window", false
	switch {
	case !strings.HasSuffix(t.engine, "MergeTree"):
		return 0, false
	case strings.HasPrefix(t.engine, "Replicated"), strings.HasPrefix(t.engine, "Shared"):
		setting, known = "replicated_deduplication_window", true
	}
	if n, err := strconv.Atoi(t.settings[setting]); err == nil {
		return n, true
	}
	return standard, known
}

// duplicate says whether an insert was seen before, and remembers it otherwise.
func (t *chTable) duplicate(b *chBlock, token string, standard int) bool {
	inserts, byHash := t.window(standard)
	id := "token " + token
	if token == "" {
		if !byHash {
			return false
		}
		id = b.hash()
	}
	if inserts <= 0 {
		return false
	}
	if slices.Contains(t.recent, id) {
		return true
	}
	t.recent = append(t.recent, id)
	t.recent = t.recent[max(0, len(t.recent)-inserts):]
	return false
}

func (b *chBlock) hash() string {
	h := sha256.New()
	var buf proto.Buffer
	for _, c := range b.columns {
		buf.Reset()
		buf.PutString(c.name)
		c.typ.encode(&buf, c.values)
		h.Write(buf.Buf)
	}
	return fmt.Sprintf("hash %x", h.Sum(nil))
}

// view is the table as a SELECT sees it. FINAL leaves of the rows with the same sorting key the one with the highest
// version, or the last.
func (t *chTable) view(database string, final bool) (*chView, error) {
	v := &chView{columns: t.columns, database: database, rows: make([]int, t.rows)}
	for i := range v.rows {
		v.rows[i] = i
	}
	if !final || !strings.Contains(t.engine, "Replacing") {
		return v, nil
	}
	var key []*chTableColumn
	for _, name := range t.sortingKey {
		c, err := v.column(name)
		if err != nil {
			return nil, chErrorf(chSyntax, "the stand-in knows FINAL only where ORDER BY has plain columns, not %s", name)
		}
		key = append(key, c)
	}
	var version *chTableColumn
	if t.version != "" && !strings.HasPrefix(t.engine, "Replicated") {
		version = t.column(t.version)
	}
	last := map[string]int{}
	var buf proto.Buffer
	for row := range t.rows {
		buf.Reset()
		for _, c := range key {
			c.typ.encode(&buf, c.values[row:row+1])
		}
		k := string(buf.Buf)
		if before, ok := last[k]; !ok || version == nil || version.typ.compare(version.values[row], version.values[before]) >= 0 {
			last[k] = row
		}
	}
	v.rows = v.rows[:0]
	for _, row := range last {
		v.rows = append(v.rows, row)
	}
	slices.Sort(v.rows)
	return v, nil
}

// append adds the rows of a block that came for the header b.
func (b *chBlock) append(in *chBlock) error {
	if len(in.columns) != len(b.columns) {
		return chErrorf(chNumberOfColumns, "block has %d columns, expected are %d", len(in.columns), len(b.columns))
	}
	for _, c := range in.columns {
		at := slices.IndexFunc(b.columns, func(want chColumn) bool { return want.name == c.name })
		if at < 0 {
			return chErrorf(10, "Not found column %s in block", c.name)
		}
		if want := b.columns[at].typ.name(); c.typ.name() != want {
			return chErrorf(chTypeMismatch, "Type mismatch for column %s: the table has %s, the block %s (the stand-in converts nothing)",
				c.name, want, c.typ.name())
		}
		b.columns[at].values = append(b.columns[at].values, c.values...)
	}
	b.rows += in.rows
	for _, c := range b.columns {
		if len(c.values) != b.rows {
			return chErrorf(10, "Not found column %s in block", c.name)
		}
	}
	return nil
}

// createText is the table's definition as SHOW CREATE TABLE gives it.
func (t *chTable) createText(name chTableName) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE %s.%s\n(\n", name.database, name.table)
	for i, c := range t.columns {
		fmt.Fprintf(&b, "    `%s` %s", c.name, c.typ.name())
		if c.defaultKind != "" {
			fmt.Fprintf(&b, " %s %s", c.defaultKind, c.defaultText)
		}
		if i < len(t.columns)-1 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
	}
	b.WriteString(")\nENGINE = ")
	b.WriteString(t.engineFull)
	return b.String()
}
