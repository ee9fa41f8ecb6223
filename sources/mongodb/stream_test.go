package mongodb

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"weft/sources"
)

func same(t *testing.T, got, want []string) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestEvents(t *testing.T) {
	key := bson.E{Key: "documentKey", Value: bson.D{{Key: "_id", Value: "k"}}}
	full := bson.E{Key: "fullDocument", Value: bson.D{{Key: "_id", Value: "k"}, {Key: "n", Value: int32(2)}}}
	before := bson.E{Key: "fullDocumentBeforeChange", Value: bson.D{{Key: "_id", Value: "k"}, {Key: "n", Value: int32(1)}}}
	update := bson.E{Key: "updateDescription", Value: bson.D{
		{Key: "updatedFields", Value: bson.D{{Key: "n", Value: int32(2)}}}, {Key: "removedFields", Value: bson.A{"m"}},
	}}
	f := newFake(t)
	src := f.open(f.config(), f.options())
	f.play(step{events: []bson.D{
		insert("8201", 100, 8, int64(1)),
		insert("8202", 100, 8, bson.D{{Key: "a", Value: int32(1)}}),
		change("8203", 100, 9, "update", key, full, before, update),
		change("8204", 100, 9, "update", key, update, bson.E{Key: "fullDocument", Value: nil}),
		change("8205", 101, 1, "replace", key, full),
		change("8206", 101, 2, "delete", key, before),
		change("8207", 101, 3, "delete", key),
		change("8208", 101, 4, "drop"),
		change("8209", 101, 5, "rename", bson.E{Key: "to", Value: bson.D{{Key: "db", Value: "shop"}, {Key: "coll", Value: "old"}}}),
	}})
	got, b := f.take(src, 9)
	same(t, got, []string{
		`c shop.orders 0000006400000008.00000000.00000000 - 1|{"_id":1}`,
		`c shop.orders 0000006400000008.00000001.00000000 - {"a":1}|{"_id":{"a":1}}`,
		`u shop.orders 0000006400000009.00000000.00000000 "k"|{"_id":"k","n":1} "k"|{"_id":"k","n":2}`,
		`u shop.orders 0000006400000009.00000001.00000000 - "k"|?`,
		`u shop.orders 0000006500000001.00000000.00000000 - "k"|{"_id":"k","n":2}`,
		`d shop.orders 0000006500000002.00000000.00000000 "k"|{"_id":"k","n":1} -`,
		`d shop.orders 0000006500000003.00000000.00000000 "k"|? -`,
		`t shop.orders 0000006500000004.00000000.00000000 - -`,
		`t shop.orders 0000006500000005.00000000.00000000 - -`,
	})
	for i, want := range map[int]string{
		0: `"collection":"orders","clusterTime":{"t":100,"i":8},"fullDocument":"event"`,
		2: `"collection":"orders","clusterTime":{"t":100,"i":9},"fullDocument":"lookup"`,
		3: `"collection":"orders","clusterTime":{"t":100,"i":9},"fullDocument":"delta","updateDescription":{"updatedFields":{"n":2},"removedFields":["m"]}`,
		7: `"collection":"orders","clusterTime":{"t":101,"i":4},"operationType":"drop"`,
	} {
		if got := string(b.Changes[i].Meta); got != want {
			t.Errorf("change %d: meta %s, want %s", i, got, want)
		}
	}
	if c := b.Changes[2]; c.Stamp != 100<<32|9 || c.CommitTime != 100e6 {
		t.Errorf("stamp %x, commit time %d", c.Stamp, c.CommitTime)
	}
	if s := f.opened()[0]; s.database != "shop" || s.collection != "orders" || s.options.StartAt == nil ||
		*s.options.StartAt != (bson.Timestamp{T: 100, I: 8}) || s.options.FullDocument != "updateLookup" || s.options.Before != "whenAvailable" {
		t.Errorf("the stream was opened with %+v", s)
	}
}

