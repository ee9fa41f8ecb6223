package mongodb

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"weft/sources"
)

// served is a source on a server, and what its changes were.
type served struct {
	t   *testing.T
	src sources.Source
}

func serve(t *testing.T, c Config, position sources.Position, tables ...string) *served {
	t.Helper()
	src, err := c.Open(t.Context(), sources.OpenOptions{
		Capture: "test", Tables: tables, Position: position, BatchBytes: 1 << 20, ReadAheadBytes: 4 << 20, Logger: hclog.NewNullLogger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &served{t: t, src: src}
	if position == nil {
		s.take(0)
	}
	return s
}

// take gathers n changes, as text without their order, and the position behind them; with n of 0 it takes one batch.
func (s *served) take(n int) (changes []string, position sources.Position) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), testWait)
	defer cancel()
	for first := true; first || len(changes) < n; first = false {
		b, err := s.src.Next(ctx)
		if err != nil {
			s.t.Fatalf("after %q: %v", changes, err)
		}
		for i := range b.Changes {
			b.Changes[i].Order = nil
			changes = append(changes, strings.ReplaceAll(describe(&b.Changes[i]), "  ", " "))
		}
		position = bytes.Clone(b.Position)
	}
	return changes, position
}

// A collection that is dropped and made again, and so has another UUID, goes on, whatever the stream is opened on: also over a restart
// right behind the event that ended the stream, or where all of it was done while nobody read.
func TestDropAndMake(t *testing.T) {
	url := testServer(t)
	for _, scope := range []Scope{ScopeCollection, ScopeDatabase} {
		t.Run(string(scope), func(t *testing.T) {
			db := testDatabase(t, url)
			items := db.Collection("items")
			ctx := t.Context()
			insert := func(id any) {
				t.Helper()
				if _, err := items.InsertOne(ctx, bson.D{{Key: "_id", Value: id}}); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.CreateCollection(ctx, "items"); err != nil {
				t.Fatal(err)
			}
			name := db.Name() + ".items"
			config := Config{URL: url, Scope: scope}
			s := serve(t, config, nil, name)
			insert(1)
			got, first := s.take(1)
			same(t, got, []string{`c ` + name + ` - 1|{"_id":1}`})
			if err := items.Drop(ctx); err != nil {
				t.Fatal(err)
			}
			insert("a")
			again := []string{`t ` + name + ` - -`, `c ` + name + ` - "a"|{"_id":"a"}`}
			got, _ = s.take(2)
			same(t, got, again)
			got, _ = serve(t, config, first, name).take(2)
			same(t, got, again)
			if err := items.Drop(ctx); err != nil {
				t.Fatal(err)
			}
			_, position := s.take(1)
			insert(2)
			s.take(1)
			got, _ = serve(t, config, position, name).take(1)
			same(t, got, []string{`c ` + name + ` - 2|{"_id":2}`})
		})
	}
}

func TestPreImages(t *testing.T) {
	url := testServer(t)
	db := testDatabase(t, url)
	ctx := t.Context()
	images := options.CreateCollection().SetChangeStreamPreAndPostImages(bson.D{{Key: "enabled", Value: true}})
	if err := db.CreateCollection(ctx, "items", images); err != nil {
		t.Fatal(err)
	}
	items := db.Collection("items")
	name := db.Name() + ".items"
	s := serve(t, Config{URL: url, FullDocument: FullOff, Before: BeforeRequired, JSON: JSONCanonical}, nil, name)
	if _, err := items.InsertOne(ctx, bson.D{{Key: "_id", Value: 1}, {Key: "n", Value: 1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := items.UpdateOne(ctx, bson.D{{Key: "_id", Value: 1}}, bson.D{{Key: "$set", Value: bson.D{{Key: "n", Value: 2}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := items.DeleteOne(ctx, bson.D{{Key: "_id", Value: 1}}); err != nil {
		t.Fatal(err)
	}
	got, _ := s.take(3)
	doc := func(n string) string { return `1|{"_id":{"$numberInt":"1"},"n":{"$numberInt":"` + n + `"}}` }
	same(t, got, []string{
		`c ` + name + ` - ` + doc("1"),
		`u ` + name + ` ` + doc("1") + ` 1|?`,
		`d ` + name + ` ` + doc("2") + ` -`,
	})
}

// An election as the server reports it to the read that it interrupts.
func TestStepDown(t *testing.T) {
	url := testServer(t)
	db := testDatabase(t, url)
	ctx := t.Context()
	if err := db.CreateCollection(ctx, "items"); err != nil {
		t.Fatal(err)
	}
	s := serve(t, Config{URL: url}, nil, db.Name()+".items")
	want := []string{}
	for id := range 3 {
		fail := bson.D{
			{Key: "configureFailPoint", Value: "failCommand"}, {Key: "mode", Value: bson.D{{Key: "times", Value: 1}}},
			{Key: "data", Value: bson.D{{Key: "failCommands", Value: bson.A{"getMore"}}, {Key: "errorCode", Value: 189},
				{Key: "errorLabels", Value: bson.A{"ResumableChangeStreamError"}}, {Key: "appName", Value: "weft"}}},
		}
		if err := db.Client().Database("admin").RunCommand(ctx, fail).Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Collection("items").InsertOne(ctx, bson.D{{Key: "_id", Value: id}}); err != nil {
			t.Fatal(err)
		}
		text := string(rune('0' + id))
		want = append(want, `c `+db.Name()+`.items - `+text+`|{"_id":`+text+`}`)
	}
	got, _ := s.take(3)
	same(t, got, want)
}

// Check on a server finds nothing that blocks.
func TestCheckServer(t *testing.T) {
	url := testServer(t)
	db := testDatabase(t, url)
	if err := db.CreateCollection(t.Context(), "items"); err != nil {
		t.Fatal(err)
	}
	for _, f := range (Config{URL: url}).Check(t.Context(), sources.CheckOptions{Tables: []string{db.Name() + ".items"}}) {
		if f.Level == sources.Problem {
			t.Errorf("%+v", f)
		}
	}
}
