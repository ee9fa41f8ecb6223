package spanner

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"weft/sources"
)

// typeOf maps Spanner's types to the kinds of package sources.
func typeOf(t *columnType) sources.Type {
	out := sources.Type{Kind: sources.String, Name: t.Code}
	if t.Annotation != "" {
		out.Name += "<" + t.Annotation + ">"
	}
	switch t.Code {
	case "BOOL":
		out.Kind = sources.Bool
	case "INT64", "ENUM":
		out.Kind, out.Precision = sources.Int, 64
	case "FLOAT64":
		out.Kind, out.Precision = sources.Float, 64
	case "FLOAT32":
		out.Kind, out.Precision = sources.Float, 32
	case "NUMERIC":
		out.Kind = sources.Decimal
		if t.Annotation == "" { // GoogleSQL's; PostgreSQL's has no bound
			out.Precision, out.Scale = 38, 9
		}
	case "BYTES", "PROTO":
		out.Kind = sources.Bytes
	case "DATE":
		out.Kind = sources.Date
	case "TIMESTAMP":
		out.Kind, out.Precision = sources.TimestampTZ, 9
	case "JSON":
		out.Kind = sources.JSON
	case "UUID":
		out.Kind = sources.UUID
	case "ARRAY":
		elem := typeOf(t.Elem)
		out.Kind, out.Elem, out.Name = sources.Array, &elem, "ARRAY<"+elem.Name+">"
	}
	return out
}

var errValue = errors.New("the value has not the form of its type")

// appendValue appends the wire form of a JSON value that is not null.
func appendValue(dst, value []byte, t *sources.Type) ([]byte, error) {
	if len(value) == 0 {
		return dst, errValue
	}
	if t.Kind == sources.Array {
		return appendArray(dst, value, t.Elem)
	}
	if t.Kind == sources.Bool {
		switch string(value) {
		case "true":
			return append(dst, 't'), nil
		case "false":
			return append(dst, 'f'), nil
		}
		return dst, errValue
	}
	start := len(dst)
	if value[0] != '"' {
		// A number, or the value of a type that this source does not know.
		if t.Kind == sources.Float {
			return appendFloat(dst, value, t.Precision)
		}
		if t.Kind != sources.Int && t.Kind != sources.String && t.Kind != sources.Decimal {
			return dst, errValue
		}
		return append(dst, value...), nil
	}
	dst, err := appendUnquoted(dst, value)
	if err != nil {
		return dst, err
	}
	text := dst[start:]
	switch t.Kind {
	case sources.Float: // NaN, Infinity, -Infinity
		switch string(text) {
		case "NaN", "Infinity", "-Infinity":
			return dst, nil
		}
		return dst, errValue
	case sources.Bytes:
		n, err := base64.StdEncoding.Decode(text, text)
		if err != nil {
			return dst[:start], errValue
		}
		return dst[:start+n], nil
	case sources.TimestampTZ: // 2026-01-02T03:04:05.123456789Z
		if len(text) < len("2006-01-02T15:04:05Z") || text[10] != 'T' || text[len(text)-1] != 'Z' {
			return dst, errValue
		}
		text[10] = ' '
		return append(dst[:len(dst)-1], "+00"...), nil
	}
	return dst, nil
}

// appendFloat appends the shortest form that reads back as the same number.
func appendFloat(dst, value []byte, bits int) ([]byte, error) {
	f, err := strconv.ParseFloat(string(value), bits)
	if err != nil || math.IsInf(f, 0) {
		return dst, errValue
	}
	return strconv.AppendFloat(dst, f, 'g', -1, bits), nil
}

