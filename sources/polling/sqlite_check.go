package polling

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"weft/sources"
)

// Check implements sources.Checker.
func (c *SQLiteConfig) Check(ctx context.Context, o sources.CheckOptions) []sources.Finding {
	d, err := c.dialect(ctx, o.Tables, o.Keys)
	if err != nil {
		return []sources.Finding{sources.Found("database", err)}
	}
	return check(ctx, d, "database", c.place(), d.watermark, c.Reconcile, o)
}

// inspect implements checkable.
func (d *sqliteDialect) inspect(ctx context.Context) (inspected, error) { return d.begin(ctx) }

// server implements inspected: it warns of the one thing by which a reader may make the application's writes fail. Where there is
// no counter, each table tells that.
func (v *sqliteView) server(ctx context.Context, k *checker) error {
	var mode string
	if err := v.tx.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return fmt.Errorf("read journal_mode: %w", err)
	}
	if mode == "wal" {
		k.add(sources.OK, "database", "journal mode wal: polls and writes do not wait for each other", "")
	} else {
		k.add(sources.Warning, "database", fmt.Sprintf("journal mode %s: a write of the application fails as busy, or waits, while a poll reads, and the other way round", mode),
			"PRAGMA journal_mode = wal;")
	}
	counter, err := v.hasCounter(ctx)
	if err != nil || !counter {
		return err
	}
	if err := v.readCounter(ctx); err != nil {
		return err
	}
	k.add(sources.OK, "horizon", v.describe(), "")
	return nil
}

// reading implements inspected.
func (v *sqliteView) reading(context.Context, *checker, *table) (string, error) {
	return "numbered by triggers in " + v.dialect.watermark, nil
}

// pollAccess implements inspected.
func (v *sqliteView) pollAccess(ctx context.Context, t *table) (access, error) {
	return sqliteAccess(ctx, v.tx, t.name, t.query+afterWatermark(v.dialect.watermark), v.counter)
}

// rangeAccess implements inspected.
func (v *sqliteView) rangeAccess(ctx context.Context, t *table) (access, error) {
	first, last := sampleRange(t)
	return sqliteAccess(ctx, v.tx, t.name, fmt.Sprintf("SELECT 1 FROM %s WHERE %s", quote(t.name), sqliteRange(t, first, last)))
}

// querier is what a plan is asked through: a connection or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// sqliteAccess reads SQLite's plan of a query: SEARCH is by an index, SCAN reads all, if in the order of an index.
func sqliteAccess(ctx context.Context, db querier, table, query string, args ...any) (access, error) {
	rows, err := db.QueryContext(ctx, "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		return 0, err
	}
	found := byIndex
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			return 0, errors.Join(err, rows.Close())
		}
		if strings.HasPrefix(detail+" ", "SCAN "+table+" ") {
			found = byScan
		}
	}
	return found, errors.Join(rows.Err(), rows.Close())
}

// createIndex implements inspected.
func (v *sqliteView) createIndex(t *table, columns ...string) string {
	name := "weft_index_" + t.Name + "_" + strings.Join(columns, "_")
	return fmt.Sprintf("CREATE INDEX %s ON %s (%s);", quote(name), quote(t.name), quoted(quote, columns))
}

var _ sources.Checker = (*SQLiteConfig)(nil)
