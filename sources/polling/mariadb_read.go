package polling

import (
	"context"
	"database/sql/driver"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
		query := v.pageQuery(t, at.Watermark, below, cursor, asked)
		var mark int64
		taken, full, err := v.page(ctx, t, query, b, func(m int64) { mark = m })
		if err != nil {
			return at, false, d.explain(err)
		}
		if taken > 0 {
			cursor = &columnCursor{Mark: mark, Key: keysOf(t, b.last())}
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
		text += fmt.Sprintf(" AND %s >= %s AND ", columns[0], mark) + keyset(columns, ">", func(i int) string {
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

// page adds the rows of a query to b until it is full, and calls each with the watermark of each of them. It asks the driver itself, since
// database/sql would convert each value twice more.
func (v *mariadbView) page(ctx context.Context, t *table, query string, b *batch, each func(mark int64)) (taken int, full bool, err error) {
	scan := t.scan[0].(*mariadbScan)
	err = v.dialect.conn.Raw(func(conn any) (err error) {
		rows, err := conn.(driver.QueryerContext).QueryContext(ctx, query, nil)
		if err != nil {
			return fmt.Errorf("read table %s: %w", t.name, err)
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		for {
			if err := rows.Next(scan.row); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return fmt.Errorf("read table %s: %w", t.name, err)
			}
			values, err := scan.values(t, b)
			if err != nil {
				return err
			}
			if full = !b.add(t, values); full {
				return nil // the rest is on its way, and is short
			}
			mark, ok := scan.row[0].(int64)
			if !ok {
				return fmt.Errorf("read table %s: the server tells %T as a row's time", t.name, scan.row[0])
			}
			taken++
			each(mark)
		}
	})
	return taken, full, err
}

// mariadbScan receives a table's rows.
type mariadbScan struct {
	unit int64          // of the watermark's last digit, in microseconds
	row  []driver.Value // the watermark, then the columns
	bits []int          // width of the columns of type BIT, 0 for others
}

func newMariaDBScan(columns int) *mariadbScan {
	return &mariadbScan{row: make([]driver.Value, 1+columns), bits: make([]int, columns)}
}

// values copies the row that was received into a batch's memory, in the wire form of each Kind.
func (s *mariadbScan) values(t *table, b *batch) ([]sources.Value, error) {
	values := b.row(len(t.Columns))
	for i, data := range s.row[1:] {
		values[i] = sources.Value{}
		if data == nil {
			continue
		}
		var err error
		if values[i], err = s.value(t.Columns[i].Type.Kind, s.bits[i], data, b); err != nil {
			return nil, sources.Fatal(fmt.Sprintf("correct the value, or leave table %s out of the capture", t.name),
				"table %s, key %.200q, column %s: %w", t.name, driverText(s.row[1+t.Key[0]]), t.Columns[i].Name, err)
		}
	}
	return values, nil
}

// driverText is a value for people.
func driverText(value driver.Value) string {
	if text, ok := value.([]byte); ok {
		return string(text)
	}
	return fmt.Sprint(value)
}

// value copies one. The driver gives integers and doubles as such, and all else as text.
func (s *mariadbScan) value(kind sources.Kind, bits int, data driver.Value, b *batch) (sources.Value, error) {
	const digits = 32 // of any number
	switch data := data.(type) {
	case int64:
		return b.keep(strconv.AppendInt(b.room(digits), data, 10)), nil
	case uint64:
		return b.keep(strconv.AppendUint(b.room(digits), data, 10)), nil
	case float64:
		return b.keep(strconv.AppendFloat(b.room(digits), data, 'g', -1, 64)), nil
	case []byte:
		return s.text(kind, bits, data, b)
	}
	return sources.Value{}, fmt.Errorf("the driver gives it as %T", data)
}

func (s *mariadbScan) text(kind sources.Kind, bits int, data []byte, b *batch) (sources.Value, error) {
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
