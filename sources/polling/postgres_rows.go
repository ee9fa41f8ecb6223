package polling

import (
	"context"
	"fmt"
	"strings"

	"weft/sources"
)

// OpenReader implements sources.Snapshotter.
func (c *PostgresConfig) OpenReader(ctx context.Context, o sources.OpenOptions) (sources.Reader, error) {
	config, err := c.connConfig()
	if err != nil {
		return nil, sources.Fatal("correct url", "%w", err)
	}
	connect := func(ctx context.Context, tables []string) (rowDialect, error) {
		return c.dialect(ctx, tables, o.Keys, o.Logger)
	}
	return openReader(ctx, connect, postgresPlace(config), c.Deleted, c.Reconcile, o)
}

func (d *postgresDialect) rowView(ctx context.Context) (rowView, error) { return d.load(ctx) }

// shows implements rowView.
func (v *postgresView) shows(highest int64) bool { return !v.standby || v.horizon() >= highest }

// readRows implements rowView.
func (v *postgresView) readRows(ctx context.Context, t *table, q rowQuery, b *batch, each func(mark int64)) (full bool, err error) {
	columns, terms := "r."+quote(t.Columns[t.Key[0]].Name), []string{}
	for _, k := range t.Key[1:] {
		columns += ", r." + quote(t.Columns[k].Name)
	}
	var params [][]byte
	for _, bound := range []struct {
		operator string
		key      [][]byte
	}{{">", q.after}, {"<=", q.until}} {
		if bound.key == nil {
			continue
		}
		var values string
		values, params = postgresValues(t, bound.key, params)
		terms = append(terms, fmt.Sprintf("(%s) %s (%s)", columns, bound.operator, values))
	}
	if q.keys != nil {
		var arrays string
		arrays, params = postgresArrays(t, q.keys)
		terms = append(terms, fmt.Sprintf("(%s) IN (SELECT * FROM unnest(%s))", columns, arrays))
	}
	if q.where != "" {
		terms = append(terms, "("+q.where+"\n)") // which may end in a comment
	}
	query := t.query
	if v.dialect.watermark == "" { // what is read of a row's place by polls is its transaction here
		query = strings.Replace(query, "r.ctid", widened(v.xmax), 1)
	}
	if len(terms) > 0 {
		query += " WHERE " + strings.Join(terms, " AND ")
	}
	query += fmt.Sprintf(" ORDER BY %s LIMIT %d", columns, q.limit)
	_, full, err = v.page(ctx, t, query, params, b, func(mark []byte) error {
		n, err := parseInt(mark)
		each(n)
		return err
	})
	if err != nil {
		return false, v.dialect.explain(err)
	}
	return full, nil
}

// postgresValues lists a key's columns as parameters, which it appends.
func postgresValues(t *table, key, params [][]byte) (list string, _ [][]byte) {
	var values []string
	for i, k := range t.Key {
		params = append(params, appendPostgresText(nil, t.Columns[k].Type, key[i]))
		values = append(values, fmt.Sprintf("$%d::%s", len(params), t.Columns[k].Type.Name))
	}
	return strings.Join(values, ", "), params
}
