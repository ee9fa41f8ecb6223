package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// snapshot is about reading the tables: whether the role may, may mark a place in the log, and sees all rows.
func (k *checker) snapshot(ctx context.Context, tables []*catalogTable) error {
	var may bool
	err := k.conn.QueryRow(ctx, `SELECT coalesce(bool_and(has_function_privilege(oid, 'EXECUTE')), false) FROM pg_proc
		WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace AND proargtypes[2] = 'text'::regtype`).Scan(&may)
	if err != nil {
		return fmt.Errorf("read the rights of the role: %w", err)
	}
	if !may {
		k.refuse("role", sources.Fatal(grantMark(k.found.user, k.found.version), "a snapshot marks places in the server's log, and %s may not execute "+
			"pg_logical_emit_message", k.found.user))
	}
	oids := make([]uint32, len(tables))
	for i, t := range tables {
		oids[i] = t.oid
	}
	type rights struct{ schema, read, hidden bool }
	found := map[uint32]rights{}
	rows, err := k.conn.Query(ctx, `SELECT c.oid, has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),
		row_security_active(c.oid) FROM pg_class c WHERE c.oid = ANY ($1::oid[])`, oids)
	if err != nil {
		return fmt.Errorf("read the rights of the role: %w", err)
	}
	var oid uint32
	var r rights
	_, err = pgx.ForEachRow(rows, []any{&oid, &r.schema, &r.read, &r.hidden}, func() error {
		found[oid] = r
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the rights of the role: %w", err)
	}
	for _, t := range tables {
		r, there := found[t.oid]
		if !there {
			continue // it was dropped meanwhile
		}
		if lacks, remedy := t.unreadable(k.found.user, r.schema, r.read, r.hidden); len(lacks) > 0 {
			k.refuse(t.subject(), sources.Fatal(remedy, "a snapshot reads it, and %s %s", k.found.user, strings.Join(lacks, ", ")))
		}
	}
	return nil
}

// unreadable says what keeps a role from reading all rows of a table, and what mends it.
func (t *catalogTable) unreadable(user string, schema, read, hidden bool) (lacks []string, remedy string) {
	if !schema {
		lacks = append(lacks, "may not use schema "+t.schema)
		remedy += fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s; ", quoteIdent(t.schema), quoteIdent(user))
	}
	if !read {
		lacks = append(lacks, "has no SELECT on it")
		remedy += fmt.Sprintf("GRANT SELECT ON TABLE %s TO %s; ", t.quoted(), quoteIdent(user))
	}
	if hidden {
		lacks = append(lacks, "is subject to row security policies that may hide rows")
		remedy += fmt.Sprintf("ALTER ROLE %s BYPASSRLS; ", quoteIdent(user))
	}
	return lacks, strings.TrimSuffix(remedy, " ")
}
