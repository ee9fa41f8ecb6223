package archive

import (
	"fmt"
	"math"
	"strconv"

	"github.com/parquet-go/parquet-go"

	"weft/sources/jsonscan"
)

// Kind is how a column's values are stored.
type Kind string

// The kinds. A column is of the first that takes all of its values as they are.
const (
	Int64  Kind = "int64"
	Double Kind = "double" // numbers of which some have a fraction, and NaN and the infinities, which JSON has as strings
	Bool   Kind = "bool"
	String Kind = "string" // JSON strings, without their quotes: also decimals and times, exactly as the log has them
	JSON   Kind = "json"   // anything else, as JSON text
)

func (k Kind) valid() bool {
	return k == Int64 || k == Double || k == Bool || k == String || k == JSON
}

func (k Kind) node() parquet.Node {
	var n parquet.Node
	switch k {
	case Int64:
		n = parquet.Leaf(parquet.Int64Type)
	case Double:
		n = parquet.Leaf(parquet.DoubleType)
	case Bool:
		n = parquet.Leaf(parquet.BooleanType)
	case JSON:
		n = plainJSON()
	default:
		n = plainString()
	}
	return parquet.Optional(n)
}

// Texts are encoded plainly: DuckDB 1.4.1 read a column of equal texts in the library's default encoding as one long text.
func plainJSON() parquet.Node   { return parquet.Encoded(parquet.JSON(), &parquet.Plain) }
func plainString() parquet.Node { return parquet.Encoded(parquet.String(), &parquet.Plain) }

// seen are the forms of JSON that a column's values have.
type seen uint16

const (
	seenInt     seen = 1 << iota // that float64 has exactly
	seenLong                     // another of 64 bits
	seenFloat                    // a number that is no integer of 64 bits, and that float64 gives back
	seenNumber                   // any other number
	seenBool                     //
	seenSpecial                  // "NaN", "Infinity", "-Infinity"
	seenString                   // any other string
	seenOther                    // an object or array
)

// add notes a value other than null.
func (s *seen) add(raw []byte) {
	switch raw[0] {
	case 't', 'f':
		*s |= seenBool
	case '"':
		if _, ok := special(raw); ok {
			*s |= seenSpecial
		} else {
			*s |= seenString
		}
	case '{', '[':
		*s |= seenOther
	default:
		*s |= seenNumeral(raw)
	}
}

func seenNumeral(raw []byte) seen {
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil && string(raw) != "-0" {
		if n >= -1<<53 && n <= 1<<53 {
			return seenInt
		}
		return seenLong
	}
	// As many digits as a float64 carries come back as they are; a decimal with more would be rounded.
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || digits(raw) > 17 || f == 0 && digits(raw) > 0 {
		return seenNumber
	}
	return seenFloat
}

// digits counts the significant digits of a number.
func digits(raw []byte) int {
	n := 0
	for _, b := range raw {
		switch {
		case b == 'e' || b == 'E':
			return n
		case b >= '0' && b <= '9' && (n > 0 || b != '0'):
			n++
		}
	}
	return n
}

func special(raw []byte) (float64, bool) {
	switch string(raw) {
	case `"NaN"`:
		return math.NaN(), true
	case `"Infinity"`:
		return math.Inf(1), true
	case `"-Infinity"`:
		return math.Inf(-1), true
	}
	return 0, false
}

func (s seen) kind() Kind {
	within := func(forms seen) bool { return s&^forms == 0 }
	switch {
	case within(seenString | seenSpecial):
		return String
	case within(seenInt | seenLong):
		return Int64
	case within(seenInt | seenFloat | seenSpecial):
		return Double
	case within(seenBool):
		return Bool
	}
	return JSON
}

// takes tells whether a column of the kind can hold a value.
func (k Kind) takes(raw []byte) bool {
	if string(raw) == "null" || k == JSON {
		return true
	}
	var s seen
	s.add(raw)
	if of := s.kind(); of != k { // a few of a wider kind's values are of a narrower one
		return k == Double && s&^(seenInt|seenFloat|seenSpecial) == 0 || k == String && s&^(seenString|seenSpecial) == 0
	}
	return true
}

// value makes a column's value of its JSON.
func (k Kind) value(raw []byte) (parquet.Value, error) {
	if string(raw) == "null" {
		return parquet.NullValue(), nil
	}
	switch k {
	case Int64:
		n, err := strconv.ParseInt(string(raw), 10, 64)
		return parquet.Int64Value(n), err
	case Double:
		if f, ok := special(raw); ok {
			return parquet.DoubleValue(f), nil
		}
		f, err := strconv.ParseFloat(string(raw), 64)
		return parquet.DoubleValue(f), err
	case Bool:
		return parquet.BooleanValue(string(raw) == "true"), nil
	case String:
		s, err := jsonscan.Unquote(raw)
		return parquet.ByteArrayValue(s), err
	}
	return parquet.ByteArrayValue(raw), nil
}

// append appends the JSON of a value.
func (k Kind) append(dst []byte, v parquet.Value) ([]byte, error) {
	if v.IsNull() {
		return append(dst, "null"...), nil
	}
	switch k {
	case Int64:
		return strconv.AppendInt(dst, v.Int64(), 10), nil
	case Double:
		f := v.Double()
		switch {
		case math.IsNaN(f):
			return append(dst, `"NaN"`...), nil
		case math.IsInf(f, 1):
			return append(dst, `"Infinity"`...), nil
		case math.IsInf(f, -1):
			return append(dst, `"-Infinity"`...), nil
		}
		return strconv.AppendFloat(dst, f, 'g', -1, 64), nil
	case Bool:
		return strconv.AppendBool(dst, v.Boolean()), nil
	case String:
		return jsonscan.AppendQuoted(dst, v.ByteArray()), nil
	case JSON:
		return append(dst, v.ByteArray()...), nil
	}
	return dst, fmt.Errorf("a column of kind %q", k)
}
