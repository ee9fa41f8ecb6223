package envelope

import (
	"testing"

	"weft/sources"
)

// order is an update of a table as shops have it.
func order() *sources.Change {
	t := &sources.Table{Database: "shop", Schema: "public", Name: "orders", Key: []int{0}, Columns: []sources.Column{
		{Name: "id", Type: sources.Type{Kind: sources.Int, Precision: 64}},
		{Name: "customer_id", Type: sources.Type{Kind: sources.UUID}},
		{Name: "status", Type: sources.Type{Kind: sources.String}},
		{Name: "total", Type: sources.Type{Kind: sources.Decimal, Precision: 12, Scale: 2}},
		{Name: "weight", Type: sources.Type{Kind: sources.Float, Precision: 64}},
		{Name: "paid", Type: sources.Type{Kind: sources.Bool}},
		{Name: "created_at", Type: sources.Type{Kind: sources.TimestampTZ, Precision: 6}},
		{Name: "shipped_on", Type: sources.Type{Kind: sources.Date}},
		{Name: "tags", Type: arrayOf(sources.Type{Kind: sources.String})},
		{Name: "lines", Type: sources.Type{Kind: sources.JSON}},
		{Name: "attributes", Type: sources.Type{Kind: sources.Map}},
		{Name: "window", Type: sources.Type{Kind: sources.Interval, Precision: 6}},
		{Name: "place", Type: sources.Type{Kind: sources.Point}},
		{Name: "note", Type: sources.Type{Kind: sources.String}},
	}}
	row := []sources.Value{
		present("1234567"), present("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), present("shipped"), present("129.90"),
		present("2.75"), present("t"), present("2026-11-22 10:34:56.123456+00"), present("2026-11-23"),
		present(`{gift,"two words"}`), present(`[{"sku": "A-1", "qty": 2}, {"sku": "B-2", "qty": 1}]`),
		present(`"channel"=>"web", "coupon"=>NULL`), present("1 day 02:00:00"), present("(48.137,11.575)"),
		present("Leave it with the neighbour on the left, please; the bell is broken."),
	}
	before := append([]sources.Value(nil), row...)
	before[2] = present("paid")
	return &sources.Change{Op: sources.OpUpdate, Table: t, Before: before, After: row, CommitTime: 1795378139717334,
		Meta:        []byte(`"txId":827,"lsn":23702520`),
		Transaction: &sources.Transaction{ID: "827"}, TransactionOrder: 1, TableOrder: 1}
}

func TestEncodeAllocatesNothing(t *testing.T) {
	moved := order()
	moved.After = append([]sources.Value(nil), moved.After...)
	moved.After[0] = present("7654321")
	unknown := order()
	unknown.Before, unknown.After[13] = nil, unsent
	gone := order()
	gone.Op, gone.After = sources.OpDelete, nil
	for _, d := range []Dialect{JSON, Debezium} {
		e := newEncoder(t, d)
		var buf []byte
		var records []Record
		var err error
		for _, c := range []*sources.Change{order(), moved, unknown, gone} {
			round := func() {
				if buf, records, err = e.Encode(buf[:0], records[:0], c, []byte("00000001.00000000016a5d48.00000003.")); err != nil {
					t.Fatal(err)
				}
			}
			round()
			if n := testing.AllocsPerRun(100, round); n != 0 {
				t.Errorf("%s, op %c: %v allocations", d, c.Op, n)
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, d := range []Dialect{JSON, Debezium} {
		b.Run(string(d), func(b *testing.B) {
			e, c, seq := newEncoder(b, d), order(), []byte("00000001.00000000016a5d48.00000003.")
			var buf []byte
			var records []Record
			var err error
			b.ReportAllocs()
			for b.Loop() {
				if buf, records, err = e.Encode(buf[:0], records[:0], c, seq); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}
