package polling

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"weft/sources"
)

// keysOrdered implements keyReader.
func (v *mariadbView) keysOrdered(t *table) bool { return integerKeys(t) }

// keyText implements keyReader.
func (v *mariadbView) keyText(dst []byte, t *table, key [][]byte) []byte {
	for i, k := range t.Key {
		if i > 0 {
			dst = append(dst, keySeparator)
		}
		switch t.Columns[k].Type.Kind {
		case sources.Bytes:
			dst = hex.AppendEncode(dst, key[i])
		case sources.TimestampTZ:
			dst = append(dst, strings.TrimSuffix(string(key[i]), "+00")...)
		default:
			dst = append(dst, key[i]...)
		}
	}
	return dst
}

// mariadbKey is an expression for the text of a row's key.
func mariadbKey(t *table) string {
	var columns []string
	for _, k := range t.Key {
		column := quoteMariaDB(t.Columns[k].Name)
		switch t.Columns[k].Type.Kind {
		case sources.Bytes:
			column = "LOWER(HEX(" + column + "))"
		default:
			column = "CONVERT(" + column + " USING utf8mb4)"
		}
		columns = append(columns, column)
	}
	return fmt.Sprintf("CONCAT_WS(CHAR(%d USING utf8mb4), %s)", keySeparator, strings.Join(columns, ", "))
}

// sumKeys implements keyReader.
func (v *mariadbView) sumKeys(ctx context.Context, t *table, keys [][][]byte, between bool) (keySum, error) {
	where := mariadbKeys(t, keys)
	if between {
		where = mariadbRange(t, keys[0], keys[len(keys)-1])
	}
	query := fmt.Sprintf("SELECT COUNT(*), COALESCE(SUM(CAST(CONV(LEFT(MD5(%s), 10), 16, 10) AS UNSIGNED)), 0) FROM %s.%s WHERE %s",
		mariadbKey(t), quoteMariaDB(t.Schema), quoteMariaDB(t.Name), where)
	var s keySum
	if err := v.dialect.conn.QueryRowContext(ctx, query).Scan(&s.rows, &s.sum); err != nil {
		return s, v.dialect.explain(err)
	}
	return s, nil
}

// present implements keyReader.
func (v *mariadbView) present(ctx context.Context, t *table, keys [][][]byte, fn func(text []byte)) error {
	query := fmt.Sprintf("SELECT %s FROM %s.%s WHERE %s", mariadbKey(t), quoteMariaDB(t.Schema), quoteMariaDB(t.Name), mariadbKeys(t, keys))
	rows, err := v.dialect.conn.QueryContext(ctx, query)
	if err != nil {
		return v.dialect.explain(err)
	}
	var text sql.RawBytes
	for rows.Next() {
		if err := rows.Scan(&text); err != nil {
			return errors.Join(v.dialect.explain(err), rows.Close())
		}
		fn(text)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return v.dialect.explain(err)
	}
	return nil
}

// mariadbRange selects keys of integers from one to another; the first column alone is looked up by an index.
func mariadbRange(t *table, first, last [][]byte) string {
	var columns []string
	for _, k := range t.Key {
		columns = append(columns, quoteMariaDB(t.Columns[k].Name))
	}
	bound := func(key [][]byte) string { return string(joinBytes(key, ", ")) }
	where := fmt.Sprintf("%s BETWEEN %s AND %s", columns[0], first[0], last[0])
	if len(columns) > 1 {
		all := strings.Join(columns, ", ")
		where += fmt.Sprintf(" AND (%[1]s) >= (%[2]s) AND (%[1]s) <= (%[3]s)", all, bound(first), bound(last))
	}
	return where
}

// mariadbValue is the i-th column of a key as a literal.
func mariadbValue(t *table, i int, key [][]byte) string {
	typ := t.Columns[t.Key[i]].Type
	return mariadbLiteral(typ, keyOf(typ, sources.Value{State: sources.Present, Data: key[i]}))
}

// mariadbKeys selects the rows with these keys.
func mariadbKeys(t *table, keys [][][]byte) string {
	var terms []string
	for _, key := range keys {
		if len(t.Key) == 1 {
			terms = append(terms, mariadbValue(t, 0, key))
			continue
		}
		var equal []string
		for i, k := range t.Key {
			equal = append(equal, quoteMariaDB(t.Columns[k].Name)+" = "+mariadbValue(t, i, key))
		}
		terms = append(terms, "("+strings.Join(equal, " AND ")+")")
	}
	if len(t.Key) == 1 {
		return fmt.Sprintf("%s IN (%s)", quoteMariaDB(t.Columns[t.Key[0]].Name), strings.Join(terms, ", "))
	}
	return strings.Join(terms, " OR ")
}
