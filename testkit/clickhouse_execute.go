package testkit

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
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

// systemTable makes a table of the system database as of now, nil when the stand-in does not have it.
func (s *ClickHouseServer) systemTable(name string) *chTable {
	switch name {
	case "one":
		return systemTable([]string{"dummy UInt8"}, [][]any{{uint8(0)}})
	case "databases":
		known := map[string]bool{chDefaultDatabase: true, "system": true}
		for key := range s.tables {
			database, _, _ := strings.Cut(key, ".")
			known[database] = true
		}
		var rows [][]any
		for _, database := range slices.Sorted(maps.Keys(known)) {
			rows = append(rows, []any{database, "Atomic"})
		}
		return systemTable([]string{"name String", "engine String"}, rows)
	case "merge_tree_settings":
		window := strconv.Itoa(max(s.window, 0))
		return systemTable([]string{"name String", "value String"}, [][]any{
			{"non_replicated_deduplication_window", window}, {"replicated_deduplication_window", window},
		})
	case "tables":
		var rows [][]any
		for _, key := range slices.Sorted(maps.Keys(s.tables)) {
			database, table, _ := strings.Cut(key, ".")
			t := s.tables[key]
			sorting := strings.Join(t.sortingKey, ", ")
			rows = append(rows, []any{
				database, table, t.engine, t.engineFull, t.createText(chTableName{database, table}), sorting, uint64(t.rows),
			})
		}
		return systemTable([]string{
			"database String", "name String", "engine String", "engine_full String", "create_table_query String",
			"sorting_key String", "total_rows Nullable(UInt64)",
		}, rows)
	case "columns":
		var rows [][]any
		for _, key := range slices.Sorted(maps.Keys(s.tables)) {
			database, table, _ := strings.Cut(key, ".")
			t := s.tables[key]
			for i, c := range t.columns {
				sorting := uint8(0)
				if slices.Contains(t.sortingKey, c.name) {
					sorting = 1
				}
				rows = append(rows, []any{
					database, table, c.name, c.typ.name(), uint64(i + 1), c.defaultKind, c.defaultText, "", sorting,
				})
			}
		}
		return systemTable([]string{
			"database String", "table String", "name String", "type String", "position UInt64", "default_kind String",
			"default_expression String", "comment String", "is_in_sorting_key UInt8",
		}, rows)
	}
	return nil
}

// systemTable makes a table of columns "name Type" with rows.
func systemTable(columns []string, rows [][]any) *chTable {
	t := &chTable{rows: len(rows)}
	for i, column := range columns {
		name, typeName, _ := strings.Cut(column, " ")
		typ, err := parseChType(typeName)
		if err != nil {
			panic(err) // It is there.
		}
		c := chTableColumn{chColumn: chColumn{name: name, typ: typ}}
		for _, row := range rows {
			c.values = append(c.values, row[i])
		}
		t.columns = append(t.columns, c)
	}
	return t
}
