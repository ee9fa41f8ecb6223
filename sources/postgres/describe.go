package postgres

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"weft/sources"
	"weft/sources/postgres/pgoutput"
	"weft/sources/postgres/visibility"
)

// rowTable is a table made ready for reading its rows. It stays as it is; when the table changes, another takes its place.
type rowTable struct {
	oid       uint32
	signature string // of what the catalog held, to tell whether it has changed
	table     *sources.Table
	normalize []int
	quoted    string // the name for SQL
	from      string // and as what is read from: without children, whose changes have names of their own
	columns   string // for SELECT
	key       keyOrder
	// joined: a read must see all transactions before this one, since what they wrote before the table got into the
	// publication is not in the stream. Zero for none.
	joined uint64
	// rowBytes is about the size of a row, 0 before the first chunk.
	rowBytes atomic.Int64
}

// signatureOf is a query for all that a description hangs on, with the table's OID.
const signatureOf = `(SELECT concat_ws('/', c.relnamespace, c.relname, c.relkind, c.relreplident,
	(SELECT string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod, attnotnull, attgenerated), ',' ORDER BY attnum)
		FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
	(SELECT string_agg(concat_ws(' ', indexrelid, indisprimary, indisreplident, indisvalid, indisunique, indimmediate), ',' ORDER BY indexrelid)
		FROM pg_index WHERE indrelid = c.oid)) FROM pg_class c WHERE c.oid = %d)`

// described returns the table's description, and makes it where there is none.
func (r *rowReader) described(ctx context.Context, name string) (*rowTable, error) {
	r.mu.Lock()
	t := r.tables[name]
	r.mu.Unlock()
	if t != nil {
		return t, nil
	}
	return r.describe(ctx, name, nil)
}

// describe reads the catalog, unless that has been done since old was made.
func (r *rowReader) describe(ctx context.Context, name string, old *rowTable) (*rowTable, error) {
	r.describing.Lock()
	defer r.describing.Unlock()
	r.mu.Lock()
	t := r.tables[name]
	r.mu.Unlock()
	if t != nil && t != old {
		return t, nil
	}
	today, err := r.find(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("read about table %s: %w", name, err)
	}
	if today == nil {
		return nil, errGone(name)
	}
	if t, err = r.compile(ctx, today); err != nil {
		return nil, err
	}
	if old != nil && old.oid == t.oid {
		t.rowBytes.Store(old.rowBytes.Load())
		t.joined = old.joined
		if reflect.DeepEqual(old.table, t.table) {
			t.table = old.table
		}
	} else if t.joined, err = r.findJoined(ctx, today); err != nil {
		return nil, err
	}
	if !t.key.indexed && len(t.table.Key) > 0 {
		r.log.Warn("no index has the key columns of table " + name + " in front: each chunk of a snapshot sorts the whole table")
	}
	r.mu.Lock()
	r.tables[name] = t
	r.mu.Unlock()
	return t, nil
}

// find looks a table up by the name under which its changes come. A name with several dots may be that of several tables.
func (r *rowReader) find(ctx context.Context, name string) (found *catalogTable, err error) {
	err = r.catalog.do(ctx, func(conn *pgx.Conn) error {
		tables, err := queryTables(ctx, conn, tablesQuery+` AND n.nspname::text || '.' || c.relname::text = $1`, name)
		if err != nil {
			return err
		}
		for _, t := range tables {
			if t.uncapturable() == "" && r.relations.wants(pgoutput.Relation{OID: t.oid, Namespace: t.schema, Name: t.name}, t) {
				found = t
			}
		}
		return nil
	})
	return found, err
}

// column is a row of pg_attribute.
type column struct {
	name, typeName string
	typeOID        uint32
	typeMod        int32
	notNull        bool
}

