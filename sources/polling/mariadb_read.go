package polling

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"weft/sources"
)

// read implements view. It reads in the order of (watermark, key), so that rows of one time are not cut.
func (v *mariadbView) read(ctx context.Context, t *table, at tablePosition, b *batch) (tablePosition, bool, error) {
	d := v.dialect
	var cursor *columnCursor
	if at.Cursor != nil {
		cursor = new(columnCursor)
		if err := json.Unmarshal(at.Cursor, cursor); err != nil || len(cursor.Key) != len(t.Key) {
			cursor = nil // the key is another one now: the rows above the watermark are read again
		}
	}
	// A column of fewer digits cuts times, so that a row's may be that much earlier than its statement's.
	unit := t.scan[0].(*mariadbScan).unit
	below := v.below / unit * unit
	if below <= at.Watermark {
		return at, false, nil
	}
	for {
		asked := d.limits.of(t)
		taken, full, err := v.page(ctx, t, v.pageQuery(t, at.Watermark, below, cursor, asked), b, &cursor)
		if err != nil {
			return at, false, d.explain(err)
		}
		d.limits.learn(t, asked, taken, full)
		if full {
			d.more = true
			place, err := json.Marshal(cursor)
			if err != nil {
				return at, false, fmt.Errorf("encode position: %w", err)
			}
			return tablePosition{Watermark: at.Watermark, Cursor: place, Identity: at.Identity}, true, nil
		}
		if taken < asked {
			return tablePosition{Watermark: below - 1, Identity: at.Identity}, false, nil
		}
	}
}

// pageQuery selects a page of rows after the cursor, or after the watermark, and before a time.
func (v *mariadbView) pageQuery(t *table, after, below int64, cursor *columnCursor, limit int) string {
	return t.query + where(v.dialect.watermark, t, after, below, cursor) + " LIMIT " + strconv.Itoa(limit)
}

// where selects the rows after the cursor, or after the watermark, and before a time, in order.
func where(watermark string, t *table, after, below int64, cursor *columnCursor) string {
	columns := []string{quoteMariaDB(watermark)}
	for _, k := range t.Key {
		columns = append(columns, quoteMariaDB(t.Columns[k].Name))
	}
	text := fmt.Sprintf(" WHERE %s < '%s'", columns[0], timeOf(below))
	switch {
	case cursor != nil:
		mark := "'" + timeOf(cursor.Mark) + "'"
		text += fmt.Sprintf(" AND %s >= %s AND ", columns[0], mark) + keyset(columns, func(i int) string {
			if i == 0 {
				return mark
			}
			return mariadbLiteral(t.Columns[t.Key[i-1]].Type, cursor.Key[i-1])
		})
	case after > 0:
		text += fmt.Sprintf(" AND %s > '%s'", columns[0], timeOf(after))
	}
	return text + " ORDER BY " + strings.Join(columns, ", ")
}

// mariadbLiteral writes a key's value so that it compares as the column's own type.
func mariadbLiteral(t sources.Type, key string) string {
	switch t.Kind {
	case sources.Int, sources.Decimal:
		return key
	case sources.Bytes:
		return "x'" + strings.TrimPrefix(key, `\x`) + "'"
	case sources.TimestampTZ:
		return "'" + strings.TrimSuffix(key, "+00") + "'"
	}
	// As hexadecimal, so that no setting decides what a backslash means.
	return "CONVERT(x'" + hex.EncodeToString([]byte(key)) + "' USING utf8mb4)"
}

// page adds the rows of a query to b until it is full, and moves the cursor behind the last of them.
func (v *mariadbView) page(ctx context.Context, t *table, query string, b *batch, cursor **columnCursor) (taken int, full bool, err error) {
	scan := t.scan[0].(*mariadbScan)
	rows, err := v.dialect.conn.QueryContext(ctx, query)
	if err != nil {
		return 0, false, fmt.Errorf("read table %s: %w", t.name, err)
	}
	var mark int64
	for rows.Next() {
		if full {
			continue // the rest is on its way, and is short
		}
		if err := rows.Scan(scan.into...); err != nil {
			return 0, false, errors.Join(fmt.Errorf("read table %s: %w", t.name, err), rows.Close())
		}
		values, err := scan.values(t, b)
		if err != nil {
			return 0, false, errors.Join(err, rows.Close())
		}
		if !b.add(t, values) {
			full = true
			continue
		}
		mark = scan.mark
		taken++
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return 0, false, fmt.Errorf("read table %s: %w", t.name, err)
	}
	if taken > 0 {
		*cursor = &columnCursor{Mark: mark}
		last := b.last()
		for _, k := range t.Key {
			(*cursor).Key = append((*cursor).Key, keyOf(t.Columns[k].Type, last[k]))
		}
	}
	return taken, full, nil
}

// mariadbScan receives a table's rows.
type mariadbScan struct {
	unit int64 // of the watermark's last digit, in microseconds
	mark int64
	raw  []sql.RawBytes
	into []any // mark and raw
	bits []int // width of the columns of type BIT, 0 for others
}

func newMariaDBScan(columns int) *mariadbScan {
	s := &mariadbScan{raw: make([]sql.RawBytes, columns), bits: make([]int, columns)}
	s.into = append(s.into, &s.mark)
	for i := range s.raw {
		s.into = append(s.into, &s.raw[i])
	}
	return s
}

// values copies the row that was scanned into a batch's memory, in the wire form of each Kind.
func (s *mariadbScan) values(t *table, b *batch) ([]sources.Value, error) {
	values := b.row(len(t.Columns))
	for i, data := range s.raw {
		values[i] = sources.Value{}
		if data == nil {
			continue
		}
		var err error
		if values[i], err = s.value(t.Columns[i].Type.Kind, s.bits[i], data, b); err != nil {
			var key []sources.Value
			for _, k := range t.Key {
				key = append(key, sources.Value{Data: s.raw[k]})
			}
			return nil, sources.Fatal(fmt.Sprintf("correct the value, or leave table %s out of the capture", t.name),
				"table %s, key %.200q, column %s: %w", t.name, key[0].Data, t.Columns[i].Name, err)
		}
	}
	return values, nil
}

func (s *mariadbScan) value(kind sources.Kind, bits int, data []byte, b *batch) (sources.Value, error) {
	room := b.room(max(len(data)+len("+00"), bits))
	switch kind {
	case sources.Date, sources.Timestamp, sources.TimestampTZ:
		// 2026-00-00 is no date, and neither is 0000-00-00.
		if len(data) < len("2026-02-28") || string(data[:4]) == "0000" || string(data[5:7]) == "00" || string(data[8:10]) == "00" {
			return sources.Value{}, fmt.Errorf("it holds %q, which is no date", data)
		}
		room = append(room, data...)
		if kind == sources.TimestampTZ {
			room = append(room, "+00"...)
		}
	case sources.Bits:
		for i := bits - 1; i >= 0; i-- {
			bit := byte('0')
			if at := len(data) - 1 - i/8; at >= 0 && data[at]>>(i%8)&1 == 1 {
				bit = '1'
			}
			room = append(room, bit)
		}
	case sources.Float:
		f, err := strconv.ParseFloat(string(data), 64)
		if err != nil {
			return sources.Value{}, err
		}
		room = strconv.AppendFloat(b.room(32), f, 'g', -1, 64)
	case sources.Bytes:
		room = append(room, data...)
	default:
		if !utf8.Valid(data) {
			return sources.Value{}, errors.New("it holds text that is not valid UTF-8")
		}
		room = append(room, data...)
	}
	return b.keep(room), nil
}
