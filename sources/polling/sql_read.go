package polling

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"weft/sources"
)

// sqlCursor is the place of the last row that a pass has read. Until is where the pass ends: it stays as it was when the pass began, so
// that the overlap of the next one reaches back behind all that this one went past.
type sqlCursor struct {
	Until int64    `json:"until"`
	Mark  string   `json:"mark"`
	Key   []string `json:"key"`
}

// read implements view. It reads in the order of (watermark, key), so that rows of one time are not cut.
func (v *sqlView) read(ctx context.Context, t *table, at tablePosition, b *batch) (tablePosition, bool, error) {
	d := v.dialect
	cursor := sqlCursor{Until: v.below}
	if at.Cursor != nil {
		var kept sqlCursor
		// Of another key, or with the clock put back since, the rows above the watermark are read again.
		if err := json.Unmarshal(at.Cursor, &kept); err == nil && len(kept.Key) == len(t.Key) && kept.Until <= v.below {
			cursor = kept
		}
	}
	if cursor.Until <= at.Watermark {
		return at, false, nil
	}
	for {
		asked := d.limits.of(t)
		query, args := v.pageQuery(t, at.Watermark, cursor, asked)
		taken, full, err := v.page(ctx, t, query, args, b, &cursor)
		if err != nil {
			return at, false, d.explain(err)
		}
		d.limits.learn(t, asked, taken, full)
		if full {
			place, err := json.Marshal(cursor)
			if err != nil {
				return at, false, fmt.Errorf("encode position: %w", err)
			}
			return tablePosition{Watermark: at.Watermark, Cursor: place}, true, nil
		}
		if taken < asked {
			return tablePosition{Watermark: cursor.Until - 1}, cursor.Until < v.below, nil
		}
	}
}

// pageQuery selects a page of the rows after the cursor, or from the overlap before the watermark on, up to where the pass ends.
func (v *sqlView) pageQuery(t *table, watermark int64, cursor sqlCursor, limit int) (query string, args []any) {
	d := v.dialect
	columns := []string{d.driver.quote(d.watermark)}
	for _, k := range t.Key {
		columns = append(columns, d.driver.quote(t.Columns[k].Name))
	}
	text := func(value string) string {
		args = append(args, value)
		return d.driver.parameter(len(args))
	}
	query = fmt.Sprintf("%s WHERE %s < %s", t.query, columns[0], text(timeOf(cursor.Until)))
	if cursor.Key != nil {
		query += fmt.Sprintf(" AND %s >= %s AND ", columns[0], text(cursor.Mark)) + keyset(columns, ">", func(i int) string {
			if i == 0 {
				return text(cursor.Mark)
			}
			return d.literal(t.Columns[t.Key[i-1]].Type, wireOf(t.Columns[t.Key[i-1]].Type, cursor.Key[i-1]), &args)
		})
	} else if from := watermark + 1 - d.overlap.Microseconds(); watermark > 0 && from > 0 {
		query += fmt.Sprintf(" AND %s >= %s", columns[0], text(timeOf(from)))
	}
	return query + " ORDER BY " + strings.Join(columns, ", ") + fmt.Sprintf(d.driver.limit, limit), args
}

// literal writes a value so that it compares as the column's own type: a number as it is, since a text would be compared as a
// floating-point number by some, and all else as a parameter.
func (d *sqlDialect) literal(t sources.Type, wire []byte, args *[]any) string {
	switch t.Kind {
	case sources.Int, sources.Decimal:
		return string(wire)
	case sources.Bytes:
		*args = append(*args, wire)
	case sources.TimestampTZ:
		*args = append(*args, strings.TrimSuffix(string(wire), "+00"))
	default:
		*args = append(*args, string(wire))
	}
	return d.driver.parameter(len(*args))
}

// wireOf is the wire form of what keyOf returned.
func wireOf(t sources.Type, key string) []byte {
	if t.Kind == sources.Bytes {
		if decoded, err := hex.DecodeString(strings.TrimPrefix(key, `\x`)); err == nil {
			return decoded
		}
	}
	return []byte(key)
}

// page adds the rows of a query to b until it is full, and moves the cursor behind the last of them.
func (v *sqlView) page(ctx context.Context, t *table, query string, args []any, b *batch, cursor *sqlCursor) (taken int, full bool, err error) {
	scan := t.scan[0].(*sqlScan)
	rows, err := v.dialect.conn.QueryContext(ctx, query, args...)
	if err != nil {
		return 0, false, fmt.Errorf("read table %s: %w", t.name, err)
	}
	var mark []byte
	for rows.Next() && !full {
		values, err := scan.row(t, rows, b)
		if err != nil {
			return 0, false, errors.Join(err, rows.Close())
		}
		if taken > 0 && bytes.Equal(mark, scan.mark.text) && sameKey(t, b.last(), values) {
			return 0, false, errors.Join(sources.Fatal("name columns in keys that tell all rows apart",
				"table %s, key %s: two rows have it, so that a page of rows may end between them and the second be lost", t.name, keyText(t, values)), rows.Close())
		}
		if !b.add(t, values) {
			full = true
			continue
		}
		mark = append(mark[:0], scan.mark.text...)
		taken++
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return 0, false, fmt.Errorf("read table %s: %w", t.name, err)
	}
	if taken > 0 {
		cursor.Mark, cursor.Key = string(mark), keysOf(t, b.last())
	}
	return taken, full, nil
}

func sameKey(t *table, a, b []sources.Value) bool {
	for _, k := range t.Key {
		if !bytes.Equal(a[k].Data, b[k].Data) {
			return false
		}
	}
	return true
}
