package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// publication is a publication as it is, and what the capture needs it to be.
type publication struct {
	name      string
	exists    bool
	ours      bool // made by this capture
	allTables bool
	viaRoot   bool
	// everything says that inserts, updates, deletes and truncates are published.
	everything bool
	// members are listed in it themselves; published are the tables under whose names changes arrive.
	members, published []uint32
	// schemas are published as a whole, since PostgreSQL 15.
	schemas []string
	// narrowed has a row filter or a column list, since PostgreSQL 15.
	narrowed []uint32
}

// mark is the comment by which a publication is known to be ours.
func mark(capture string) string { return "made by weft for capture " + capture }

func readPublication(ctx context.Context, conn *pgx.Conn, name, capture string, version int) (*publication, error) {
	p := publication{name: name}
	var oid uint32
	var comment string
	err := conn.QueryRow(ctx, `
		SELECT oid, puballtables, pubviaroot, pubinsert AND pubupdate AND pubdelete AND pubtruncate,
			coalesce(obj_description(oid, 'pg_publication'), '')
		FROM pg_publication WHERE pubname = $1`, name).Scan(&oid, &p.allTables, &p.viaRoot, &p.everything, &comment)
	if errors.Is(err, pgx.ErrNoRows) {
		return &p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read publication %s: %w", name, err)
	}
	p.exists = true
	p.ours = comment == mark(capture)
	schemas, narrowed := "'{}'::text[]", "'{}'::oid[]"
	if version >= 150000 {
		schemas = "ARRAY(SELECT n.nspname::text FROM pg_publication_namespace s JOIN pg_namespace n ON n.oid = s.pnnspid WHERE s.pnpubid = $1)"
		narrowed = "ARRAY(SELECT prrelid FROM pg_publication_rel WHERE prpubid = $1 AND (prqual IS NOT NULL OR prattrs IS NOT NULL))"
	}
	err = conn.QueryRow(ctx, `
		SELECT ARRAY(SELECT prrelid FROM pg_publication_rel WHERE prpubid = $1),
			ARRAY(SELECT t.relid FROM pg_get_publication_tables($2) t), `+schemas+", "+narrowed, oid, name).
		Scan(&p.members, &p.published, &p.schemas, &p.narrowed)
	if err != nil {
		return nil, fmt.Errorf("read the tables of publication %s: %w", name, err)
	}
	return &p, nil
}

// lacking are the tables that must be added.
func (p *publication) lacking(s *tableSet) []*catalogTable {
	if p.allTables {
		return nil
	}
	var missing []*catalogTable
	for _, t := range s.tables {
		listed := slices.Contains(p.members, t.oid) || slices.Contains(p.schemas, t.schema)
		if s.mode == PartitionsLeaves && t.kind == kindPartitioned && !listed {
			// Listing every leaf is as good, where it is somebody else's list.
			listed = true
			some := false
			for _, leaf := range s.names {
				if slices.Contains(leaf.ancestors, t.oid) {
					some = true
					listed = listed && slices.Contains(p.published, leaf.oid)
				}
			}
			listed = listed && some
		}
		if !listed && (t.kind == kindPartitioned || !slices.Contains(p.published, t.oid)) {
			missing = append(missing, t)
		}
	}
	return missing
}

// check refuses what would hide changes.
func (p *publication) check(s *tableSet) error {
	if refused := p.hiding(s); len(refused) > 0 {
		return refused[0].err
	}
	return nil
}

// hiding is all that would hide changes.
func (p *publication) hiding(s *tableSet) (refused []refusal) {
	seen := map[uint32]bool{} // a table is in tables, and under its name in names
	for _, t := range slices.Concat(s.tables, s.names) {
		if seen[t.oid] {
			continue
		}
		seen[t.oid] = true
		if slices.Contains(p.narrowed, t.oid) {
			refused = append(refused, refusal{t.subject(), sources.Fatal(fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s; ALTER PUBLICATION %[1]s ADD TABLE %[2]s;",
				quoteIdent(p.name), t.quoted()), "publication %s has a row filter or a column list for table %s, which hides changes", p.name, t)})
			continue
		}
		if s.mode != PartitionsRoot || slices.Contains(p.published, t.oid) {
			continue
		}
		if slices.ContainsFunc(t.ancestors, func(root uint32) bool { return p.allTables || slices.Contains(p.published, root) }) {
			refused = append(refused, refusal{t.subject(), sources.Fatal("capture the partitioned table, set partitions: leaves, or use a publication of its own",
				"publication %s publishes the changes of partition %s under the name of its partitioned table", p.name, t)})
		}
	}
	return refused
}

func (s *tableSet) options() string {
	return fmt.Sprintf("publish = 'insert, update, delete, truncate', publish_via_partition_root = %t", s.mode == PartitionsRoot)
}

func tableList(tables []*catalogTable) string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.quoted()
	}
	return strings.Join(names, ", ")
}

