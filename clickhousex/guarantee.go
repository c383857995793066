package clickhousex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"

	"github.com/holdfast-io/holdfast"
)

// Guarantee says what keeps an insert whose acknowledgement was lost from being stored twice.
type Guarantee string

// The guarantees. Where two apply, the first one is named.
const (
	GuaranteeReplicated Guarantee = "replicated" // The replicas remember the last inserts.
	GuaranteeWindow     Guarantee = "window"     // The table remembers the last inserts.
	GuaranteeColumns    Guarantee = "columns"    // The rows say where they come from, and the table is asked for them.
	GuaranteeNone       Guarantee = "none"       // Nothing: such an insert may be stored twice.
	GuaranteeUnknown    Guarantee = "unknown"    // The server does not let us read of the table.
)

// facts are what the server says of a table beside its columns. Zero when it may not be read.
type facts struct {
	known        bool
	engine       string
	replicated   bool
	window       int    // How many inserts the table remembers.
	partitionKey string // Empty for a table that is one partition.
	views        bool   // Whether materialized views hang on it.
	deduplicates bool   // Whether the user's profile lets it heed what it remembers.
}

// atomic says whether an insert of one block becomes one part, or none: what fails in it before the end has stored nothing.
func (f *facts) atomic() bool {
	return f.known && strings.HasSuffix(f.engine, "MergeTree") && !f.replicated && f.partitionKey == "" && !f.views
}

// remembers says whether the table knows a repeated block of rows.
func (f *facts) remembers() bool { return f.window > 0 && f.deduplicates }

// readsBack says whether a row that was stored is found at once. These engines hand rows on, in their own time, or drop them.
func (f *facts) readsBack() bool {
	return !slices.Contains([]string{"Buffer", "Distributed", "Kafka", "Null"}, f.engine)
}

// readFacts asks for them. A server that refuses to tell leaves them unknown.
func (t *table) readFacts(ctx context.Context) (facts, error) {
	f, err := t.askFacts(ctx)
	if mayNotAsk(err) {
		return facts{}, nil
	}
	return f, err
}

// mayNotAsk says that the server will not tell, now or later: one at its limits says nothing of what it would tell.
func mayNotAsk(err error) bool { return isException(err) && Classify(err) == ClassConfig }

// isException says that the server answered, with a refusal.
func isException(err error) bool {
	_, ok := errors.AsType[*proto.Exception](err)
	return ok
}

func (t *table) askFacts(ctx context.Context) (facts, error) {
	f := facts{}
	database, name := "currentDatabase()", t.name
	if before, after, qualified := strings.Cut(t.name, "."); qualified {
		database, name = "'"+before+"'", after
	}
	var clause string
	err := t.each(ctx, "SELECT engine, engine_full, partition_key, dependencies_table FROM system.tables WHERE database = "+
		database+" AND name = '"+name+"'", func(rows driver.Rows) error {
		var views []string
		f.known = true
		err := rows.Scan(&f.engine, &clause, &f.partitionKey, &views)
		f.views = len(views) > 0
		return err
	})
	if err != nil || !f.known {
		return f, err
	}
	defaults := make(map[string]string)
	note := func(rows driver.Rows) error {
		var name, value string
		err := rows.Scan(&name, &value)
		defaults[name] = value
		return err
	}
	err = errors.Join(
		t.each(ctx, "SELECT name, value FROM system.merge_tree_settings WHERE name IN ('"+settingWindow+"', '"+settingReplicatedWindow+"')", note),
		t.each(ctx, "SELECT name, value FROM system.settings WHERE name IN ('"+settingDeduplicate+"', '"+settingDedupMode+"')", note),
	)
	if err != nil {
		return f, err
	}
	f.deduplicates = defaults[settingDeduplicate] != "0" && defaults[settingDedupMode] != dedupModeOff
	f.replicated = strings.HasPrefix(f.engine, "Replicated") || strings.HasPrefix(f.engine, "Shared")
	if strings.HasSuffix(f.engine, "MergeTree") {
		setting := settingWindow
		if f.replicated {
			setting = settingReplicatedWindow
		}
		f.window, _ = strconv.Atoi(cmp.Or(tableSetting(clause, setting), defaults[setting], "0"))
	}
	return f, nil
}

// The settings of MergeTree tables that say how many inserts they remember.
const (
	settingWindow           = "non_replicated_deduplication_window"
	settingReplicatedWindow = "replicated_deduplication_window"
)

// tableSetting finds a number among the SETTINGS of an engine's clause.
func tableSetting(clause, name string) string {
	_, settings, _ := strings.Cut(clause, " SETTINGS ")
	found := regexp.MustCompile(`(?:^|[ ,])` + name + `\s*=\s*(\d+)`).FindStringSubmatch(settings)
	if found == nil {
		return ""
	}
	return found[1]
}

// each runs a query and calls row for each row.
func (t *table) each(ctx context.Context, query string, row func(driver.Rows) error, args ...any) error {
	rows, err := t.conn.conn.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := row(rows); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// check is the Inserters' Check.
func (t *table) check(ctx context.Context) (Guarantee, error) {
	l, err := t.describe(ctx, 0)
	if err != nil {
		return GuaranteeUnknown, t.failed(err)
	}
	return t.guarantee(l), nil
}

// guarantee is what the configuration comes to on this table and server.
func (t *table) guarantee(l *layout) Guarantee {
	f := &l.facts
	remembered := t.cfg.Dedup == DedupToken && f.remembers() // By its token, or as a block of rows that say where they come from.
	async := t.cfg.isOn(settingAsync)
	if async && !l.knowsDedupMode {
		remembered = remembered && l.takesAsyncToken && t.cfg.isOn(settingAsyncDedup)
	}
	switch {
	case remembered && f.replicated:
		return GuaranteeReplicated
	case remembered:
		return GuaranteeWindow
	case t.cfg.Offsets != OffsetsNone && f.readsBack() && !async:
		return GuaranteeColumns
	case !f.known:
		return GuaranteeUnknown
	default:
		return GuaranteeNone
	}
}

// fitFor refuses a table that would take two equal batches for one: it compares rows, and nothing tells them apart.
func (t *table) fitFor(l *layout) error {
	if t.cfg.Dedup == DedupOff || t.cfg.Offsets != OffsetsNone || l.takesToken || !l.facts.remembers() {
		return nil
	}
	return holdfast.Hold(fmt.Errorf("table %s deduplicates blocks of rows, so that two equal batches would be stored as one, and "+
		"the server takes no tokens to tell them apart: use ClickHouse 22.2 or later, for %s; or InserterConfig.Offsets, with "+
		"columns that do; or DedupOff, which sends %s=0", t.name, settingToken, settingDeduplicate))
}
