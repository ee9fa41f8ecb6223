package mongodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"weft/sources"
)

func docs(ids ...any) (all []bson.D) {
	for _, id := range ids {
		all = append(all, bson.D{{Key: "_id", Value: id}, {Key: "n", Value: 1}})
	}
	return all
}

func rowsOf(c *sources.Chunk) (all []string) {
	for _, row := range c.Rows {
		all = append(all, string(row[0].Data)+"|"+string(row[1].Data))
	}
	return all
}

// A server with snapshot reads is asked for one, whole chunks are of one time, and the index of _id is what bounds them.
func TestChunkAtClusterTime(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.found(read{at: at(100, 7)}, read{at: at(100, 6)})
	r := f.reader(f.options())
	f.found(
		read{docs: docs(nil, 3, "a"), at: at(100, 20), more: true},
		read{docs: docs(bson.D{{Key: "x", Value: 1}}, true)},
	)
	c, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: "shop.orders", Rows: 4, Bytes: 1 << 20, Where: `{"n": {"$gt": 0}}`,
		After: sources.Cursor(`{"before":null}`), Until: sources.Cursor(`{"before":{"$oid":"5f0000000000000000000001"}}`)})
	if err != nil {
		t.Fatal(err)
	}
	same(t, rowsOf(c), []string{`null|{"_id":null,"n":1}`, `3|{"_id":3,"n":1}`, `"a"|{"_id":"a","n":1}`, `{"x":1}|{"_id":{"x":1},"n":1}`})
	if string(c.Next) != `{"before":true}` {
		t.Errorf("next is %s", c.Next)
	}
	if v := c.View; !v.Sees(stampOf(at(100, 20))) || v.Sees(stampOf(at(100, 21))) || v.Horizon() != stampOf(at(100, 21)) {
		t.Errorf("the view is %+v", v)
	}
	find := f.found()[2].String()
	for _, part := range []string{`"readConcern": {"level": "snapshot"}`, `"hint": {"_id": {"$numberInt":"1"}}`, `"sort": {"_id": {"$numberInt":"1"}}`,
		`"min": {"_id": null}`, `"max": {"_id": {"$oid":"5f0000000000000000000001"}}`, `"filter": {"$and": [{"n": {"$gt": {"$numberInt":"0"}}}]}`} {
		if !strings.Contains(find, part) {
			t.Errorf("%s is not in %s", part, find)
		}
	}
}

// What the stream has returned, and what an earlier chunk saw, a chunk sees: the server is asked until it shows it.
func TestChunkWaits(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	o := f.options()
	o.Position = sources.Position(`{"deployment":"rs0","stream":"x","token":{"_data":"8201"},"cluster_time":{"t":100,"i":15},"ordinal":1,"passed":{"t":100,"i":14}}`)
	f.found(read{at: at(100, 7)}, read{at: at(100, 6)})
	r := f.reader(o)
	f.found(read{docs: docs(1), at: at(100, 14)}, read{docs: docs(1, 2), at: at(100, 16)}, read{docs: docs(1), at: at(100, 15)}, read{docs: docs(3), at: at(100, 16)})
	for i, want := range []string{"1|", "3|"} {
		c, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: "shop.orders", Rows: 10, Bytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if got := rowsOf(c); len(got) != 2-i || !strings.HasPrefix(got[0], want) || c.View.(view).low != stampOf(at(100, 16)) {
			t.Errorf("chunk %d is %q, seen %+v", i, got, c.View)
		}
	}
}

// A read that outlasts the server's history is made anew, whole.
func TestChunkTooOld(t *testing.T) {
	t.Parallel()
	for _, code := range []int32{codeSnapshotTooOld, codeNoSnapshot} {
		f := newFake(t)
		f.found(read{at: at(100, 7)}, read{refuse: &refusal{code: code}}) // and opening takes that for a server that heeds the time
		r := f.reader(f.options())
		f.found(read{docs: docs(1, 2), at: at(100, 14), more: true}, read{refuse: &refusal{code: code}}, read{docs: docs(2, 3), at: at(100, 16)})
		c, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: "shop.orders", Rows: 10, Bytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		same(t, rowsOf(c), []string{`2|{"_id":2,"n":1}`, `3|{"_id":3,"n":1}`})
		if c.View.(view).low != stampOf(at(100, 16)) {
			t.Errorf("seen %+v", c.View)
		}
	}
}

