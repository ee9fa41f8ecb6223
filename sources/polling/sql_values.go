package polling

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"
	"unicode/utf8"

	"weft/sources"
)

// sqlScan receives a table's rows.
type sqlScan struct {
	mark  markCell
	cells []sqlCell
	into  []any // mark and cells
}

// row copies the row that rows stands on into a batch's memory.
func (s *sqlScan) row(t *table, rows *sql.Rows, b *batch) ([]sources.Value, error) {
	for i := range s.cells {
		s.cells[i].batch, s.cells[i].value, s.cells[i].err = b, sources.Value{}, nil
	}
	if err := rows.Scan(s.into...); err != nil {
		return nil, fmt.Errorf("read table %s: %w", t.name, err)
	}
	values := b.row(len(t.Columns))
	for i := range s.cells {
		values[i] = s.cells[i].value
	}
	for i := range s.cells {
		if err := s.cells[i].err; err != nil {
			return nil, sources.Fatal(fmt.Sprintf("correct the value, or leave table %s out of the capture", t.name),
				"table %s, key %s, column %s: %w", t.name, keyText(t, values), t.Columns[i].Name, err)
		}
	}
	for _, k := range t.Key {
		if values[k].State == sources.Null {
			return nil, sources.Fatal("declare the column NOT NULL, and give these rows a key", "table %s: the key column %s is NULL in a row", t.name, t.Columns[k].Name)
		}
	}
	if _, err := s.mark.time(); err != nil {
		return nil, sources.Fatal("correct the value, and let all that write to the table write such times in UTC",
			"table %s, key %s: the watermark: %w", t.name, keyText(t, values), err)
	}
	return values, nil
}

// timeLayout is how times are written for databases.
const timeLayout = "2006-01-02 15:04:05.999999999"

// markCell receives a time by which rows are sorted, as the text that the database compares.
type markCell struct{ text []byte }

// Scan implements sql.Scanner.
func (m *markCell) Scan(src any) error {
	switch v := src.(type) {
	case time.Time:
		m.text = v.UTC().AppendFormat(m.text[:0], timeLayout)
	case []byte:
		m.text = append(m.text[:0], v...)
	case string:
		m.text = append(m.text[:0], v...)
	default:
		m.text = fmt.Append(m.text[:0], src)
	}
	return nil
}

func (m *markCell) time() (time.Time, error) {
	t, err := time.Parse(timeLayout, string(m.text))
	if err != nil {
		return t, fmt.Errorf("%.64q is not a time such as 2026-02-28 23:59:59.123", m.text)
	}
	return t, nil
}

// sqlCell receives one column of a row, whatever form the driver gives it, in the wire form of its Kind. It implements sql.Scanner
// so that the value is copied once, into the batch's memory.
type sqlCell struct {
	kind  sources.Kind
	bits  int // of a floating-point number
	batch *batch
	value sources.Value
	err   error // kept rather than returned, so that the message can name the row's key
}

// Scan implements sql.Scanner.
func (c *sqlCell) Scan(src any) error {
	switch v := src.(type) {
	case nil:
	case int64:
		c.integer(strconv.AppendInt(c.batch.room(maxText), v, 10), float64(v))
	case uint64:
		c.integer(strconv.AppendUint(c.batch.room(maxText), v, 10), float64(v))
	case float32:
		c.real(float64(v))
	case float64:
		c.real(v)
	case bool:
		if c.kind != sources.Bool && c.kind != sources.String {
			c.err = fmt.Errorf("it holds the boolean %t, which its type does not allow for", v)
		}
		c.value = c.batch.keep(strconv.AppendBool(c.batch.room(maxText), v))
		if c.kind == sources.Bool {
			c.value.Data = c.value.Data[:1] // t or f
		}
	case time.Time:
		c.value = c.batch.keep(appendTime(c.batch.room(maxText), c.kind, v.UTC()))
	case []byte:
		c.text(append(c.batch.room(len(v)+textSlack), v...))
	case string:
		c.text(append(c.batch.room(len(v)+textSlack), v...))
	default:
		return fmt.Errorf("the driver returned a %T", src)
	}
	return nil
}

