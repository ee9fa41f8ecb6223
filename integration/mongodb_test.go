package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"
)

// mongoOrigin is a database whose load notes every change in the collection audit, in the transaction that makes it.
type mongoOrigin struct {
	url string
	db  *mongo.Database
	// options of a snapshot of documents from before the capture; empty for none: then there are none.
	options string
}

var mongoCollections = []string{"orders", "lines"}

func newMongoOrigin(t testing.TB, name string) *mongoOrigin {
	t.Helper()
	o := &mongoOrigin{url: server(t, "WEFT_TEST_MONGODB")}
	client, err := mongo.Connect(options.Client().ApplyURI(o.url))
	if err != nil {
		t.Fatal(err)
	}
	o.db = client.Database(name)
	t.Cleanup(func() {
		if err := o.db.Drop(context.Background()); err != nil {
			t.Error(err)
		}
		if err := client.Disconnect(context.Background()); err != nil {
			t.Error(err)
		}
	})
	for _, c := range append([]string{"pulse", "audit"}, mongoCollections...) {
		if err := o.db.CreateCollection(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// newFilledMongo has documents from before the capture: those that the load writes to, and more that it does not.
func newFilledMongo(t testing.TB, name, options string) origin {
	t.Helper()
	o := newMongoOrigin(t, name)
	o.options = options
	for n, collection := range mongoCollections {
		var all []any
		for worker := range 2 {
			w := mongoWorker{number: worker}
			for i := range mongoKeys {
				all = append(all, bson.D{{Key: "_id", Value: w.id(i)}, {Key: "n", Value: 0}, {Key: "old", Value: strings.Repeat("x", i)}})
			}
		}
		for i := range filledDocuments / 2 {
			var id any = fmt.Sprintf("old %d", i)
			if n == 0 {
				id = bson.NewObjectID()
			}
			all = append(all, bson.D{{Key: "_id", Value: id}, {Key: "n", Value: 0}, {Key: "price", Value: float64(i) / 8}})
		}
		for ; len(all) > 0; all = all[min(1000, len(all)):] {
			if _, err := o.db.Collection(collection).InsertMany(t.Context(), all[:min(1000, len(all))]); err != nil {
				t.Fatal(err)
			}
		}
	}
	return o
}

// filledDocuments is how many documents from before the load does not touch; mongoKeys how many each worker has of a collection.
const filledDocuments, mongoKeys = 6_000, 60

func (o *mongoOrigin) capture() string {
	snapshot := "never"
	if o.options != "" {
		snapshot = "initial, snapshot_options: " + o.options
	}
	return fmt.Sprintf(`source: {type: mongodb, url: %q}, tables: [%[2]s.orders, "%[2]s.line*", %[2]s.pulse], snapshot: %[3]s`, o.url, o.db.Name(), snapshot)
}

func (o *mongoOrigin) topic(table string) string { return o.db.Name() + "." + table }

func (o *mongoOrigin) pulse(ctx context.Context, id int) error {
	_, err := o.db.Collection("pulse").InsertOne(ctx, bson.D{{Key: "_id", Value: id}})
	return err
}

// extJSON is what the driver makes of a value as relaxed Extended JSON.
func extJSON(v any) (string, error) {
	text, err := bson.MarshalExtJSON(bson.D{{Key: "v", Value: v}}, false, false)
	return strings.TrimSuffix(strings.TrimPrefix(string(text), `{"v":`), "}"), err
}

func mongoKey(id any) (string, error) {
	text, err := extJSON(id)
	if err != nil {
		return "", err
	}
	return canonicalOf(map[string]string{"_id": text})
}

func (o *mongoOrigin) tables(ctx context.Context, partitions int32) (map[string]table, error) {
	tables := map[string]table{}
	for _, name := range mongoCollections {
		want := table{partitions: partitions, rows: map[string]row{}, changes: map[string]int{}, snapshot: o.options != ""}
		cursor, err := o.db.Collection(name).Find(ctx, bson.D{})
		if err != nil {
			return nil, err
		}
		for cursor.Next(ctx) {
			id, err := extJSON(cursor.Current.Lookup("_id"))
			if err != nil {
				return nil, err
			}
			document, err := extJSON(cursor.Current)
			if err != nil {
				return nil, err
			}
			key, err := mongoKey(cursor.Current.Lookup("_id"))
			if err != nil {
				return nil, err
			}
			want.rows[key] = row{"_id": id, "document": document}
		}
		if err := cursor.Err(); err != nil {
			return nil, err
		}
		tables[name] = want
	}
	cursor, err := o.db.Collection("audit").Find(ctx, bson.D{})
	if err != nil {
		return nil, err
	}
	for cursor.Next(ctx) {
		tables[cursor.Current.Lookup("table").StringValue()].changes[cursor.Current.Lookup("change").StringValue()]++
	}
	return tables, cursor.Err()
}

// load writes from two workers until ctx ends. Each has documents of its own, so that no two transactions collide.
func (o *mongoOrigin) load(ctx context.Context, seed uint64) error {
	g, ctx := errgroup.WithContext(ctx)
	for worker := range uint64(2) {
		g.Go(func() error {
			w := mongoWorker{origin: o, rand: rand.New(rand.NewPCG(seed, worker)), number: int(worker), live: map[string]bool{}}
			for i := range mongoKeys {
				for _, collection := range mongoCollections {
					key, err := mongoKey(w.id(i))
					if err != nil {
						return err
					}
					w.live[collection+key] = o.options != ""
				}
			}
			for ctx.Err() == nil {
				if err := w.transaction(context.WithoutCancel(ctx)); err != nil {
					return fmt.Errorf("load MongoDB: %w", err)
				}
				time.Sleep(time.Duration(w.rand.IntN(30)) * time.Millisecond)
			}
			return nil
		})
	}
	return g.Wait()
}

type mongoWorker struct {
	origin *mongoOrigin
	rand   *rand.Rand
	number int
	n      int             // versions written
	live   map[string]bool // by collection and key
}

// id is the key of a document: of one of three types.
func (w *mongoWorker) id(i int) any {
	i = 2*i + w.number
	switch i % 6 / 2 {
	case 0:
		return int64(i)
	case 1:
		return fmt.Sprintf("key \"%d\"", i)
	}
	return bson.D{{Key: "a", Value: int32(i)}, {Key: "b", Value: "x"}}
}

// operation is one write of a transaction.
type operation struct {
	collection, op string
	id             any
	document       bson.D
	change         string
}

// next makes a write that fits what is there.
func (w *mongoWorker) next() (operation, error) {
	op := operation{collection: mongoCollections[w.rand.IntN(2)], id: w.id(w.rand.IntN(mongoKeys))}
	key, err := mongoKey(op.id)
	if err != nil {
		return op, err
	}
	w.n++
	n := 2*w.n + w.number
	op.document = bson.D{{Key: "_id", Value: op.id}, {Key: "n", Value: int64(n)}, {Key: "price", Value: float64(n) / 8},
		{Key: "tags", Value: bson.A{"a", int32(1), bson.D{{Key: "x", Value: nil}}}}}
	if w.rand.IntN(40) == 0 {
		op.document = append(op.document, bson.E{Key: "large", Value: strings.Repeat("0123456789", 1+w.rand.IntN(20_000))})
	}
	place := op.collection + key
	switch {
	case !w.live[place]:
		op.op, w.live[place] = "c", true
	case w.rand.IntN(4) == 0:
		op.op, w.live[place] = "d", false
		op.change = "delete " + key
		return op, nil
	default:
		op.op = "u"
	}
	op.change = fmt.Sprintf("%s %s n %d", op.op, key, n)
	return op, nil
}

// transaction writes 1 to 10 documents, and now and then some hundred, each with its line in audit. The one that is written
// alone now and then is no transaction's: then audit comes after it.
func (w *mongoWorker) transaction(ctx context.Context) error {
	count := 1 + w.rand.IntN(10)
	if w.rand.IntN(30) == 0 {
		count = 200 + w.rand.IntN(600)
	}
	operations := make([]operation, count)
	for i := range operations {
		var err error
		if operations[i], err = w.next(); err != nil {
			return err
		}
	}
	if count == 1 {
		return w.write(ctx, operations)
	}
	session, err := w.origin.db.Client().StartSession()
	if err != nil {
		return err
	}
	defer session.EndSession(ctx)
	_, err = session.WithTransaction(ctx, func(ctx context.Context) (any, error) { return nil, w.write(ctx, operations) })
	return err
}

func (w *mongoWorker) write(ctx context.Context, operations []operation) error {
	for _, op := range operations {
		c := w.origin.db.Collection(op.collection)
		id := bson.D{{Key: "_id", Value: op.id}}
		touched := int64(1)
		var err error
		switch op.op {
		case "c":
			_, err = c.InsertOne(ctx, op.document)
		case "u":
			var result *mongo.UpdateResult
			if result, err = c.ReplaceOne(ctx, id, op.document); err == nil {
				touched = result.MatchedCount
			}
		case "d":
			var result *mongo.DeleteResult
			if result, err = c.DeleteOne(ctx, id); err == nil {
				touched = result.DeletedCount
			}
		}
		if err == nil && touched != 1 {
			err = fmt.Errorf("%s touched %d documents", op.change, touched)
		}
		if err == nil {
			_, err = w.origin.db.Collection("audit").InsertOne(ctx, bson.D{{Key: "table", Value: op.collection}, {Key: "change", Value: op.change}})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