// A server that does not heed the time gets reads between two of its times: what is changed in between is left to the stream.
func TestChunkBetweenTimes(t *testing.T) {
	t.Parallel()
	for name, opening := range map[string][]read{
		"does not heed":   {{at: at(100, 7)}, {at: at(100, 7)}},
		"does not know":   {{refuse: &refusal{code: codeInvalidOptions}}},
		"does not answer": {{}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.found(opening...)
			r := f.reader(f.options())
			f.found(read{docs: docs(1, 2), now: at(100, 20), at: at(100, 20)})
			c, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: "shop.orders", Rows: 10, Bytes: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			if want := (view{stampOf(at(100, 7)), stampOf(at(100, 20))}); c.View != want {
				t.Errorf("seen %+v, want %+v", c.View, want)
			}
			finds := f.found()
			if find := finds[len(finds)-1].String(); !strings.Contains(find, `"readConcern": {"level": "majority","afterClusterTime": {"$timestamp":{"t":100,"i":7}}}`) {
				t.Errorf("the find is %s", find)
			}
		})
	}
}

// Errors of a read that somebody must mend, by name.
func TestChunkRefused(t *testing.T) {
	t.Parallel()
	twice := bson.D{{Key: "_id", Value: 1}, {Key: "a", Value: "x"}, {Key: "a", Value: "y"}}
	for name, c := range map[string]struct {
		q     sources.ChunkRequest
		reply read
		want  []string
	}{
		"rights":       {sources.ChunkRequest{}, read{refuse: &refusal{code: codeUnauthorized}}, []string{"shop.orders", "grantRolesToUser"}},
		"condition":    {sources.ChunkRequest{Where: `{"$no": 1}`}, read{refuse: &refusal{code: codeBadValue}}, []string{`"{\"$no\": 1}"`, "Extended JSON"}},
		"no condition": {sources.ChunkRequest{Where: `status = 'open'`}, read{}, []string{"status = 'open'", `{"status": "open"}`}},
		"document":     {sources.ChunkRequest{}, read{docs: []bson.D{twice}, at: at(100, 8)}, []string{"shop.orders", "_id 1", "twice", "invalid_documents: base64"}},
		"key":          {sources.ChunkRequest{Keys: [][][]byte{{[]byte("1"), []byte("2")}}}, read{}, []string{"_id alone"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.found(read{at: at(100, 7)}, read{at: at(100, 6)})
			r := f.reader(f.options())
			f.found(c.reply)
			c.q.Table, c.q.Rows, c.q.Bytes = "shop.orders", 10, 1<<20
			_, err := r.ReadChunk(t.Context(), c.q)
			var fatal *sources.FatalError
			if !errors.As(err, &fatal) {
				t.Fatalf("%v", err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in %v", part, err)
				}
			}
		})
	}
}

// every is an _id of each type that MongoDB takes, in BSON's order. The stand-in has its own order of documents where a longer one
// is lower than a shorter one.
func every(t *testing.T) (ids []any) {
	decimal, err := bson.ParseDecimal128("3.5")
	if err != nil {
		t.Fatal(err)
	}
	oid, err := bson.ObjectIDFromHex("5f0000000000000000000001")
	if err != nil {
		t.Fatal(err)
	}
	return []any{
		bson.MinKey{}, nil, int32(-1), 2.25, decimal, int64(4), 1e300, "", "B", "a \"q\" \\", bson.D{},
		bson.D{{Key: "a", Value: int32(0)}}, bson.D{{Key: "a", Value: int64(1)}, {Key: "b", Value: "x"}}, bson.Binary{Data: []byte{1}},
		bson.Binary{Subtype: 4, Data: bytes.Repeat([]byte{7}, 16)}, oid, false, true, bson.DateTime(-1), bson.DateTime(1e12), at(1, 2),
		bson.JavaScript("x"), bson.MaxKey{},
	}
}

