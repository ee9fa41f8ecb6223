package postgres

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// keyOrder is the order in which a table is paged through: that of an index on its key columns, where there is one.
type keyOrder struct {
	columns []keyColumn
	indexed bool
	// unique: no two rows have the same key. The columns of a configured key need not be unique.
	unique bool
	// rows: one operator serves all columns and none may be null, so that rows can be compared as such.
	rows bool
}

// keyColumn is a key column at its place in the order.
type keyColumn struct {
	index    int    // in Table.Columns
	name     string // for JSON
	expr     string // for SQL, with the collation where it is not the column's
	nullable bool
	typeOID  uint32
	typeName string
	ops      operators
}

// operators are those of the order, as OPERATOR(schema.name): the session's search path has pg_catalog alone, where an
// extension's type such as citext would be compared as the text that it can be cast to.
type operators struct{ less, lessEqual, equal, greater string }

// operatorsOf selects those of a pg_opclass o.
const operatorsOf = ` (SELECT array_agg(format('OPERATOR(%I.%s)', n.nspname, r.oprname) ORDER BY p.amopstrategy)
	FROM pg_amop p JOIN pg_operator r ON r.oid = p.amopopr JOIN pg_namespace n ON n.oid = r.oprnamespace
	WHERE p.amopfamily = o.opcfamily AND p.amoplefttype = o.opcintype AND p.amoprighttype = o.opcintype AND p.amopstrategy IN (1, 2, 3, 5))`

func operatorsFrom(list []string) (o operators, ok bool) {
	if len(list) != 4 {
		return o, false
	}
	return operators{less: list[0], lessEqual: list[1], equal: list[2], greater: list[3]}, true
}

// indexOrder is a btree index as an order of columns.
type indexOrder struct {
	unique, ascending bool
	columns           []string
	collations        []string // for SQL, with COLLATE; empty for the column's own
	operators         []operators
}

func readIndexOrders(ctx context.Context, conn *pgx.Conn, oid uint32) ([]indexOrder, error) {
	rows, err := conn.Query(ctx, `
		SELECT i.indexrelid, i.indisunique, k.option = 0, a.attname::text,
			CASE WHEN k.coll <> 0 AND k.coll <> a.attcollation THEN
				(SELECT format(' COLLATE %I.%I', n.nspname, l.collname) FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
				WHERE l.oid = k.coll) ELSE '' END,`+operatorsOf+`
		FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam AND m.amname = 'btree',
			unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[], i.indoption::int2[])
				WITH ORDINALITY k (attnum, opclass, coll, option, n)
			JOIN pg_attribute a ON a.attnum = k.attnum JOIN pg_opclass o ON o.oid = k.opclass
		WHERE i.indrelid = $1 AND a.attrelid = $1 AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND k.n <= i.indnkeyatts
		ORDER BY i.indisprimary DESC, i.indisunique DESC, i.indexrelid, k.n`, oid)
	if err != nil {
		return nil, err
	}
	var all []indexOrder
	var last, index uint32
	var unique, ascending bool
	var name, collation string
	var ops []string
	_, err = pgx.ForEachRow(rows, []any{&index, &unique, &ascending, &name, &collation, &ops}, func() error {
		four, ok := operatorsFrom(ops)
		if !ok {
			return fmt.Errorf("the operator class of column %q in an index lacks operators", name)
		}
		if index != last {
			last = index
			all = append(all, indexOrder{unique: unique, ascending: true})
		}
		o := &all[len(all)-1]
		o.ascending = o.ascending && ascending
		o.columns = append(o.columns, name)
		o.collations = append(o.collations, collation)
		o.operators = append(o.operators, four)
		return nil
	})
	return all, err
}

// orderKey chooses the order. columns are those of the table, in its order.
func (r *rowReader) orderKey(ctx context.Context, t *sources.Table, columns []column, orders []indexOrder) (k keyOrder, err error) {
	var best *indexOrder
	sameColumns := func(names []string) bool {
		return len(names) == len(t.Key) && !slices.ContainsFunc(t.Key, func(i int) bool { return !slices.Contains(names, t.Columns[i].Name) })
	}
	for i := range orders {
		o := &orders[i]
		if o.unique && sameColumns(o.columns) {
			k.unique = true
		}
		if best == nil && o.ascending && len(o.columns) >= len(t.Key) && sameColumns(o.columns[:len(t.Key)]) {
			best, k.indexed = o, true
		}
	}
	if best == nil {
		best = &indexOrder{}
		for _, i := range t.Key {
			ops, err := r.defaultOperators(ctx, t, columns[i])
			if err != nil {
				return k, err
			}
			best.columns = append(best.columns, columns[i].name)
			best.collations = append(best.collations, "")
			best.operators = append(best.operators, ops)
		}
	}
	k.rows = true
	for n, name := range best.columns[:len(t.Key)] {
		i := slices.IndexFunc(columns, func(c column) bool { return c.name == name })
		c := keyColumn{index: i, name: name, expr: quoteIdent(name) + best.collations[n], nullable: !columns[i].notNull,
			typeOID: columns[i].typeOID, typeName: columns[i].typeName, ops: best.operators[n]}
		k.rows = k.rows && !c.nullable && c.ops == best.operators[0]
		k.unique = k.unique && !c.nullable
		k.columns = append(k.columns, c)
	}
	return k, nil
}

