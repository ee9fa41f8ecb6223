package spanner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cloud.google.com/go/spanner"
	"google.golang.org/api/iterator"

	"weft/sources"
)

// catalog reads what the database says of the change stream and of its tables.
type catalog struct {
	client   *spanner.Client
	stream   string
	patterns []string

	at       stamp // as of when the rest is
	postgres bool
	database string
	options  map[string]string // of the change stream
	// tables that match the patterns, watched or not, by name; watched ones have columns.
	tables map[string]*catalogTable
}

type catalogTable struct {
	schema, name string
	watched      bool
	columns      []catalogColumn // watched ones, in ordinal order
	key          []string
	desc         []bool // of key: in descending order
}

type catalogColumn struct {
	name string
	typ  columnType
}

func (t *catalogTable) String() string { return qualified(t.schema, t.name) }

// qualified is the name that change records give a table: without the default schema, which is public in PostgreSQL.
func qualified(schema, name string) string {
	if schema == "" || schema == "public" {
		return name
	}
	return schema + "." + name
}

// dialectQuery reads the same in both dialects.
const dialectQuery = `SELECT option_value FROM information_schema.database_options WHERE option_name = 'database_dialect'`

// load reads everything at one timestamp, which it returns: the database's present.
func (c *catalog) load(ctx context.Context) (stamp, error) {
	// Single reads at exact timestamps see one moment, and need no transaction that lasts.
	tx := c.client.Single()
	defer tx.Close()
	if err := each(ctx, tx, spanner.NewStatement(dialectQuery), func(*spanner.Row) error { return nil }); err != nil {
		return 0, fmt.Errorf("read the database's dialect: %w", err)
	}
	now, err := tx.Timestamp()
	if err != nil {
		return 0, fmt.Errorf("read the database's time: %w", err)
	}
	return stampOf(now), c.loadAt(ctx, stampOf(now))
}

// loadAt reads everything at a timestamp.
func (c *catalog) loadAt(ctx context.Context, at stamp) error {
	c.at = at
	dialect := ""
	if err := c.each(ctx, spanner.NewStatement(dialectQuery), func(r *spanner.Row) error { return r.Columns(&dialect) }); err != nil {
		return fmt.Errorf("read the database's dialect: %w", err)
	}
	c.postgres = dialect == "POSTGRESQL"
	_, c.database, _ = strings.Cut(c.client.DatabaseName(), "/databases/")
	all, err := c.loadStream(ctx)
	if err != nil {
		return err
	}
	return c.loadTables(ctx, all)
}

// loadStream reads whether the stream watches all tables, and its options.
func (c *catalog) loadStream(ctx context.Context) (all bool, err error) {
	found := false
	name := "`ALL`"
	if c.postgres {
		name = `"all"`
	}
	statement := c.statement(`SELECT CAST(` + name + ` AS ` + c.text() + `) FROM information_schema.change_streams WHERE change_stream_name = @p1`)
	if err := c.each(ctx, statement, func(r *spanner.Row) error {
		found = true
		var s string
		err := r.Columns(&s)
		all = truth(s)
		return err
	}); err != nil {
		return false, fmt.Errorf("read the change stream: %w", err)
	}
	if !found {
		return false, sources.Fatal(fmt.Sprintf("CREATE CHANGE STREAM %s FOR %s;", c.stream, strings.Join(c.patterns, ", ")),
			"there is no change stream %s in the database %s", c.stream, c.database)
	}
	c.options = map[string]string{}
	statement = c.statement(`SELECT option_name, option_value FROM information_schema.change_stream_options WHERE change_stream_name = @p1`)
	if err := c.each(ctx, statement, func(r *spanner.Row) error {
		var name, value string
		err := r.Columns(&name, &value)
		c.options[strings.ToLower(name)] = strings.Trim(value, `'"`)
		return err
	}); err != nil {
		return false, fmt.Errorf("read the change stream's options: %w", err)
	}
	if strings.EqualFold(c.options["partition_mode"], "MUTABLE_KEY_RANGE") {
		return false, errMode(c.stream)
	}
	return all, nil
}

