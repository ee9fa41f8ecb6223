package postgres

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"weft/sources"
	"weft/sources/postgres/pgoutput"
)

// relation is a table as the stream last described it, made ready for its rows.
type relation struct {
	oid   uint32
	frame []byte // the Relation message, by which a repeated one is known
	// table is nil where the capture does not want the relation's changes.
	table *sources.Table
	// identity says of each column whether the old row of kind 'K' carries it.
	identity []bool
	// normalize are the columns whose values need it.
	normalize []int
	// Changes in the transaction with number tx.
	tx    uint64
	count int64
}

// countIn is the number of the next change in a transaction, from 1.
func (r *relation) countIn(tx uint64) int64 {
	if r.tx != tx {
		r.tx, r.count = tx, 0
	}
	r.count++
	return r.count
}

// relations keeps the relations of a stream. The last one used is kept aside: rows of one table tend to come together.
type relations struct {
	set     *tableSet
	catalog *catalog
	// database is in every Table.
	database string
	byOID    map[uint32]*relation
	last     *relation
}

func (rs *relations) find(oid uint32) (*relation, error) {
	if rs.last != nil && rs.last.oid == oid {
		return rs.last, nil
	}
	r := rs.byOID[oid]
	if r == nil {
		return nil, fmt.Errorf("a change of relation %d came before its description", oid)
	}
	rs.last = r
	return r, nil
}

// describe takes in a Relation message. One that repeats what is known changes nothing.
func (rs *relations) describe(ctx context.Context, data []byte) error {
	m, err := pgoutput.DecodeRelation(data)
	if err != nil {
		return err
	}
	if m.Namespace == "" {
		m.Namespace = "pg_catalog"
	}
	known := rs.byOID[m.OID]
	if known != nil && bytes.Equal(known.frame, data) && (m.Identity != identityFull || known.table == nil) {
		return nil
	}
	today, err := rs.catalog.table(ctx, m.OID)
	if err != nil {
		return fmt.Errorf("read table %s.%s: %w", m.Namespace, m.Name, err)
	}
	if err := rs.checkPartitions(ctx, today, m); err != nil {
		return err
	}
	if known != nil && bytes.Equal(known.frame, data) {
		return nil
	}
	r := &relation{oid: m.OID, frame: bytes.Clone(data)}
	if known != nil {
		r.tx, r.count = known.tx, known.count
	}
	if rs.wants(m, today) {
		if err := rs.compile(ctx, r, m, today); err != nil {
			return err
		}
	}
	rs.byOID[m.OID] = r
	rs.last = nil
	return nil
}

// wants says whether a relation's changes belong to the capture. A publication may hold more: one of somebody else's, or
// a table that the capture has since left out.
func (rs *relations) wants(m pgoutput.Relation, today *catalogTable) bool {
	ours := func(oid uint32) bool {
		return slices.ContainsFunc(rs.set.tables, func(t *catalogTable) bool { return t.oid == oid })
	}
	if ours(m.OID) || slices.ContainsFunc(rs.set.patterns, func(p pattern) bool { return p.matches(m.Namespace, m.Name) }) {
		return true
	}
	if today == nil {
		// A partition that was dropped since: whose it was cannot be told any more, and it must not be lost.
		return rs.set.mode == PartitionsLeaves && slices.ContainsFunc(rs.set.tables, func(t *catalogTable) bool {
			return t.kind == kindPartitioned
		})
	}
	return slices.ContainsFunc(today.ancestors, ours)
}

// checkPartitions looks at the partitions of a root with replica identity full each time the server describes it, as it
// does after a partition was added.
func (rs *relations) checkPartitions(ctx context.Context, today *catalogTable, m pgoutput.Relation) error {
	if today == nil || today.kind != kindPartitioned || m.Identity != identityFull {
		return nil
	}
	leaves, err := rs.catalog.leaves(ctx, today.oid)
	if err != nil {
		return fmt.Errorf("read the partitions of %s: %w", today, err)
	}
	for _, leaf := range leaves {
		if err := checkPartition(today, leaf); err != nil {
			return err
		}
	}
	return nil
}

func (rs *relations) compile(ctx context.Context, r *relation, m pgoutput.Relation, today *catalogTable) error {
	oids := make([]uint32, len(m.Columns))
	for i, c := range m.Columns {
		oids[i] = c.TypeOID
	}
	if err := rs.catalog.load(ctx, oids); err != nil {
		return err
	}
	t := &sources.Table{Database: rs.database, Schema: m.Namespace, Name: m.Name, Columns: make([]sources.Column, len(m.Columns))}
	r.identity = make([]bool, len(m.Columns))
	for i, c := range m.Columns {
		t.Columns[i] = sources.Column{Name: c.Name, Type: typeOf(c.TypeOID, c.TypeMod, rs.catalog)}
		r.identity[i] = c.Key
		if holdsMoney(c.TypeOID, rs.catalog) {
			if err := rs.catalog.checkMoney(ctx); err != nil {
				return fmt.Errorf("column %q of table %s: %w", c.Name, t, err)
			}
		}
		if needsNormalize(&t.Columns[i].Type) {
			r.normalize = append(r.normalize, i)
		}
	}
	key, err := rs.key(m, t, today)
	if err != nil {
		return err
	}
	t.Key = key
	r.table = t
	return nil
}

// key finds the key columns: the configured ones; else the replica identity's, as the stream tells them; else, where the identity is
// full or nothing and tells no key, the primary key that the table has today.
func (rs *relations) key(m pgoutput.Relation, t *sources.Table, today *catalogTable) ([]int, error) {
	names, from := rs.set.keys[t.String()], "the capture's keys name"
	if len(names) == 0 && m.Identity != identityFull && m.Identity != identityNothing {
		var key []int
		for i, c := range m.Columns {
			if c.Key {
				key = append(key, i)
			}
		}
		if len(key) == 0 {
			return nil, sources.Fatal("name its key columns under the capture's keys",
				"table %s has no key at this place of the stream: it has no primary key, or its primary key was dropped", t)
		}
		return key, nil
	}
	if len(names) == 0 && today != nil {
		names, from = today.primaryKey, "its primary key has"
	}
	key := make([]int, 0, len(names))
	for _, name := range names {
		i := slices.IndexFunc(t.Columns, func(c sources.Column) bool { return c.Name == name })
		if i < 0 {
			return nil, sources.Fatal("name columns under the capture's keys that the table has at this place of the stream: "+
				columnNames(t), "table %s: %s column %q, which its changes do not have", t, from, name)
		}
		key = append(key, i)
	}
	return key, nil
}

func columnNames(t *sources.Table) string {
	var b bytes.Buffer
	for i, c := range t.Columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(c.Name)
	}
	return b.String()
}
