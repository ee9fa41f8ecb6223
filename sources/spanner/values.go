package spanner

import (
	"bytes"
	"encoding/base64"
	"errors"
	"math"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"

	"weft/sources"
	"weft/sources/jsonscan"
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

// appendValue appends the wire form of a JSON value that is not null: values of change records.
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
	if value[0] != '"' {
		// A number, or the value of a type that this source does not know.
		if t.Kind == sources.Float {
			f, err := strconv.ParseFloat(string(value), t.Precision)
			if err != nil || math.IsInf(f, 0) {
				return dst, errValue
			}
			return appendFloat(dst, f, t.Precision), nil
		}
		if t.Kind != sources.Int && t.Kind != sources.String && t.Kind != sources.Decimal {
			return dst, errValue
		}
		return append(dst, value...), nil
	}
	start := len(dst)
	out, err := jsonscan.AppendUnquoted(dst, value)
	if err != nil || !utf8.Valid(out[start:]) {
		return dst, errValue
	}
	return asWire(out, start, t)
}

// appendProto appends the wire form of a value of the protocol that is not null: values of rows.
func appendProto(dst []byte, value *structpb.Value, t *sources.Type) ([]byte, error) {
	switch v := value.GetKind().(type) {
	case *structpb.Value_ListValue:
		if t.Kind != sources.Array {
			return dst, errValue
		}
		dst = append(dst, '{')
		for i, e := range v.ListValue.GetValues() {
			if i > 0 {
				dst = append(dst, ',')
			}
			if _, null := e.GetKind().(*structpb.Value_NullValue); null {
				dst = append(dst, "NULL"...)
				continue
			}
			start := len(dst)
			var err error
			if dst, err = appendProto(dst, e, t.Elem); err != nil {
				return dst, err
			}
			dst = asElement(dst, start, t.Elem)
		}
		return append(dst, '}'), nil
	case *structpb.Value_BoolValue:
		if t.Kind == sources.Bool {
			if v.BoolValue {
				return append(dst, 't'), nil
			}
			return append(dst, 'f'), nil
		}
	case *structpb.Value_NumberValue:
		if t.Kind == sources.Float {
			return appendFloat(dst, v.NumberValue, t.Precision), nil
		}
	case *structpb.Value_StringValue:
		if t.Kind != sources.Array && t.Kind != sources.Bool {
			start := len(dst)
			return asWire(append(dst, v.StringValue...), start, t)
		}
	}
	return dst, errValue
}

// asWire makes the wire form of the text that was appended from start on.
func asWire(dst []byte, start int, t *sources.Type) ([]byte, error) {
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
func appendFloat(dst []byte, f float64, bits int) []byte {
	return strconv.AppendFloat(dst, f, 'g', -1, bits)
}

// appendArray appends an array literal: {1,NULL,"a"}.
func appendArray(dst, value []byte, elem *sources.Type) ([]byte, error) {
	dst = append(dst, '{')
	first := true
	err := jsonscan.Elements(value, func(e []byte) (err error) {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		if string(e) == "null" {
			dst = append(dst, "NULL"...)
			return nil
		}
		start := len(dst)
		if dst, err = appendValue(dst, e, elem); err != nil {
			return err
		}
		dst = asElement(dst, start, elem)
		return nil
	})
	if err != nil {
		return dst, errValue
	}
	return append(dst, '}'), nil
}

// asElement quotes the wire form that was appended from start on as an element of an array needs it.
func asElement(dst []byte, start int, elem *sources.Type) []byte {
	switch elem.Kind {
	case sources.Bool, sources.Int, sources.Float, sources.Decimal, sources.Date, sources.UUID:
		return dst
	case sources.Bytes:
		raw := bytes.Clone(dst[start:])
		dst = append(dst[:start], `"\\x`...)
		for _, b := range raw {
			dst = appendHex(dst, uint64(b), 2)
		}
		return append(dst, '"')
	default:
		raw := bytes.Clone(dst[start:])
		dst = append(dst[:start], '"')
		for _, b := range raw {
			if b == '"' || b == '\\' {
				dst = append(dst, '\\')
			}
			dst = append(dst, b)
		}
		return append(dst, '"')
	}
}