func (c *catalog) loadTables(ctx context.Context, all bool) error {
	c.tables = map[string]*catalogTable{}
	if err := c.each(ctx, spanner.NewStatement(`SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'`),
		func(r *spanner.Row) error {
			t := &catalogTable{watched: all}
			err := r.Columns(&t.schema, &t.name)
			if t.schema = strings.TrimPrefix(t.schema, "public"); c.matches(t.String()) && !strings.EqualFold(t.schema, "information_schema") &&
				!strings.EqualFold(t.schema, "spanner_sys") && !strings.EqualFold(t.schema, "pg_catalog") {
				c.tables[t.String()] = t
			}
			return err
		}); err != nil {
		return fmt.Errorf("read the tables: %w", err)
	}
	whole, some := map[string]bool{}, map[string]map[string]bool{}
	if err := c.each(ctx, c.statement(`SELECT table_schema, table_name, CAST(all_columns AS `+c.text()+`) FROM information_schema.change_stream_tables WHERE change_stream_name = @p1`),
		func(r *spanner.Row) error {
			var schema, name, every string
			err := r.Columns(&schema, &name, &every)
			name = qualified(schema, name)
			whole[name] = truth(every)
			if t := c.tables[name]; t != nil {
				t.watched = true
			}
			return err
		}); err != nil {
		return fmt.Errorf("read the change stream's tables: %w", err)
	}
	if err := c.each(ctx, c.statement(`SELECT table_schema, table_name, column_name FROM information_schema.change_stream_columns WHERE change_stream_name = @p1`),
		func(r *spanner.Row) error {
			var schema, name, column string
			err := r.Columns(&schema, &name, &column)
			name = qualified(schema, name)
			if some[name] == nil {
				some[name] = map[string]bool{}
			}
			some[name][column] = true
			return err
		}); err != nil {
		return fmt.Errorf("read the change stream's columns: %w", err)
	}
	if err := c.each(ctx, spanner.NewStatement(`SELECT table_schema, table_name, column_name, column_ordering FROM information_schema.index_columns
		WHERE index_type = 'PRIMARY_KEY' ORDER BY table_schema, table_name, ordinal_position`),
		func(r *spanner.Row) error {
			var schema, name, column string
			var order spanner.NullString
			err := r.Columns(&schema, &name, &column, &order)
			if t := c.tables[qualified(schema, name)]; t != nil {
				t.key = append(t.key, column)
				t.desc = append(t.desc, strings.HasPrefix(strings.ToUpper(order.StringVal), "DESC"))
			}
			return err
		}); err != nil {
		return fmt.Errorf("read the primary keys: %w", err)
	}
	err := c.each(ctx, spanner.NewStatement(`SELECT table_schema, table_name, column_name, spanner_type, is_generated FROM information_schema.columns
		ORDER BY table_schema, table_name, ordinal_position`),
		func(r *spanner.Row) error {
			var schema, name, generated string
			var typ spanner.NullString
			var col catalogColumn
			err := r.Columns(&schema, &name, &col.name, &typ, &generated)
			t := c.tables[qualified(schema, name)]
			if t == nil {
				return err
			}
			col.typ = parseTypeName(typ.StringVal)
			isKey := slices.Contains(t.key, col.name)
			if isKey || (all || whole[t.String()] || some[t.String()][col.name]) && generated != "ALWAYS" && col.typ.Code != "TOKENLIST" {
				t.columns = append(t.columns, col)
			}
			return err
		})
	if err != nil {
		return fmt.Errorf("read the columns: %w", err)
	}
	return nil
}

// covered verifies that each pattern matches a table, and that the stream watches every matching one.
func (c *catalog) covered() error {
	for _, pattern := range c.patterns {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(c.tables)), func(name string) bool { return matchTable(pattern, name) }) {
			return sources.Fatal("correct the capture's tables, or create the table", "no table of the database %s matches %q", c.database, pattern)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.tables)) {
		if t := c.tables[name]; !t.watched {
			return errUnwatched(c.stream, name)
		}
	}
	return nil
}

func errUnwatched(stream, table string) error {
	return sources.Fatal(fmt.Sprintf("ALTER CHANGE STREAM %s SET FOR %s; -- and the tables that it watches now", stream, table),
		"table %s: the change stream %s does not watch it", table, stream)
}

