package extjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	doc, err := bson.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// every is a document with each type of BSON.
func every(t testing.TB) bson.D {
	oid, err := bson.ObjectIDFromHex("5f0000000000000000000001")
	if err != nil {
		t.Fatal(err)
	}
	dec, err := bson.ParseDecimal128("-12.3400E+10")
	if err != nil {
		t.Fatal(err)
	}
	return bson.D{
		{Key: "double", Value: 1.0}, {Key: "tenth", Value: 0.1}, {Key: "large", Value: 1e300}, {Key: "small", Value: -1e-9},
		{Key: "zero", Value: math.Copysign(0, -1)}, {Key: "nan", Value: math.NaN()}, {Key: "inf", Value: math.Inf(-1)},
		{Key: "string", Value: "a\"\\\n\r\t\x01\u2028\U0001F9F5"}, {Key: "", Value: ""},
		{Key: "doc", Value: bson.D{{Key: "a.b", Value: bson.D{}}, {Key: "$x", Value: int32(1)}}},
		{Key: "array", Value: bson.A{int32(1), bson.A{}, bson.D{{Key: "x", Value: nil}}}},
		{Key: "binary", Value: bson.Binary{Subtype: 0, Data: []byte{0, 255}}}, {Key: "old", Value: bson.Binary{Subtype: 2, Data: []byte("abc")}},
		{Key: "uuid", Value: bson.Binary{Subtype: 4, Data: make([]byte, 16)}}, {Key: "undefined", Value: bson.Undefined{}},
		{Key: "oid", Value: oid}, {Key: "true", Value: true}, {Key: "false", Value: false},
		{Key: "date", Value: bson.NewDateTimeFromTime(time.Date(2026, 2, 28, 1, 2, 3, 0, time.UTC))},
		{Key: "millis", Value: bson.DateTime(1795548503651)}, {Key: "before", Value: bson.DateTime(-1)},
		{Key: "far", Value: bson.DateTime(math.MaxInt64)}, {Key: "null", Value: nil},
		{Key: "regex", Value: bson.Regex{Pattern: "^a/\"b", Options: "imx"}}, {Key: "pointer", Value: bson.DBPointer{DB: "d.c", Pointer: oid}},
		{Key: "code", Value: bson.JavaScript("f()")}, {Key: "symbol", Value: bson.Symbol("s")},
		{Key: "scope", Value: bson.CodeWithScope{Code: "g()", Scope: bson.D{{Key: "x", Value: int32(1)}}}},
		{Key: "int", Value: int32(-5)}, {Key: "long", Value: int64(math.MaxInt64)}, {Key: "ts", Value: bson.Timestamp{T: math.MaxUint32, I: 7}},
		{Key: "decimal", Value: dec}, {Key: "max", Value: bson.MaxKey{}}, {Key: "min", Value: bson.MinKey{}},
	}
}

// What the writer makes of each type is what MongoDB's own driver makes of it, and reads back to the same bytes.
func TestEveryType(t *testing.T) {
	doc := marshal(t, every(t))
	for _, canonical := range []bool{true, false} {
		got, err := (&Writer{Canonical: canonical}).AppendDocument(nil, doc)
		if err != nil {
			t.Fatal(err)
		}
		want, err := bson.MarshalExtJSON(bson.Raw(doc), canonical, false)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(compact(t, got), compact(t, want)) {
			t.Errorf("canonical %t:\n%s\nthe driver has\n%s", canonical, got, want)
		}
		var back bson.Raw
		if err := bson.UnmarshalExtJSON(got, canonical, &back); err != nil {
			t.Fatal(err)
		}
		if canonical && !bytes.Equal(back, doc) {
			t.Errorf("it reads back as\n%x\nnot\n%x", []byte(back), doc)
		}
	}
}

// compact gives JSON with one way to write each text and number.
func compact(t testing.TB, text []byte) []byte {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	for {
		token, err := d.Token()
		if err != nil {
			return out.Bytes()
		}
		if delim, ok := token.(json.Delim); ok {
			token = delim.String()
		}
		if err := e.Encode(token); err != nil {
			t.Fatal(err)
		}
	}
}

func TestForms(t *testing.T) {
	for _, c := range []struct {
		value              any
		relaxed, canonical string
	}{
		{int32(5), `5`, `{"$numberInt":"5"}`},
		{int64(math.MinInt64), `-9223372036854775808`, `{"$numberLong":"-9223372036854775808"}`},
		{5.0, `5.0`, `{"$numberDouble":"5.0"}`},
		{1e21, `1E+21`, `{"$numberDouble":"1E+21"}`},
		{math.Inf(1), `{"$numberDouble":"Infinity"}`, `{"$numberDouble":"Infinity"}`},
		{bson.DateTime(0), `{"$date":"1970-01-01T00:00:00Z"}`, `{"$date":{"$numberLong":"0"}}`},
		{bson.DateTime(1500), `{"$date":"1970-01-01T00:00:01.500Z"}`, `{"$date":{"$numberLong":"1500"}}`},
		{bson.DateTime(lastISO + 1), `{"$date":{"$numberLong":"253402300800000"}}`, `{"$date":{"$numberLong":"253402300800000"}}`},
		{"x", `"x"`, `"x"`},
	} {
		kind, data, err := bson.MarshalValue(c.value)
		if err != nil {
			t.Fatal(err)
		}
		for canonical, want := range map[bool]string{false: c.relaxed, true: c.canonical} {
			got, err := (&Writer{Canonical: canonical}).AppendValue(nil, Value{Type: byte(kind), Data: data})
			if err != nil || string(got) != want {
				t.Errorf("%v, canonical %t: %s, %v; want %s", c.value, canonical, got, err, want)
			}
		}
	}
}

