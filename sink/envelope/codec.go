package envelope

import (
	"fmt"

	"weft/sources"
)

// codec writes the values of one column, or of an array's elements, as JSON.
type codec struct {
	// append appends data, which is present, to dst. Its errors are *fault.
	append func(c *codec, dst, data []byte) ([]byte, error)
	// elem writes an array's elements.
	elem *codec
	// bounds tells that an array with lower bounds of its own may be written as an object.
	bounds bool
	// scale and variable describe a decimal, unit a time: nanoseconds in one step of its number.
	scale    int
	variable bool
	unit     int64
	// fraction is the number of digits of a second that a timestamp with time zone always has, -1 for as many as needed.
	fraction int
	// fixed tells that all of a column's bit strings have one length.
	fixed bool
	// unavailable is what the debezium dialect writes for a value that nobody knows.
	unavailable []byte
}

// newCodec returns the codec of t in dialect d. Bytes are raw in a column and hex in an array's element.
func newCodec(d Dialect, t *sources.Type, inArray bool) (*codec, error) {
	c := &codec{unavailable: []byte(placeholder)}
	switch t.Kind {
	case sources.String, sources.UUID, sources.JSON:
		c.append = appendStringValue
	case sources.Bool:
		c.append = appendBool
	case sources.Int:
		c.append = appendInt
	case sources.Float:
		c.append = appendFloat
	case sources.Bytes:
		c.unavailable = []byte(placeholderBytes)
		c.append = appendBytes
		if inArray {
			c.append = appendHex
		}
	case sources.Array:
		if t.Elem == nil {
			return nil, &fault{fmt.Sprintf("the array type %s has no element type", t.Name), reportIt}
		}
		elem, err := newCodec(d, t.Elem, true)
		if err != nil {
			return nil, err
		}
		c.elem, c.append, c.bounds = elem, appendArray, d == JSON
		c.unavailable = append(append([]byte{'['}, elem.unavailable...), ']')
		if t.Elem.Kind == sources.Int {
			c.unavailable = []byte(placeholderInts)
		}
	case sources.Decimal, sources.Bits, sources.Date, sources.Time, sources.TimeTZ, sources.Timestamp,
		sources.TimestampTZ, sources.Interval, sources.Point, sources.Map:
		if d == Debezium {
			c.debezium(t)
		} else {
			c.json(t)
		}
	default:
		return nil, &fault{fmt.Sprintf("the type %s has the unknown kind %d", t.Name, t.Kind), reportIt}
	}
	return c, nil
}

// json completes the codec of a kind that the two dialects write differently, for the json dialect.
func (c *codec) json(t *sources.Type) {
	switch t.Kind {
	case sources.Decimal:
		c.append = appendDecimalText
	case sources.Bits:
		c.append = appendBitsText
	case sources.Date:
		c.append = appendDateText
	case sources.Time:
		c.append = appendTimeText
	case sources.TimeTZ:
		c.append = appendTimeTZText
	case sources.Timestamp:
		c.append = appendTimestampText
	case sources.TimestampTZ:
		c.append = appendTimestampTZText
	case sources.Interval:
		c.append = appendIntervalText
	case sources.Point:
		c.append = appendPointXY
	case sources.Map:
		c.append = appendMap
	}
}

func appendStringValue(_ *codec, dst, data []byte) ([]byte, error) { return appendString(dst, data) }

func appendBool(_ *codec, dst, data []byte) ([]byte, error) {
	if len(data) == 1 {
		switch data[0] {
		case 't':
			return append(dst, "true"...), nil
		case 'f':
			return append(dst, "false"...), nil
		}
	}
	return dst, errBool
}

// appendInt appends an integer with its exact digits, less a plus sign and leading zeros, which JSON does not allow.
func appendInt(_ *codec, dst, data []byte) ([]byte, error) {
	negative := false
	if len(data) > 0 && (data[0] == '-' || data[0] == '+') {
		negative = data[0] == '-'
		data = data[1:]
	}
	if len(data) == 0 || digits(data) != len(data) {
		return dst, errInt
	}
	for len(data) > 1 && data[0] == '0' {
		data = data[1:]
	}
	if negative && data[0] != '0' {
		dst = append(dst, '-')
	}
	return append(dst, data...), nil
}

// appendFloat appends a number as it is, or one of the three that JSON does not have as a string.
func appendFloat(_ *codec, dst, data []byte) ([]byte, error) {
	switch {
	case validNumber(data):
		return append(dst, data...), nil
	case special(data):
		return appendPlain(dst, data), nil
	}
	return dst, errFloat
}

// special tells the values that are no numbers in JSON.
func special(s []byte) bool {
	switch string(s) {
	case "NaN", "Infinity", "-Infinity":
		return true
	}
	return false
}

// validNumber tells whether s is a number by JSON's grammar (RFC 8259, section 6).
func validNumber(s []byte) bool {
	if len(s) > 0 && s[0] == '-' {
		s = s[1:]
	}
	n := digits(s)
	if n == 0 || (n > 1 && s[0] == '0') {
		return false
	}
	if s = s[n:]; len(s) > 0 && s[0] == '.' {
		if n = digits(s[1:]); n == 0 {
			return false
		}
		s = s[1+n:]
	}
	if len(s) > 0 && (s[0] == 'e' || s[0] == 'E') {
		s = s[1:]
		if len(s) > 0 && (s[0] == '+' || s[0] == '-') {
			s = s[1:]
		}
		n = digits(s)
		return n > 0 && n == len(s)
	}
	return len(s) == 0
}

func appendBytes(_ *codec, dst, data []byte) ([]byte, error) { return appendBase64(dst, data), nil }

// appendHex appends bytes that are written as \xhex, which is their form in an array.
func appendHex(_ *codec, dst, data []byte) ([]byte, error) {
	if len(data) < 2 || data[0] != '\\' || data[1] != 'x' || len(data)%2 != 0 {
		return dst, errHex
	}
	start := len(dst)
	for i := 2; i < len(data); i += 2 {
		high, low := unhex(data[i]), unhex(data[i+1])
		if high > 15 || low > 15 {
			return dst[:start], errHex
		}
		dst = append(dst, high<<4|low)
	}
	end := len(dst)
	dst = appendBase64(dst, dst[start:end])
	return cut(dst, start, end), nil
}

func unhex(b byte) byte {
	switch {
	case b >= '0' && b <= '9':
		return b - '0'
	case b >= 'a' && b <= 'f':
		return b - 'a' + 10
	case b >= 'A' && b <= 'F':
		return b - 'A' + 10
	}
	return 0xff
}

func validBits(s []byte) bool {
	for _, b := range s {
		if b != '0' && b != '1' {
			return false
		}
	}
	return true
}

func appendBitsText(_ *codec, dst, data []byte) ([]byte, error) {
	if !validBits(data) {
		return dst, errBits
	}
	return appendPlain(dst, data), nil
}
