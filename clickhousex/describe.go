package clickhousex

import (
	"context"
	"log/slog"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast/breaker"
)

// describe gives the table's columns, and asks the server for them when they are not known, older than life or suspect:
// the answer to an INSERT names the columns that it wants, in every version, and with no right to read the table.
func (t *table) describe(ctx context.Context, life time.Duration) (*layout, error) {
	known := t.layout.Load()
	if known != nil && known.age() <= life && !t.suspect.Load() {
		return known, nil
	}
	var l *layout
	err := t.retry(ctx, func(ctx context.Context) error {
		// That an INSERT is taken does not say that its rows will be: no success, or failing inserts would never be in a row.
		return t.attempt(ctx, breaker.Ignore, func(ctx context.Context) (err error) {
			if l, err = t.ask(ctx); err != nil {
				return beforeSend(err)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	t.layout.Store(l)
	t.suspect.Store(false)
	if known == nil || !l.says(known) {
		t.conn.logger.Info("clickhouse table described", slog.String("table", t.name), slog.Int("columns", len(l.types)),
			slog.Bool("deduplication_token", t.cfg.Dedup == DedupToken && l.takesToken))
	}
	return l, nil
}

// ask leaves the version to the end, since the driver's call for it knows no context: there is a free connection then.
func (t *table) ask(ctx context.Context) (*layout, error) {
	batch, err := t.conn.conn.PrepareBatch(clickhouse.Context(ctx, clickhouse.WithSettings(t.cfg.Settings)), t.query)
	if err != nil {
		return nil, err
	}
	columns := batch.Columns()
	if err := batch.Close(); err != nil { // Ends the insert without rows.
		return nil, err
	}
	server, err := t.conn.version()
	if err != nil {
		return nil, err
	}
	return newLayout(t.name, t.fields, columns, server), nil
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
