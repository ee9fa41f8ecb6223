package postgres

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// Values of pg_class.relkind and relreplident.
const (
	kindTable       = 'r'
	kindPartitioned = 'p'
	kindView        = 'v'
	kindMatView     = 'm'
	kindForeign     = 'f'

	identityDefault = 'd'
	identityNothing = 'n'
	identityFull    = 'f'
	identityIndex   = 'i'
)

// catalogTable is a relation as the catalog shows it today.
type catalogTable struct {
	oid                         uint32
	schema, name                string
	kind, persistence, identity rune
	temporary                   bool
	// ancestors are the partitioned tables that it is a partition of, the nearest first.
	ancestors []uint32
	// primaryKey and identityIndex are columns in the order of the index; primaryKey is empty where the key is
	// deferrable and the identity is the default, since it is then no identity.
	primaryKey, identityIndex []string
	// columns are those that a publication carries, generated the stored generated ones, which it does not.
	columns, generated []string
}

func (t *catalogTable) String() string { return t.schema + "." + t.name }

// subject is that of a finding about the table.
func (t *catalogTable) subject() string { return "table " + t.String() }

func (t *catalogTable) quoted() string { return pgx.Identifier{t.schema, t.name}.Sanitize() }

const tablesQuery = `
	SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
		CASE WHEN c.relispartition THEN ARRAY(SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) WITH ORDINALITY a (relid, n)
			WHERE a.relid <> c.oid ORDER BY a.n) ELSE '{}' END,
		ARRAY(SELECT a.attname::text FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k (attnum, n), pg_attribute a
			WHERE i.indrelid = c.oid AND i.indisprimary AND (i.indimmediate OR c.relreplident <> 'd')
				AND a.attrelid = c.oid AND a.attnum = k.attnum AND k.n <= i.indnkeyatts ORDER BY k.n),
		ARRAY(SELECT a.attname::text FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k (attnum, n), pg_attribute a
			WHERE i.indrelid = c.oid AND i.indisreplident
				AND a.attrelid = c.oid AND a.attnum = k.attnum AND k.n <= i.indnkeyatts ORDER BY k.n),
		ARRAY(SELECT attname::text FROM pg_attribute
			WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum),
		ARRAY(SELECT attname::text FROM pg_attribute
			WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated <> '' ORDER BY attnum)
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')`

// readTables reads all that a pattern may name.
func readTables(ctx context.Context, conn *pgx.Conn) ([]*catalogTable, error) {
	return queryTables(ctx, conn, tablesQuery+` AND n.nspname NOT IN ('information_schema', 'pg_catalog', 'pg_toast')
		ORDER BY 2, 3`)
}

// readTable reads one table; nil where it is gone.
func readTable(ctx context.Context, conn *pgx.Conn, oid uint32) (*catalogTable, error) {
	tables, err := queryTables(ctx, conn, tablesQuery+` AND c.oid = $1`, oid)
	if err != nil || len(tables) == 0 {
		return nil, err
	}
	return tables[0], nil
}

func queryTables(ctx context.Context, conn *pgx.Conn, query string, args ...any) ([]*catalogTable, error) {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read the catalog's tables: %w", err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*catalogTable, error) {
		var t catalogTable
		var kind, persistence, identity string
		err := row.Scan(&t.oid, &t.schema, &t.name, &kind, &persistence, &identity, &t.ancestors, &t.primaryKey,
			&t.identityIndex, &t.columns, &t.generated)
		if err == nil {
			t.kind, t.persistence, t.identity = rune(kind[0]), rune(persistence[0]), rune(identity[0])
			t.temporary = t.persistence == 't'
		}
		return &t, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the catalog's tables: %w", err)
	}
	return tables, nil
}

// pattern is SCHEMA.TABLE; the schema ends at the first dot.
type pattern struct{ schema, table string }

func parsePattern(text string) (pattern, error) {
	schema, table, ok := strings.Cut(text, ".")
	if !ok || schema == "" || table == "" {
		example := "public.orders"
		if !ok && text != "" {
			example = "public." + text
		}
		return pattern{}, sources.Fatal("write it as SCHEMA.TABLE, such as "+example, "tables: %q names no schema and table", text)
	}
	return pattern{schema: schema, table: table}, nil
}

func (p pattern) matches(schema, table string) bool {
	return sources.MatchGlob(p.schema, schema) && sources.MatchGlob(p.table, table)
}

// literal says that the pattern can match one name only.
func (p pattern) literal() bool { return !strings.ContainsAny(p.schema+p.table, "*?") }

