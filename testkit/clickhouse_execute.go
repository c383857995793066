package testkit

import (
	"cmp"
	"maps"
	"strings"
)

// key is the table's place in the server's map.
func (n chTableName) key(database string) string {
	return cmp.Or(n.database, database) + "." + n.table
}

// The statements that are about one table say so, for faults that select it.
func (s *chCreate) on() chTableName    { return s.name }
func (s chDrop) on() chTableName       { return s.name }
func (s chDescribe) on() chTableName   { return s.table }
func (s chShowCreate) on() chTableName { return s.table }
func (s chExists) on() chTableName     { return s.table }

func (s *chSelect) on() chTableName {
	if s.from == nil {
		return chTableName{}
	}
	return *s.from
}

// execute carries out any statement but INSERT. Its result is nil where there is none.
func (s *ClickHouseServer) execute(stmt any, database string) (*chBlock, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch stmt := stmt.(type) {
	case *chSelect:
		v, err := s.view(stmt, database)
		if err != nil {
			return nil, err
		}
		return stmt.run(v)
	case *chCreate:
		return nil, s.create(stmt, database)
	case chDrop:
		key := stmt.name.key(database)
		t := s.tables[key]
		switch {
		case t == nil && stmt.ifExists:
		case t == nil:
			return nil, unknownTable(key)
		case stmt.truncate:
			t.truncate()
		default:
			delete(s.tables, key)
		}
		return nil, nil
	case chDropDatabase:
		maps.DeleteFunc(s.tables, func(key string, _ *chTable) bool { return strings.HasPrefix(key, stmt.database+".") })
		return nil, nil
	case chDescribe:
		t, err := s.table(stmt.table, database)
		if err != nil {
			return nil, err
		}
		return t.describe(), nil
	case chShowCreate:
		t, err := s.table(stmt.table, database)
		if err != nil {
			return nil, err
		}
		name := chTableName{cmp.Or(stmt.table.database, database), stmt.table.table}
		return stringBlock([]string{"statement"}, []string{t.createText(name)}), nil
	case chExists:
		found := uint8(0)
		if s.tables[stmt.table.key(database)] != nil {
			found = 1
		}
		return &chBlock{columns: []chColumn{{name: "result", typ: chUnsigned[uint8]("UInt8", 1), values: []any{found}}}, rows: 1}, nil
	default:
		return nil, nil // chNothing.
	}
}

func unknownTable(key string) *chError {
	return chErrorf(chUnknownTable, "Table %s does not exist", key)
}

// table finds a table; the caller holds the mutex.
func (s *ClickHouseServer) table(name chTableName, database string) (*chTable, error) {
	key := name.key(database)
	if t := s.tables[key]; t != nil {
		return t, nil
	}
	return nil, unknownTable(key)
}

func (s *ClickHouseServer) create(c *chCreate, database string) error {
	key := c.name.key(database)
	switch exists := s.tables[key] != nil; {
	case exists && c.ifNotExists:
		return nil
	case exists && !c.replace:
		return chErrorf(chTableExists, "Table %s already exists", key)
	}
	s.tables[key] = c.table
	return nil
}

// view is what a SELECT reads.
func (s *ClickHouseServer) view(stmt *chSelect, database string) (*chView, error) {
	if stmt.from == nil {
		return &chView{database: database, rows: []int{0}}, nil
	}
	if cmp.Or(stmt.from.database, database) == "system" {
		t := s.systemTable(stmt.from.table)
		if t == nil {
			return nil, chErrorf(chUnknownTable, "Table system.%s does not exist (or the stand-in does not have it)", stmt.from.table)
		}
		return t.view(database, false)
	}
	t, err := s.table(*stmt.from, database)
	if err != nil {
		return nil, err
	}
	return t.view(database, stmt.final)
}

// work notes a session's INSERT in system.processes, until the function that it gives is called.
func (s *ClickHouseServer) work(on *chSession, query string) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working[on] = query
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.working, on)
	}
}

// header gives the columns for an INSERT.
func (s *ClickHouseServer) header(ins *chInsert) (*chBlock, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.table(ins.table, "")
	if err != nil {
		return nil, err
	}
	return t.header(ins.columns)
}

// log notes that the data of an INSERT has come.
func (s *ClickHouseServer) log(ins *chInsert, b *chBlock, hit *chArmed) *Insert {
	entry := &Insert{
		Table: ins.table.key(""), Rows: b.rows,
		Token: ins.settings["insert_deduplication_token"], Settings: ins.settings,
	}
	for _, c := range b.columns {
		entry.Columns = append(entry.Columns, c.name)
	}
	if hit != nil {
		entry.Fault = &hit.ClickHouseFault
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inserts = append(s.inserts, entry)
	return entry
}

// store puts the rows into the table, or recognises them as a repetition.
func (s *ClickHouseServer) store(ins *chInsert, b *chBlock, entry *Insert) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.table(ins.table, "")
	if err != nil {
		return err // Dropped since the INSERT began.
	}
	if ins.settings["insert_deduplicate"] != "0" && t.duplicate(b, entry.Token, s.window) {
		entry.Deduplicated = true
		return nil
	}
	if err := t.append(b); err != nil {
		return err
	}
	entry.Stored = true
	return nil
}

func (s *ClickHouseServer) acknowledge(entry *Insert, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry.Acknowledged = yes
}

// describe is the answer to DESCRIBE TABLE.
func (t *chTable) describe() *chBlock {
	names := []string{"name", "type", "default_type", "default_expression", "comment", "codec_expression", "ttl_expression"}
	var rows [][]string
	for _, c := range t.columns {
		rows = append(rows, []string{c.name, c.typ.name(), c.defaultKind, c.defaultText, "", "", ""})
	}
	return stringBlock(names, rows...)
}

// stringBlock makes a block of Strings.
func stringBlock(names []string, rows ...[]string) *chBlock {
	b := &chBlock{rows: len(rows)}
	typ, err := parseChScalar("String", nil)
	if err != nil {
		panic(err) // It is there.
	}
	for i, name := range names {
		c := chColumn{name: name, typ: typ}
		for _, row := range rows {
			c.values = append(c.values, row[i])
		}
		b.columns = append(b.columns, c)
	}
	return b
}
