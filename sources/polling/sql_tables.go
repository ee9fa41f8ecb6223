package polling

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"weft/sources"
)

// match lists the captured tables in the order of their names. Databases list their tables each in their own way, so that names have to
// be whole.
func (v *sqlView) match(context.Context) ([]candidate, error) {
	var matched []candidate
	for _, name := range v.dialect.names {
		if strings.ContainsAny(name, "*?") {
			return nil, sources.Fatal("name each table", "tables: %s is a pattern, and there is no one way to ask any database for its tables", name)
		}
		if !slices.ContainsFunc(matched, func(c candidate) bool { return c.name == name }) {
			matched = append(matched, candidate{name, func(ctx context.Context) (*table, error) { return v.loadTable(ctx, name) }})
		}
	}
	sortCandidates(matched)
	return matched, nil
}

// loadTable reads a table's columns and verifies that it can be polled, as far as a database tells that by itself.
func (v *sqlView) loadTable(ctx context.Context, name string) (*table, error) {
	d := v.dialect
	t := &table{name: name}
	if t.Schema, t.Name, _ = strings.Cut(name, "."); t.Name == "" {
		t.Schema, t.Name = "", name
	}
	if err := v.loadColumns(ctx, t); err != nil {
		return nil, err
	}
	if d.keys[name] == nil {
		return nil, sources.Fatal(fmt.Sprintf("name the columns of its primary key: keys: {%s: [COLUMN, ...]}", name),
			"table %s: its key is not named, and there is no one way to ask any database for it", name)
	}
	if err := setKey(t, d.keys, nil); err != nil {
		return nil, err
	}
	for _, k := range t.Key {
		switch c := t.Columns[k]; c.Type.Kind {
		case sources.Bool, sources.Float, sources.JSON, sources.Map, sources.Array, sources.Point, sources.Interval:
			return nil, sources.Fatal("name other columns in keys", "table %s: the key column %s is of type %s, whose values are not sorted, or compared, alike everywhere", name, c.Name, c.Type.Name)
		}
	}
	i := slices.IndexFunc(t.Columns, func(c sources.Column) bool { return c.Name == d.watermark })
	if i < 0 {
		return nil, sources.Fatal("name the column that holds the time of a row's last write in watermark, or give the table one, and an index on it",
			"table %s: it has no column %s", name, d.watermark)
	}
	if kind := t.Columns[i].Type.Kind; kind != sources.TimestampTZ && kind != sources.Timestamp && (!d.driver.textTimes || kind != sources.String) {
		return nil, sources.Fatal("name a column with a date and a time of day in watermark", "table %s: the column %s is of type %s", name, d.watermark, t.Columns[i].Type.Name)
	}
	columns := []string{d.driver.read(d.driver.quote(d.watermark))}
	scan := &sqlScan{cells: make([]sqlCell, len(t.Columns))}
	scan.into = append(scan.into, &scan.mark)
	for i, c := range t.Columns {
		columns = append(columns, d.driver.read(d.driver.quote(c.Name)))
		scan.cells[i] = newSQLCell(c.Type)
		scan.into = append(scan.into, &scan.cells[i])
	}
	t.scan = []any{scan}
	t.query = fmt.Sprintf("SELECT %s FROM %s", strings.Join(columns, ", "), d.nameOf(t))
	if keep(d.captured, t) == t {
		return t, v.verifyNotNull(ctx, t)
	}
	return t, nil
}

// loadColumns reads a table's columns as the driver describes a row of it.
func (v *sqlView) loadColumns(ctx context.Context, t *table) error {
	d := v.dialect
	rows, err := d.conn.QueryContext(ctx, "SELECT * FROM "+d.nameOf(t)+" WHERE 1 = 0")
	if err != nil {
		return fmt.Errorf("read the columns of table %s: %w", t.name, err)
	}
	types, err := rows.ColumnTypes()
	if err = errors.Join(err, rows.Err(), rows.Close()); err != nil {
		return fmt.Errorf("read the columns of table %s: %w", t.name, err)
	}
	for _, c := range types {
		t.Columns = append(t.Columns, sources.Column{Name: c.Name(), Type: d.driver.typeOf(c)})
	}
	return nil
}

// nameOf is a table's name as an identifier.
func (d *sqlDialect) nameOf(t *table) string {
	if t.Schema == "" {
		return d.driver.quote(t.Name)
	}
	return d.driver.quote(t.Schema) + "." + d.driver.quote(t.Name)
}

// verifyNotNull refuses a table with a row that has no watermark. Only when the table is seen for the first time: whether the
// column may be NULL is not told by every driver.
func (v *sqlView) verifyNotNull(ctx context.Context, t *table) error {
	d := v.dialect
	w := d.driver.quote(d.watermark)
	found, err := v.exists(ctx, fmt.Sprintf("SELECT 1 FROM %s WHERE %s IS NULL"+fmt.Sprintf(d.driver.limit, 1), d.nameOf(t), w))
	if err != nil {
		return fmt.Errorf("read table %s: %w", t.name, err)
	}
	if found {
		return sources.Fatal(fmt.Sprintf("UPDATE %s SET %s = CURRENT_TIMESTAMP WHERE %[2]s IS NULL; -- and declare the column NOT NULL", d.nameOf(t), w),
			"table %s: the column %s is NULL in some row, and a row with NULL is never read", t.name, d.watermark)
	}
	return nil
}

// exists tells whether a query has a row.
func (v *sqlView) exists(ctx context.Context, query string, args ...any) (bool, error) {
	rows, err := v.dialect.conn.QueryContext(ctx, query, args...)
	if err != nil {
		return false, err
	}
	found := rows.Next()
	return found, errors.Join(rows.Err(), rows.Close())
}
