package polling

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"weft/sources"
)

// match returns the captured tables in the order of their names.
func (v *mariadbView) match(ctx context.Context) ([]candidate, error) {
	rows, err := v.dialect.conn.QueryContext(ctx, `SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, COALESCE(ENGINE, ''), COALESCE(CREATE_OPTIONS, '')
		FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys')`)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	var all []relation
	for rows.Next() {
		var r relation
		var kind, engine, options string
		if err := rows.Scan(&r.schema, &r.name, &kind, &engine, &options); err != nil {
			return nil, errors.Join(fmt.Errorf("list tables: %w", err), rows.Close())
		}
		switch {
		case kind != "BASE TABLE":
			r.not, r.remedy = "no plain table but a "+strings.ToLower(kind), "capture the tables that it reads"
		case engine != "InnoDB":
			r.not, r.remedy = "stored by "+engine+", which has no transactions", fmt.Sprintf("ALTER TABLE %s.%s ENGINE=InnoDB;", quoteMariaDB(r.schema), quoteMariaDB(r.name))
		case strings.Contains(options, "partitioned"):
			r.not, r.remedy = "a partitioned table, into which rows can come that were written long ago", "leave it out of the capture"
		}
		all = append(all, r)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	indexes, err := matchRelations(v.dialect.patterns, all)
	if err != nil {
		return nil, err
	}
	var matched []candidate
	for _, i := range indexes {
		matched = append(matched, candidate{all[i].String(), func(ctx context.Context) (*table, error) { return v.loadTable(ctx, all[i]) }})
	}
	sortCandidates(matched)
	return matched, nil
}

// mariadbColumn is a column as information_schema shows it.
type mariadbColumn struct {
	name, data, full, initial, extra, collation string
	precision, scale, digits                    int
	nullable                                    bool
}

// loadColumns reads a table's columns.
func (v *mariadbView) loadColumns(ctx context.Context, r relation) ([]mariadbColumn, error) {
	rows, err := v.dialect.conn.QueryContext(ctx, `SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, COALESCE(COLUMN_DEFAULT, ''), EXTRA, COALESCE(COLLATION_NAME, ''),
		COALESCE(NUMERIC_PRECISION, 0), COALESCE(NUMERIC_SCALE, 0), COALESCE(DATETIME_PRECISION, 0), IS_NULLABLE = 'YES'
		FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION`, r.schema, r.name)
	if err != nil {
		return nil, fmt.Errorf("read the columns of table %s: %w", r, err)
	}
	var columns []mariadbColumn
	for rows.Next() {
		var c mariadbColumn
		if err := rows.Scan(&c.name, &c.data, &c.full, &c.initial, &c.extra, &c.collation, &c.precision, &c.scale, &c.digits, &c.nullable); err != nil {
			return nil, errors.Join(fmt.Errorf("read the columns of table %s: %w", r, err), rows.Close())
		}
		columns = append(columns, c)
	}
	return columns, errors.Join(rows.Err(), rows.Close())
}

// mariadbIndex is an index over columns.
type mariadbIndex struct {
	name    string
	unique  bool
	columns []string
}

func (v *mariadbView) loadIndexes(ctx context.Context, r relation) ([]mariadbIndex, error) {
	rows, err := v.dialect.conn.QueryContext(ctx, `SELECT INDEX_NAME, NON_UNIQUE = 0, COALESCE(COLUMN_NAME, '') FROM information_schema.STATISTICS
		WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND INDEX_TYPE = 'BTREE' AND SUB_PART IS NULL AND `+v.dialect.flavour.usable+` ORDER BY INDEX_NAME, SEQ_IN_INDEX`,
		r.schema, r.name)
	if err != nil {
		return nil, fmt.Errorf("read the indexes of table %s: %w", r, err)
	}
	var indexes []mariadbIndex
	for rows.Next() {
		var i mariadbIndex
		var column string
		if err := rows.Scan(&i.name, &i.unique, &column); err != nil {
			return nil, errors.Join(fmt.Errorf("read the indexes of table %s: %w", r, err), rows.Close())
		}
		if n := len(indexes); n == 0 || indexes[n-1].name != i.name {
			indexes = append(indexes, i)
		}
		last := &indexes[len(indexes)-1]
		last.columns = append(last.columns, column)
	}
	return indexes, errors.Join(rows.Err(), rows.Close())
}

// loadTable reads a table and verifies that it can be polled.
func (v *mariadbView) loadTable(ctx context.Context, r relation) (*table, error) {
	t := &table{name: r.String()}
	t.Schema, t.Name = r.schema, r.name
	columns, err := v.loadColumns(ctx, r)
	if err != nil {
		return nil, err
	}
	indexes, err := v.loadIndexes(ctx, r)
	if err != nil {
		return nil, err
	}
	// Another table under this name has another number, and so has one that was truncated or rebuilt.
	err = v.dialect.conn.QueryRowContext(ctx, `SELECT COALESCE((SELECT TABLE_ID FROM information_schema.`+v.dialect.flavour.tables+` WHERE NAME = CONCAT(?, '/', ?)),
		(SELECT CREATE_TIME FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?), '')`, r.schema, r.name, r.schema, r.name).Scan(&t.identity)
	if err != nil {
		return nil, fmt.Errorf("read about table %s: %w", t.name, err)
	}
	scan := newMariaDBScan(len(columns))
	t.scan = []any{scan}
	w := quoteMariaDB(v.dialect.watermark)
	var query strings.Builder
	fmt.Fprintf(&query, "SELECT CAST(UNIX_TIMESTAMP(%s) * 1000000 AS SIGNED)", w)
	scan.unit = 1
	for i, c := range columns {
		typ := mariadbType(c)
		name := quoteMariaDB(c.name)
		switch c.data {
		case "float": // as text it has six digits
			fmt.Fprintf(&query, ", CAST(%s AS DOUBLE)", name)
		default:
			query.WriteString(", " + name)
		}
		if typ.Kind == sources.Bits {
			scan.bits[i] = typ.Precision
		}
		if c.name == v.dialect.watermark {
			for range 6 - c.digits {
				scan.unit *= 10
			}
		}
		t.Columns = append(t.Columns, sources.Column{Name: c.name, Type: typ})
	}
	fmt.Fprintf(&query, " FROM %s.%s", quoteMariaDB(r.schema), quoteMariaDB(r.name))
	t.query = query.String()
	var primary []string
	if i := slices.IndexFunc(indexes, func(i mariadbIndex) bool { return i.name == "PRIMARY" }); i >= 0 {
		primary = indexes[i].columns
	}
	if err := setKey(t, v.dialect.keys, primary); err != nil {
		return nil, err
	}
	return t, v.verifyTable(t, columns, indexes)
}

// verifyTable verifies all that a table needs so that polling it loses nothing.
func (v *mariadbView) verifyTable(t *table, columns []mariadbColumn, indexes []mariadbIndex) error {
	w := v.dialect.watermark
	statements := v.dialect.flavour.statements(t.Schema, t.Name, w, keyNames(t))
	i := slices.IndexFunc(columns, func(c mariadbColumn) bool { return c.name == w })
	if i < 0 {
		return sources.Fatal(strings.Join(statements, "\n"), "table %s: it has no column %s", t.name, w)
	}
	c := columns[i]
	modify := fmt.Sprintf("ALTER TABLE %s.%s MODIFY COLUMN %s TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6);",
		quoteMariaDB(t.Schema), quoteMariaDB(t.Name), quoteMariaDB(w))
	switch {
	case c.data != "timestamp":
		return sources.Fatal(modify+" -- or name another column in watermark", "table %s: the column %s is of type %s, whose values are not the server's time: "+
			"only a TIMESTAMP is the same in all sessions' time zones", t.name, w, c.full)
	case c.nullable:
		return sources.Fatal(modify, "table %s: the column %s may be NULL, and a row with NULL is never read", t.name, w)
	case !strings.HasPrefix(strings.ToLower(c.initial), "current_timestamp") || !strings.Contains(strings.ToLower(c.extra), "on update current_timestamp"):
		return sources.Fatal(modify, "table %s: the server does not set the column %s itself on every INSERT and UPDATE, and times of applications tell nothing", t.name, w)
	case !slices.ContainsFunc(indexes, func(i mariadbIndex) bool { return i.columns[0] == w }):
		return sources.Fatal(statements[1], "table %s: the column %s has no index, so each look would read the whole table", t.name, w)
	}
	names := keyNames(t)
	for _, k := range t.Key {
		c := columns[k]
		if c.nullable {
			return sources.Fatal(fmt.Sprintf("ALTER TABLE %s.%s MODIFY COLUMN %s %s NOT NULL;", quoteMariaDB(t.Schema), quoteMariaDB(t.Name), quoteMariaDB(c.name), c.full),
				"table %s: the key column %s may be NULL", t.name, c.name)
		}
		switch c.data {
		case "enum", "set", "bit", "float", "double":
			return sources.Fatal("name other columns in keys", "table %s: the key column %s is of type %s, which is not sorted as it compares", t.name, c.name, c.data)
		}
	}
	if !slices.ContainsFunc(indexes, func(i mariadbIndex) bool {
		return i.unique && !slices.ContainsFunc(i.columns, func(c string) bool { return !slices.Contains(names, c) })
	}) {
		return sources.Fatal(fmt.Sprintf("ALTER TABLE %s.%s ADD UNIQUE INDEX (%s);", quoteMariaDB(t.Schema), quoteMariaDB(t.Name), quoted(quoteMariaDB, names)),
			"table %s: no unique index says that its key (%s) tells all rows apart", t.name, strings.Join(names, ", "))
	}
	return nil
}

// mariadbType is how a column's values are read. What no Kind fits is a String: a TIME, which goes from -838 to 838 hours, too.
func mariadbType(c mariadbColumn) sources.Type {
	t := sources.Type{Name: c.full}
	switch c.data {
	case "tinyint", "smallint", "year":
		t.Kind, t.Precision = sources.Int, 16
	case "mediumint":
		t.Kind, t.Precision = sources.Int, 32
	case "int":
		t.Kind, t.Precision = sources.Int, 32
		if strings.Contains(c.full, "unsigned") {
			t.Precision = 64
		}
	case "bigint":
		t.Kind, t.Precision = sources.Int, 64
		if strings.Contains(c.full, "unsigned") {
			t.Kind, t.Precision = sources.Decimal, 20
		}
	case "decimal":
		t.Kind, t.Precision, t.Scale = sources.Decimal, c.precision, c.scale
	case "float", "double": // a FLOAT as the double that it is
		t.Kind, t.Precision = sources.Float, 64
	case "bit":
		t.Kind, t.Precision = sources.Bits, c.precision
	case "date":
		t.Kind = sources.Date
	case "datetime":
		t.Kind, t.Precision = sources.Timestamp, c.digits
	case "timestamp":
		t.Kind, t.Precision = sources.TimestampTZ, c.digits
	case "uuid":
		t.Kind = sources.UUID
	case "json": // MySQL's; MariaDB's is a LONGTEXT
		t.Kind = sources.JSON
	case "vector", "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob",
		"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geometrycollection", "geomcollection":
		t.Kind = sources.Bytes
	}
	return t
}