// tableNames is for people.
func tableNames(tables []*catalogTable) string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.String()
	}
	if len(names) == 1 {
		return "table " + names[0]
	}
	return "tables " + strings.Join(names, ", ")
}

// publicationChange is what an existing publication needs to become what the capture needs.
type publicationChange struct {
	statements []string
	lacks      []string        // what they are for
	added      []*catalogTable // that they add
}

func (p *publication) change(s *tableSet) (c publicationChange) {
	name := quoteIdent(p.name)
	if !p.everything || p.viaRoot != (s.mode == PartitionsRoot) {
		c.statements = append(c.statements, fmt.Sprintf("ALTER PUBLICATION %s SET (%s);", name, s.options()))
		c.lacks = append(c.lacks, "options that the capture needs")
	}
	if c.added = p.lacking(s); len(c.added) > 0 {
		c.statements = append(c.statements, fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s;", name, tableList(c.added)))
		c.lacks = append(c.lacks, tableNames(c.added))
	}
	return c
}

// remedy is for somebody who may make the change.
func (c publicationChange) remedy() string {
	return strings.Join(c.statements, " ") + " -- as its owner, who must own the tables too, or as a superuser"
}

// errNotOurs: what others made is not changed.
func (p *publication) errNotOurs(c publicationChange) error {
	return sources.Fatal(c.remedy(), "publication %s exists, was not made by this capture and lacks %s", p.name, strings.Join(c.lacks, " and "))
}

func (p *publication) errMayNotChange(c publicationChange, user string, cause error) error {
	return sources.Fatal(c.remedy(), "publication %s exists and lacks %s, and role %q may not change it: %w", p.name,
		strings.Join(c.lacks, " and "), user, cause)
}

// creation makes a publication, with the mark by which it is known to be ours.
func (p *publication) creation(s *tableSet, capture string) []string {
	name := quoteIdent(p.name)
	return []string{
		fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s WITH (%s);", name, tableList(s.tables), s.options()),
		fmt.Sprintf("COMMENT ON PUBLICATION %s IS '%s';", name, mark(capture)),
	}
}

func (p *publication) errMayNotMake(statements []string, user, database string, cause error) error {
	return sources.Fatal(fmt.Sprintf("%s -- as a superuser, or as an owner of the tables who has CREATE on the database; or give role %s both: "+
		"GRANT CREATE ON DATABASE %s TO %[2]s; and ownership of the tables (ALTER TABLE ... OWNER TO %[2]s;)",
		strings.Join(statements, " "), quoteIdent(user), quoteIdent(database)),
		"role %q may not make publication %s: %w", user, p.name, cause)
}

// ensurePublication makes the publication, or changes the one that this capture made, or refuses one of somebody else's
// that does not serve. It never publishes more than the capture's tables.
func ensurePublication(ctx context.Context, conn *pgx.Conn, p *publication, s *tableSet, capture string, log hclog.Logger) error {
	if !p.exists {
		return makePublication(ctx, conn, p, s, capture, log)
	}
	change := p.change(s)
	added := change.added
	if len(change.statements) == 0 {
		return nil
	}
	if !p.ours {
		return p.errNotOurs(change)
	}
	warnOfIdentities(added, log)
	if err := runPublication(ctx, conn, change.statements); codeOf(err) == codeNoRight {
		return p.errMayNotChange(change, conn.Config().User, err)
	} else if err != nil {
		return fmt.Errorf("change publication %s: %w", p.name, err)
	}
	log.Info("changed the publication", "statements", strings.Join(change.statements, " "))
	if len(added) == 0 {
		return nil
	}
	// Where changes are written from now on. It is read after the commit: nothing that is missed is behind it.
	var at string
	if err := conn.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&at); err != nil {
		return fmt.Errorf("read the end of the log: %w", err)
	}
	for _, t := range added {
		log.Warn("added table " + t.String() + " to publication " + p.name + ": what was written to it before " + at + " comes only with a snapshot")
	}
	return nil
}

func makePublication(ctx context.Context, conn *pgx.Conn, p *publication, s *tableSet, capture string, log hclog.Logger) error {
	statements := p.creation(s, capture)
	warnOfIdentities(s.tables, log)
	if err := runPublication(ctx, conn, statements); codeOf(err) == codeNoRight {
		return p.errMayNotMake(statements, conn.Config().User, conn.Config().Database, err)
	} else if err != nil {
		return fmt.Errorf("make publication %s: %w", p.name, err)
	}
	log.Info("made the publication", "statements", strings.Join(statements, " "))
	return nil
}

func warnOfIdentities(added []*catalogTable, log hclog.Logger) {
	for _, t := range added {
		if t.identity == identityNothing {
			log.Warn("the server refuses updates and deletes of a published table with replica identity nothing", "table", t.String())
		}
	}
}

// runPublication runs the statements in one transaction, so that a publication never lacks its mark.
func runPublication(ctx context.Context, conn *pgx.Conn, statements []string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, statement := range statements {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
}