func TestInvalid(t *testing.T) {
	many := bson.D{}
	for _, c := range "abcdefghijklmnopqrstuvwxyza" {
		many = append(many, bson.E{Key: string(c), Value: 1})
	}
	var deep any
	for range maxDepth + 2 {
		deep = bson.D{{Key: "d", Value: deep}}
	}
	truncated := marshal(t, bson.D{{Key: "a", Value: "text"}})
	truncated[7] = 200 // the string's length
	for name, c := range map[string]struct {
		doc  []byte
		want string
	}{
		"twice":       {marshal(t, bson.D{{Key: "a", Value: 1}, {Key: "b", Value: 1}, {Key: "a", Value: 2}}), `field "a": the document has a field of this name twice`},
		"twice, deep": {marshal(t, bson.D{{Key: "x", Value: bson.A{0, bson.D{{Key: "a", Value: 1}, {Key: "a", Value: 1}}}}}), `field "x.1.a": `},
		"of many":     {marshal(t, many), `field "a": the document has`},
		"text":        {marshal(t, bson.D{{Key: "a", Value: "\xff"}}), `field "a": a text is not valid UTF-8`},
		"name":        {marshal(t, bson.D{{Key: "\xff", Value: 1}}), "field \"\uFFFD\": a text is not valid UTF-8"},
		"like a type": {marshal(t, bson.D{{Key: "a", Value: bson.D{{Key: "$oid", Value: "5f0000000000000000000001"}}}}), `field "a.$oid": a document that begins`},
		"depth":       {marshal(t, deep), "nested deeper"},
		"cut off":     {truncated, "the BSON is cut off"},
		"short":       {[]byte{5, 0}, "cut off"},
		"array":       {[]byte{0x10, 0, 0, 0, 4, 'a', 0, 8, 0, 0, 0, 0x0a, 'x', 0, 0, 0}, `field "a.x": element 0`},
		"boolean":     {[]byte{9, 0, 0, 0, 8, 'a', 0, 7, 0}, `field "a": a boolean is 7`},
		"type":        {[]byte{8, 0, 0, 0, 0x55, 'a', 0, 0}, "0x55 is no type"},
	} {
		_, err := (&Writer{}).AppendDocument(nil, c.doc)
		var invalid *InvalidError
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	// A whole document may begin with such a name: nothing else is expected in its place.
	if _, err := (&Writer{}).AppendDocument(nil, marshal(t, bson.D{{Key: "$oid", Value: "x"}})); err != nil {
		t.Error(err)
	}
}

// manyForms are values that BSON has many forms of: NaN, a decimal infinity, and the decimal zero, which every coefficient that is too large is.
var manyForms = regexp.MustCompile(`NaN|"\$numberDecimal":"-?(0|Infinity)`)

// FuzzDocument: what is written is JSON, and reads back as the same BSON.
func FuzzDocument(f *testing.F) {
	f.Add(marshal(f, every(f)))
	for _, e := range every(f) {
		f.Add(marshal(f, bson.D{e}))
	}
	// A decimal whose coefficient is too large is zero.
	f.Add([]byte("\x1e\x00\x00\x00\x13decimal\x00\b\xe2\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00L\xef\x00"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		relaxed, rerr := (&Writer{}).AppendDocument(nil, doc)
		text, err := (&Writer{Canonical: true}).AppendDocument(nil, doc)
		if (rerr == nil) != (err == nil) {
			t.Fatalf("relaxed: %v, canonical: %v", rerr, err)
		}
		if err != nil {
			return
		}
		if !json.Valid(text) || !json.Valid(relaxed) {
			t.Fatalf("not JSON: %s\n%s", text, relaxed)
		}
		var back bson.Raw
		if err := bson.UnmarshalExtJSON(text, true, &back); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !bytes.Equal(back, doc) && !manyForms.Match(text) {
			t.Fatalf("%s\nreads back as\n%x\nnot\n%x", text, []byte(back), doc)
		}
		again, err := (&Writer{Canonical: true}).AppendDocument(nil, back)
		if err != nil || !bytes.Equal(again, text) {
			t.Fatalf("%s\nreads back as\n%s (%v)", text, again, err)
		}
	})
}

func BenchmarkDocument(b *testing.B) {
	doc := marshal(b, every(b))
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	var w Writer
	var buf []byte
	for b.Loop() {
		var err error
		if buf, err = w.AppendDocument(buf[:0], doc); err != nil {
			b.Fatal(err)
		}
	}
}
