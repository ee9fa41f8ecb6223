package envelope

import (
	"encoding/base64"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// escaped marks the bytes that JSON does not allow in a string as they are.
var escaped = func() (t [256]bool) {
	for b := range 0x20 {
		t[b] = true
	}
	t['"'], t['\\'] = true, true
	return t
}()

// appendString appends s as a JSON string.
func appendString(dst, s []byte) ([]byte, error) {
	if !utf8.Valid(s) {
		return dst, errUTF8
	}
	dst = append(dst, '"')
	from := 0
	for i, b := range s {
		if !escaped[b] {
			continue
		}
		dst = append(dst, s[from:i]...)
		dst = appendEscape(dst, b)
		from = i + 1
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"'), nil
}

func appendEscape(dst []byte, b byte) []byte {
	switch b {
	case '"', '\\':
		return append(dst, '\\', b)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&0xf])
}

// appendText appends a string as a JSON string. It goes by way of dst's tail, so that nothing is allocated.
func appendText(dst []byte, s string) ([]byte, error) {
	start := len(dst)
	dst = append(dst, s...)
	end := len(dst)
	dst, err := appendString(dst, dst[start:end])
	if err != nil {
		return dst[:start], err
	}
	return cut(dst, start, end), nil
}

// cut removes dst[start:end]. Values that need an intermediate form append it to dst, append the final form after it, and
// cut the former out.
func cut(dst []byte, start, end int) []byte {
	n := copy(dst[start:], dst[end:])
	return dst[:start+n]
}

// appendPlain appends s, which is known to need no escaping, as a JSON string.
func appendPlain(dst, s []byte) []byte {
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

func appendBase64(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

// digits returns the length of the run of decimal digits that s starts with.
func digits(s []byte) int {
	for i, b := range s {
		if b < '0' || b > '9' {
			return i
		}
	}
	return len(s)
}

// number reads up to 18 decimal digits, which must be all of s.
func number(s []byte) (int64, bool) {
	if len(s) == 0 || len(s) > 18 || digits(s) != len(s) {
		return 0, false
	}
	var n int64
	for _, b := range s {
		n = n*10 + int64(b-'0')
	}
	return n, true
}
