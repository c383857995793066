package testkit

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

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
		rows := [][]any{{"replicated_deduplication_window", window}}
		if s.revision > chMinRevision { // 18.16 does not know the other.
			rows = append(rows, []any{"non_replicated_deduplication_window", window})
		}
		return systemTable([]string{"name String", "value String"}, rows)
	case "settings":
		return systemTable([]string{"name String", "value String"}, [][]any{{"insert_deduplicate", "1"}})
	case "processes":
		var rows [][]any
		for _, id := range slices.Sorted(maps.Values(s.working)) {
			rows = append(rows, []any{id})
		}
		return systemTable([]string{"query_id String"}, rows)
	case "tables":
		var rows [][]any
		for _, key := range slices.Sorted(maps.Keys(s.tables)) {
			database, table, _ := strings.Cut(key, ".")
			t := s.tables[key]
			sorting := strings.Join(t.sortingKey, ", ")
			rows = append(rows, []any{
				database, table, t.engine, t.engineFull, t.createText(chTableName{database, table}), sorting, uint64(t.rows),
				t.partitionKey,
				[]any{},
			})
		}
		return systemTable([]string{
			"database String", "name String", "engine String", "engine_full String", "create_table_query String",
			"sorting_key String", "total_rows Nullable(UInt64)", "partition_key String", "dependencies_table Array(String)",
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