func newSQLCell(t sources.Type) sqlCell {
	c := sqlCell{kind: t.Kind, bits: 64}
	if t.Kind == sources.Float && t.Precision == 32 {
		c.bits = 32
	}
	return c
}

func (c *sqlCell) integer(digits []byte, v float64) {
	switch c.kind {
	case sources.Int, sources.Decimal, sources.String, sources.JSON:
	case sources.Float:
		if math.Abs(v) > maxExact {
			c.err = fmt.Errorf("it holds the integer %s, which a floating-point number may not hold exactly", digits)
		}
	case sources.Bool:
		if len(digits) == 1 && digits[0] <= '1' {
			digits[0] = "ft"[digits[0]-'0']
			break
		}
		c.err = fmt.Errorf("it holds %s, which is neither 0 (false) nor 1 (true)", digits)
	default:
		c.err = fmt.Errorf("it holds the integer %s, which its type does not allow for", digits)
	}
	c.value = c.batch.keep(digits)
}

func (c *sqlCell) real(v float64) {
	format := byte('g')
	switch c.kind {
	case sources.Float:
	case sources.Decimal, sources.String:
		format = 'f'
	default:
		c.err = fmt.Errorf("it holds the floating-point number %v, which its type does not allow for", v)
	}
	room := c.batch.room(maxText)
	switch {
	case math.IsInf(v, 1):
		room = append(room, "Infinity"...)
	case math.IsInf(v, -1):
		room = append(room, "-Infinity"...)
	default:
		room = strconv.AppendFloat(room, v, format, -1, c.bits)
	}
	c.value = c.batch.keep(room)
}

var (
	integerText = regexp.MustCompile(`^[+-]?[0-9]+$`)
	decimalText = regexp.MustCompile(`^([+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)|NaN|-?Infinity)$`)
	dateText    = regexp.MustCompile(`^([0-9]{4,}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])( .*)?|-?infinity)$`)
)

// textSlack is how much longer a text may become: by the offset of a time, or as a number's shortest form.
const textSlack = 32

// text takes what a driver gives as text, in the batch's room.
func (c *sqlCell) text(v []byte) {
	wrong := func(what string) { c.err = fmt.Errorf("it holds %.64q, which is no %s", v, what) }
	switch c.kind {
	case sources.Bytes:
	case sources.Int:
		if !integerText.Match(v) {
			wrong("integer")
		}
	case sources.Decimal:
		if !decimalText.Match(v) {
			wrong("decimal number")
		}
	case sources.Float:
		f, err := strconv.ParseFloat(string(v), 64)
		if err != nil {
			wrong("number")
		}
		v = strconv.AppendFloat(v[:0], f, 'g', -1, 64)
	case sources.Bool:
		switch string(v) {
		case "t", "f":
		case "1", "true":
			v = append(v[:0], 't')
		case "0", "false":
			v = append(v[:0], 'f')
		default:
			wrong("boolean")
		}
	case sources.Date, sources.Timestamp, sources.TimestampTZ:
		if !dateText.Match(v) || string(v[:4]) == "0000" {
			wrong("date")
		} else if c.kind == sources.TimestampTZ && !bytes.HasSuffix(v, []byte("infinity")) {
			v = append(v, "+00"...)
		}
	case sources.JSON:
		if !json.Valid(v) {
			wrong("JSON")
		}
	default:
		if !utf8.Valid(v) {
			c.err = errors.New("it holds text that is not valid UTF-8")
		}
	}
	c.value = c.batch.keep(v)
}

// appendTime writes a time in the wire form of its Kind; where that is no time's, as a text with all of it.
func appendTime(dst []byte, kind sources.Kind, t time.Time) []byte {
	year := t.Year()
	if year <= 0 {
		year = 1 - year
	}
	dst = fmt.Appendf(dst, "%04d", year)
	switch kind {
	case sources.Date:
		dst = t.AppendFormat(dst, "-01-02")
	case sources.Timestamp:
		dst = t.AppendFormat(dst, "-01-02 15:04:05.999999999")
	case sources.TimestampTZ:
		dst = t.AppendFormat(dst, "-01-02 15:04:05.999999999+00")
	default:
		dst = t.AppendFormat(dst, "-01-02T15:04:05.999999999Z")
	}
	if t.Year() <= 0 {
		dst = append(dst, " BC"...)
	}
	return dst
}