// appendArray appends an array literal: {1,NULL,"a"}.
func appendArray(dst, value []byte, elem *sources.Type) ([]byte, error) {
	var elements []json.RawMessage
	if err := json.Unmarshal(value, &elements); err != nil {
		return dst, errValue
	}
	dst = append(dst, '{')
	for i, e := range elements {
		if i > 0 {
			dst = append(dst, ',')
		}
		if string(e) == "null" {
			dst = append(dst, "NULL"...)
			continue
		}
		start := len(dst)
		var err error
		if dst, err = appendValue(dst, e, elem); err != nil {
			return dst, err
		}
		switch elem.Kind {
		case sources.Bool, sources.Int, sources.Float, sources.Decimal, sources.Date, sources.UUID:
		case sources.Bytes:
			raw := bytes.Clone(dst[start:])
			dst = append(dst[:start], `"\\x`...)
			for _, b := range raw {
				dst = appendHex(dst, uint64(b), 2)
			}
			dst = append(dst, '"')
		default:
			raw := bytes.Clone(dst[start:])
			dst = append(dst[:start], '"')
			for _, b := range raw {
				if b == '"' || b == '\\' {
					dst = append(dst, '\\')
				}
				dst = append(dst, b)
			}
			dst = append(dst, '"')
		}
	}
	return append(dst, '}'), nil
}

// appendUnquoted appends the text of a JSON string.
func appendUnquoted(dst, s []byte) ([]byte, error) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return dst, errValue
	}
	inner := s[1 : len(s)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		if !utf8.Valid(inner) {
			return dst, errValue
		}
		return append(dst, inner...), nil
	}
	var text string
	if err := json.Unmarshal(s, &text); err != nil {
		return dst, errValue
	}
	return append(dst, text...), nil
}

// eachMember calls f with the members of a JSON object: the name without its quotes, and the value. It reads what the server
// writes, in one pass and without allocating; a text that is no JSON object is an error or f's to find.
func eachMember(object []byte, f func(name, value []byte) error) error {
	s := scanner{text: object}
	if s.skip(); !s.take('{') {
		return fmt.Errorf("%.20q is not a JSON object", object)
	}
	if s.skip(); s.take('}') {
		return s.end()
	}
	for {
		s.skip()
		name, ok := s.str()
		s.skip()
		if !ok || !s.take(':') {
			return s.broken()
		}
		s.skip()
		value, ok := s.value()
		if !ok {
			return s.broken()
		}
		if bytes.IndexByte(name, '\\') >= 0 {
			unquoted, err := appendUnquoted(nil, name)
			if err != nil {
				return s.broken()
			}
			name = unquoted
		} else {
			name = name[1 : len(name)-1]
		}
		if err := f(name, value); err != nil {
			return err
		}
		s.skip()
		switch {
		case s.take(','):
		case s.take('}'):
			return s.end()
		default:
			return s.broken()
		}
	}
}

type scanner struct {
	text []byte
	at   int
}

func (s *scanner) broken() error { return fmt.Errorf("a JSON object is broken at byte %d", s.at) }

func (s *scanner) end() error {
	if s.skip(); s.at < len(s.text) {
		return s.broken()
	}
	return nil
}

func (s *scanner) skip() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

func (s *scanner) take(c byte) bool {
	if s.at < len(s.text) && s.text[s.at] == c {
		s.at++
		return true
	}
	return false
}

// str takes a string with its quotes.
func (s *scanner) str() ([]byte, bool) {
	start := s.at
	if !s.take('"') {
		return nil, false
	}
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case '"':
			s.at++
			return s.text[start:s.at], true
		case '\\':
			s.at++
		}
		s.at++
	}
	return nil, false
}

// value takes a value whole.
func (s *scanner) value() ([]byte, bool) {
	start, depth := s.at, 0
	for s.at < len(s.text) {
		switch c := s.text[s.at]; c {
		case '"':
			if _, ok := s.str(); !ok {
				return nil, false
			}
		case '[', '{':
			depth++
			s.at++
		case ']', '}':
			if depth == 0 {
				return s.text[start:s.at], s.at > start
			}
			depth--
			s.at++
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return s.text[start:s.at], s.at > start
			}
			s.at++
		default:
			s.at++
		}
		if c := s.text[start]; depth == 0 && (c == '"' || c == '[' || c == '{') {
			return s.text[start:s.at], true
		}
	}
	return nil, false
}