// compile makes of the catalog what relation.compile makes of the stream's Relation message, through the same code.
func (r *rowReader) compile(ctx context.Context, today *catalogTable) (*rowTable, error) {
	t := &rowTable{oid: today.oid, quoted: today.quoted(), from: "ONLY " + today.quoted()}
	if today.kind == kindPartitioned {
		t.from = today.quoted()
	}
	var columns []column
	var orders []indexOrder
	err := r.catalog.do(ctx, func(conn *pgx.Conn) (err error) {
		// First, so that what changes meanwhile shows.
		if err := conn.QueryRow(ctx, "SELECT coalesce("+fmt.Sprintf(signatureOf, today.oid)+", '')").Scan(&t.signature); err != nil {
			return err
		}
		if columns, err = r.readColumns(ctx, conn, today.oid); err != nil {
			return err
		}
		orders, err = readIndexOrders(ctx, conn, today.oid)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read about table %s: %w", today, err)
	}
	m := pgoutput.Relation{OID: today.oid, Namespace: today.schema, Name: today.name, Identity: byte(today.identity)}
	var identity []string
	switch today.identity {
	case identityDefault:
		identity = today.primaryKey
	case identityIndex:
		identity = today.identityIndex
	}
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = quoteIdent(c.name)
		m.Columns = append(m.Columns, pgoutput.RelationColumn{Name: c.name, TypeOID: c.typeOID, TypeMod: c.typeMod,
			Key: today.identity == identityFull || slices.Contains(identity, c.name)})
	}
	var rel relation
	if err := r.relations.compile(ctx, &rel, m, today); err != nil {
		return nil, err
	}
	t.table, t.normalize, t.columns = rel.table, rel.normalize, strings.Join(names, ", ")
	if len(t.table.Key) > 0 {
		if t.key, err = r.orderKey(ctx, t.table, columns, orders); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// readColumns reads the columns that the stream carries. The stored generated ones are among them only where a publication
// of PostgreSQL 18 says so.
func (r *rowReader) readColumns(ctx context.Context, conn *pgx.Conn, oid uint32) ([]column, error) {
	rows, err := conn.Query(ctx, `
		SELECT attname::text, format_type(atttypid, -1), atttypid, atttypmod, attnotnull FROM pg_attribute
		WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND (attgenerated = '' OR attgenerated = 's' AND EXISTS (
			SELECT FROM pg_publication p WHERE pubname = $2 AND to_jsonb(p) ->> 'pubgencols' = 's'))
		ORDER BY attnum`, oid, r.config.Publication)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (c column, err error) {
		err = row.Scan(&c.name, &c.typeName, &c.typeOID, &c.typeMod, &c.notNull)
		return c, err
	})
}

// findJoined looks when the table got into the publication. If that was after the slot was made, transactions may run that
// wrote to the table before, and that the stream will bring without those changes: a read must wait until they have ended.
// All that write now count, since their number is not kept anywhere. The slot itself was made only when older ones had ended.
// A publication of all tables or of a schema, which somebody else has made, has no such row.
func (r *rowReader) findJoined(ctx context.Context, today *catalogTable) (joined uint64, err error) {
	err = r.catalog.do(ctx, func(conn *pgx.Conn) error {
		var rows []string
		err := conn.QueryRow(ctx, `
			SELECT ARRAY(SELECT p.xmin::text FROM pg_publication p WHERE pubname = $1
				UNION ALL SELECT r.xmin::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
				WHERE pubname = $1 AND prrelid = ANY ($2::oid[]))`, r.config.Publication, append([]uint32{today.oid}, today.ancestors...)).Scan(&rows)
		if err != nil {
			return err
		}
		s, err := readSnapshot(ctx, conn)
		if err != nil {
			return err
		}
		for _, row := range rows {
			xid, err := strconv.ParseUint(row, 10, 32)
			if err != nil {
				return err
			}
			if visibility.Widen(uint32(xid), s.Xmax) >= r.position.Since && joined == 0 {
				if joined, err = assignXID(ctx, conn); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read when table %s got into the publication: %w", today, err)
	}
	return joined, nil
}
