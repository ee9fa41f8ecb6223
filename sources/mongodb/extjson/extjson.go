// Package extjson writes BSON as MongoDB Extended JSON v2
// (https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/), relaxed or canonical, without an allocation a
// field. What it writes reads back as the same BSON: canonical to the byte (but for the
// bits within a NaN), relaxed but for the width of numbers. A document
// of which no JSON would do so is refused with an *InvalidError. Connecting to a server is not its business.
package extjson

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// maxDepth is how deep documents may be nested. The server's own limit is 180 (BSONDepth).
const maxDepth = 250

// Writer appends BSON as Extended JSON. Its zero value writes the relaxed form. It is for one goroutine.
type Writer struct {
	// Canonical keeps the type of every number.
	Canonical bool
	// names holds the field names of the documents that are open, the innermost last.
	names [][]byte
	path  [][]byte
	index [20]byte
}

// InvalidError is a document that has no Extended JSON.
type InvalidError struct {
	// Path of the field, with a dot between the parts; empty for the document itself.
	Path   string
	Reason string
}

func (e *InvalidError) Error() string {
	if e.Path == "" {
		return e.Reason
	}
	return fmt.Sprintf("field %q: %s", e.Path, e.Reason)
}

func (w *Writer) invalid(format string, args ...any) error {
	path := bytes.ToValidUTF8(bytes.Join(w.path, []byte{'.'}), []byte("\uFFFD"))
	return &InvalidError{Path: string(path), Reason: fmt.Sprintf(format, args...)}
}

// AppendDocument appends a document.
func (w *Writer) AppendDocument(dst, doc []byte) ([]byte, error) {
	return w.AppendValue(dst, Value{Type: Document, Data: doc})
}

// AppendValue appends a single value.
func (w *Writer) AppendValue(dst []byte, v Value) ([]byte, error) {
	w.names, w.path = w.names[:0], w.path[:0]
	if _, err := size(v.Type, v.Data); err != nil { // Data may come from elsewhere than from Next
		return dst, w.invalid("%v", err)
	}
	return w.value(dst, v, v.Type != Document)
}

// document appends a document. One that is a value within another must not begin as Extended JSON's own objects do.
func (w *Writer) document(dst, doc []byte, inner bool) ([]byte, error) {
	elements, err := Open(doc)
	if err != nil {
		return dst, w.invalid("%v", err)
	}
	first := len(w.names)
	dst = append(dst, '{')
	for {
		name, v, ok, err := elements.Next()
		if err != nil {
			return dst, w.invalid("%v", err)
		}
		if !ok {
			break
		}
		w.path = append(w.path, name)
		if inner && len(w.names) == first && reserved(name) {
			return dst, w.invalid("a document that begins with this name looks like another type in Extended JSON")
		}
		w.names = append(w.names, name)
		if dst, err = w.text(dst, name); err != nil {
			return dst, err
		}
		dst = append(dst, ':')
		if dst, err = w.value(dst, v, true); err != nil {
			return dst, err
		}
		dst = append(dst, ',')
		w.path = w.path[:len(w.path)-1]
	}
	if err := w.distinct(w.names[first:]); err != nil {
		return dst, err
	}
	if dst[len(dst)-1] == ',' {
		dst = dst[:len(dst)-1]
	}
	w.names = w.names[:first]
	return append(dst, '}'), nil
}

// distinct finds a name that is there twice. It reorders names.
func (w *Writer) distinct(names [][]byte) error {
	duplicate := -1
	if len(names) <= 12 {
		for i := range names {
			for j := range i {
				if bytes.Equal(names[i], names[j]) {
					duplicate = i
				}
			}
		}
	} else {
		slices.SortFunc(names, bytes.Compare)
		for i := range names[1:] {
			if bytes.Equal(names[i], names[i+1]) {
				duplicate = i
			}
		}
	}
	if duplicate < 0 {
		return nil
	}
	w.path = append(w.path, names[duplicate])
	return w.invalid("the document has a field of this name twice")
}

// reserved tells whether an object that begins with this name is taken for a value of another type.
func reserved(name []byte) bool {
	if len(name) == 0 || name[0] != '$' {
		return false
	}
	switch string(name) {
	case "$oid", "$symbol", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal", "$binary", "$uuid", "$code", "$scope",
		"$timestamp", "$regularExpression", "$regex", "$options", "$dbPointer", "$date", "$minKey", "$maxKey", "$undefined",
		"$type":
		return true
	}
	return false
}

