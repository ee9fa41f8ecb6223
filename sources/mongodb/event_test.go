package mongodb

import (
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// FuzzEvent: no event makes the decoder panic, and what it takes is a change of the right shape.
func FuzzEvent(f *testing.F) {
	for _, e := range []bson.D{
		insert("8201", 100, 8, "k"),
		change("8202", 100, 8, "delete", bson.E{Key: "documentKey", Value: bson.D{{Key: "_id", Value: 1}}},
			bson.E{Key: "lsid", Value: bson.D{{Key: "id", Value: bson.Binary{Subtype: 4, Data: make([]byte, 16)}}}}, bson.E{Key: "txnNumber", Value: int64(1)}),
		change("8203", 100, 8, "rename", bson.E{Key: "to", Value: bson.D{{Key: "db", Value: "shop"}, {Key: "coll", Value: "x"}}},
			bson.E{Key: "splitEvent", Value: bson.D{{Key: "fragment", Value: 1}, {Key: "of", Value: 2}}}),
	} {
		data, err := bson.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		isInvalidate(data)
		e, err := parseEvent(data)
		if err != nil {
			return
		}
		s := &source{tables: []pattern{{"*", "*"}}, known: map[namespaceName]*captured{}}
		if err := s.decode(&e); err != nil {
			return
		}
		for _, c := range s.changes {
			if len(c.Order) != 34 || c.Table == nil || c.Op == 'c' && c.After == nil || c.Op == 'd' && c.Before == nil {
				t.Errorf("%+v", c)
			}
		}
	})
}

// BenchmarkDecode is an event's way from its BSON to a change.
func BenchmarkDecode(b *testing.B) {
	doc := bson.D{{Key: "_id", Value: int64(17)}, {Key: "status", Value: "paid"}, {Key: "total", Value: 12.5},
		{Key: "lines", Value: bson.A{bson.D{{Key: "sku", Value: "a-1"}, {Key: "n", Value: int32(2)}}, bson.D{{Key: "sku", Value: "b-2"}, {Key: "n", Value: int32(1)}}}}}
	data, err := bson.Marshal(change("8201", 100, 8, "insert", bson.E{Key: "documentKey", Value: bson.D{{Key: "_id", Value: int64(17)}}},
		bson.E{Key: "fullDocument", Value: doc}))
	if err != nil {
		b.Fatal(err)
	}
	s := &source{tables: []pattern{{"shop", "orders"}}, known: map[namespaceName]*captured{}}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		s.changes, s.values, s.buf = s.changes[:0], s.values[:0], s.buf[:0]
		e, err := parseEvent(data)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.decode(&e); err != nil {
			b.Fatal(err)
		}
	}
}
