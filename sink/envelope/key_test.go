package envelope

import (
	"bytes"
	"errors"
	"testing"

	"weft/sources"
)

// TestDecodeKey: what Encode writes as a key comes back as the wire forms that it was made of.
func TestDecodeKey(t *testing.T) {
	for _, c := range []struct {
		of     sources.Type
		values []string
		not    Dialect // that cannot read it back
	}{
		{sources.Type{Kind: sources.Int}, []string{"0", "-17", "9223372036854775807"}, ""},
		{sources.Type{Kind: sources.String}, []string{"", "a b", `q"\ `, "ключ", "2026-01-01T00"}, ""},
		{sources.Type{Kind: sources.UUID}, []string{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}, ""},
		{sources.Type{Kind: sources.Bool}, []string{"t", "f"}, ""},
		{sources.Type{Kind: sources.Bytes}, []string{"", "\x00\xff\x10"}, ""},
		{sources.Type{Kind: sources.Decimal, Precision: 12, Scale: 2}, []string{"129.90", "-0.01", "0.00", "1234567890.12"}, ""},
		{sources.Type{Kind: sources.Decimal}, []string{"1.500", "-3"}, Debezium},
		{sources.Type{Kind: sources.Date}, []string{"2026-02-28", "0001-01-01", "1969-12-31"}, ""},
		{sources.Type{Kind: sources.Date}, []string{"0044-03-15 BC", "5874897-12-31", "infinity"}, Debezium},
		{sources.Type{Kind: sources.Timestamp, Precision: 6}, []string{"2026-02-28 23:59:59.123456", "2026-02-28 00:00:00", "1969-12-31 23:59:59.5"}, ""},
		{sources.Type{Kind: sources.Timestamp, Precision: 3}, []string{"2026-02-28 23:59:59.123"}, ""},
		{sources.Type{Kind: sources.Timestamp, Precision: 6}, []string{"0044-03-15 12:00:00 BC", "-infinity"}, Debezium},
		{sources.Type{Kind: sources.TimestampTZ, Precision: 6}, []string{"2026-02-28 23:59:59.5+00", "2026-02-28 10:00:00+00", "0044-03-15 12:00:00+00 BC"}, ""},
		{sources.Type{Kind: sources.Time, Precision: 6}, []string{"23:59:59.123456"}, Debezium},
	} {
		for _, d := range []Dialect{JSON, Debezium} {
			e, err := New(Options{Dialect: d})
			if err != nil {
				t.Fatal(err)
			}
			table := &sources.Table{Name: "k", Key: []int{1, 0}, Columns: []sources.Column{{Name: "n"}, {Name: `k"`, Type: c.of}}}
			for _, v := range c.values {
				row := []sources.Value{{}, {State: sources.Present, Data: []byte(v)}}
				_, records, err := e.Encode(nil, nil, &sources.Change{Op: sources.OpRead, Table: table, After: row}, []byte("0"))
				if err != nil {
					continue // this dialect has no such value
				}
				wire, err := e.DecodeKey(table, records[0].Key)
				switch {
				case c.not == d && errors.Is(err, ErrKeyForm):
				case err != nil:
					t.Errorf("%s, kind %d, %q: key %s: %v", d, c.of.Kind, v, records[0].Key, err)
				case len(wire) != 2 || !bytes.Equal(wire[0], []byte(v)) || wire[1] != nil:
					t.Errorf("%s, kind %d, %q: key %s is read as %q", d, c.of.Kind, v, records[0].Key, wire)
				}
			}
		}
	}
}

func TestDecodeKeyRefuses(t *testing.T) {
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	table := &sources.Table{Name: "k", Key: []int{0}, Columns: []sources.Column{{Name: "id", Type: sources.Type{Kind: sources.Int}}}}
	for _, key := range []string{``, `7`, `{}`, `{"id":"x"}`, `{"id":1.5}`, `{"id":007}`, `{"id":1,"n":2}`, `{"other":1}`} {
		if wire, err := e.DecodeKey(table, []byte(key)); !errors.Is(err, ErrKeyForm) {
			t.Errorf("%s: %q, %v", key, wire, err)
		}
	}
}
