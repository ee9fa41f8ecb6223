package spanner

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cloud.google.com/go/spanner"
	"cloud.google.com/go/spanner/apiv1/spannerpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"weft/sources"
)

// The STRUCT of a change record as https://cloud.google.com/spanner/docs/change-streams/details gives it. Names ending in
// JSON hold objects that the wire has as text.
var (
	typeString = &spannerpb.Type{Code: spannerpb.TypeCode_STRING}
	typeJSON   = &spannerpb.Type{Code: spannerpb.TypeCode_JSON}
	typeInt    = &spannerpb.Type{Code: spannerpb.TypeCode_INT64}
	typeBool   = &spannerpb.Type{Code: spannerpb.TypeCode_BOOL}
	typeTime   = &spannerpb.Type{Code: spannerpb.TypeCode_TIMESTAMP}

	typeData = structType(
		"commit_timestamp", typeTime, "record_sequence", typeString, "server_transaction_id", typeString,
		"is_last_record_in_transaction_in_partition", typeBool, "table_name", typeString,
		"column_types", arrayOf(structType("name", typeString, "type", typeJSON, "is_primary_key", typeBool, "ordinal_position", typeInt)),
		"mods", arrayOf(structType("keys", typeJSON, "new_values", typeJSON, "old_values", typeJSON)),
		"mod_type", typeString, "value_capture_type", typeString, "number_of_records_in_transaction", typeInt,
		"number_of_partitions_in_transaction", typeInt, "transaction_tag", typeString, "is_system_transaction", typeBool)
	typeHeartbeat = structType("timestamp", typeTime)
	typeChildren  = structType("start_timestamp", typeTime, "record_sequence", typeString,
		"child_partitions", arrayOf(structType("token", typeString, "parent_partition_tokens", arrayOf(typeString))))
	typeRecord = arrayOf(structType("data_change_record", arrayOf(typeData), "heartbeat_record", arrayOf(typeHeartbeat),
		"child_partitions_record", arrayOf(typeChildren)))
)

func arrayOf(t *spannerpb.Type) *spannerpb.Type {
	return &spannerpb.Type{Code: spannerpb.TypeCode_ARRAY, ArrayElementType: t}
}

func structType(members ...any) *spannerpb.Type {
	s := &spannerpb.StructType{}
	for i := 0; i < len(members); i += 2 {
		s.Fields = append(s.Fields, &spannerpb.StructType_Field{Name: members[i].(string), Type: members[i+1].(*spannerpb.Type)})
	}
	return &spannerpb.Type{Code: spannerpb.TypeCode_STRUCT, StructType: s}
}

