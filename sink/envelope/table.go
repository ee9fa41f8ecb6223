package envelope

import (
	"bytes"
	"errors"
	"fmt"

	"weft/sources"
)

// table is what encoding a table's rows needs, worked out once.
type table struct {
	name    string
	columns []column
	key     []int
	dialect Dialect
	// db and tail are parts of the source block, ready to be copied.
	db, tail []byte
}

type column struct {
	plain string
	// name is the column's name as a JSON member: quoted and escaped, with its colon.
	name  []byte
	codec *codec
}

// table returns the compiled form of t. Runs of changes are of one table, so the last one is looked at first.
func (e *Encoder) table(t *sources.Table) (*table, error) {
	if t == e.last && t != nil {
		return e.compiled, nil
	}
	if t == nil {
		return nil, &ValueError{Reason: "the change has no table", Remedy: reportIt}
	}
	c := e.tables[t]
	if c == nil {
		var err error
		if c, err = compile(e.dialect, t); err != nil {
			return nil, err
		}
		if len(e.tables) >= maxTables {
			clear(e.tables)
		}
		e.tables[t] = c
	}
	e.last, e.compiled = t, c
	return c, nil
}

func compile(d Dialect, t *sources.Table) (*table, error) {
	c := &table{name: t.String(), key: t.Key, dialect: d, columns: make([]column, len(t.Columns))}
	var err error
	if c.db, err = appendText([]byte(`,"db":`), t.Database); err != nil {
		return nil, c.valueError(err, nil, "")
	}
	if c.tail, err = appendText([]byte(`,"schema":`), t.Schema); err != nil {
		return nil, c.valueError(err, nil, "")
	}
	if c.tail, err = appendText(append(c.tail, `,"table":`...), t.Name); err != nil {
		return nil, c.valueError(err, nil, "")
	}
	for i := range t.Columns {
		col := &c.columns[i]
		col.plain = t.Columns[i].Name
		if col.name, err = appendText(nil, col.plain); err != nil {
			return nil, c.valueError(err, nil, col.plain)
		}
		col.name = append(col.name, ':')
		if col.codec, err = newCodec(d, &t.Columns[i].Type, false); err != nil {
			return nil, c.valueError(err, nil, col.plain)
		}
	}
	for _, i := range t.Key {
		if i < 0 || i >= len(c.columns) {
			return nil, c.valueError(errColumns, nil, "")
		}
	}
	return c, nil
}

// valueError says where a fault is.
func (t *table) valueError(err error, key []byte, column string) error {
	var f *fault
	if !errors.As(err, &f) {
		return fmt.Errorf("encode change of table %s: %w", t.name, err)
	}
	return &ValueError{Table: t.name, Column: column, Key: string(key), Reason: f.reason, Remedy: f.remedy}
}

// keyDiffers tells whether c has key columns whose values are known to differ between Before and After.
func (t *table) keyDiffers(c *sources.Change) bool {
	if c.Before == nil {
		return false
	}
	for _, i := range t.key {
		b, a := &c.Before[i], &c.After[i]
		if b.State == sources.Unavailable || a.State == sources.Unavailable {
			continue
		}
		if b.State != a.State || (b.State == sources.Present && !bytes.Equal(b.Data, a.Data)) {
			return true
		}
	}
	return false
}

// appendKey appends the key of a row. A key column that the row does not have is taken from known: a large key value that
// an update left alone may have been sent with the old row only.
func (t *table) appendKey(buf []byte, row, known []sources.Value) ([]byte, span, error) {
	if len(t.key) == 0 {
		return buf, span{}, nil
	}
	at := span{from: len(buf), set: true}
	sep := byte('{')
	for _, i := range t.key {
		col, v := &t.columns[i], pick(&row[i], known, i)
		buf = append(buf, sep)
		buf = append(buf, col.name...)
		sep = ','
		switch v.State {
		case sources.Null:
			buf = append(buf, "null"...)
		case sources.Present:
			var err error
			if buf, err = col.codec.append(col.codec, buf, v.Data); err != nil {
				return buf, at, t.valueError(err, nil, col.plain)
			}
		default:
			return buf, at, t.valueError(errKeyUnknown, nil, col.plain)
		}
	}
	buf = append(buf, '}')
	at.to = len(buf)
	return buf, at, nil
}

// pick returns v, or its known value from before the change where v was not sent: not sent in After means not changed.
func pick(v *sources.Value, known []sources.Value, i int) *sources.Value {
	if v.State == sources.Unavailable && known != nil && known[i].State == sources.Present {
		return &known[i]
	}
	return v
}

// appendBefore appends the row before the change; what the datastore did not send is left out, or null in the debezium
// dialect. With an error comes the column's index.
func (t *table) appendBefore(buf []byte, row []sources.Value) ([]byte, int, error) {
	if row == nil {
		return append(buf, "null"...), 0, nil
	}
	start := len(buf)
	buf = append(buf, '{')
	for i := range row {
		col, v := &t.columns[i], &row[i]
		if v.State == sources.Unavailable && t.dialect == JSON {
			continue
		}
		buf = append(buf, col.name...)
		if v.State == sources.Present {
			var err error
			if buf, err = col.codec.append(col.codec, buf, v.Data); err != nil {
				return buf, i, err
			}
		} else {
			buf = append(buf, "null"...)
		}
		buf = append(buf, ',')
	}
	return closeObject(buf, start), 0, nil
}

// appendAfter appends the row after the change, and returns the number of columns whose values nobody knows.
func (t *table) appendAfter(buf []byte, row, known []sources.Value) (out []byte, unavailable, column int, err error) {
	if row == nil {
		return append(buf, "null"...), 0, 0, nil
	}
	start := len(buf)
	buf = append(buf, '{')
	for i := range row {
		col, v := &t.columns[i], pick(&row[i], known, i)
		if v.State == sources.Unavailable {
			unavailable++
			if t.dialect == JSON {
				continue
			}
		}
		buf = append(buf, col.name...)
		switch v.State {
		case sources.Present:
			if buf, err = col.codec.append(col.codec, buf, v.Data); err != nil {
				return buf, 0, i, err
			}
		case sources.Unavailable:
			buf = append(buf, col.codec.unavailable...)
		default:
			buf = append(buf, "null"...)
		}
		buf = append(buf, ',')
	}
	return closeObject(buf, start), unavailable, 0, nil
}

// closeObject ends the object that begins at start and whose members each end in a comma.
func closeObject(buf []byte, start int) []byte {
	if len(buf) == start+1 {
		return append(buf, '}')
	}
	buf[len(buf)-1] = '}'
	return buf
}

// appendUnavailable appends the source block's list of the columns that after does not have.
func (t *table) appendUnavailable(buf []byte, row, known []sources.Value) []byte {
	buf = append(buf, `,"unavailable":[`...)
	for i := range row {
		if pick(&row[i], known, i).State == sources.Unavailable {
			name := t.columns[i].name
			buf = append(buf, name[:len(name)-1]...)
			buf = append(buf, ',')
		}
	}
	buf[len(buf)-1] = ']'
	return buf
}
