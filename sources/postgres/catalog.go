package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// catalog reads the system catalog while the stream runs, over a connection that it opens again when it was dropped. It
// keeps what it has read of types. Only conn is shared between goroutines; types belong to the goroutine of Next.
type catalog struct {
	config Config
	// busy holds an element while conn is used: a lock that can be waited for with a context.
	busy  chan struct{}
	conn  *pgx.Conn
	types map[uint32]catalogType
	// moneyChecked: the database writes money in hundredths.
	moneyChecked bool
}

func newCatalog(c Config, conn *pgx.Conn) *catalog {
	return &catalog{config: c, busy: make(chan struct{}, 1), conn: conn, types: map[uint32]catalogType{}}
}

// do runs fn with the connection. That it was dropped shows only when it is used, so fn may run twice.
func (c *catalog) do(ctx context.Context, fn func(*pgx.Conn) error) error {
	select {
	case c.busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.busy }()
	if !c.conn.IsClosed() {
		err := fn(c.conn)
		if err == nil || ctx.Err() != nil || !c.conn.IsClosed() {
			return err
		}
	}
	conn, err := connectSQL(ctx, c.config)
	if err != nil {
		return err
	}
	c.conn = conn
	return fn(c.conn)
}

func (c *catalog) close() error {
	c.busy <- struct{}{}
	defer func() { <-c.busy }()
	return closeConn(c.conn)
}

// walMeasure is what the server says of its log and of the slot. A field is -1 where the slot or the server has none.
type walMeasure struct {
	end            lsn
	retained, safe int64
}

// measureWAL reads where the server's log ends, what the slot keeps of it, and how much more it may keep.
func (c *catalog) measureWAL(ctx context.Context, slot string) (m walMeasure, err error) {
	var text string
	err = c.do(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT wal.at::text, coalesce(pg_wal_lsn_diff(wal.at, s.restart_lsn), -1)::bigint, coalesce(s.safe_wal_size, -1)
			FROM (SELECT pg_current_wal_flush_lsn() AS at) wal LEFT JOIN pg_replication_slots s ON s.slot_name = $1`, slot).
			Scan(&text, &m.retained, &m.safe)
	})
	if err != nil {
		return m, fmt.Errorf("measure the server's log: %w", err)
	}
	m.end, err = parseLSN(text)
	return m, err
}

// table reads a table as it is today; nil where it is gone.
func (c *catalog) table(ctx context.Context, oid uint32) (t *catalogTable, err error) {
	err = c.do(ctx, func(conn *pgx.Conn) error {
		t, err = readTable(ctx, conn, oid)
		return err
	})
	return t, err
}

// leaves reads the partitions of a partitioned table that hold rows.
func (c *catalog) leaves(ctx context.Context, root uint32) (leaves []*catalogTable, err error) {
	err = c.do(ctx, func(conn *pgx.Conn) error {
		leaves, err = queryTables(ctx, conn, tablesQuery+`
			AND c.relkind = 'r' AND c.oid IN (SELECT relid FROM pg_partition_tree($1::oid) WHERE isleaf)`, root)
		return err
	})
	return leaves, err
}

// lookup tells of a type that load has seen.
func (c *catalog) lookup(oid uint32) (catalogType, bool) {
	t, ok := c.types[oid]
	return t, ok && t.OID != 0
}

// load reads the types that are neither built in nor known, and those that they are made of. A type that is gone is kept as a
// zero catalogType.
func (c *catalog) load(ctx context.Context, oids []uint32) error {
	for {
		var missing []uint32
		for _, oid := range oids {
			if _, known := c.types[oid]; !known && !builtin(oid) {
				missing = append(missing, oid)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		var found []catalogType
		err := c.do(ctx, func(conn *pgx.Conn) (err error) {
			found, err = readTypes(ctx, conn, missing)
			return err
		})
		if err != nil {
			return fmt.Errorf("read types: %w", err)
		}
		for _, oid := range missing {
			c.types[oid] = catalogType{}
		}
		oids = oids[:0:0]
		for _, t := range found {
			c.types[t.OID] = t
			if t.Base != 0 {
				oids = append(oids, t.Base)
			}
			if t.Elem != 0 {
				oids = append(oids, t.Elem)
			}
		}
	}
}

func builtin(oid uint32) bool {
	if _, ok := builtinTypes[oid]; ok {
		return true
	}
	_, ok := builtinArrays[oid]
	return ok
}

func readTypes(ctx context.Context, conn *pgx.Conn, oids []uint32) ([]catalogType, error) {
	rows, err := conn.Query(ctx, `
		SELECT oid, format_type(oid, NULL), typtype::text, typcategory::text, typbasetype, typtypmod, typelem, typname::text,
			typdelim::text
		FROM pg_type WHERE oid = ANY($1::oid[])`, oids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (catalogType, error) {
		var t catalogType
		var kind, category, delim string
		err := row.Scan(&t.OID, &t.Name, &kind, &category, &t.Base, &t.BaseTypeMod, &t.Elem, &t.ExtName, &delim)
		if err == nil {
			t.Kind, t.Category, t.Delim = kind[0], category[0], delim[0]
		}
		return t, err
	})
}
