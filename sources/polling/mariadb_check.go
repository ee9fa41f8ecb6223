package polling

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// Check implements sources.Checker.
func (c *MariaDBConfig) Check(ctx context.Context, o sources.CheckOptions) []sources.Finding {
	return c.check(ctx, mariaDB, o)
}

func (c *MariaDBConfig) check(ctx context.Context, f *flavour, o sources.CheckOptions) []sources.Finding {
	d, err := c.dialect(ctx, f, o.Tables, o.Keys, hclog.NewNullLogger())
	if err != nil {
		return []sources.Finding{sources.Found("server", err)}
	}
	return check(ctx, d, "server", d.place, d.watermark, c.Reconcile, o)
}

// inspect implements checkable.
func (d *mariadbDialect) inspect(ctx context.Context) (inspected, error) { return d.begin(ctx) }

// server implements inspected.
func (v *mariadbView) server(ctx context.Context, k *checker) error {
	d := v.dialect
	k.add(sources.OK, "server", d.version, "")
	k.add(sources.OK, "horizon", v.describe(), "")
	for id := range d.looked.transactions {
		var since int64
		err := d.conn.QueryRowContext(ctx, "SELECT COALESCE(MAX(TIMESTAMPDIFF(SECOND, "+startedUTC+", NOW())), 0) FROM information_schema.INNODB_TRX WHERE TRX_ID = ?", id).Scan(&since)
		if err != nil {
			return fmt.Errorf("look for old transactions: %w", err)
		}
		if since > int64(heldAfter.Seconds()) {
			k.add(sources.Warning, "horizon", fmt.Sprintf("transaction %d has been open for %d seconds: what is written after it began is not captured before it ends", id, since),
				"end it; a prepared one, which XA RECOVER lists"+d.flavour.recoverRight+", with XA COMMIT or XA ROLLBACK")
		}
	}
	return nil
}

// reading implements inspected: it warns of what the server does to a table that polling does not see, or sees as something else.
func (v *mariadbView) reading(ctx context.Context, k *checker, t *table) (string, error) {
	columns, err := v.loadColumns(ctx, relation{schema: t.Schema, name: t.Name})
	if err != nil {
		return "", err
	}
	for _, i := range t.Key {
		if c := columns[i]; c.collation != "" && !strings.HasSuffix(c.collation, "_bin") {
			k.add(sources.Warning, "table "+t.name, fmt.Sprintf("the key column %s has the collation %s, for which texts are equal that differ, such as in case: "+
				"changing one into the other leaves the old key's record in the topic", c.name, c.collation),
				fmt.Sprintf("ALTER TABLE %s.%s MODIFY COLUMN %s %s COLLATE utf8mb4_bin NOT NULL;", quoteMariaDB(t.Schema), quoteMariaDB(t.Name), quoteMariaDB(c.name), c.full))
		}
	}
	var cascades int
	err = v.dialect.conn.QueryRowContext(ctx, `SELECT COUNT(*) FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = ? AND TABLE_NAME = ?
		AND (UPDATE_RULE IN ('CASCADE', 'SET NULL', 'SET DEFAULT') OR DELETE_RULE IN ('SET NULL', 'SET DEFAULT'))`, t.Schema, t.Name).Scan(&cascades)
	if err != nil {
		return "", fmt.Errorf("read the foreign keys of table %s: %w", t.name, err)
	}
	if cascades > 0 {
		k.add(sources.Warning, "table "+t.name, fmt.Sprintf("%d of its foreign keys change its rows when another table's change, and do not set %s: such changes are not captured",
			cascades, v.dialect.watermark), "declare the foreign keys ON UPDATE RESTRICT, and ON DELETE RESTRICT or CASCADE")
	}
	return "read by the index on " + v.dialect.watermark, nil
}

// pollAccess implements inspected.
func (v *mariadbView) pollAccess(ctx context.Context, t *table) (access, error) {
	return mariadbAccess(ctx, v.dialect.conn, v.pageQuery(t, v.below-1_000_000, v.below, nil, firstRows))
}

// rangeAccess implements inspected.
func (v *mariadbView) rangeAccess(ctx context.Context, t *table) (access, error) {
	first, last := sampleRange(t)
	return mariadbAccess(ctx, v.dialect.conn, fmt.Sprintf("SELECT COUNT(*) FROM %s.%s WHERE %s", quoteMariaDB(t.Schema), quoteMariaDB(t.Name), mariadbRange(t, first, last)))
}

// mariadbAccess reads the server's plan of a query of one table: its columns type, which is ALL or index where all is read, and
// possible_keys, which are the indexes that would do. type is NULL where nothing is read.
func mariadbAccess(ctx context.Context, db querier, query string, args ...any) (access, error) {
	rows, err := db.QueryContext(ctx, "EXPLAIN FORMAT=TRADITIONAL "+query, args...)
	if err != nil {
		return 0, err
	}
	names, err := rows.Columns()
	if err != nil {
		return 0, errors.Join(err, rows.Close())
	}
	found := byIndex
	cells := make([]sql.NullString, len(names))
	into := make([]any, len(names))
	for i := range cells {
		into[i] = &cells[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return 0, errors.Join(err, rows.Close())
		}
		plan := map[string]sql.NullString{}
		for i, name := range names {
			plan[strings.ToLower(name)] = cells[i]
		}
		if how := plan["type"].String; how != "ALL" && how != "index" {
			continue
		}
		if found = byScan; plan["possible_keys"].Valid {
			found = byChoice
		}
	}
	return found, errors.Join(rows.Err(), rows.Close())
}

// createIndex implements inspected.
func (v *mariadbView) createIndex(t *table, columns ...string) string {
	return fmt.Sprintf("ALTER TABLE %s.%s ADD INDEX (%s);", quoteMariaDB(t.Schema), quoteMariaDB(t.Name), quoted(quoteMariaDB, columns))
}

var _ sources.Checker = (*MariaDBConfig)(nil)
