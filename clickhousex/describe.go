package clickhousex

import (
	"context"
	"log/slog"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// describe gives the table's columns, and asks the server for them when they are not known, older than life or suspect:
// the answer to an INSERT names the columns that it wants, in every version, and with no right to read the table.
func (t *table) describe(ctx context.Context, life time.Duration) (*layout, error) {
	known := t.layout.Load()
	if known != nil && known.age() <= life && !t.suspect.Load() {
		return known, nil
	}
	var l *layout
	// That an INSERT is taken does not say that its rows will be: no success, or failing inserts would never be in a row.
	err := t.ask(ctx, func(ctx context.Context) (err error) {
		l, err = t.read(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	if known == nil || !l.says(known) {
		t.conn.logger.Info("clickhouse table read", slog.String("table", t.name), slog.String("engine", l.facts.engine),
			slog.Int("columns", len(l.types)), slog.String("guarantee", string(t.guarantee(l))), slog.Int("window", l.facts.window),
			slog.Bool("deduplication_token", t.cfg.Dedup == DedupToken && l.takesToken),
			slog.Bool("offset_columns", t.cfg.Offsets != OffsetsNone))
	}
	if err := t.fitFor(l); err != nil {
		return nil, err
	}
	t.layout.Store(l)
	t.suspect.Store(false)
	return l, nil
}

// anyway tries again whatever the class allows.
func anyway(error) bool { return true }

// read leaves the version to the end, since the driver's call for it knows no context: there is a free connection then.
func (t *table) read(ctx context.Context) (*layout, error) {
	batch, err := t.conn.conn.PrepareBatch(clickhouse.Context(ctx, clickhouse.WithSettings(t.cfg.Settings)), t.query)
	if err != nil {
		return nil, err
	}
	columns := batch.Columns()
	if err := batch.Close(); err != nil { // Ends the insert without rows.
		return nil, err
	}
	f, err := t.readFacts(ctx)
	if err != nil {
		return nil, err
	}
	server, err := t.conn.version()
	if err != nil {
		return nil, err
	}
	l := newLayout(t.name, t.fields, columns, server)
	l.facts = f
	return l, nil
}

// stringSettingsRevision is 20.6's, DBMS_MIN_REVISION_WITH_SETTINGS_SERIALIZED_AS_STRINGS. Up to it, the driver refuses to
// send a setting with a string value.
const stringSettingsRevision = 54429

// isSince says whether the server is of this version or later. One that is told of a setting that it does not know refuses
// the insert.
func isSince(v *driver.ServerVersion, major, minor uint64) bool {
	return v.Version.Major > major || v.Version.Major == major && v.Version.Minor >= minor
}

func serverContext(v *driver.ServerVersion) *column.ServerContext {
	return &column.ServerContext{
		Revision:     v.Revision,
		VersionMajor: v.Version.Major,
		VersionMinor: v.Version.Minor,
		VersionPatch: v.Version.Patch,
		Timezone:     v.Timezone,
	}
}
