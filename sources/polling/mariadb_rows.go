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
		terms = append(terms, mariadbBeyond(t, q.after, ">", ">"))
	}
	if q.until != nil {
		terms = append(terms, mariadbBeyond(t, q.until, "<", "<="))
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

// mariadbBeyond compares rows' keys with one, by an operator for all columns but the last. The server does not use an index for a
// comparison of rows, so that it is spelt out.
func mariadbBeyond(t *table, key [][]byte, operator, last string) string {
	var terms []string
	equal := ""
	for i, k := range t.Key {
		if i == len(t.Key)-1 {
			operator = last
		}
		column, value := quoteMariaDB(t.Columns[k].Name), mariadbValue(t, i, key)
		terms = append(terms, fmt.Sprintf("(%s%s %s %s)", equal, column, operator, value))
		equal += fmt.Sprintf("%s = %s AND ", column, value)
	}
	first := quoteMariaDB(t.Columns[t.Key[0]].Name)
	return fmt.Sprintf("%s %s= %s AND (%s)", first, strings.TrimSuffix(last, "="), mariadbValue(t, 0, key), strings.Join(terms, " OR "))
}
