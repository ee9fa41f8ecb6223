package envelope

import (
	"bytes"
	"strconv"
)

// maxDimensions bounds the nesting of an array literal. PostgreSQL allows 6 (MAXDIM in its source).
const maxDimensions = 6

// appendArray appends an array literal as nested JSON arrays. Lower bounds other than 1, as in [0:1]={7,8}, would be lost
// in them: the json dialect then writes {"lower_bounds":[0],"values":[7,8]}.
// The literal's form: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
func appendArray(c *codec, dst, data []byte) ([]byte, error) {
	start := len(dst)
	bounded := len(data) > 0 && data[0] == '['
	if bounded {
		if !c.bounds {
			return dst, errBounds
		}
		var err error
		dst = append(dst, `{"lower_bounds":[`...)
		if dst, data, err = appendBounds(dst, data); err != nil {
			return dst[:start], err
		}
		dst = append(dst, `],"values":`...)
	}
	dst, rest, err := appendList(c, dst, data, 1)
	if err != nil {
		return dst[:start], err
	}
	if len(rest) > 0 {
		return dst[:start], errArray
	}
	if bounded {
		dst = append(dst, '}')
	}
	return dst, nil
}

// appendBounds appends the lower bounds of [0:1][-3:4]={...}, separated by commas, and returns what follows the =.
func appendBounds(dst, s []byte) (out, rest []byte, err error) {
	for n := 0; len(s) > 0 && s[0] == '['; n++ {
		colon, end := bytes.IndexByte(s, ':'), bytes.IndexByte(s, ']')
		if colon < 0 || end < colon || n == maxDimensions {
			return dst, nil, errArray
		}
		low, err := strconv.ParseInt(string(s[1:colon]), 10, 32)
		if err != nil {
			return dst, nil, errArray
		}
		if n > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(dst, low, 10)
		s = s[end+1:]
	}
	if len(s) == 0 || s[0] != '=' {
		return dst, nil, errArray
	}
	return dst, s[1:], nil
}

// appendList appends one {...} and returns what follows it.
func appendList(c *codec, dst, s []byte, depth int) (out, rest []byte, err error) {
	if len(s) < 2 || s[0] != '{' || depth > maxDimensions {
		return dst, nil, errArray
	}
	dst = append(dst, '[')
	if s[1] == '}' {
		return append(dst, ']'), s[2:], nil
	}
	for {
		s = s[1:] // the brace or the delimiter
		switch {
		case len(s) == 0:
			return dst, nil, errArray
		case s[0] == '{':
			dst, s, err = appendList(c, dst, s, depth+1)
		case s[0] == '"':
			dst, s, err = appendQuoted(c.elem, dst, s)
		default:
			dst, s, err = appendBare(c, dst, s)
		}
		switch {
		case err != nil:
			return dst, nil, err
		case len(s) == 0:
			return dst, nil, errArray
		case s[0] == '}':
			return append(dst, ']'), s[1:], nil
		case s[0] != ',':
			return dst, nil, errArray
		}
		dst = append(dst, ',')
	}
}

// appendBare appends an element that is not quoted; NULL is null then.
func appendBare(c *codec, dst, s []byte) (out, rest []byte, err error) {
	end := 0
	for end < len(s) && s[end] != ',' && s[end] != '}' {
		if s[end] == '{' || s[end] == '"' || s[end] == '\\' {
			return dst, nil, errArray
		}
		end++
	}
	if end == 0 {
		return dst, nil, errArray
	}
	if bytes.EqualFold(s[:end], null) {
		return append(dst, "null"...), s[end:], nil
	}
	dst, err = c.elem.append(c.elem, dst, s[:end])
	return dst, s[end:], err
}

var null = []byte("null")

// appendQuoted appends a quoted element.
func appendQuoted(elem *codec, dst, s []byte) (out, rest []byte, err error) {
	start := len(dst)
	dst, raw, rest, ok := unquote(dst, s)
	if !ok {
		return dst, nil, errArray
	}
	end := len(dst)
	if dst, err = elem.append(elem, dst, raw); err != nil {
		return dst, nil, err
	}
	return cut(dst, start, end), rest, nil
}

// unquote reads the "..." that s starts with, in which a backslash stands before a quote or a backslash. It returns what is
// inside, for which it needs dst's tail only when something is escaped, and what follows the closing quote.
func unquote(dst, s []byte) (out, inside, rest []byte, ok bool) {
	if len(s) == 0 || s[0] != '"' {
		return dst, nil, nil, false
	}
	s = s[1:]
	start, from, copied := len(dst), 0, false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i+1 == len(s) {
				return dst, nil, nil, false
			}
			dst = append(dst, s[from:i]...)
			i++
			from, copied = i, true
		case '"':
			if !copied {
				return dst, s[:i], s[i+1:], true
			}
			dst = append(dst, s[from:i]...)
			return dst, dst[start:], s[i+1:], true
		}
	}
	return dst, nil, nil, false
}