func (c *catalog) matches(table string) bool {
	return slices.ContainsFunc(c.patterns, func(pattern string) bool { return matchTable(pattern, table) })
}

// matchTable matches part by part: SCHEMA.TABLE, or TABLE of the default schema.
func matchTable(pattern, table string) bool {
	ps, pn, pok := strings.Cut(pattern, ".")
	ts, tn, tok := strings.Cut(table, ".")
	if pok != tok {
		return false
	}
	return sources.MatchGlob(ps, ts) && sources.MatchGlob(pn, tn)
}

// statement makes a statement with the stream's name as its parameter.
func (c *catalog) statement(sql string) spanner.Statement {
	if c.postgres {
		sql = strings.ReplaceAll(sql, "@p1", "$1")
	}
	return spanner.Statement{SQL: sql, Params: map[string]any{"p1": c.stream}}
}

func (c *catalog) text() string {
	if c.postgres {
		return "varchar"
	}
	return "STRING"
}

// quoted quotes an identifier.
func (c *catalog) quoted(name string) string {
	if c.postgres {
		return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
	}
	return "`" + name + "`"
}

// truth reads YES and true, as the two dialects write it.
func truth(s string) bool { return strings.EqualFold(s, "YES") || strings.EqualFold(s, "true") }

// singleAt reads at an exact timestamp, once.
func singleAt(client *spanner.Client, at stamp) *spanner.ReadOnlyTransaction {
	return client.Single().WithTimestampBound(spanner.ReadTimestamp(at.time()))
}

func (c *catalog) each(ctx context.Context, statement spanner.Statement, f func(*spanner.Row) error) error {
	tx := singleAt(c.client, c.at)
	defer tx.Close()
	return each(ctx, tx, statement, f)
}

// each calls f with every row of a query.
func each(ctx context.Context, tx *spanner.ReadOnlyTransaction, statement spanner.Statement, f func(*spanner.Row) error) error {
	rows := tx.Query(ctx, statement)
	defer rows.Stop()
	for {
		r, err := rows.Next()
		if errors.Is(err, iterator.Done) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(r); err != nil {
			return err
		}
	}
}

// postgresTypes are the codes of PostgreSQL's type names, where they differ.
var postgresTypes = map[string]columnType{
	"boolean":                  {Code: "BOOL"},
	"bigint":                   {Code: "INT64"},
	"double precision":         {Code: "FLOAT64"},
	"real":                     {Code: "FLOAT32"},
	"numeric":                  {Code: "NUMERIC", Annotation: "PG_NUMERIC"},
	"character varying":        {Code: "STRING"},
	"text":                     {Code: "STRING"},
	"bytea":                    {Code: "BYTES"},
	"date":                     {Code: "DATE"},
	"timestamp with time zone": {Code: "TIMESTAMP"},
	"spanner.commit_timestamp": {Code: "TIMESTAMP"},
	"jsonb":                    {Code: "JSON", Annotation: "PG_JSONB"},
	"uuid":                     {Code: "UUID"},
	"oid":                      {Code: "INT64", Annotation: "PG_OID"},
}

// parseTypeName reads a type as the catalog has it: STRING(MAX), ARRAY<INT64>, character varying(10)[].
func parseTypeName(name string) columnType {
	if inner, ok := strings.CutPrefix(name, "ARRAY<"); ok {
		inner, _, _ = strings.Cut(inner, ">(") // ARRAY<FLOAT32>(vector_length=>128)
		elem := parseTypeName(strings.TrimSuffix(inner, ">"))
		return columnType{Code: "ARRAY", Elem: &elem}
	}
	if before, _, ok := strings.Cut(name, "[]"); ok {
		elem := parseTypeName(before)
		return columnType{Code: "ARRAY", Elem: &elem}
	}
	name, _, _ = strings.Cut(name, "(")
	name, _, _ = strings.Cut(name, "<")
	if t, ok := postgresTypes[strings.TrimSpace(name)]; ok {
		return t
	}
	return columnType{Code: strings.ToUpper(strings.TrimSpace(name))}
}
