package polling

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// keysOrdered implements keyReader.
func (v *sqlView) keysOrdered(t *table) bool { return len(t.Key) == 1 && integerKeys(t) }

// keyText implements keyReader.
func (v *sqlView) keyText(dst []byte, _ *table, key [][]byte) []byte {
	return append(dst, joinBytes(key, string(rune(keySeparator)))...)
}

// sumKeys implements keyReader. No checksum is standard SQL, so that the keys themselves are read.
func (v *sqlView) sumKeys(ctx context.Context, t *table, keys [][][]byte, between bool) (keySum, error) {
	where, args := v.keysOf(t, keys)
	if between {
		where, args = v.rangeOf(t, keys[0], keys[len(keys)-1]), nil
	}
	var s keySum
	err := v.eachKey(ctx, t, where, args, s.add)
	return s, err
}

// present implements keyReader.
func (v *sqlView) present(ctx context.Context, t *table, keys [][][]byte, fn func(text []byte)) error {
	where, args := v.keysOf(t, keys)
	return v.eachKey(ctx, t, where, args, fn)
}

func (v *sqlView) eachKey(ctx context.Context, t *table, where string, args []any, fn func(text []byte)) error {
	d := v.dialect
	var columns []string
	scratch := newBatch(byteBlock)
	cells := make([]sqlCell, len(t.Key))
	into := make([]any, len(t.Key))
	for i, k := range t.Key {
		columns = append(columns, d.driver.read(d.driver.quote(t.Columns[k].Name)))
		cells[i] = newSQLCell(t.Columns[k].Type)
		cells[i].batch = scratch
		into[i] = &cells[i]
	}
	rows, err := d.conn.QueryContext(ctx, fmt.Sprintf("SELECT %s FROM %s WHERE %s", strings.Join(columns, ", "), d.nameOf(t), where), args...)
	if err != nil {
		return d.explain(err)
	}
	key := make([][]byte, len(cells))
	for rows.Next() {
		scratch.reset(0, 0)
		if err := rows.Scan(into...); err != nil {
			return errors.Join(d.explain(err), rows.Close())
		}
		for i := range cells {
			key[i] = cells[i].value.Data
		}
		fn(v.keyText(nil, t, key))
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return d.explain(err)
	}
	return nil
}

// rangeOf selects the rows whose keys, of one integer, are from one to another.
func (v *sqlView) rangeOf(t *table, first, last [][]byte) string {
	return fmt.Sprintf("%s BETWEEN %s AND %s", v.dialect.driver.quote(t.Columns[t.Key[0]].Name), first[0], last[0])
}

// keysOf selects the rows with these keys.
func (v *sqlView) keysOf(t *table, keys [][][]byte) (where string, args []any) {
	d := v.dialect
	literal := func(i int, key [][]byte) string { return d.literal(t.Columns[t.Key[i]].Type, key[i], &args) }
	var terms []string
	for _, key := range keys {
		if len(t.Key) == 1 {
			terms = append(terms, literal(0, key))
			continue
		}
		var equal []string
		for i, k := range t.Key {
			equal = append(equal, d.driver.quote(t.Columns[k].Name)+" = "+literal(i, key))
		}
		terms = append(terms, "("+strings.Join(equal, " AND ")+")")
	}
	if len(t.Key) == 1 {
		return fmt.Sprintf("%s IN (%s)", d.driver.quote(t.Columns[t.Key[0]].Name), strings.Join(terms, ", ")), args
	}
	return strings.Join(terms, " OR "), args
}