// tableSet is what a capture's patterns mean today.
type tableSet struct {
	patterns []pattern
	keys     map[string][]string
	mode     Partitions
	// tables are those that belong into the publication: a partitioned table stands for its partitions, future ones
	// included.
	tables []*catalogTable
	// names are those under which changes arrive: of tables, or of their leaves with PartitionsLeaves.
	names []*catalogTable
}

// refusal is why one of a capture's tables, or what names them, cannot be captured.
type refusal struct {
	subject string // of a finding
	err     error
}

// resolveTables finds the tables of a capture and refuses those that cannot be captured.
func resolveTables(all []*catalogTable, patterns []string, keys map[string][]string, mode Partitions) (*tableSet, error) {
	s, refused := findTables(all, patterns, keys, mode)
	if len(refused) > 0 {
		return nil, refused[0].err
	}
	return s, nil
}

// findTables finds the tables of a capture, and all that is to be refused of them.
func findTables(all []*catalogTable, patterns []string, keys map[string][]string, mode Partitions) (*tableSet, []refusal) {
	s := &tableSet{keys: keys, mode: mode}
	var refused []refusal
	refuse := func(subject string, err error) {
		if err != nil {
			refused = append(refused, refusal{subject: subject, err: err})
		}
	}
	chosen := map[uint32]*catalogTable{}
	for _, text := range patterns {
		p, err := parsePattern(text)
		if err != nil {
			refuse("tables", err)
			continue
		}
		s.patterns = append(s.patterns, p)
		found := false
		for _, t := range all {
			if !p.matches(t.schema, t.name) {
				continue
			}
			if why := t.uncapturable(); why != "" {
				// A glob means the tables that can have changes in the log; one that should and does not is refused all the same.
				if !p.literal() && t.persistence != 'u' {
					continue
				}
				refuse(t.subject(), t.errUncapturable(why))
			}
			found = true
			if t.uncapturable() == "" || t.persistence == 'u' { // which can be mended
				chosen[t.oid] = t
			}
		}
		if !found {
			refuse("tables", sources.Fatal("correct the capture's tables, or create the table (patterns are matched as written: names "+
				"are case-sensitive and need no quotes)", "tables: %q matches no table", text))
		}
	}
	s.take(chosen, all)
	if len(s.tables) == 0 && len(refused) == 0 {
		refuse("tables", sources.Fatal("name the tables to capture", "tables: the capture names none"))
	}
	s.checkPartitions(all, refuse)
	s.checkKeys(refuse)
	return s, refused
}

// today is what the same patterns mean in another look at the catalog. Unlike resolveTables it refuses nothing.
func (s *tableSet) today(all []*catalogTable) *tableSet {
	now := &tableSet{patterns: s.patterns, keys: s.keys, mode: s.mode}
	chosen := map[uint32]*catalogTable{}
	for _, t := range all {
		matched := slices.ContainsFunc(s.patterns, func(p pattern) bool { return p.matches(t.schema, t.name) })
		if matched && (t.uncapturable() == "" || t.persistence == 'u') {
			chosen[t.oid] = t
		}
	}
	now.take(chosen, all)
	return now
}

// take fills in tables and names.
func (s *tableSet) take(chosen map[uint32]*catalogTable, all []*catalogTable) {
	for _, t := range chosen {
		if !slices.ContainsFunc(t.ancestors, func(oid uint32) bool { return chosen[oid] != nil }) {
			s.tables = append(s.tables, t)
		}
	}
	slices.SortFunc(s.tables, func(a, b *catalogTable) int { return cmp.Compare(a.String(), b.String()) })
	for _, t := range s.tables {
		if t.kind != kindPartitioned || s.mode == PartitionsRoot {
			s.names = append(s.names, t)
			continue
		}
		s.names = append(s.names, t.leaves(all)...)
	}
}

// leaves are the partitions of a partitioned table that hold rows.
func (t *catalogTable) leaves(all []*catalogTable) (leaves []*catalogTable) {
	for _, leaf := range all {
		if leaf.kind == kindTable && slices.Contains(leaf.ancestors, t.oid) {
			leaves = append(leaves, leaf)
		}
	}
	return leaves
}

// checkPartitions compares the replica identity of partitions with that of their root.
func (s *tableSet) checkPartitions(all []*catalogTable, refuse func(subject string, err error)) {
	if s.mode != PartitionsRoot {
		return
	}
	for _, t := range s.tables {
		if t.kind != kindPartitioned {
			continue
		}
		for _, leaf := range t.leaves(all) {
			refuse(leaf.subject(), checkPartition(t, leaf))
		}
	}
}