// A resume begins at the token, and goes on counting where events of one cluster time are cut.
func TestResumeWithinOneTime(t *testing.T) {
	f := newFake(t)
	o := f.options()
	o.BatchBytes = 1
	src := f.open(f.config(), o)
	events := []bson.D{insert("8201", 100, 8, int64(1)), insert("8202", 100, 8, int64(2)), insert("8203", 100, 8, int64(3))}
	f.play(step{events: events})
	f.take(src, 1)
	_, b := f.take(src, 1)
	o.Position = bytes.Clone(b.Position)
	src = f.open(f.config(), o)
	f.play(step{events: events[2:]})
	got, _ := f.take(src, 1)
	same(t, got, []string{`c shop.orders 0000006400000008.00000002.00000000 - 3|{"_id":3}`})
	s := f.opened()
	if after := s[len(s)-1].options.StartAfter; after.Lookup("_data").StringValue() != "8202" {
		t.Errorf("resumed after %s", after)
	}
}

// The fragments of a large event are one change, and no position lies between them.
func TestFragments(t *testing.T) {
	split := func(n int32) bson.E {
		return bson.E{Key: "splitEvent", Value: bson.D{{Key: "fragment", Value: n}, {Key: "of", Value: int32(3)}}}
	}
	f := newFake(t)
	src := f.open(f.config(), f.options())
	f.play(
		step{events: []bson.D{
			insert("8201", 100, 8, int64(1)),
			change("8202", 100, 9, "update", bson.E{Key: "documentKey", Value: bson.D{{Key: "_id", Value: "k"}}}, split(1)),
		}},
		step{events: []bson.D{{{Key: "_id", Value: tokenDoc("8203")}, split(2),
			{Key: "fullDocument", Value: bson.D{{Key: "_id", Value: "k"}, {Key: "n", Value: int32(2)}}}}}},
	)
	got, b := f.take(src, 1)
	if p, err := decodePosition(b.Position); err != nil || !strings.Contains(string(p.Token), "8201") {
		t.Fatalf("position %s, %v", b.Position, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := src.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a part of an event: %v", err)
	}
	f.play(step{events: []bson.D{{{Key: "_id", Value: tokenDoc("8204")}, split(3),
		{Key: "fullDocumentBeforeChange", Value: bson.D{{Key: "_id", Value: "k"}, {Key: "n", Value: int32(1)}}}}}})
	more, b := f.take(src, 1)
	same(t, append(got, more...), []string{
		`c shop.orders 0000006400000008.00000000.00000000 - 1|{"_id":1}`,
		`u shop.orders 0000006400000009.00000000.00000000 "k"|{"_id":"k","n":1} "k"|{"_id":"k","n":2}`,
	})
	if p, err := decodePosition(b.Position); err != nil || !strings.Contains(string(p.Token), "8204") {
		t.Fatalf("position %s, %v", b.Position, err)
	}
	// A fragment out of its order is no event.
	f.play(step{events: []bson.D{change("8205", 100, 10, "insert", split(2))}})
	if _, err := src.Next(t.Context()); err == nil || !strings.Contains(err.Error(), "fragment 2") {
		t.Fatal(err)
	}
}

// What a server does in an election, and one that ends, is gone over without a loss.
func TestElection(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	src := f.open(f.config(), f.options())
	f.play(
		step{events: []bson.D{insert("8201", 100, 8, int64(1))}},
		step{refuse: &refusal{code: 189, labels: []string{"ResumableChangeStreamError"}}},
		step{events: []bson.D{insert("8202", 100, 9, int64(2))}},
		step{drop: true},
		step{events: []bson.D{insert("8203", 100, 10, int64(3))}},
	)
	got, _ := f.take(src, 3)
	same(t, got, []string{
		`c shop.orders 0000006400000008.00000000.00000000 - 1|{"_id":1}`,
		`c shop.orders 0000006400000009.00000000.00000000 - 2|{"_id":2}`,
		`c shop.orders 000000640000000a.00000000.00000000 - 3|{"_id":3}`,
	})
	after := []string{}
	for _, s := range f.opened()[1:] {
		after = append(after, s.options.ResumeAfter.Lookup("_data").StringValue())
	}
	same(t, after, []string{"8201", "8202"})
}

// An invalidate event ends the stream; the next one begins after it.
func TestInvalidate(t *testing.T) {
	f := newFake(t)
	src := f.open(f.config(), f.options())
	f.play(step{end: true, events: []bson.D{
		change("8201", 100, 8, "drop"),
		{{Key: "_id", Value: tokenDoc("8202")}, {Key: "operationType", Value: "invalidate"}, {Key: "clusterTime", Value: bson.Timestamp{T: 100, I: 8}}},
	}}, step{events: []bson.D{insert("8203", 100, 9, int64(1))}})
	got, _ := f.take(src, 2)
	same(t, got, []string{
		`t shop.orders 0000006400000008.00000000.00000000 - -`,
		`c shop.orders 0000006400000009.00000000.00000000 - 1|{"_id":1}`,
	})
	if s := f.opened()[1]; s.options.StartAfter.Lookup("_data").StringValue() != "8202" {
		t.Errorf("the stream was opened again with %+v", s.options)
	}
}

// A collection that is renamed to a captured name brings documents of which no event tells.
func TestRenameOnto(t *testing.T) {
	f := newFake(t)
	src := f.open(f.config(), f.options())
	other := change("8202", 100, 9, "rename", bson.E{Key: "to", Value: bson.D{{Key: "db", Value: "shop"}, {Key: "coll", Value: "orders"}}})
	other[3].Value = bson.D{{Key: "db", Value: "shop"}, {Key: "coll", Value: "new"}}
	f.play(step{events: []bson.D{insert("8201", 100, 8, int64(1)), other}})
	_, b := f.take(src, 1)
	position := bytes.Clone(b.Position)
	b, err := src.Next(t.Context())
	for ; err == nil; b, err = src.Next(t.Context()) { // an idle position may come first
		position = bytes.Clone(b.Position)
	}
	var gap *sources.GapError
	if !errors.As(err, &gap) || !strings.Contains(gap.Reason, "shop.new was renamed to shop.orders") {
		t.Fatal(err)
	}
	if !bytes.Equal(gap.Resume, position) || !strings.Contains(string(position), "8202") {
		t.Errorf("the gap's resume is %s, the position %s", gap.Resume, position)
	}
}

func TestIdle(t *testing.T) {
	f := newFake(t)
	c := f.config()
	c.idle = 50 * time.Millisecond
	src := f.open(c, f.options())
	f.take(src, 0)
	seen := map[string]bool{}
	for _, token := range []string{"8211", "8212"} {
		f.play(step{token: token})
		b := f.next(src)
		for !strings.Contains(string(b.Position), token) { // the token from the stream's start may come first
			b = f.next(src)
		}
		if len(b.Changes) != 0 || b.Partial || seen[string(b.Position)] {
			t.Fatalf("idle batch %+v", b)
		}
		seen[string(b.Position)] = true
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if b, err := src.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a position without a newer token: %s, %v", b.Position, err)
	}
}

// By the server's clock a change is of a backlog or new; an answer without changes ends the backlog.
func TestBehind(t *testing.T) {
	f := newFake(t)
	c := f.config()
	c.idle = time.Millisecond
	src := f.open(c, f.options())
	for _, step := range []struct {
		step
		behind bool
	}{
		{step{now: at(102, 1), events: []bson.D{insert("8201", 100, 8, int64(1)), insert("8202", 100, 9, int64(2))}}, true},
		{step{now: at(104, 1), events: []bson.D{insert("8203", 103, 1, int64(3))}}, false},
		{step{now: at(106, 1), events: []bson.D{insert("8204", 104, 1, int64(4))}}, true},
	} {
		f.play(step.step)
		if _, b := f.take(src, len(step.events)); b.Behind != step.behind {
			t.Errorf("behind %t, of %+v", b.Behind, step.step)
		}
	}
	f.play(step{token: "8205"})
	if b := f.next(src); b.Behind || len(b.Changes) != 0 {
		t.Errorf("after an answer without changes: %+v", b)
	}
}

// A transaction that may go on makes a batch partial, until the server has nothing more or something else comes.
func TestTransaction(t *testing.T) {
	lsid := bson.E{Key: "lsid", Value: bson.D{{Key: "id", Value: bson.Binary{Subtype: 4, Data: bytes.Repeat([]byte{0xab}, 16)}}}}
	in := func(token string, i uint32, id int64, txn int64) bson.D {
		return append(insert(token, 100, i, id), lsid, bson.E{Key: "txnNumber", Value: txn})
	}
	f := newFake(t)
	o := f.options()
	o.BatchBytes = 1
	src := f.open(f.config(), o)
	f.play(step{events: []bson.D{in("8201", 8, 1, 5), in("8202", 8, 2, 5), in("8203", 9, 3, 6)}})
	var position sources.Position
	for i, want := range []struct {
		id      string
		order   int64
		partial bool
	}{{"5", 1, true}, {"5", 2, false}, {"6", 1, true}} {
		b := f.next(src)
		c := b.Changes[0]
		if c.Transaction == nil || c.Transaction.ID != strings.Repeat("ab", 16)+":"+want.id || c.TransactionOrder != want.order ||
			c.TableOrder != want.order || i < 2 && b.Partial != want.partial {
			t.Errorf("change %d: %+v, order %d, partial %t", i, c.Transaction, c.TransactionOrder, b.Partial)
		}
		if i == 0 {
			position = bytes.Clone(b.Position)
		}
		if b.Partial && i == 2 {
			if b := f.next(src); len(b.Changes) != 0 || b.Partial {
				t.Errorf("the transaction's end: %+v", b)
			}
		}
	}
	o.Position = position
	src = f.open(f.config(), o)
	f.play(step{events: []bson.D{in("8202", 8, 2, 5)}})
	if b := f.next(src); b.Changes[0].TransactionOrder != 2 || string(b.Changes[0].Order) != "0000006400000008.00000001.00000000" {
		t.Errorf("resumed within a transaction: %+v", b.Changes[0])
	}
}

// Errors of the server, at the start and while reading.
func TestRefusals(t *testing.T) {
	for code, want := range map[int32]string{
		286: "gap", 280: "gap", 260: "gap", 10334: "fatal", 13: "fatal", 47: "fatal", 40573: "fatal", 40324: "fatal", 8000: "retry",
	} {
		for _, when := range []string{"start", "reading"} {
			f := newFake(t)
			o := f.options()
			var err error
			if when == "start" {
				f.refuse = &refusal{code: code}
				_, err = f.config().Open(t.Context(), o)
			} else {
				src := f.open(f.config(), o)
				f.play(step{events: []bson.D{insert("8201", 100, 8, int64(1))}}, step{refuse: &refusal{code: code}})
				f.take(src, 1)
				_, err = src.Next(t.Context())
			}
			var gap *sources.GapError
			var fatal *sources.FatalError
			got := "retry"
			if errors.As(err, &gap) {
				got = "gap"
			} else if errors.As(err, &fatal) {
				got = "fatal"
			}
			if err == nil || got != want {
				t.Errorf("code %d, %s: %s (%v), want %s", code, when, got, err, want)
			}
		}
	}
}

// A login that is refused is for somebody to mend, and no message has the password.
func TestLogin(t *testing.T) {
	f := newFake(t)
	c := f.config()
	c.URL = strings.Replace(c.URL, "mongodb://", "mongodb://weft:hunter2@", 1)
	_, err := c.Open(t.Context(), f.options())
	var fatal *sources.FatalError
	if !errors.As(err, &fatal) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}

// So do the parts of an event beside the document.
func TestInvalidParts(t *testing.T) {
	t.Parallel()
	bad := bson.D{{Key: "a", Value: "\xff"}}
	id := func(id any) bson.E { return bson.E{Key: "documentKey", Value: bson.D{{Key: "_id", Value: id}}} }
	for name, c := range map[string]struct {
		event bson.D
		where func(c *sources.Change) []byte
	}{
		"_id":    {change("8201", 100, 8, "delete", id(bad)), func(c *sources.Change) []byte { return c.Before[0].Data }},
		"before": {change("8201", 100, 8, "delete", id(1), bson.E{Key: "fullDocumentBeforeChange", Value: bad}), func(c *sources.Change) []byte { return c.Before[1].Data }},
		"delta":  {change("8201", 100, 8, "update", id(1), bson.E{Key: "updateDescription", Value: bad}), func(c *sources.Change) []byte { return c.Meta }},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			config := f.config()
			src := f.open(config, f.options())
			f.play(step{events: []bson.D{c.event}})
			_, err := src.Next(t.Context())
			var fatal *sources.FatalError
			if !errors.As(err, &fatal) || !strings.Contains(fatal.Remedy, "invalid_documents: base64") || !strings.Contains(err.Error(), "shop.orders") ||
				!strings.Contains(err.Error(), "UTF-8") {
				t.Fatal(err)
			}
			config.Invalid = InvalidBase64
			src = f.open(config, f.options())
			f.play(step{events: []bson.D{c.event}})
			if _, b := f.take(src, 1); !strings.Contains(string(c.where(&b.Changes[0])), invalidHead) {
				t.Errorf("%+v", b.Changes[0])
			}
		})
	}
}