func (w *Writer) array(dst, doc []byte) ([]byte, error) {
	elements, err := Open(doc)
	if err != nil {
		return dst, w.invalid("%v", err)
	}
	dst = append(dst, '[')
	for i := 0; ; i++ {
		name, v, ok, err := elements.Next()
		if err != nil {
			return dst, w.invalid("%v", err)
		}
		if !ok {
			break
		}
		w.path = append(w.path, name)
		if index := strconv.AppendInt(w.index[:0], int64(i), 10); !bytes.Equal(index, name) {
			return dst, w.invalid("element %d of an array has this name", i)
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = w.value(dst, v, true); err != nil {
			return dst, err
		}
		w.path = w.path[:len(w.path)-1]
	}
	return append(dst, ']'), nil
}

func (w *Writer) value(dst []byte, v Value, inner bool) ([]byte, error) {
	switch v.Type {
	case Document, Array:
		if len(w.path) > maxDepth {
			return dst, w.invalid("documents are nested deeper than %d", maxDepth)
		}
		if v.Type == Array {
			return w.array(dst, v.Data)
		}
		return w.document(dst, v.Data, inner)
	case String:
		return w.string(dst, v)
	case Symbol:
		return w.wrapped(dst, `{"$symbol":`, v)
	case Code:
		return w.wrapped(dst, `{"$code":`, v)
	case Int32, Int64:
		return w.integer(dst, v), nil
	case Double:
		return w.double(dst, float(v.Data)), nil
	case DateTime:
		return w.dateTime(dst, int64(v.Uint64())), nil
	case ObjectID:
		dst = hex.AppendEncode(append(dst, `{"$oid":"`...), v.Data)
		return append(dst, `"}`...), nil
	case Boolean:
		if v.Data[0] > 1 {
			return dst, w.invalid("a boolean is %d", v.Data[0])
		}
		return strconv.AppendBool(dst, v.Data[0] == 1), nil
	case Null:
		return append(dst, "null"...), nil
	case Binary:
		return w.binary(dst, v.Data)
	case Regex:
		return w.regex(dst, v.Data)
	case DBPointer:
		return w.pointer(dst, v.Data)
	case CodeWithScope:
		return w.scope(dst, v.Data)
	case Timestamp:
		t := v.Uint64()
		dst = strconv.AppendUint(append(dst, `{"$timestamp":{"t":`...), t>>32, 10)
		dst = strconv.AppendUint(append(dst, `,"i":`...), t&math.MaxUint32, 10)
		return append(dst, "}}"...), nil
	case Decimal128:
		d := bson.NewDecimal128(binary.LittleEndian.Uint64(v.Data[8:]), v.Uint64())
		dst = append(append(dst, `{"$numberDecimal":"`...), d.String()...)
		return append(dst, `"}`...), nil
	case MinKey:
		return append(dst, `{"$minKey":1}`...), nil
	case MaxKey:
		return append(dst, `{"$maxKey":1}`...), nil
	case Undefined:
		return append(dst, `{"$undefined":true}`...), nil
	}
	return dst, w.invalid("0x%02x is no type of BSON", v.Type)
}

func (w *Writer) string(dst []byte, v Value) ([]byte, error) {
	text, err := v.Text()
	if err != nil {
		return dst, w.invalid("%v", err)
	}
	return w.text(dst, text)
}

// wrapped appends a text as the only member of an object.
func (w *Writer) wrapped(dst []byte, head string, v Value) ([]byte, error) {
	dst, err := w.string(append(dst, head...), v)
	return append(dst, '}'), err
}

func (w *Writer) integer(dst []byte, v Value) []byte {
	n, _ := v.Int()
	if !w.Canonical {
		return strconv.AppendInt(dst, n, 10)
	}
	head := `{"$numberLong":"`
	if v.Type == Int32 {
		head = `{"$numberInt":"`
	}
	return append(strconv.AppendInt(append(dst, head...), n, 10), `"}`...)
}

func float(data []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(data)) }

