package polling

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"weft/sources"
)

// keysOrdered implements keyReader.
func (v *sqliteView) keysOrdered(t *table) bool { return integerKeys(t) }

// keyText implements keyReader.
func (v *sqliteView) keyText(dst []byte, _ *table, key [][]byte) []byte {
	return append(dst, joinBytes(key, string(rune(keySeparator)))...)
}

func joinBytes(parts [][]byte, separator string) []byte { return bytes.Join(parts, []byte(separator)) }

// sumKeys implements keyReader. The database is in this process, which therefore adds up the sums itself.
func (v *sqliteView) sumKeys(ctx context.Context, t *table, keys [][][]byte, between bool) (keySum, error) {
	where := sqliteKeys(t, keys)
	if between {
		where = sqliteRange(t, keys[0], keys[len(keys)-1])
	}
	var s keySum
	err := v.eachKey(ctx, t, where, s.add)
	return s, err
}

// present implements keyReader.
func (v *sqliteView) present(ctx context.Context, t *table, keys [][][]byte, fn func(text []byte)) error {
	return v.eachKey(ctx, t, sqliteKeys(t, keys), fn)
}

func (v *sqliteView) eachKey(ctx context.Context, t *table, where string, fn func(text []byte)) error {
	var columns []string
	var scan []any
	scratch := newBatch(byteBlock)
	for _, k := range t.Key {
		columns = append(columns, "+"+quote(t.Columns[k].Name))
		scan = append(scan, &cell{class: t.scan[k+1].(*cell).class, batch: scratch})
	}
	rows, err := v.tx.QueryContext(ctx, fmt.Sprintf("SELECT %s FROM %s WHERE %s", strings.Join(columns, ", "), quote(t.name), where))
	if err != nil {
		return v.dialect.explain(err)
	}
	key := make([][]byte, len(scan))
	for rows.Next() {
		scratch.reset(0, 0)
		if err := rows.Scan(scan...); err != nil {
			return errors.Join(v.dialect.explain(err), rows.Close())
		}
		for i := range scan {
			key[i] = scan[i].(*cell).value.Data
		}
		fn(v.keyText(nil, t, key))
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return v.dialect.explain(err)
	}
	return nil
}

func sqliteKeyColumns(t *table) string {
	var columns []string
	for _, k := range t.Key {
		columns = append(columns, quote(t.Columns[k].Name))
	}
	return strings.Join(columns, ", ")
}

// sqliteRange selects the rows whose keys are from one to another.
func sqliteRange(t *table, first, last [][]byte) string {
	return fmt.Sprintf("(%[1]s) >= (%[2]s) AND (%[1]s) <= (%[3]s)", sqliteKeyColumns(t), sqliteKey(t, first), sqliteKey(t, last))
}

// sqliteKeys selects the rows with these keys.
func sqliteKeys(t *table, keys [][][]byte) string {
	var values []string
	for _, key := range keys {
		values = append(values, "("+sqliteKey(t, key)+")")
	}
	return fmt.Sprintf("(%s) IN (VALUES %s)", sqliteKeyColumns(t), strings.Join(values, ", "))
}

// sqliteKey is a key's columns as literals.
func sqliteKey(t *table, key [][]byte) string {
	var literals []string
	for i, k := range t.Key {
		text := string(key[i])
		switch t.Columns[k].Type.Kind {
		case sources.Int, sources.Decimal, sources.Float:
			if strings.HasSuffix(text, "Infinity") {
				text = strings.TrimSuffix(text, "Infinity") + "9e999"
			}
		case sources.Bool:
			text = map[string]string{"t": "1", "f": "0"}[text]
		case sources.Bytes:
			text = "x'" + hex.EncodeToString(key[i]) + "'"
		default:
			text = "'" + strings.ReplaceAll(text, "'", "''") + "'"
		}
		literals = append(literals, text)
	}
	return strings.Join(literals, ", ")
}