// defaultOperators are those by which the server sorts values of a column's type.
func (r *rowReader) defaultOperators(ctx context.Context, t *sources.Table, c column) (operators, error) {
	var ops []string
	err := r.catalog.do(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			WITH RECURSIVE base (oid) AS (SELECT $1::oid UNION ALL
				SELECT y.typbasetype FROM base JOIN pg_type y ON y.oid = base.oid WHERE y.typtype = 'd')
			SELECT coalesce((SELECT`+operatorsOf+` FROM base JOIN pg_type y ON y.oid = base.oid JOIN pg_opclass o ON o.opcintype IN (y.oid,
					CASE WHEN y.typcategory = 'A' THEN 'anyarray'::regtype WHEN y.oid = 'varchar'::regtype THEN 'text'::regtype
					WHEN y.typtype = 'e' THEN 'anyenum'::regtype WHEN y.typtype = 'r' THEN 'anyrange'::regtype
					WHEN y.typtype = 'm' THEN 'anymultirange'::regtype WHEN y.typtype = 'c' THEN 'record'::regtype END)
				JOIN pg_am m ON m.oid = o.opcmethod AND m.amname = 'btree'
				WHERE y.typtype <> 'd' AND o.opcdefault ORDER BY o.opcintype = y.oid DESC LIMIT 1), '{}')`, c.typeOID).Scan(&ops)
	})
	if err != nil {
		return operators{}, fmt.Errorf("read the order of column %q of table %s: %w", c.name, t, err)
	}
	four, ok := operatorsFrom(ops)
	if !ok {
		return operators{}, sources.Fatal("name other columns under the capture's keys",
			"table %s cannot be read in the order of its key: column %q is of type %s, which has no order", t, c.name, c.typeName)
	}
	return four, nil
}

// query is a statement and its parameters, in text form.
type query struct {
	text   []byte
	values [][]byte
	oids   []uint32
}

func (q *query) add(text ...string) {
	for _, t := range text {
		q.text = append(q.text, t...)
	}
}

func (q *query) param(value []byte, oid uint32) string {
	q.values = append(q.values, value)
	q.oids = append(q.oids, oid)
	return "$" + strconv.Itoa(len(q.values))
}

// after adds the condition that a row's key is above another's. Nulls are above all else, as an index has them.
func (q *query) after(k keyOrder, key [][]byte) {
	if k.rows {
		q.compareRows(k, k.columns[0].ops.greater, key)
		return
	}
	// a > $1 OR a = $1 AND (b > $2 OR b = $2 AND ...), with a bound for the index in front.
	params := make([]string, len(key))
	for i, c := range k.columns {
		if key[i] != nil {
			params[i] = q.param(key[i], c.typeOID)
		}
	}
	if first := k.columns[0]; !first.nullable {
		q.add("NOT ", first.expr, " ", first.ops.less, " ", params[0], " AND ")
	}
	for i, c := range k.columns {
		switch {
		case key[i] == nil:
			q.add("(FALSE")
		case c.nullable:
			q.add("(", c.expr, " IS NULL OR ", c.expr, " ", c.ops.greater, " ", params[i])
		default:
			q.add("(", c.expr, " ", c.ops.greater, " ", params[i])
		}
		if i == len(key)-1 {
			break
		}
		if key[i] == nil {
			q.add(" OR ", c.expr, " IS NULL AND ")
		} else {
			q.add(" OR ", c.expr, " ", c.ops.equal, " ", params[i], " AND ")
		}
	}
	q.add(strings.Repeat(")", len(key)))
}

// until adds the condition that a row's key is not above another's.
func (q *query) until(k keyOrder, key [][]byte) {
	if k.rows {
		q.compareRows(k, k.columns[0].ops.lessEqual, key)
		return
	}
	q.add("(")
	q.after(k, key)
	q.add(") IS NOT TRUE")
}

func (q *query) compareRows(k keyOrder, op string, key [][]byte) {
	q.add("(")
	for i, c := range k.columns {
		if i > 0 {
			q.add(", ")
		}
		q.add(c.expr)
	}
	q.add(") ", op, " (")
	for i, c := range k.columns {
		if i > 0 {
			q.add(", ")
		}
		q.add(q.param(key[i], c.typeOID))
	}
	q.add(")")
}

func (q *query) orderBy(k keyOrder) {
	for i, c := range k.columns {
		if i == 0 {
			q.add(" ORDER BY ")
		} else {
			q.add(", ")
		}
		q.add(c.expr, " USING ", c.ops.less)
	}
}

const textArrayOID = 1009

// in adds the condition that a row has one of the keys, each in the order of the columns.
func (q *query) in(k keyOrder, keys [][][]byte) error {
	q.add("EXISTS (SELECT FROM unnest(")
	for i := range k.columns {
		if i > 0 {
			q.add(", ")
		}
		list := make([]*string, len(keys))
		for n, key := range keys {
			if key[i] != nil {
				text := string(key[i])
				list[n] = &text
			}
		}
		array, err := arrayText(list)
		if err != nil {
			return err
		}
		q.add(q.param(array, textArrayOID))
	}
	q.add(") AS weft_wanted (")
	for i := range k.columns {
		if i > 0 {
			q.add(", ")
		}
		q.add("weft_key", strconv.Itoa(i))
	}
	q.add(") WHERE ")
	for i, c := range k.columns {
		if i > 0 {
			q.add(" AND ")
		}
		wanted := "weft_wanted.weft_key" + strconv.Itoa(i)
		equal := c.expr + " " + c.ops.equal + " " + wanted + "::" + c.typeName
		if c.nullable {
			equal = "(" + equal + " OR " + c.expr + " IS NULL AND " + wanted + " IS NULL)"
		}
		q.add(equal)
	}
	q.add(")")
	return nil
}

// arrayText is an array literal.
func arrayText(list []*string) ([]byte, error) {
	b := []byte{'{'}
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		if s == nil {
			b = append(b, "NULL"...)
			continue
		}
		b = append(b, '"')
		for j := range len(*s) {
			switch c := (*s)[j]; c {
			case '"', '\\':
				b = append(b, '\\', c)
			case 0:
				return nil, fmt.Errorf("a key holds a zero byte")
			default:
				b = append(b, c)
			}
		}
		b = append(b, '"')
	}
	return append(b, '}'), nil
}

// keyText is the server's text form of a value in wire form; nil for null. It refers to the value's memory where the two are
// the same.
func keyText(t *sources.Type, value []byte) []byte {
	if value == nil || t.Kind != sources.Bytes {
		return value
	}
	text := make([]byte, 2, 2+2*len(value))
	copy(text, `\x`)
	return hex.AppendEncode(text, value)
}

// cursor is an object of the key columns' text forms, in the order of the read.
func (t *rowTable) cursor(row []sources.Value) (sources.Cursor, error) {
	b := []byte{'{'}
	for i, c := range t.key.columns {
		if i > 0 {
			b = append(b, ',')
		}
		var value any
		if v := row[c.index]; v.State == sources.Present {
			text := keyText(&t.table.Columns[c.index].Type, v.Data)
			if !utf8.Valid(text) {
				return nil, sources.Fatal("leave the table out, or store UTF-8 in it",
					"table %s has a key that is not UTF-8: column %q", t.table, c.name)
			}
			value = string(text)
		}
		member, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("make a cursor: %w", err)
		}
		name, err := json.Marshal(c.name)
		if err != nil {
			return nil, fmt.Errorf("make a cursor: %w", err)
		}
		b = append(append(append(b, name...), ':'), member...)
	}
	return append(b, '}'), nil
}

// parseCursor reads what cursor made. One of another order of columns is refused: what is above it is not the same.
func (t *rowTable) parseCursor(text sources.Cursor) ([][]byte, error) {
	bad := func(reason any) error {
		return sources.Fatal("cancel the snapshot and start it anew: the table's key, or the index on it, is not what it was",
			"the cursor %s is none of table %s: %v", text, t.table, reason)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return nil, bad("it is no object")
	}
	var key [][]byte
	for _, c := range t.key.columns {
		name, err := d.Token()
		if err != nil {
			return nil, bad(err)
		}
		if name != c.name {
			return nil, bad(fmt.Sprintf("column %q was to come", c.name))
		}
		value, err := d.Token()
		if err != nil {
			return nil, bad(err)
		}
		switch value := value.(type) {
		case string:
			key = append(key, []byte(value))
		case nil:
			if !c.nullable {
				return nil, bad(fmt.Sprintf("column %q is null", c.name))
			}
			key = append(key, nil)
		default:
			return nil, bad(fmt.Sprintf("column %q is no text", c.name))
		}
	}
	if token, err := d.Token(); err != nil || token != json.Delim('}') {
		return nil, bad("it has more columns")
	}
	return key, nil
}
