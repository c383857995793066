package clickhousex

import (
	"context"
	"log/slog"

	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/holdfast-io/holdfast/breaker"
)

// describe gives the table's columns, and asks the server for them when they are not known: the answer to an INSERT
// names the columns that it wants, in every version, and with no right to read the table.
func (t *table) describe(ctx context.Context) (*layout, error) {
	if l := t.layout.Load(); l != nil {
		return l, nil
	}
	var l *layout
	err := t.retry(ctx, func(ctx context.Context) error {
		// That an INSERT is taken does not say that its rows will be: no success, or failing inserts would never be in a row.
		err := t.attempt(ctx, breaker.Ignore, func(ctx context.Context) (err error) {
			l, err = t.ask(ctx)
			return err
		})
		if err != nil {
			return unsent(Classify(err), err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.layout.Store(l)
	t.conn.logger.Info("clickhouse table described", slog.String("table", t.name), slog.Int("columns", len(l.types)),
		slog.Bool("deduplication_token", t.cfg.Dedup == DedupToken && l.takesToken))
	return l, nil
}

func (t *table) ask(ctx context.Context) (*layout, error) {
	server, err := t.conn.version()
	if err != nil {
		return nil, err
	}
	l := newLayout(t.name, t.fields, server)
	batch, err := t.conn.conn.PrepareBatch(t.with(ctx, l, ""), t.query)
	if err != nil {
		return nil, err
	}
	for _, c := range batch.Columns() {
		l.types = append(l.types, parseType(string(c.Type())))
	}
	return l, batch.Close() // Ends the insert without rows.
}

// stringSettingsRevision is 20.6's, DBMS_MIN_REVISION_WITH_SETTINGS_SERIALIZED_AS_STRINGS. Below, the driver refuses to
// send a setting with a string value.
const stringSettingsRevision = 54429

// knowsAsyncInserts says whether wait_for_async_insert is a setting of the server.
func knowsAsyncInserts(v *driver.ServerVersion) bool {
	return v.Version.Major > 21 || v.Version.Major == 21 && v.Version.Minor >= 11
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
