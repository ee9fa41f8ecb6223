package polling

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"weft/sources"
)

// keysOrdered implements keyReader. UUIDs are compared as their texts are.
func (v *postgresView) keysOrdered(t *table) bool {
	return !slices.ContainsFunc(t.Key, func(k int) bool {
		kind := t.Columns[k].Type.Kind
		return kind != sources.Int && kind != sources.UUID
	})
}

// keyText implements keyReader, as concat_ws writes it.
func (v *postgresView) keyText(dst []byte, t *table, key [][]byte) []byte {
	for i, k := range t.Key {
		if i > 0 {
			dst = append(dst, keySeparator)
		}
		dst = appendPostgresText(dst, t.Columns[k].Type, key[i])
	}
	return dst
}

// appendPostgresText appends a value as the server prints it.
func appendPostgresText(dst []byte, t sources.Type, wire []byte) []byte {
	if t.Kind == sources.Bytes {
		return hex.AppendEncode(append(dst, `\x`...), wire)
	}
	return append(dst, wire...)
}

// postgresKey is an expression for the text of a row's key.
func postgresKey(t *table) string {
	var columns []string
	for _, k := range t.Key {
		column := "r." + quote(t.Columns[k].Name)
		if t.Columns[k].Type.Name == "money" { // as it is read
			column += "::numeric"
		}
		columns = append(columns, column)
	}
	return fmt.Sprintf("concat_ws(chr(%d), %s)", keySeparator, strings.Join(columns, ", "))
}

// sumKeys implements keyReader.
func (v *postgresView) sumKeys(ctx context.Context, t *table, keys [][][]byte, between bool) (keySum, error) {
	from, params := postgresKeys(t, keys)
	if between {
		from, params = postgresRange(t, keys[0], keys[len(keys)-1])
	}
	query := fmt.Sprintf("SELECT count(*), coalesce(sum(('x' || left(md5(%s), 10))::bit(40)::int8), 0) %s", postgresKey(t), from)
	var s keySum
	err := v.eachRow(ctx, query, params, func(row [][]byte) (err error) {
		if s.rows, err = parseInt(row[0]); err != nil {
			return err
		}
		s.sum, err = parseInt(row[1])
		return err
	})
	return s, err
}

// present implements keyReader.
func (v *postgresView) present(ctx context.Context, t *table, keys [][][]byte, fn func(text []byte)) error {
	from, params := postgresKeys(t, keys)
	return v.eachRow(ctx, "SELECT "+postgresKey(t)+" "+from, params, func(row [][]byte) error {
		fn(row[0])
		return nil
	})
}

func (v *postgresView) eachRow(ctx context.Context, query string, params [][]byte, fn func(row [][]byte) error) error {
	rows := v.tx.Conn().PgConn().ExecParams(ctx, query, params, nil, nil, nil)
	var err error
	for err == nil && rows.NextRow() {
		err = fn(rows.Values())
	}
	if cerr := closeRows(rows); err == nil {
		err = cerr
	}
	if err != nil {
		return v.dialect.explain(err)
	}
	return nil
}

// postgresRange selects the rows whose keys are from one to another.
func postgresRange(t *table, first, last [][]byte) (from string, params [][]byte) {
	var columns []string
	for _, k := range t.Key {
		columns = append(columns, "r."+quote(t.Columns[k].Name))
	}
	all := strings.Join(columns, ", ")
	from, params = postgresValues(t, first, nil)
	to, params := postgresValues(t, last, params)
	from = fmt.Sprintf("FROM ONLY %[1]s.%[2]s r WHERE (%[3]s) >= (%[4]s) AND (%[3]s) <= (%[5]s)", quote(t.Schema), quote(t.Name), all, from, to)
	return from, params
}

// postgresKeys selects the rows with these keys.
func postgresKeys(t *table, keys [][][]byte) (from string, params [][]byte) {
	arrays, params := postgresArrays(t, keys)
	var names, equal []string
	for i, k := range t.Key {
		names = append(names, fmt.Sprintf("c%d", i))
		equal = append(equal, fmt.Sprintf("r.%s = k.c%d", quote(t.Columns[k].Name), i))
	}
	from = fmt.Sprintf("FROM unnest(%s) k (%s) JOIN ONLY %s.%s r ON %s",
		arrays, strings.Join(names, ", "), quote(t.Schema), quote(t.Name), strings.Join(equal, " AND "))
	return from, params
}

// postgresArrays hands keys over as an array a column.
func postgresArrays(t *table, keys [][][]byte) (list string, params [][]byte) {
	var arrays []string
	for i, k := range t.Key {
		array := []byte{'{'}
		for n, key := range keys {
			if n > 0 {
				array = append(array, ',')
			}
			array = append(array, '"')
			for _, b := range appendPostgresText(nil, t.Columns[k].Type, key[i]) {
				if b == '"' || b == '\\' {
					array = append(array, '\\')
				}
				array = append(array, b)
			}
			array = append(array, '"')
		}
		params = append(params, append(array, '}'))
		arrays = append(arrays, fmt.Sprintf("$%d::%s[]", len(params), t.Columns[k].Type.Name))
	}
	return strings.Join(arrays, ", "), params
}
