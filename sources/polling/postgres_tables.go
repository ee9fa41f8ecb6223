package polling

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// postgresRelation is a relation as the catalog shows it in a view.
type postgresRelation struct {
	relation
	oid      uint32
	readable bool
}

// relations lists all that a pattern may name.
func (v *postgresView) relations(ctx context.Context) ([]postgresRelation, error) {
	const query = `SELECT n.nspname::text, c.relname::text, c.oid, c.relkind::text,
			has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND n.nspname NOT IN ('information_schema', 'pg_catalog', 'pg_toast')
		ORDER BY 1, 2`
	rows, err := v.tx.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	relations, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (postgresRelation, error) {
		var r postgresRelation
		var kind string
		err := row.Scan(&r.schema, &r.name, &r.oid, &kind, &r.readable)
		switch kind {
		case "p":
			r.not, r.remedy = "a partitioned table, which itself has no rows", "name its partitions, or a pattern that matches them"
		case "v", "m", "f":
			r.not, r.remedy = "a view or a foreign table, whose rows have no transaction", "capture the tables that it reads"
		}
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	return relations, nil
}

// match returns the captured relations in the order of their names.
func (v *postgresView) match(ctx context.Context) ([]candidate, error) {
	all, err := v.relations(ctx)
	if err != nil {
		return nil, err
	}
	plain := make([]relation, len(all))
	for i, r := range all {
		plain[i] = r.relation
	}
	indexes, err := matchRelations(v.dialect.patterns, plain)
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

// postgresColumn is a column as the catalog shows it.
type postgresColumn struct {
	name, display, base, elem string
	typmod                    int
	notNull                   bool
}

// loadColumns reads a table's columns, with the type that is below their domains.
func (v *postgresView) loadColumns(ctx context.Context, oid uint32) ([]postgresColumn, error) {
	const query = `SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, b.typname::text, d.typmod,
			coalesce(e.typname::text, '')
		FROM pg_attribute a
		CROSS JOIN LATERAL (
			WITH RECURSIVE chain (typid, typmod, depth) AS (
				SELECT a.atttypid, a.atttypmod, 0
				UNION ALL
				SELECT t.typbasetype, t.typtypmod, depth + 1 FROM chain JOIN pg_type t ON t.oid = chain.typid WHERE t.typtype = 'd')
			SELECT typid, typmod FROM chain ORDER BY depth DESC LIMIT 1) d
		JOIN pg_type b ON b.oid = d.typid
		LEFT JOIN pg_type e ON e.oid = b.typelem AND b.typcategory = 'A' AND e.typdelim = ',' AND b.typname NOT IN ('int2vector', 'oidvector')
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`
	rows, err := v.tx.Query(ctx, query, oid)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (postgresColumn, error) {
		var c postgresColumn
		err := row.Scan(&c.name, &c.display, &c.notNull, &c.base, &c.typmod, &c.elem)
		return c, err
	})
}

// postgresIndex is a valid, unconditional B-tree index on columns.
type postgresIndex struct {
	primary, unique bool
	columns         []string
}

func (v *postgresView) loadIndexes(ctx context.Context, oid uint32) ([]postgresIndex, error) {
	const query = `SELECT i.indisprimary, i.indisunique,
			ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY k (attnum, n) JOIN pg_attribute a
				ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.n <= i.indnkeyatts ORDER BY k.n)
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
		WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND m.amname = 'btree'`
	rows, err := v.tx.Query(ctx, query, oid)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (postgresIndex, error) {
		var i postgresIndex
		err := row.Scan(&i.primary, &i.unique, &i.columns)
		return i, err
	})
}

// loadTable reads a table and verifies that it can be polled.
func (v *postgresView) loadTable(ctx context.Context, r postgresRelation) (*table, error) {
	d := v.dialect
	t := &table{name: r.String(), identity: fmt.Sprint(r.oid)}
	t.Schema, t.Name = r.schema, r.name
	if !r.readable {
		return nil, sources.Fatal(fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s; GRANT SELECT ON %s.%s TO %[2]s;", quote(r.schema), quote(d.user),
			quote(r.schema), quote(r.name)), "table %s: user %q has no right to read it", t.name, d.user)
	}
	columns, err := v.loadColumns(ctx, r.oid)
	if err != nil {
		return nil, fmt.Errorf("read the columns of table %s: %w", t.name, err)
	}
	indexes, err := v.loadIndexes(ctx, r.oid)
	if err != nil {
		return nil, fmt.Errorf("read the indexes of table %s: %w", t.name, err)
	}
	mark := "r.ctid"
	if d.watermark != "" {
		mark = "r." + quote(d.watermark)
	}
	var query strings.Builder
	query.WriteString("SELECT " + mark + "::text")
	for _, c := range columns {
		query.WriteString(", r." + quote(c.name))
		if c.base == "money" {
			query.WriteString("::numeric")
		}
		t.Columns = append(t.Columns, sources.Column{Name: c.name, Type: postgresType(c.display, c.base, c.elem, c.typmod)})
	}
	fmt.Fprintf(&query, " FROM ONLY %s.%s r", quote(r.schema), quote(r.name))
	t.query = query.String()
	var primary []string
	if i := slices.IndexFunc(indexes, func(i postgresIndex) bool { return i.primary }); i >= 0 {
		primary = indexes[i].columns
	}
	if err := setKey(t, d.keys, primary); err != nil {
		return nil, err
	}
	if d.watermark == "" {
		return t, nil
	}
	return t, v.verifyColumn(ctx, t, r, columns, indexes)
}

