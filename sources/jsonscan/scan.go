// Package jsonscan cuts JSON into its parts where they stand, in one pass and without making anything of them: for text that is known to
// be JSON, most of which is only copied. It finds what is broken on its way, and does not look for all that could be.
package jsonscan

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

var errEnd = errors.New("unexpected end of JSON input")

// Members calls fn for each member of the JSON object text, in its order: the name unquoted, and the value's text. Name and
// value refer to text.
func Members(text []byte, fn func(name, value []byte) error) error {
	s := scanner{text: text}
	s.space()
	if !s.take('{') {
		return s.unexpected("an object")
	}
	if s.space(); !s.take('}') {
		for {
			s.space()
			quoted, err := s.string()
			if err != nil {
				return err
			}
			name, err := Unquote(quoted)
			if err != nil {
				return err
			}
			if s.space(); !s.take(':') {
				return s.unexpected("a colon")
			}
			value, err := s.value(0)
			if err != nil {
				return err
			}
			if err := fn(name, value); err != nil {
				return err
			}
			if s.space(); s.take('}') {
				break
			}
			if !s.take(',') {
				return s.unexpected("a comma")
			}
		}
	}
	if s.space(); s.at < len(text) {
		return s.unexpected("the end")
	}
	return nil
}

// Elements is Members for an array.
func Elements(text []byte, fn func(value []byte) error) error {
	s := scanner{text: text}
	s.space()
	if !s.take('[') {
		return s.unexpected("an array")
	}
	if s.space(); s.take(']') {
		return nil
	}
	for {
		value, err := s.value(0)
		if err != nil {
			return err
		}
		if err := fn(value); err != nil {
			return err
		}
		if s.space(); s.take(']') {
			return nil
		}
		if !s.take(',') {
			return s.unexpected("a comma")
		}
	}
}

// scanner walks over JSON.
type scanner struct {
	text []byte
	at   int
}

// maxDepth of nested values; PostgreSQL's own limit for arrays is 6, and a column of JSON is a string.
const maxDepth = 1000

func (s *scanner) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

func (s *scanner) take(b byte) bool {
	if s.at < len(s.text) && s.text[s.at] == b {
		s.at++
		return true
	}
	return false
}

func (s *scanner) unexpected(want string) error {
	if s.at >= len(s.text) {
		return errEnd
	}
	return fmt.Errorf("JSON has %q at byte %d instead of %s", s.text[s.at], s.at, want)
}

// value returns the text of the value that begins here.
func (s *scanner) value(depth int) ([]byte, error) {
	s.space()
	if s.at >= len(s.text) {
		return nil, errEnd
	}
	start := s.at
	switch b := s.text[s.at]; b {
	case '"':
		return s.string()
	case '{', '[':
		return s.compound(depth)
	case 't', 'f', 'n':
		for _, word := range []string{"true", "false", "null"} {
			if bytes.HasPrefix(s.text[s.at:], []byte(word)) {
				s.at += len(word)
				return s.text[start:s.at:s.at], nil
			}
		}
		return nil, s.unexpected("a value")
	default:
		for s.at < len(s.text) && isNumber(s.text[s.at]) {
			s.at++
		}
		number := s.text[start:s.at:s.at]
		if len(number) == 0 || number[0] == '+' || !(number[0] == '-' || number[0] >= '0' && number[0] <= '9') {
			s.at = start
			return nil, s.unexpected("a value")
		}
		return number, nil
	}
}

func isNumber(b byte) bool {
	return b >= '0' && b <= '9' || b == '-' || b == '+' || b == '.' || b == 'e' || b == 'E'
}

func (s *scanner) compound(depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("JSON is nested more than %d deep", maxDepth)
	}
	start, end := s.at, byte('}')
	if s.text[s.at] == '[' {
		end = ']'
	}
	s.at++
	if s.space(); !s.take(end) {
		for {
			if end == '}' {
				s.space()
				if _, err := s.string(); err != nil {
					return nil, err
				}
				if s.space(); !s.take(':') {
					return nil, s.unexpected("a colon")
				}
			}
			if _, err := s.value(depth + 1); err != nil {
				return nil, err
			}
			if s.space(); s.take(end) {
				break
			}
			if !s.take(',') {
				return nil, s.unexpected("a comma")
			}
		}
	}
	return s.text[start:s.at:s.at], nil
}

// string returns the text of the string that begins here, with its quotes.
func (s *scanner) string() ([]byte, error) {
	start := s.at
	if !s.take('"') {
		return nil, s.unexpected("a string")
	}
	for s.at < len(s.text) {
		next := bytes.IndexByte(s.text[s.at:], '"')
		if next < 0 {
			break
		}
		slashes := 0
		for i := s.at + next - 1; i > start && s.text[i] == '\\'; i-- {
			slashes++
		}
		if s.at += next + 1; slashes%2 == 0 {
			return s.text[start:s.at:s.at], nil
		}
	}
	s.at = len(s.text)
	return nil, errEnd
}

// Unquote returns what a JSON string holds; without escapes it is a part of it.
func Unquote(quoted []byte) ([]byte, error) {
	if inner := quoted[1 : len(quoted)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return inner, nil
	}
	return AppendUnquoted(make([]byte, 0, len(quoted)), quoted)
}

// AppendUnquoted appends what a JSON string holds.
func AppendUnquoted(out, quoted []byte) ([]byte, error) {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return append(out, inner...), nil
	}
	for i := 0; i < len(inner); i++ {
		if inner[i] != '\\' {
			out = append(out, inner[i])
			continue
		}
		i++ // the scanner has seen to it that a backslash is not the last
		switch inner[i] {
		case '"', '\\', '/':
			out = append(out, inner[i])
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, err := hex4(inner[i+1:])
			if err != nil {
				return nil, err
			}
			i += 4
			if r >= 0xd800 && r < 0xdc00 && i+2 < len(inner) && inner[i+1] == '\\' && inner[i+2] == 'u' {
				if low, err := hex4(inner[i+3:]); err == nil && low >= 0xdc00 && low < 0xe000 {
					r = 0x10000 + (r-0xd800)<<10 + (low - 0xdc00)
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			return nil, fmt.Errorf("JSON string has the escape \\%c", inner[i])
		}
	}
	return out, nil
}

func hex4(b []byte) (rune, error) {
	if len(b) < 4 {
		return 0, errEnd
	}
	n, err := strconv.ParseUint(string(b[:4]), 16, 32)
	if err != nil {
		return 0, fmt.Errorf("JSON string has a bad \\u escape")
	}
	return rune(n), nil
}

// AppendQuoted appends a JSON string.
func AppendQuoted(dst []byte, s []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, b := range s {
		switch {
		case b == '"' || b == '\\':
			dst = append(dst, '\\', b)
		case b < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', hex[b>>4], hex[b&15])
		default:
			dst = append(dst, b)
		}
	}
	return append(dst, '"')
}