// Documents whose _id are of all types are read once each, in BSON's order, in chunks of any size, and by their keys.
func TestMixedTypes(t *testing.T) {
	t.Parallel()
	url := testServer(t)
	db := testDatabase(t, url)
	items := db.Collection("items")
	ids := every(t)
	for i := range ids {
		if _, err := items.InsertOne(t.Context(), bson.D{{Key: "_id", Value: ids[(i*7)%len(ids)]}}); err != nil {
			t.Fatal(err)
		}
	}
	f := fake{t: t}
	o := f.options()
	o.Tables = []string{db.Name() + ".items"}
	r, err := (Config{URL: url}).OpenReader(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var whole []string
	var keys [][][]byte
	for _, size := range []int{100, 1, 3} {
		q := sources.ChunkRequest{Table: o.Tables[0], Rows: size, Bytes: 1 << 20}
		var got []string
		for {
			c, err := r.ReadChunk(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, rowsOf(c)...)
			if size == 100 {
				for _, row := range c.Rows {
					keys = append(keys, [][]byte{row[0].Data})
				}
			}
			if q.After = c.Next; c.Next == nil {
				break
			}
		}
		if whole == nil {
			whole = got
			var want []string
			for _, id := range ids {
				text, err := bson.MarshalExtJSON(bson.D{{Key: "_id", Value: id}}, false, false)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, strings.TrimSuffix(strings.TrimPrefix(string(text), `{"_id":`), "}"))
			}
			for i := range want {
				if !strings.HasPrefix(got[i], want[i]+"|") {
					t.Errorf("row %d is %s, want _id %s", i, got[i], want[i])
				}
			}
		}
		same(t, got, whole)
	}
	for i := range keys {
		c, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: o.Tables[0], Keys: keys[i : i+1]})
		if err != nil {
			t.Fatalf("by the key %s: %v", keys[i][0], err)
		}
		same(t, rowsOf(c), whole[i:i+1])
	}
	c, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: o.Tables[0], Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	same(t, rowsOf(c), whole)
}

// Values that have no Extended JSON come back from what stands for them, also as a place between documents.
func TestParseValue(t *testing.T) {
	t.Parallel()
	for _, v := range []bson.RawValue{
		{Type: bson.TypeString, Value: []byte("\x02\x00\x00\x00\xff\x00")},
		{Type: bson.TypeEmbeddedDocument, Value: []byte("\x0f\x00\x00\x00\x10a\x00\x01\x00\x00\x00\x0aa\x00\x00")},
		{Type: bson.TypeInt64, Value: []byte{5, 0, 0, 0, 0, 0, 0, 0}},
	} {
		text, err := placeBefore(v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parsePlace(text)
		if err != nil || got.Type != v.Type || !bytes.Equal(got.Value, v.Value) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{`{}`, `{"before":}`, `5`, `{"before":{"$oid":"x"}}`, `{"before":{"$invalidBSON":5}}`} {
		if _, err := parsePlace(sources.Cursor(text)); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}

// A large collection is cut into ranges that together hold it.
func TestSplit(t *testing.T) {
	t.Parallel()
	url := testServer(t)
	db := testDatabase(t, url)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const count = leastSplit
	for from := 0; from < count; from += 1000 {
		batch := make([]any, 0, 1000)
		for i := from; i < min(from+1000, count); i++ {
			batch = append(batch, bson.D{{Key: "_id", Value: i}})
		}
		if _, err := db.Collection("items").InsertMany(ctx, batch); err != nil {
			t.Fatal(err)
		}
	}
	f := fake{t: t}
	o := f.options()
	o.Tables = []string{db.Name() + ".items"}
	r, err := (Config{URL: url}).OpenReader(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cuts, err := r.Split(ctx, o.Tables[0], 4)
	if err != nil || len(cuts) != 3 {
		t.Fatalf("cuts %s, %v", cuts, err)
	}
	var after sources.Cursor
	next := 0
	for _, until := range append(cuts, nil) {
		from := next
		for q := (sources.ChunkRequest{Table: o.Tables[0], After: after, Until: until, Rows: 1 << 20, Bytes: 1 << 20}); ; {
			c, err := r.ReadChunk(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range c.Rows {
				if string(row[0].Data) != fmt.Sprint(next) {
					t.Fatalf("document %s came, and %d was to come", row[0].Data, next)
				}
				next++
			}
			if q.After = c.Next; c.Next == nil {
				break
			}
		}
		if n := next - from; n < count/10 || n > count/2 {
			t.Errorf("a range of %d documents of %d", n, count)
		}
		after = until
	}
	if next != count {
		t.Errorf("%d documents of %d", next, count)
	}
}
