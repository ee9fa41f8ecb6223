package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// tables is about the capture's tables and the publication.
func (k *checker) tables(ctx context.Context) error {
	all, err := readTables(ctx, k.conn)
	if err != nil {
		return err
	}
	set, refused := findTables(all, k.o.Tables, k.o.Keys, k.config.Partitions)
	pub, err := readPublication(ctx, k.conn, k.config.Publication, k.o.Capture, k.found.version)
	if err != nil {
		return err
	}
	k.found.published = pub.exists
	if pub.exists {
		refused = append(refused, pub.hiding(set)...)
	}
	var holding []*catalogTable // rows, and so an identity of their own
	for _, t := range set.tables {
		if t.kind == kindPartitioned {
			holding = append(holding, t.leaves(all)...)
		} else {
			holding = append(holding, t)
		}
	}
	facts, err := readFacts(ctx, k.conn, slices.Concat(set.tables, set.names, holding))
	if err != nil {
		return err
	}
	failed := map[string]bool{}
	for _, r := range refused {
		failed[r.subject] = true
	}
	for _, t := range set.names {
		if !failed[t.subject()] {
			k.table(set, t)
		}
		for _, r := range refused {
			if r.subject == t.subject() {
				k.refusedTable(t, facts[t.oid], r.err)
			}
		}
	}
	for _, r := range refused {
		if !slices.ContainsFunc(set.names, func(t *catalogTable) bool { return t.subject() == r.subject }) {
			k.refuse(r.subject, r.err)
		}
	}
	for _, t := range holding {
		if !failed[t.subject()] && !t.identified() {
			k.unidentified(t, facts[t.oid], pub)
		}
	}
	if len(set.tables) > 0 {
		if err := k.publication(ctx, set, pub, facts); err != nil {
			return err
		}
		last := &k.findings[len(k.findings)-1]
		if last.Level == sources.Problem && slices.ContainsFunc(holding, func(t *catalogTable) bool { return !t.identified() }) {
			last.Remedy += "; only once the tables above have a replica identity, for the server refuses updates and deletes of one that has none"
		}
	}
	k.others(all, holding, pub)
	if k.o.Snapshot {
		return k.snapshot(ctx, set.names)
	}
	return nil
}

// facts are what a check asks of a table beyond what a capture needs to know.
type facts struct {
	oid uint32
	// owned: the role has its owner's rights. visible: it may use the schema.
	owned, visible bool
	// index is a unique one that can be a replica identity, or "".
	index string
	// written counts the updates and deletes since the statistics were last reset.
	written int64
}