// checkPartition: the server sends old rows under the root's identity and logs them under the partition's. With a full
// root above a partition that is not, columns that the log does not hold would arrive as nulls.
func checkPartition(root, leaf *catalogTable) error {
	if root.identity != identityFull || leaf.identity == identityFull {
		return nil
	}
	return sources.Fatal(fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL;", leaf.quoted()),
		"table %s has replica identity full, and its partition %s has not: old values would be missing", root, leaf)
}

// uncapturable says why a relation's changes are not in the log, or "".
func (t *catalogTable) uncapturable() string {
	switch {
	case t.kind == kindView:
		return "a view"
	case t.kind == kindMatView:
		return "a materialized view"
	case t.kind == kindForeign:
		return "a foreign table"
	case t.temporary:
		return "temporary"
	case t.persistence == 'u':
		return "unlogged"
	}
	return ""
}

func (t *catalogTable) errUncapturable(why string) error {
	remedy := "capture the tables beneath it instead"
	if t.persistence == 'u' {
		remedy = fmt.Sprintf("ALTER TABLE %s SET LOGGED; -- or take it out of the capture's tables", t.quoted())
	}
	return sources.Fatal(remedy, "table %s is %s: the server's log has no changes of it", t, why)
}

// check says why one table would be refused.
func (t *catalogTable) check(configured []string) error {
	if why := t.uncapturable(); why != "" {
		return t.errUncapturable(why)
	}
	return t.checkKey(configured)
}

// checkKeys refuses a table of which a change could not be told from another's.
func (s *tableSet) checkKeys(refuse func(subject string, err error)) {
	for _, t := range s.names {
		refuse(t.subject(), t.checkKey(s.keys[t.String()]))
	}
	for _, name := range slices.Sorted(maps.Keys(s.keys)) {
		if !slices.ContainsFunc(s.names, func(t *catalogTable) bool { return t.String() == name }) {
			refuse("keys", sources.Fatal("correct the capture's keys: they are named by SCHEMA.TABLE", "keys: %q is no table of the capture", name))
		}
	}
}

// checkKey looks at one table. A publication makes the server refuse updates and deletes of a table without a replica
// identity, so such a table must not get into it.
func (t *catalogTable) checkKey(configured []string) error {
	for _, column := range configured {
		switch {
		case slices.Contains(t.generated, column):
			return sources.Fatal("choose other columns", "keys: column %q of table %s is generated, and generated columns are not sent",
				column, t)
		case !slices.Contains(t.columns, column):
			return sources.Fatal("correct the capture's keys; the table's columns are "+strings.Join(t.columns, ", "),
				"keys: table %s has no column %q", t, column)
		}
	}
	carried := t.columns // by an old row
	switch t.identity {
	case identityDefault:
		carried = t.primaryKey
	case identityIndex:
		carried = t.identityIndex
	}
	if len(carried) == 0 {
		return t.errNoIdentity()
	}
	for _, column := range configured {
		if !slices.Contains(carried, column) {
			return sources.Fatal(fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL;", t.quoted()),
				"keys: column %q of table %s is not part of its replica identity: a delete would come without it", column, t)
		}
	}
	if len(configured) > 0 {
		return nil
	}
	if t.identity == identityNothing && len(t.primaryKey) == 0 {
		return sources.Fatal("name its key columns under the capture's keys, or add a primary key",
			"table %s has replica identity nothing and no primary key", t)
	}
	key := carried
	if t.identity == identityFull || t.identity == identityNothing {
		key = t.primaryKey
	}
	for _, column := range key {
		if slices.Contains(t.generated, column) {
			return sources.Fatal(fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL; -- and name its key columns under the capture's keys",
				t.quoted()), "key column %q of table %s is generated, and generated columns are not sent", column, t)
		}
	}
	return nil
}

func (t *catalogTable) errNoIdentity() error {
	const full = "ALTER TABLE %s REPLICA IDENTITY FULL; -- records then have no key, unless the table has a primary key or the " +
		"capture's keys name columns; better, where columns tell its rows apart: ALTER TABLE %[1]s ADD PRIMARY KEY (...); (a deferrable " +
		"one does not serve)"
	remedy := fmt.Sprintf(full, t.quoted())
	if t.identity != identityIndex {
		return sources.Fatal(remedy,
			"table %s has no replica identity: no primary key that can serve as one, and replica identity full is not set", t)
	}
	if len(t.primaryKey) > 0 {
		remedy = fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY DEFAULT; -- its primary key", t.quoted())
	}
	return sources.Fatal(remedy, "table %s has no replica identity: the index that was set as such was dropped", t)
}