// wire makes the protocol's form of a value from a sample's.
func wire(t *testing.T, typ *spannerpb.Type, v json.RawMessage) *structpb.Value {
	t.Helper()
	var list []*structpb.Value
	switch typ.Code {
	case spannerpb.TypeCode_STRUCT:
		var m map[string]json.RawMessage
		if err := json.Unmarshal(v, &m); err != nil {
			t.Fatal(err)
		}
		for _, f := range typ.StructType.Fields {
			list = append(list, wire(t, f.Type, m[f.Name]))
		}
	case spannerpb.TypeCode_ARRAY:
		var a []json.RawMessage
		if v != nil {
			if err := json.Unmarshal(v, &a); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range a {
			list = append(list, wire(t, typ.ArrayElementType, e))
		}
	case spannerpb.TypeCode_BOOL:
		return structpb.NewBoolValue(string(v) == "true")
	case spannerpb.TypeCode_JSON:
		b, err := json.Marshal(v) // compact
		if err != nil {
			t.Fatal(err)
		}
		return structpb.NewStringValue(string(b))
	case spannerpb.TypeCode_INT64:
		return structpb.NewStringValue(string(v))
	default:
		s, err := strconv.Unquote(string(v))
		if err != nil {
			t.Fatalf("%s: %v", v, err)
		}
		return structpb.NewStringValue(s)
	}
	return structpb.NewListValue(&structpb.ListValue{Values: list})
}

// sample decodes one of the samples, which were read from the emulator.
func sample(t *testing.T, path string) record {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(path)
	var records []record
	if strings.HasPrefix(name, "pg_") {
		records, err = decodeJSON(b)
	} else {
		var m = map[string]json.RawMessage{}
		member := map[bool]string{true: "data_change_record", false: "child_partitions_record"}[strings.HasPrefix(name, "data_")]
		if name == "heartbeat.json" {
			member = "heartbeat_record"
		}
		m[member] = json.RawMessage("[" + string(b) + "]")
		whole, merr := json.Marshal([]any{m})
		if merr != nil {
			t.Fatal(merr)
		}
		records, err = decodeGoogleSQL(spanner.GenericColumnValue{Type: typeRecord, Value: wire(t, typeRecord, whole)})
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if len(records) != 1 {
		t.Fatalf("%s: %d records, not one", name, len(records))
	}
	return records[0]
}

// describe writes what a record becomes, for people and for the golden file. Of many mods it writes the first two.
func describe(t *testing.T, r record) string {
	t.Helper()
	var b strings.Builder
	switch {
	case r.data == nil && r.children == nil:
		fmt.Fprintf(&b, "heartbeat %s\n", r.heartbeat)
	case r.data == nil:
		for _, c := range r.children {
			fmt.Fprintf(&b, "child %.12s from %s, parents", c.token, c.start)
			for _, p := range c.parents {
				fmt.Fprintf(&b, " %.12s", p)
			}
			b.WriteByte('\n')
		}
	default:
		out := batch{maxBytes: 1 << 20}
		l, err := (&layouts{catalog: &catalog{patterns: []string{"*"}}, tables: map[string]*tableState{
			r.data.table: {base: (&catalog{database: "shop"}).merged(r.data), layouts: map[string]*layout{}},
		}}).of(context.Background(), r.data)
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.data.mods {
			if err := out.add(l, r.data, i); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Fprintf(&b, "%d changes\n", len(out.changes))
		for _, c := range out.changes[:min(2, len(out.changes))] {
			fmt.Fprintf(&b, "%c %s %s\n  %s\n", c.Op, c.Table, c.Order, c.Meta)
			for side, values := range map[string][]sources.Value{"before": c.Before, "after": c.After} {
				if !json.Valid([]byte("{" + string(c.Meta) + "}")) {
					t.Errorf("meta %s is not JSON", c.Meta)
				}
				if values != nil && len(values) != len(c.Table.Columns) {
					t.Errorf("%s has %d values for %d columns", side, len(values), len(c.Table.Columns))
				}
			}
			for i, col := range c.Table.Columns {
				fmt.Fprintf(&b, "  %s %s", col.Name, col.Type.Name)
				if slices.Contains(c.Table.Key, i) {
					b.WriteString(" key")
				}
				for _, values := range [][]sources.Value{c.Before, c.After} {
					switch {
					case values == nil:
						b.WriteString(" | -")
					case values[i].State == sources.Null:
						b.WriteString(" | null")
					case values[i].State == sources.Unavailable:
						b.WriteString(" | unavailable")
					default:
						fmt.Fprintf(&b, " | %.60q", values[i].Data)
					}
				}
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

// TestSamples decodes what the emulator gave, for every value capture type and both dialects, and compares with
// testdata/golden.txt, which UPDATE=1 writes.
func TestSamples(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.json")
	if err != nil || len(paths) != 40 {
		t.Fatalf("%d samples: %v", len(paths), err)
	}
	var got strings.Builder
	for _, path := range paths {
		fmt.Fprintf(&got, "== %s\n%s\n", filepath.Base(path), describe(t, sample(t, path)))
	}
	const golden = "testdata/golden.txt"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A server may add members to every STRUCT, in any place.
func TestNewMembers(t *testing.T) {
	before := sample(t, "testdata/data_NEW_ROW_kv_UPDATE.json")
	var extend func(typ *spannerpb.Type) *spannerpb.Type
	extend = func(typ *spannerpb.Type) *spannerpb.Type {
		switch typ.Code {
		case spannerpb.TypeCode_ARRAY:
			return arrayOf(extend(typ.ArrayElementType))
		case spannerpb.TypeCode_STRUCT:
			s := &spannerpb.StructType{Fields: []*spannerpb.StructType_Field{{Name: "new_member", Type: arrayOf(typeInt)}}}
			for _, f := range typ.StructType.Fields {
				s.Fields = append(s.Fields, &spannerpb.StructType_Field{Name: f.Name, Type: extend(f.Type)})
			}
			return &spannerpb.Type{Code: spannerpb.TypeCode_STRUCT, StructType: s}
		}
		return typ
	}
	old := typeRecord
	typeRecord = extend(typeRecord)
	defer func() { typeRecord = old }()
	after := sample(t, "testdata/data_NEW_ROW_kv_UPDATE.json")
	if diff := cmp.Diff(describe(t, before), describe(t, after)); diff != "" {
		t.Error(diff)
	}
}

// Records of the other partition mode are refused by name.
func TestMutableKeyRangeRecords(t *testing.T) {
	if _, err := decodeJSON([]byte(`{"partition_end_record":{"end_timestamp":"2026-01-01T00:00:00Z"}}`)); err == nil ||
		!strings.Contains((&Config{Stream: "s"}).explain(err).Error(), "MUTABLE_KEY_RANGE") {
		t.Errorf("got %v", err)
	}
}

func TestValues(t *testing.T) {
	for _, c := range []struct{ typ, value, want string }{
		{`{"code":"BOOL"}`, `true`, "t"},
		{`{"code":"INT64"}`, `"-9223372036854775808"`, "-9223372036854775808"},
		{`{"code":"FLOAT64"}`, `0.30000000000000004`, "0.30000000000000004"},
		{`{"code":"FLOAT64"}`, `3.0`, "3"},
		{`{"code":"FLOAT64"}`, `-0.0`, "-0"},
		{`{"code":"FLOAT64"}`, `1.7976931348623157e308`, "1.7976931348623157e+308"},
		{`{"code":"FLOAT64"}`, `"NaN"`, "NaN"},
		{`{"code":"FLOAT64"}`, `"-Infinity"`, "-Infinity"},
		{`{"code":"FLOAT32"}`, `0.1`, "0.1"},
		{`{"code":"NUMERIC"}`, `"-99999999999999999999999999999.999999999"`, "-99999999999999999999999999999.999999999"},
		{`{"code":"NUMERIC","type_annotation":"PG_NUMERIC"}`, `"NaN"`, "NaN"},
		{`{"code":"STRING"}`, `"a\"b\\c\u00e9\n\u2028"`, "a\"b\\cé\n\u2028"},
		{`{"code":"STRING"}`, `""`, ""},
		{`{"code":"BYTES"}`, `"AAH/"`, "\x00\x01\xff"},
		{`{"code":"DATE"}`, `"0001-01-01"`, "0001-01-01"},
		{`{"code":"TIMESTAMP"}`, `"9999-12-31T23:59:59.999999999Z"`, "9999-12-31 23:59:59.999999999+00"},
		{`{"code":"JSON"}`, `"{\"k\":[1,\"x\",null]}"`, `{"k":[1,"x",null]}`},
		{`{"code":"UUID"}`, `"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"`, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{`{"code":"ENUM"}`, `"3"`, "3"},
		{`{"code":"PROTO"}`, `"CAE="`, "\x08\x01"},
		{`{"code":"NEW_TYPE"}`, `"as it is"`, "as it is"},
		{`{"code":"ARRAY","array_element_type":{"code":"STRING"}}`, `["a",null,"","NULL","x\"\\,{}"]`, `{"a",NULL,"","NULL","x\"\\,{}"}`},
		{`{"code":"ARRAY","array_element_type":{"code":"INT64"}}`, `[]`, `{}`},
		{`{"code":"ARRAY","array_element_type":{"code":"BYTES"}}`, `["AP8=",null]`, `{"\\x00ff",NULL}`},
		{`{"code":"ARRAY","array_element_type":{"code":"BOOL"}}`, `[true,false,null]`, `{t,f,NULL}`},
		{`{"code":"ARRAY","array_element_type":{"code":"TIMESTAMP"}}`, `["2026-11-22T20:23:40Z"]`, `{"2026-11-22 20:23:40+00"}`},
		{`{"code":"ARRAY","array_element_type":{"code":"JSON"}}`, `["{\"k\":\"a\"}"]`, `{"{\"k\":\"a\"}"}`},
	} {
		ct, err := parseType(c.typ)
		if err != nil {
			t.Fatal(err)
		}
		typ := typeOf(&ct)
		got, err := appendValue([]byte("kept"), []byte(c.value), &typ)
		if err != nil || string(got) != "kept"+c.want {
			t.Errorf("%s of %s: %q, %v; want %q", c.value, c.typ, got, err, c.want)
		}
	}
	for _, c := range []struct{ typ, value string }{
		{"BOOL", `"true"`}, {"BOOL", `1`}, {"FLOAT64", `"1.5"`}, {"FLOAT64", `1e999`}, {"BYTES", `"?"`}, {"BYTES", `3`},
		{"TIMESTAMP", `"2026-01-02"`}, {"STRING", `"\x"`}, {"STRING", ``}, {"STRING", "\"\xff\""}, {"JSON", `{"k":1}`},
	} {
		typ := typeOf(&columnType{Code: c.typ})
		if got, err := appendValue(nil, []byte(c.value), &typ); err == nil {
			t.Errorf("%s %s became %q", c.typ, c.value, got)
		}
	}
}

// Nothing that a server may send makes the decoder or what follows it panic.
func FuzzDecode(f *testing.F) {
	paths, err := filepath.Glob("testdata/pg_*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		records, err := decodeJSON(b)
		if err != nil {
			return
		}
		for _, r := range records {
			if r.data == nil {
				continue
			}
			base := (&catalog{}).merged(r.data)
			l := &layout{table: base}
			for i, c := range base.Columns {
				l.names = append(l.names, namedColumn{c.Name, i})
			}
			slices.SortFunc(l.names, func(a, b namedColumn) int { return strings.Compare(a.name, b.name) })
			out := batch{maxBytes: 1 << 20}
			for i := range r.data.mods {
				_ = out.add(l, r.data, i) // an error is as good as a change
			}
		}
	})
}