func readFacts(ctx context.Context, conn *pgx.Conn, tables []*catalogTable) (map[uint32]facts, error) {
	oids := make([]uint32, len(tables))
	for i, t := range tables {
		oids[i] = t.oid
	}
	rows, err := conn.Query(ctx, `
		SELECT c.oid, pg_has_role(c.relowner, 'USAGE'), has_schema_privilege(c.relnamespace, 'USAGE'),
			coalesce((SELECT x.relname::text FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
				WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
					AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
						AND (NOT a.attnotnull OR a.attgenerated <> ''))
				ORDER BY i.indnkeyatts, 1 LIMIT 1), ''),
			pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid)
		FROM pg_class c WHERE c.oid = ANY ($1::oid[])`, oids)
	if err != nil {
		return nil, fmt.Errorf("read about the tables: %w", err)
	}
	all := map[uint32]facts{}
	var f facts
	_, err = pgx.ForEachRow(rows, []any{&f.oid, &f.owned, &f.visible, &f.index, &f.written}, func() error {
		all[f.oid] = f
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read about the tables: %w", err)
	}
	return all, nil
}

// identified tells whether the server can say which row an update or a delete is of. Where it cannot, it refuses both once
// the table is published.
func (t *catalogTable) identified() bool {
	switch t.identity {
	case identityDefault:
		return len(t.primaryKey) > 0
	case identityIndex:
		return len(t.identityIndex) > 0
	}
	return t.identity == identityFull
}

// table is about one that can be captured.
func (k *checker) table(set *tableSet, t *catalogTable) {
	key := set.keys[t.String()]
	switch {
	case len(key) > 0:
	case t.identity == identityIndex:
		key = t.identityIndex
	default:
		key = t.primaryKey
	}
	f := sources.Finding{Subject: t.subject(), Table: &sources.Table{Database: k.found.database, Schema: t.schema, Name: t.name}}
	for i, column := range key {
		f.Table.Columns = append(f.Table.Columns, sources.Column{Name: column})
		f.Table.Key = append(f.Table.Key, i)
	}
	f.Text = "key (" + strings.Join(key, ", ") + ")"
	switch {
	case len(key) == 0:
		f.Level = sources.Warning
		f.Text = "it has no key: its records have none and all go to one partition, and readers cannot fold them to a table; replica identity " +
			"full makes each update and delete log the whole old row"
		f.Remedy = fmt.Sprintf("name columns that tell its rows apart in the capture: keys: {%s: [COLUMN, ...]}", t)
	case t.identity == identityFull:
		f.Text += ", replica identity full: records have whole old rows, and each update and delete logs one"
	case t.identified():
		f.Text += ", records have of an old row only the key (REPLICA IDENTITY FULL would log the whole)"
	}
	k.findings = append(k.findings, f)
}

// refusedTable adds why a table cannot be captured, with the remedy that suits what it has.
func (k *checker) refusedTable(t *catalogTable, f facts, err error) {
	k.refuse(t.subject(), err)
	if !t.identified() && f.index != "" && t.uncapturable() == "" {
		k.findings[len(k.findings)-1].Remedy = t.useIndex(f)
	}
}

func (t *catalogTable) useIndex(f facts) string {
	return fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY USING INDEX %s;", t.quoted(), quoteIdent(f.index))
}

// unidentified is about a table whose updates and deletes fail once it is published. One that only ever gets inserts
// does not mind.
func (k *checker) unidentified(t *catalogTable, f facts, pub *publication) {
	remedy := fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL;", t.quoted())
	switch {
	case len(t.primaryKey) > 0:
		remedy = fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY DEFAULT; -- its primary key", t.quoted())
	case f.index != "":
		remedy = t.useIndex(f)
	}
	published := pub.exists && (pub.allTables || slices.ContainsFunc(append(t.ancestors, t.oid), func(oid uint32) bool {
		return slices.Contains(pub.members, oid) || slices.Contains(pub.published, oid)
	}))
	switch {
	case published:
		k.add(sources.Problem, t.subject(), remedy, "it has no replica identity, and publication %s holds it: the server refuses the "+
			"application's updates and deletes of it", pub.name)
		if f.written == 0 {
			k.findings[len(k.findings)-1].Level = sources.Warning
		}
	case f.written > 0:
		k.add(sources.Problem, t.subject(), remedy, "it has no replica identity and has had %d updates and deletes: once it is published, the "+
			"server would refuse the application's further ones", f.written)
		k.findings[len(k.findings)-1].Blocks = true
	default:
		k.add(sources.Warning, t.subject(), remedy, "it has no replica identity: once it is published, the server refuses updates and deletes of it")
	}
}

// publication is about what exists, and else whether the role may make it.
func (k *checker) publication(ctx context.Context, set *tableSet, pub *publication, facts map[uint32]facts) error {
	const subject = "publication"
	if !pub.exists {
		var may bool
		if err := k.conn.QueryRow(ctx, "SELECT has_database_privilege(current_database(), 'CREATE')").Scan(&may); err != nil {
			return fmt.Errorf("read the rights of the role: %w", err)
		}
		statements := pub.creation(set, k.o.Capture)
		if lacks := lacking(may, "CREATE on database "+k.found.database, set.tables, facts); lacks != nil {
			k.refuse(subject, pub.errMayNotMake(statements, k.found.user, k.found.database, lacks))
		} else {
			k.ok(subject, "%s does not exist; weft run makes it: %s", pub.name, strings.Join(statements, " "))
		}
		return nil
	}
	change := pub.change(set)
	switch {
	case len(change.statements) == 0:
		k.ok(subject, "%s holds the tables, and publishes all that is done to them", pub.name)
		return nil
	case !pub.ours:
		k.refuse(subject, pub.errNotOurs(change))
		return nil
	}
	var may bool
	err := k.conn.QueryRow(ctx, "SELECT coalesce((SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = $1), false)", pub.name).Scan(&may)
	if err != nil {
		return fmt.Errorf("read the rights of the role: %w", err)
	}
	if lacks := lacking(may, "ownership of publication "+pub.name, change.added, facts); lacks != nil {
		k.refuse(subject, pub.errMayNotChange(change, k.found.user, lacks))
	} else {
		k.ok(subject, "%s lacks %s; weft run changes it: %s", pub.name, strings.Join(change.lacks, " and "), strings.Join(change.statements, " "))
	}
	return nil
}

// lacking lists the rights that the role lacks to publish tables, and the one on the publication itself if it has not that.
func lacking(has bool, right string, tables []*catalogTable, facts map[uint32]facts) error {
	var lacks []string
	if !has {
		lacks = append(lacks, right)
	}
	for _, t := range tables {
		if usage := "USAGE on schema " + t.schema; !facts[t.oid].visible && !slices.Contains(lacks, usage) {
			lacks = append(lacks, usage)
		}
		if !facts[t.oid].owned {
			lacks = append(lacks, "ownership of "+t.String())
		}
	}
	if len(lacks) == 0 {
		return nil
	}
	return errors.New("it lacks " + strings.Join(lacks, ", "))
}

// others is about tables of others that a publication holds, as one FOR ALL TABLES does.
func (k *checker) others(all, ours []*catalogTable, pub *publication) {
	var names []string
	for _, t := range all {
		if t.kind == kindTable && slices.Contains(pub.published, t.oid) && !t.identified() && !slices.Contains(ours, t) {
			names = append(names, t.String())
		}
	}
	if len(names) == 0 {
		return
	}
	more := ""
	if len(names) > 5 {
		names, more = names[:5], fmt.Sprintf(" and %d more", len(names)-5)
	}
	k.add(sources.Problem, "publication", "name no publication in the capture's source, so that it makes one of its own tables alone; or give "+
		"those tables a replica identity", "%s holds tables that are not of this capture and have no replica identity, so that the server refuses "+
		"updates and deletes of them: %s%s", pub.name, strings.Join(names, ", "), more)
}
