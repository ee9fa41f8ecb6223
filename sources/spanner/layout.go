package spanner

import (
	"context"
	"reflect"
	"slices"
	"strings"

	"weft/sources"
)

// layout is how a record's columns lie in its table.
type layout struct {
	table *sources.Table
	// names are those of the table's columns as JSON objects list them, sorted, each with its place in the table.
	names []namedColumn
	// absent is the state of a column that a record does not list or give.
	absent sources.State
}

type namedColumn struct {
	name string
	at   int
}

// find returns the place of a column. Servers write members sorted by name, so that hint, the place in names after the one
// found before, is mostly right.
func (l *layout) find(name []byte, hint int) (at, next int, ok bool) {
	for i := hint; i < len(l.names) && i < hint+2; i++ {
		if l.names[i].name == string(name) {
			return l.names[i].at, i + 1, true
		}
	}
	i, ok := slices.BinarySearchFunc(l.names, name, func(c namedColumn, name []byte) int { return strings.Compare(c.name, string(name)) })
	if !ok {
		return 0, hint, false
	}
	return l.names[i].at, i + 1, true
}

// tableState is what is known of a captured table.
type tableState struct {
	base    *sources.Table
	layouts map[string]*layout // by the signature of a record
}

// maxLayouts bounds tableState.layouts: updates list the columns that they change, in any combination.
const maxLayouts = 1024

// layouts finds the layout of records, and follows the schema. A stream's partitions are at different times of it.
type layouts struct {
	catalog *catalog
	tables  map[string]*tableState
	sig     []byte
}

func newLayouts(c *catalog) *layouts {
	l := &layouts{catalog: c, tables: map[string]*tableState{}}
	for name, t := range c.tables {
		l.tables[name] = &tableState{base: c.table(t), layouts: map[string]*layout{}}
	}
	return l
}

// of returns a record's layout, and nil for a table that is not captured.
func (l *layouts) of(ctx context.Context, r *dataRecord) (*layout, error) {
	t := l.tables[r.table]
	if t == nil {
		if !l.catalog.matches(r.table) {
			return nil, nil
		}
		t = &tableState{base: &sources.Table{}, layouts: map[string]*layout{}} // new since the catalog was read
	}
	l.sig = append(l.sig[:0], r.modType[0])
	for i := range r.columns {
		l.sig = append(append(l.sig, r.columns[i].name...), 0)
		for ct := &r.columns[i].typ; ct != nil; ct = ct.Elem {
			l.sig = append(append(append(l.sig, ct.Code...), ct.Annotation...), 0)
		}
	}
	if found := t.layouts[string(l.sig)]; found != nil {
		return found, nil
	}
	if !fits(t.base, r) {
		fresh := &catalog{client: l.catalog.client, stream: l.catalog.stream, patterns: l.catalog.patterns}
		if _, err := fresh.load(ctx); err != nil {
			return nil, err
		}
		l.catalog = fresh
		if base := fresh.merged(r); !reflect.DeepEqual(base, t.base) {
			t.base = base
			clear(t.layouts)
		}
	}
	l.tables[r.table] = t
	if len(t.layouts) >= maxLayouts {
		clear(t.layouts)
	}
	out := &layout{table: t.base, absent: sources.Unavailable}
	if r.modType == "INSERT" {
		out.absent = sources.Null // a column that an insert does not name
	}
	for i, c := range t.base.Columns {
		out.names = append(out.names, namedColumn{c.Name, i})
	}
	slices.SortFunc(out.names, func(a, b namedColumn) int { return strings.Compare(a.name, b.name) })
	t.layouts[string(l.sig)] = out
	return out, nil
}

// fits tells whether a record's columns are the table's, or some of them where an update lists those that it changes.
func fits(t *sources.Table, r *dataRecord) bool {
	for i := range r.columns {
		if !slices.ContainsFunc(t.Columns, func(c sources.Column) bool {
			return c.Name == r.columns[i].name && reflect.DeepEqual(c.Type, typeOf(&r.columns[i].typ))
		}) {
			return false
		}
	}
	return r.modType != "INSERT" || len(r.columns) == len(t.Columns)
}

// table makes the table that the catalog describes.
func (c *catalog) table(t *catalogTable) *sources.Table {
	out := &sources.Table{Database: c.database, Schema: t.schema, Name: t.name}
	for _, col := range t.columns {
		out.Columns = append(out.Columns, sources.Column{Name: col.name, Type: typeOf(&col.typ)})
	}
	for _, key := range t.key {
		if i := slices.IndexFunc(out.Columns, func(c sources.Column) bool { return c.Name == key }); i >= 0 {
			out.Key = append(out.Key, i)
		}
	}
	return out
}

// merged is the table as the catalog has it, with the columns and types that a record had at its own time.
func (c *catalog) merged(r *dataRecord) *sources.Table {
	known := c.tables[r.table]
	if known == nil { // dropped since
		known = &catalogTable{name: r.table}
		if schema, name, ok := strings.Cut(r.table, "."); ok {
			known.schema, known.name = schema, name
		}
		columns := slices.Clone(r.columns)
		slices.SortFunc(columns, func(a, b recordColumn) int { return int(a.ordinal - b.ordinal) })
		for _, col := range columns {
			if col.key {
				known.key = append(known.key, col.name)
			}
		}
	}
	merged := *known
	merged.columns = slices.Clone(known.columns)
	for _, col := range r.columns {
		i := slices.IndexFunc(merged.columns, func(c catalogColumn) bool { return c.name == col.name })
		if i < 0 {
			merged.columns = append(merged.columns, catalogColumn{col.name, col.typ})
		} else {
			merged.columns[i].typ = col.typ
		}
	}
	return c.table(&merged)
}