// verifyColumn verifies all that a table needs so that reading it by its xid8 column loses nothing and scans nothing.
func (v *postgresView) verifyColumn(ctx context.Context, t *table, r postgresRelation, columns []postgresColumn, indexes []postgresIndex) error {
	d := v.dialect
	refuse := func(format string, args ...any) error {
		return sources.Fatal(strings.Join(PostgresStatements(t.Schema, t.Name, d.watermark, keyNames(t)...), "\n"),
			"table %s: "+format, append([]any{t.name}, args...)...)
	}
	i := slices.IndexFunc(columns, func(c postgresColumn) bool { return c.name == d.watermark })
	switch {
	case i < 0:
		return refuse("it has no column %s", d.watermark)
	case columns[i].base != "xid8":
		return sources.Fatal("name a column of type xid8 in watermark, or leave it out: then the rows' own xmin is used",
			"table %s: the column %s is of type %s", t.name, d.watermark, columns[i].display)
	case !columns[i].notNull:
		return sources.Fatal(fmt.Sprintf("UPDATE %s.%s SET %[3]s = '1' WHERE %[3]s IS NULL; ALTER TABLE %[1]s.%[2]s ALTER COLUMN %[3]s SET NOT NULL;",
			quote(t.Schema), quote(t.Name), quote(d.watermark)), "table %s: the column %s may be NULL, and a row with NULL is never read", t.name, d.watermark)
	}
	if !slices.ContainsFunc(indexes, func(i postgresIndex) bool { return i.columns[0] == d.watermark }) {
		return refuse("the column %s has no index, so each look would read the whole table", d.watermark)
	}
	if err := verifyUnique(t, columns, indexes); err != nil {
		return err
	}
	const query = `SELECT EXISTS (SELECT FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
		WHERE g.tgrelid = $1 AND g.tgenabled IN ('O', 'A') AND g.tgtype & 23 = 23 AND g.tgqual IS NULL AND g.tgattr = ''
			AND p.prosrc LIKE '%pg_current_xact_id%' AND strpos(p.prosrc, $2) > 0)`
	var trigger bool
	if err := v.tx.QueryRow(ctx, query, r.oid, d.watermark).Scan(&trigger); err != nil {
		return fmt.Errorf("read the triggers of table %s: %w", t.name, err)
	}
	if !trigger {
		return refuse("no trigger before every INSERT and UPDATE sets %s to pg_current_xact_id()", d.watermark)
	}
	var stray bool
	ahead := fmt.Sprintf("SELECT EXISTS (SELECT FROM ONLY %s.%s WHERE %s >= '%d'::xid8)", quote(t.Schema), quote(t.Name), quote(d.watermark), v.xmax)
	if err := v.tx.QueryRow(ctx, ahead).Scan(&stray); err != nil {
		return fmt.Errorf("read table %s: %w", t.name, err)
	}
	if stray {
		return sources.Fatal(fmt.Sprintf("UPDATE %s.%s SET %s = '1' WHERE %[3]s >= '%d'::xid8; -- the trigger gives these rows their number",
			quote(t.Schema), quote(t.Name), quote(d.watermark), v.xmax),
			"table %s: a row's %s is above every transaction of this server, as after a copy from another one", t.name, d.watermark)
	}
	return nil
}

// verifyUnique verifies that the key tells all rows apart, since reading goes on after a row's key.
func verifyUnique(t *table, columns []postgresColumn, indexes []postgresIndex) error {
	names := keyNames(t)
	for _, name := range names {
		i := slices.IndexFunc(columns, func(c postgresColumn) bool { return c.name == name })
		if !columns[i].notNull {
			return sources.Fatal(fmt.Sprintf("ALTER TABLE %s.%s ALTER COLUMN %s SET NOT NULL;", quote(t.Schema), quote(t.Name), quote(name)),
				"table %s: the key column %s may be NULL", t.name, name)
		}
	}
	if slices.ContainsFunc(indexes, func(i postgresIndex) bool {
		return i.unique && len(i.columns) > 0 && !slices.ContainsFunc(i.columns, func(c string) bool { return !slices.Contains(names, c) })
	}) {
		return nil
	}
	return sources.Fatal(fmt.Sprintf("CREATE UNIQUE INDEX ON %s.%s (%s);", quote(t.Schema), quote(t.Name), quoted(quote, names)),
		"table %s: no unique index says that its key (%s) tells all rows apart", t.name, strings.Join(names, ", "))
}
