package polling

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"weft/sources"
)

// OpenReader implements sources.Snapshotter.
func (c *MariaDBConfig) OpenReader(ctx context.Context, o sources.OpenOptions) (sources.Reader, error) {
	return c.openReader(ctx, mariaDB, o)
}

func (c *MariaDBConfig) openReader(ctx context.Context, f *flavour, o sources.OpenOptions) (sources.Reader, error) {
	config, err := c.driverConfig(f)
	if err != nil {
		return nil, sources.Fatal("correct url", "%w", err)
	}
	connect := func(ctx context.Context, tables []string) (rowDialect, error) {
		return c.dialect(ctx, f, tables, o.Keys, o.Logger)
	}
	return openReader(ctx, connect, f.place(config), c.Deleted, c.Reconcile, o)
}

func (d *mariadbDialect) rowView(ctx context.Context) (rowView, error) {
	v, err := d.start(ctx)
	if err != nil {
		return nil, err
	}
	return v.load(ctx)
}

// shows implements rowView: replicas are refused.
func (v *mariadbView) shows(int64) bool { return true }

// readRows implements rowView.
func (v *mariadbView) readRows(ctx context.Context, t *table, q rowQuery, b *batch, each func(mark int64)) (full bool, err error) {
	var terms []string
	if q.after != nil {
		terms = append(terms, mariadbBeyond(t, ">", q.after))
	}
	if q.until != nil {
		terms = append(terms, mariadbBeyond(t, "<=", q.until))
	}
	if q.keys != nil {
		terms = append(terms, "("+mariadbKeys(t, q.keys)+")")
	}
	if q.where != "" {
		terms = append(terms, "("+q.where+"\n)") // which may end in a comment
	}
	query := t.query
	if len(terms) > 0 {
		query += " WHERE " + strings.Join(terms, " AND ")
	}
	var order []string
	for _, k := range t.Key {
		order = append(order, quoteMariaDB(t.Columns[k].Name))
	}
	query += " ORDER BY " + strings.Join(order, ", ") + " LIMIT " + strconv.Itoa(q.limit)
	if _, full, err = v.page(ctx, t, query, b, each); err != nil {
		return false, v.dialect.explain(err)
	}
	return full, nil
}

// mariadbBeyond compares rows' keys with one. The first column is bounded by itself too, for the sake of the index.
func mariadbBeyond(t *table, operator string, key [][]byte) string {
	var columns []string
	for _, k := range t.Key {
		columns = append(columns, quoteMariaDB(t.Columns[k].Name))
	}
	value := func(i int) string { return mariadbValue(t, i, key) }
	return fmt.Sprintf("%s %s= %s AND ", columns[0], operator[:1], value(0)) + keyset(columns, operator, value)
}