// A document that has no JSON stops the capture with its name, or is carried as its BSON.
func TestInvalidDocuments(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fields bson.D
		want   []string
	}{
		"a field twice":     {bson.D{{Key: "a", Value: "x"}, {Key: "a", Value: "y"}}, []string{`field "a"`, "twice"}},
		"invalid UTF-8":     {bson.D{{Key: "a", Value: bson.RawValue{Type: bson.TypeString, Value: []byte("\x02\x00\x00\x00\xff\x00")}}}, []string{`field "a"`, "UTF-8"}},
		"another type":      {bson.D{{Key: "a", Value: bson.D{{Key: "$oid", Value: "x"}}}}, []string{`field "a.$oid"`, "looks like another type"}},
		"a regex's options": {bson.D{{Key: "a", Value: bson.Regex{Pattern: "x", Options: "xi"}}}, nil}, // which the driver puts in order
	} {
		t.Run(name, func(t *testing.T) {
			bad := insert("8201", 100, 9, int64(1))
			bad[5].Value = append(bson.D{{Key: "_id", Value: int64(1)}}, c.fields...)
			f := newFake(t)
			o := f.options()
			src := f.open(f.config(), o)
			f.play(step{events: []bson.D{insert("8200", 100, 8, int64(0)), bad}})
			if c.want == nil {
				f.take(src, 2)
				return
			}
			_, b := f.take(src, 1)
			position := bytes.Clone(b.Position)
			_, err := src.Next(t.Context())
			var fatal *sources.FatalError
			if !errors.As(err, &fatal) {
				t.Fatal(err)
			}
			for _, part := range append(c.want, "shop.orders", "_id 1", "invalid_documents: base64") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in: %v", part, err)
				}
			}
			config := f.config()
			config.Invalid = InvalidBase64
			o.Position = position
			src = f.open(config, o)
			f.play(step{events: []bson.D{bad}})
			got, _ := f.take(src, 1)
			if want := `c shop.orders 0000006400000009.00000000.00000000 - 1|{"$invalidBSON":{"base64":"`; !strings.HasPrefix(got[0], want) {
				t.Errorf("%s, want %s", got[0], want)
			}
		})
	}
}