// double always shows that it is one: 1.0, not 1.
func (w *Writer) double(dst []byte, f float64) []byte {
	finite := !math.IsNaN(f) && !math.IsInf(f, 0)
	bare := finite && !w.Canonical
	if !bare {
		dst = append(dst, `{"$numberDouble":"`...)
	}
	switch {
	case math.IsNaN(f):
		dst = append(dst, "NaN"...)
	case math.IsInf(f, 1):
		dst = append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		dst = append(dst, "-Infinity"...)
	default:
		from := len(dst)
		format := byte('f')
		if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
			format = 'E'
		}
		dst = strconv.AppendFloat(dst, f, format, -1, 64)
		if format == 'f' && bytes.IndexByte(dst[from:], '.') < 0 {
			dst = append(dst, ".0"...)
		}
	}
	if !bare {
		dst = append(dst, `"}`...)
	}
	return dst
}

// lastISO is the last millisecond of the year 9999, up to which the relaxed form writes dates as text.
const lastISO = 253402300799999

func (w *Writer) dateTime(dst []byte, ms int64) []byte {
	if w.Canonical || ms < 0 || ms > lastISO {
		dst = strconv.AppendInt(append(dst, `{"$date":{"$numberLong":"`...), ms, 10)
		return append(dst, `"}}`...)
	}
	dst = time.UnixMilli(ms).UTC().AppendFormat(append(dst, `{"$date":"`...), time.RFC3339) // faster than any other layout
	if ms := ms % 1000; ms != 0 {
		dst = append(dst[:len(dst)-1], '.', digits[ms/100], digits[ms/10%10], digits[ms%10], 'Z')
	}
	return append(dst, `"}`...)
}

// oldBinary is a subtype whose data begins with its length once more.
const oldBinary = 2

func (w *Writer) binary(dst, data []byte) ([]byte, error) {
	subtype, payload := data[4], data[5:]
	if subtype == oldBinary {
		if len(payload) < 4 || int64(binary.LittleEndian.Uint32(payload)) != int64(len(payload)-4) {
			return dst, w.invalid("a binary of subtype 2 does not have the length that it says")
		}
		payload = payload[4:]
	}
	dst = base64.StdEncoding.AppendEncode(append(dst, `{"$binary":{"base64":"`...), payload)
	dst = hex.AppendEncode(append(dst, `","subType":"`...), data[4:5])
	return append(dst, `"}}`...), nil
}

func (w *Writer) regex(dst, data []byte) ([]byte, error) {
	pattern, options, _ := bytes.Cut(data[:len(data)-1], []byte{0})
	dst, err := w.text(append(dst, `{"$regularExpression":{"pattern":`...), pattern)
	if err != nil {
		return dst, err
	}
	if !slices.IsSorted(options) {
		return dst, w.invalid("the options of a regular expression are not in alphabetical order")
	}
	if dst, err = w.text(append(dst, `,"options":`...), options); err != nil {
		return dst, err
	}
	return append(dst, "}}"...), nil
}

func (w *Writer) pointer(dst, data []byte) ([]byte, error) {
	id := len(data) - 12
	dst, err := w.string(append(dst, `{"$dbPointer":{"$ref":`...), Value{Type: String, Data: data[:id]})
	if err != nil {
		return dst, err
	}
	dst = hex.AppendEncode(append(dst, `,"$id":{"$oid":"`...), data[id:])
	return append(dst, `"}}}`...), nil
}

func (w *Writer) scope(dst, data []byte) ([]byte, error) {
	if len(w.path) > maxDepth {
		return dst, w.invalid("documents are nested deeper than %d", maxDepth)
	}
	n, err := size(String, data[4:])
	if err != nil {
		return dst, w.invalid("%v", err)
	}
	if dst, err = w.string(append(dst, `{"$code":`...), Value{Type: Code, Data: data[4 : 4+n]}); err != nil {
		return dst, err
	}
	w.path = append(w.path, []byte("$scope"))
	if dst, err = w.document(append(dst, `,"$scope":`...), data[4+n:], true); err != nil {
		return dst, err
	}
	w.path = w.path[:len(w.path)-1]
	return append(dst, '}'), nil
}

const digits = "0123456789abcdef"

// text appends a JSON string.
func (w *Writer) text(dst, s []byte) ([]byte, error) {
	if !utf8.Valid(s) {
		return dst, w.invalid("a text is not valid UTF-8")
	}
	dst = append(dst, '"')
	from := 0
	for i, c := range s {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
	}
	return append(append(dst, s[from:]...), '"'), nil
}
