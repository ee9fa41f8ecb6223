package envelope

import (
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
