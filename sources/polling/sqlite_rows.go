package polling

import (
	"context"
	"fmt"
	"strings"

	"weft/sources"
)

// OpenReader implements sources.Snapshotter.
func (c *SQLiteConfig) OpenReader(ctx context.Context, o sources.OpenOptions) (sources.Reader, error) {
	connect := func(ctx context.Context, tables []string) (rowDialect, error) { return c.dialect(ctx, tables, o.Keys) }
	return openReader(ctx, connect, c.place(), c.Deleted, c.Reconcile, o)
}

func (d *sqliteDialect) rowView(ctx context.Context) (rowView, error) { return d.load(ctx) }

// shows implements rowView: a database file has no replicas.
func (v *sqliteView) shows(int64) bool { return true }

// readRows implements rowView.
func (v *sqliteView) readRows(ctx context.Context, t *table, q rowQuery, b *batch, each func(mark int64)) (full bool, err error) {
	columns := sqliteKeyColumns(t)
	var terms []string
	if q.after != nil {
		terms = append(terms, fmt.Sprintf("(%s) > (%s)", columns, sqliteKey(t, q.after)))
	}
	if q.until != nil {
		terms = append(terms, fmt.Sprintf("(%s) <= (%s)", columns, sqliteKey(t, q.until)))
	}
	if q.keys != nil {
		terms = append(terms, sqliteKeys(t, q.keys))
	}
	if q.where != "" {
		terms = append(terms, "("+q.where+"\n)") // which may end in a comment
	}
	query := t.query
	if len(terms) > 0 {
		query += " WHERE " + strings.Join(terms, " AND ")
	}
	return v.page(ctx, t, fmt.Sprintf("%s ORDER BY %s LIMIT %d", query, columns, q.limit), nil, b, each)
}
