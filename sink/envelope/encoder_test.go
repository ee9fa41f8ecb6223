package envelope

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/sources"
)

var now = time.Date(2026, 11, 22, 20, 9, 0, 123456789, time.UTC)

func newEncoder(t testing.TB, d Dialect) *Encoder {
	t.Helper()
	e, err := New(Options{Dialect: d, Connector: "postgresql", Name: "shop", Version: "1.0.0", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func present(s string) sources.Value {
	return sources.Value{Data: []byte(s), State: sources.Present}
}

var (
	sqlNull = sources.Value{}
	unsent  = sources.Value{State: sources.Unavailable}
)

func customers() *sources.Table {
	return &sources.Table{Database: "postgres", Schema: "inv", Name: "customers", Key: []int{0}, Columns: []sources.Column{
		{Name: "id", Type: sources.Type{Kind: sources.Int, Precision: 32}},
		{Name: "name", Type: sources.Type{Kind: sources.String}},
		{Name: "email", Type: sources.Type{Kind: sources.String}},
	}}
}

// record is a Record as text; "<nil>" is nil.
type record struct{ key, value, ordinal, oldKey, newKey string }

func text(b []byte) string {
	if b == nil {
		return "<nil>"
	}
	return string(b)
}

func encode(t testing.TB, e *Encoder, c *sources.Change) []record {
	t.Helper()
	_, records, err := e.Encode(nil, nil, c, []byte("00000001.0a.00000003."))
	if err != nil {
		t.Fatal(err)
	}
	var out []record
	for _, r := range records {
		out = append(out, record{text(r.Key), text(r.Value), string(r.Ordinal), text(r.OldKey), text(r.NewKey)})
	}
	return out
}

// wrap is the envelope that every row of these tests comes in.
func wrap(before, after, op, extra, ordinal string) string {
	return `{"before":` + before + `,"after":` + after +
		`,"source":{"version":"1.0.0","connector":"postgresql","name":"shop","ts_ms":1795378139717,"snapshot":"false",` +
		`"db":"postgres","ts_us":1795378139717334,"ts_ns":1795378139717334000,"schema":"inv","table":"customers",` +
		`"txId":827,"lsn":23702520,"seq":"00000001.0a.00000003.` + ordinal + `"` + extra + `},` +
		`"transaction":{"id":"827","total_order":2,"data_collection_order":1},"op":"` + op + `",` +
		`"ts_ms":1795378140123,"ts_us":1795378140123456,"ts_ns":1795378140123456789}`
}

func TestRecords(t *testing.T) {
	table := customers()
	row := func(v ...sources.Value) []sources.Value { return v }
	keyless := *table
	keyless.Key = nil
	tests := []struct {
		name   string
		change sources.Change
		want   []record
	}{
		{"create", sources.Change{Op: sources.OpCreate, After: row(present("3"), present("Cy"), sqlNull)},
			[]record{{`{"id":3}`, wrap(`null`, `{"id":3,"name":"Cy","email":null}`, "c", "", "2"), "2", "<nil>", "<nil>"}}},
		{"update with an unknown column", sources.Change{Op: sources.OpUpdate, After: row(present("3"), present("Cy"), unsent)},
			[]record{{`{"id":3}`, wrap(`null`, `{"id":3,"name":"Cy"}`, "u", `,"unavailable":["email"]`, "2"), "2", "<nil>", "<nil>"}}},
		{"an unknown column that the old row tells", sources.Change{Op: sources.OpUpdate,
			Before: row(present("3"), present("Bo"), present("e")), After: row(present("3"), present("Cy"), unsent)},
			[]record{{`{"id":3}`, wrap(`{"id":3,"name":"Bo","email":"e"}`, `{"id":3,"name":"Cy","email":"e"}`, "u", "", "2"),
				"2", "<nil>", "<nil>"}}},
		{"delete", sources.Change{Op: sources.OpDelete, Before: row(present("3"), unsent, unsent)},
			[]record{
				{`{"id":3}`, wrap(`{"id":3}`, `null`, "d", "", "0"), "0", "<nil>", "<nil>"},
				{`{"id":3}`, "<nil>", "1", "<nil>", "<nil>"}}},
		{"key change", sources.Change{Op: sources.OpUpdate,
			Before: row(present("3"), unsent, unsent), After: row(present("4"), present("Cy"), unsent)},
			[]record{
				{`{"id":3}`, wrap(`{"id":3}`, `null`, "d", "", "0"), "0", "<nil>", `{"id":4}`},
				{`{"id":3}`, "<nil>", "1", "<nil>", `{"id":4}`},
				{`{"id":4}`, wrap(`null`, `{"id":4,"name":"Cy"}`, "c", `,"unavailable":["email"]`, "2"), "2", `{"id":3}`, "<nil>"}}},
		{"key change that tells the old row", sources.Change{Op: sources.OpUpdate,
			Before: row(present("3"), present("Bo"), present("e")), After: row(present("4"), present("Cy"), unsent)},
			[]record{
				{`{"id":3}`, wrap(`{"id":3,"name":"Bo","email":"e"}`, `null`, "d", "", "0"), "0", "<nil>", `{"id":4}`},
				{`{"id":3}`, "<nil>", "1", "<nil>", `{"id":4}`},
				{`{"id":4}`, wrap(`null`, `{"id":4,"name":"Cy","email":"e"}`, "c", "", "2"), "2", `{"id":3}`, "<nil>"}}},
		{"a key that differs as text alone", sources.Change{Op: sources.OpUpdate,
			Before: row(present("3"), unsent, unsent), After: row(present("+3"), present("Cy"), sqlNull)},
			[]record{{`{"id":3}`, wrap(`{"id":3}`, `{"id":3,"name":"Cy","email":null}`, "u", "", "2"), "2", "<nil>", "<nil>"}}},
		{"a key that the old row tells", sources.Change{Op: sources.OpUpdate,
			Before: row(present("3"), unsent, unsent), After: row(unsent, present("Cy"), sqlNull)},
			[]record{{`{"id":3}`, wrap(`{"id":3}`, `{"id":3,"name":"Cy","email":null}`, "u", "", "2"), "2", "<nil>", "<nil>"}}},
		{"truncate", sources.Change{Op: sources.OpTruncate},
			[]record{{``, wrap(`null`, `null`, "t", "", "2"), "2", "<nil>", "<nil>"}}},
		{"keyless create", sources.Change{Op: sources.OpCreate, Table: &keyless, After: row(present("3"), sqlNull, sqlNull)},
			[]record{{"<nil>", wrap(`null`, `{"id":3,"name":null,"email":null}`, "c", "", "2"), "2", "<nil>", "<nil>"}}},
		{"keyless delete", sources.Change{Op: sources.OpDelete, Table: &keyless, Before: row(present("3"), sqlNull, sqlNull)},
			[]record{{"<nil>", wrap(`{"id":3,"name":null,"email":null}`, `null`, "d", "", "0"), "0", "<nil>", "<nil>"}}},
		{"keyless update", sources.Change{Op: sources.OpUpdate, Table: &keyless,
			Before: row(present("3"), sqlNull, sqlNull), After: row(present("4"), sqlNull, sqlNull)},
			[]record{{"<nil>", wrap(`{"id":3,"name":null,"email":null}`, `{"id":4,"name":null,"email":null}`, "u", "", "2"),
				"2", "<nil>", "<nil>"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := test.change
			if c.Table == nil {
				c.Table = table
			}
			c.CommitTime, c.Meta = 1795378139717334, []byte(`"txId":827,"lsn":23702520`)
			c.Transaction, c.TransactionOrder, c.TableOrder = &sources.Transaction{ID: "827"}, 2, 1
			got := encode(t, newEncoder(t, JSON), &c)
			if len(got) != len(test.want) {
				t.Fatalf("got %d records, want %d: %v", len(got), len(test.want), got)
			}
			for i := range got {
				if got[i] != test.want[i] {
					t.Errorf("record %d\n got %v\nwant %v", i, got[i], test.want[i])
				}
			}
		})
	}
}

// Records must stay right when buf moves while a later record, or a later change, is appended.
func TestRecordsSurviveGrowth(t *testing.T) {
	e, table := newEncoder(t, JSON), customers()
	buf, records := make([]byte, 0, 1), []Record(nil)
	for i := range 1000 {
		id := sources.Value{Data: fmt.Appendf(nil, "%d", i), State: sources.Present}
		c := &sources.Change{Op: sources.OpDelete, Table: table, Before: []sources.Value{id, unsent, unsent}}
		var err error
		if buf, records, err = e.Encode(buf, records, c, nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(records) != 2000 {
		t.Fatalf("got %d records", len(records))
	}
	for i, r := range records {
		if want := fmt.Sprintf(`{"id":%d}`, i/2); string(r.Key) != want {
			t.Fatalf("record %d has key %s, want %s", i, r.Key, want)
		}
		if i%2 == 0 && !strings.HasPrefix(string(r.Value), fmt.Sprintf(`{"before":{"id":%d},`, i/2)) {
			t.Fatalf("record %d has value %s", i, r.Value)
		}
		if cap(r.Key) != len(r.Key) || cap(r.Value) != len(r.Value) {
			t.Fatal("appending to a record would overwrite the next")
		}
	}
}

func TestTruncateKeyIsEmptyAndNotNil(t *testing.T) {
	_, records, err := newEncoder(t, JSON).Encode(nil, nil, &sources.Change{Op: sources.OpTruncate, Table: customers()}, nil)
	if err != nil || len(records) != 1 || records[0].Key == nil || len(records[0].Key) != 0 {
		t.Fatalf("got %+v, %v", records, err)
	}
}

func TestMessage(t *testing.T) {
	c := &sources.Change{Op: sources.OpMessage, CommitTime: -1, Meta: []byte(`"lsn":1`),
		Message: &sources.Message{Database: "db", Prefix: `my "prefix"`, Content: []byte{0, 255, 16}}}
	want := record{`{"prefix":"my \"prefix\""}`, `{"op":"m","ts_ms":1795378140123,"source":{"version":"1.0.0","connector":"postgresql",` +
		`"name":"shop","ts_ms":-1,"snapshot":"false","db":"db","ts_us":-1,"ts_ns":-1000,"schema":"","table":"","lsn":1,` +
		`"seq":"00000001.0a.00000003.2"},"transaction":null,"message":{"prefix":"my \"prefix\"","content":"AP8Q"}}`, "2", "<nil>", "<nil>"}
	for _, d := range []Dialect{JSON, Debezium} {
		if got := encode(t, newEncoder(t, d), c); len(got) != 1 || got[0] != want {
			t.Errorf("%s:\n got %v\nwant %v", d, got, want)
		}
	}
	c.Message.Prefix = "\xff"
	if _, _, err := newEncoder(t, JSON).Encode(nil, nil, c, nil); err == nil || !strings.Contains(err.Error(), "message") {
		t.Errorf("got %v", err)
	}
}

// A row that a snapshot read says so, and a commit time that nobody knows is null and not 1970.
func TestSourceBlock(t *testing.T) {
	c := &sources.Change{Op: sources.OpRead, Table: customers(), After: []sources.Value{present("1"), sqlNull, sqlNull}}
	got := encode(t, newEncoder(t, JSON), c)[0].value
	want := `"ts_ms":null,"snapshot":"true","db":"postgres","ts_us":null,"ts_ns":null,"schema":"inv","table":"customers","seq":`
	if !strings.Contains(got, want) || !strings.Contains(got, `"transaction":null,"op":"r"`) {
		t.Errorf("got %s", got)
	}
	c.Op, c.Cause, c.Before, c.After = sources.OpDelete, sources.CauseRepair, []sources.Value{present("1"), unsent, unsent}, nil
	records := encode(t, newEncoder(t, JSON), c)
	if got := records[0].value; len(records) != 2 || !strings.Contains(got, `"ts_ms":null,"snapshot":"repair"`) || !strings.Contains(got, `{"before":{"id":1},"after":null`) {
		t.Errorf("got %s", got)
	}
}

func TestNamesAreEscaped(t *testing.T) {
	table := &sources.Table{Database: `d"b`, Schema: `s\`, Name: "Mixed Case.Näme", Key: []int{0}, Columns: []sources.Column{
		{Name: "a\"\n", Type: sources.Type{Kind: sources.Int}}, {Name: "Col Ümlaut", Type: sources.Type{}}}}
	c := &sources.Change{Op: sources.OpUpdate, Table: table, After: []sources.Value{present("1"), unsent}}
	got := encode(t, newEncoder(t, Debezium), c)[0]
	if got.key != `{"a\"\n":1}` {
		t.Errorf("key %s", got.key)
	}
	for _, part := range []string{`"db":"d\"b"`, `"schema":"s\\"`, `"table":"Mixed Case.Näme"`, `"unavailable":["Col Ümlaut"]`,
		`"after":{"a\"\n":1,"Col Ümlaut":"__debezium_unavailable_value"}`} {
		if !strings.Contains(got.value, part) {
			t.Errorf("value %s lacks %s", got.value, part)
		}
	}
}

// Each kind's placeholder is one that Debezium's consumers know, and which column it stands for is said beside it.
func TestUnavailableInDebezium(t *testing.T) {
	types := map[string]sources.Type{
		`"__debezium_unavailable_value"`:               {Kind: sources.JSON},
		`"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="`:   {Kind: sources.Bytes},
		`["__debezium_unavailable_value"]`:             arrayOf(sources.Type{Kind: sources.Decimal}),
		`["X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="]`: arrayOf(sources.Type{Kind: sources.Bytes}),
		`[` + strings.Trim(strings.ReplaceAll(fmt.Sprint([]byte("__debezium_unavailable_value")), " ", ","), "[]") + `]`: arrayOf(
			sources.Type{Kind: sources.Int}),
	}
	for want, typ := range types {
		table := simpleTable("t", nil, sources.Column{Name: "c", Type: typ})
		got := encode(t, newEncoder(t, Debezium), &sources.Change{Op: 'u', Table: table, After: []sources.Value{unsent}})[0].value
		if !strings.Contains(got, `"after":{"c":`+want+`}`) || !strings.Contains(got, `"unavailable":["c"]`) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A table's definition is told by its pointer; a new one under the same name is encoded by its own columns.
func TestTableChanges(t *testing.T) {
	e, old := newEncoder(t, JSON), customers()
	grown := customers()
	grown.Columns = grown.Columns[:2]
	for range 2 {
		for _, table := range []*sources.Table{old, grown} {
			row := make([]sources.Value, len(table.Columns))
			row[0] = present("1")
			got := encode(t, e, &sources.Change{Op: sources.OpCreate, Table: table, After: row})[0].value
			if strings.Contains(got, `"email"`) != (table == old) {
				t.Errorf("got %s", got)
			}
		}
	}
	for range maxTables + 1 {
		if _, err := e.table(customers()); err != nil {
			t.Fatal(err)
		}
	}
	if len(e.tables) > maxTables {
		t.Errorf("keeps %d tables", len(e.tables))
	}
}

func TestEncodeRefuses(t *testing.T) {
	table := customers()
	bad := customers()
	bad.Columns[1].Type.Kind = 99
	noElem := customers()
	noElem.Columns[1].Type.Kind = sources.Array
	badKey := customers()
	badKey.Key = []int{3}
	tests := []struct {
		name   string
		change sources.Change
		want   string
	}{
		{"no table", sources.Change{Op: 'c'}, "no table"},
		{"unknown op", sources.Change{Op: 'x', Table: table}, "op is unknown"},
		{"create without a row", sources.Change{Op: 'c', Table: table}, "lacks the row"},
		{"delete without a row", sources.Change{Op: 'd', Table: table}, "lacks the row"},
		{"too few values", sources.Change{Op: 'c', Table: table, After: []sources.Value{present("1")}}, "each column"},
		{"message without content", sources.Change{Op: 'm'}, "lacks the row"},
		{"unknown kind", sources.Change{Op: 't', Table: bad}, "column name: the type  has the unknown kind 99"},
		{"array without element", sources.Change{Op: 't', Table: noElem}, "no element type"},
		{"key out of range", sources.Change{Op: 't', Table: badKey}, "each column"},
		{"unknown key", sources.Change{Op: 'd', Table: table, Before: []sources.Value{unsent, sqlNull, sqlNull}},
			"table inv.customers, column id: the datastore did not send this key column's value; to mend it: make the column"},
		{"bad key", sources.Change{Op: 'd', Table: table, Before: []sources.Value{present("x"), sqlNull, sqlNull}}, "column id: the value is not an integer"},
		{"bad new key", sources.Change{Op: 'u', Table: table, Before: []sources.Value{present("1"), sqlNull, sqlNull},
			After: []sources.Value{present("x"), sqlNull, sqlNull}}, "column id: the value is not an integer"},
		{"not UTF-8", sources.Change{Op: 'u', Table: table, After: []sources.Value{present("1"), sqlNull, present("\xff")}},
			`table inv.customers, column email, key {"id":1}: the text is not valid UTF-8`},
		{"bad old row", sources.Change{Op: 'd', Table: table, Before: []sources.Value{present("1"), present("\xff"), sqlNull}},
			`column name, key {"id":1}: the text is not valid UTF-8`},
		{"bad transaction", sources.Change{Op: 't', Table: table, Transaction: &sources.Transaction{ID: "\xff"}}, "not valid UTF-8"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			buf, records, err := newEncoder(t, JSON).Encode([]byte("kept"), nil, &test.change, nil)
			var fatal *sources.FatalError
			if err == nil || !strings.Contains(err.Error(), test.want) || !errors.As(err, &fatal) || fatal.Remedy == "" {
				t.Errorf("got %v, want a fatal error with %q", err, test.want)
			}
			if string(buf) != "kept" || len(records) > 0 {
				t.Errorf("left %q and %d records", buf, len(records))
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for _, o := range []Options{{Dialect: "avro"}, {Name: "\xff"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
	if e, err := New(Options{}); err != nil || e.dialect != JSON || e.now == nil {
		t.Errorf("the defaults: %+v, %v", e, err)
	}
}
