package polling

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"weft/sources"
)

// class is the values that a column may hold.
type class uint8

const (
	textClass    class = iota // text only: nothing says what a number would mean
	integerClass              // integer
	realClass                 // real, or an integer that a real can hold exactly
	blobClass                 // blob
	boolClass                 // integer 0 or 1
	decimalClass              // integer, or real as its shortest decimal
	jsonClass                 // text that is JSON, or a number
	numericClass              // text, or a number as text; see SQLite's affinity NUMERIC
)

var decimalType = regexp.MustCompile(`^(?:DECIMAL|NUMERIC)(?:\s*\(\s*(\d{1,5})\s*(?:,\s*(\d{1,5})\s*)?\))?$`)

// typeOf says how a declared type is read. The affinities are those of https://www.sqlite.org/datatype3.html, section 3.1,
// in its order.
func typeOf(declared string) (sources.Type, class) {
	name := strings.ToUpper(strings.TrimSpace(declared))
	t := sources.Type{Name: declared}
	if m := decimalType.FindStringSubmatch(name); m != nil {
		t.Kind = sources.Decimal
		// SQLite does not enforce (p,s), so a value may exceed them: the type stays unbounded.
		return t, decimalClass
	}
	switch {
	case name == "BOOLEAN" || name == "BOOL":
		t.Kind = sources.Bool
		return t, boolClass
	case name == "JSON":
		t.Kind = sources.JSON
		return t, jsonClass
	case name == "" || name == "ANY":
		return t, textClass
	case strings.Contains(name, "INT"):
		t.Kind, t.Precision = sources.Int, 64
		return t, integerClass
	case strings.Contains(name, "CHAR"), strings.Contains(name, "CLOB"), strings.Contains(name, "TEXT"):
		return t, textClass
	case strings.Contains(name, "BLOB"):
		t.Kind = sources.Bytes
		return t, blobClass
	case strings.Contains(name, "REAL"), strings.Contains(name, "FLOA"), strings.Contains(name, "DOUB"):
		t.Kind, t.Precision = sources.Float, 64
		return t, realClass
	}
	return t, numericClass
}

// cell receives one column of a row. It implements sql.Scanner so that the value is copied once, into the batch's
// memory.
type cell struct {
	class class
	batch *batch
	value sources.Value
	err   error // kept rather than returned, so that the message can name the row's key
}

// maxText is the longest text that a number has here: a real as a decimal of 309 digits, or with 324 zeros before 17
// digits.
const maxText = 360

// Scan implements sql.Scanner. The driver hands over the storage class as int64, float64, string, []byte or nil.
func (c *cell) Scan(src any) error {
	switch v := src.(type) {
	case nil:
	case int64:
		c.integer(v)
	case float64:
		c.real(v)
	case string:
		c.text(v)
	case []byte:
		if c.class != blobClass {
			c.err = errors.New("it holds a blob, which the declared type does not allow for")
		}
		c.value = c.batch.keep(append(c.batch.room(len(v)), v...))
	default:
		return fmt.Errorf("the driver returned a %T", src)
	}
	return nil
}

// maxExact is the highest integer up to which a real holds every integer.
const maxExact = 1 << 53

func (c *cell) integer(v int64) {
	room := c.batch.room(maxText)
	switch c.class {
	case integerClass, decimalClass, jsonClass, numericClass:
	case realClass:
		if v > maxExact || v < -maxExact {
			c.err = fmt.Errorf("it holds the integer %d, which a real cannot hold exactly", v)
		}
	case boolClass:
		if v == 0 || v == 1 {
			c.value = c.batch.keep(append(room, "ft"[v]))
			return
		}
		c.err = fmt.Errorf("it holds %d, which is neither 0 (false) nor 1 (true)", v)
	default:
		c.err = fmt.Errorf("it holds the integer %d, which the declared type does not allow for", v)
	}
	c.value = c.batch.keep(strconv.AppendInt(room, v, 10))
}

func (c *cell) real(v float64) {
	room := c.batch.room(maxText)
	format := byte('g')
	switch c.class {
	case realClass:
	case decimalClass, numericClass:
		format = 'f'
	case jsonClass:
		if math.IsInf(v, 0) {
			c.err = errors.New("it holds an infinity, which is not JSON")
		}
	default:
		c.err = fmt.Errorf("it holds the real %v, which the declared type does not allow for", v)
	}
	switch {
	case math.IsInf(v, 1):
		room = append(room, "Infinity"...)
	case math.IsInf(v, -1):
		room = append(room, "-Infinity"...)
	default:
		room = strconv.AppendFloat(room, v, format, -1, 64)
	}
	c.value = c.batch.keep(room)
}

func (c *cell) text(v string) {
	switch c.class {
	case textClass, numericClass, jsonClass:
		if !utf8.ValidString(v) {
			c.err = errors.New("it holds text that is not valid UTF-8")
		}
	default:
		c.err = fmt.Errorf("it holds the text %.64q, which the declared type does not allow for", v)
	}
	c.value = c.batch.keep(append(c.batch.room(len(v)), v...))
	if c.class == jsonClass && c.err == nil && !json.Valid(c.value.Data) {
		c.err = fmt.Errorf("it holds the text %.64q, which is not valid JSON", v)
	}
}
