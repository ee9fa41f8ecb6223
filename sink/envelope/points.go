package envelope

import "bytes"

// parsePoint reads (1.5,2.5).
func parsePoint(s []byte) (x, y []byte, ok bool) {
	if len(s) < 5 || s[0] != '(' || s[len(s)-1] != ')' {
		return nil, nil, false
	}
	x, y, ok = bytes.Cut(s[1:len(s)-1], comma)
	return x, y, ok && (validNumber(x) || special(x)) && (validNumber(y) || special(y))
}

var comma = []byte{','}

// appendXY appends the coordinates of a point, whose object stays open.
func appendXY(dst, x, y []byte) []byte {
	dst = append(dst, `{"x":`...)
	dst = appendCoordinate(dst, x)
	dst = append(dst, `,"y":`...)
	return appendCoordinate(dst, y)
}

func appendCoordinate(dst, s []byte) []byte {
	if special(s) {
		return appendPlain(dst, s)
	}
	return append(dst, s...)
}

func appendPointXY(_ *codec, dst, data []byte) ([]byte, error) {
	x, y, ok := parsePoint(data)
	if !ok {
		return dst, errPoint
	}
	return append(appendXY(dst, x, y), '}'), nil
}
