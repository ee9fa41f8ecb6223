package mongodb

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"weft/sources"
	"weft/sources/sourcetest"
)

// testServer is the address of a MongoDB server, or of one that takes its place, to test against.
func testServer(t testing.TB) string {
	t.Helper()
	url := os.Getenv("WEFT_TEST_MONGODB")
	if url == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("WEFT_TEST_MONGODB is not set")
		}
		t.Skip("WEFT_TEST_MONGODB is not set: services run starts a server")
	}
	return url
}

// testDatabase is an empty database, dropped at the test's end.
func testDatabase(t testing.TB, url string) *mongo.Database {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(url))
	if err != nil {
		t.Fatal(err)
	}
	db := client.Database("test_" + rand.Text()[:10])
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := db.Drop(ctx); err != nil {
			t.Error(err)
		}
		if err := client.Disconnect(ctx); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestConformance(t *testing.T) {
	for _, scope := range []Scope{ScopeCollection, ScopeDatabase, ScopeDeployment} {
		t.Run(string(scope), func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T) *sourcetest.Harness { return newHarness(t, scope) })
		})
	}
}

func newHarness(t *testing.T, scope Scope) *sourcetest.Harness {
	url := testServer(t)
	db := testDatabase(t, url)
	if err := db.CreateCollection(t.Context(), "items"); err != nil {
		t.Fatal(err)
	}
	return &sourcetest.Harness{
		// The stand-in server looks a document up when the stream is read, and finds the newest: only what the event itself
		// holds can be compared, so that updates are replacements.
		Config: &Config{URL: url, Scope: scope},
		Tables: []string{db.Name() + ".items"},
		Traits: sourcetest.Traits{
			Deletes: true, EveryChange: true, Transactions: true, Reproducible: true, TotalOrder: true, FirstBatches: 1,
		},
		Write: func(ctx context.Context, rows ...sourcetest.Row) error {
			return write(ctx, db.Collection("items"), rows)
		},
		Decode: decodeRow,
	}
}

// write writes rows in one transaction.
func write(ctx context.Context, items *mongo.Collection, rows []sourcetest.Row) error {
	session, err := items.Database().Client().StartSession()
	if err != nil {
		return err
	}
	defer session.EndSession(ctx)
	_, err = session.WithTransaction(ctx, func(ctx context.Context) (any, error) {
		for _, r := range rows {
			id := bson.D{{Key: "_id", Value: r.ID}}
			doc := bson.D{{Key: "_id", Value: r.ID}, {Key: "body", Value: r.Body}}
			var n int64
			switch r.Op {
			case sources.OpCreate:
				if _, err := items.InsertOne(ctx, doc); err != nil {
					return nil, err
				}
				n = 1
			case sources.OpUpdate:
				result, err := items.ReplaceOne(ctx, id, doc)
				if err != nil {
					return nil, err
				}
				n = result.MatchedCount
			case sources.OpDelete:
				result, err := items.DeleteOne(ctx, id)
				if err != nil {
					return nil, err
				}
				n = result.DeletedCount
			}
			if n != 1 {
				return nil, fmt.Errorf("op %c of %d touched %d documents", r.Op, r.ID, n)
			}
		}
		return nil, nil
	})
	return err
}

// decodeRow reads a row from the two columns.
func decodeRow(c *sources.Change) (sourcetest.Row, error) {
	row := sourcetest.Row{Op: c.Op}
	values := c.After
	if c.Op == sources.OpDelete {
		values = c.Before
	}
	var err error
	if row.ID, err = strconv.ParseInt(string(values[0].Data), 10, 64); err != nil {
		return row, err
	}
	if c.Op == sources.OpDelete {
		return row, nil
	}
	if values[1].State != sources.Present {
		return row, fmt.Errorf("the document of %d is not there", row.ID)
	}
	var doc struct {
		Body *string `bson:"body"`
	}
	if err := bson.UnmarshalExtJSON(values[1].Data, false, &doc); err != nil {
		return row, err
	}
	row.Body = doc.Body
	return row, nil
}

const testWait = 30 * time.Second
