package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"weft/integration/services"
)

// mongoBench is a backlog of changes of one collection.
type mongoBench struct {
	*streamBench
	service *services.MongoDB
	client  *mongo.Client
	orders  *mongo.Collection
	since   bson.Timestamp // right behind which the backlog begins
	perDoc  int
}

// measureMongo drains the backlog in turns, and looks at the idle daemon.
func measureMongo(ctx context.Context, p plan) error {
	m, err := prepareMongo(ctx, p)
	if err != nil {
		return err
	}
	defer m.close()
	fmt.Printf("orders: a backlog of %d changes (70%% replacements, 20%% inserts, 10%% deletes) of documents of about %d bytes\n", m.changes, m.perDoc)
	return m.measure(ctx, "mongodb", m.drainBare)
}

// prepareMongo makes the collection, lets the daemon make its topics and a first checkpoint for each round, and then makes the backlog.
func prepareMongo(ctx context.Context, p plan) (_ *mongoBench, err error) {
	m := &mongoBench{}
	if m.streamBench, err = newStreamBench(ctx, p); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	cache, err := services.CacheDir()
	if err != nil {
		return nil, err
	}
	binaries, err := services.Install(ctx, cache, os.Stderr)
	if err != nil {
		return nil, err
	}
	if m.service, err = services.StartMongoDB(ctx, binaries.MongoDB, filepath.Join(m.dir, "mongodb"), 2*m.changes+10_000); err != nil {
		return nil, err
	}
	if m.client, err = mongo.Connect(options.Client().ApplyURI(m.service.URL)); err != nil {
		return nil, err
	}
	m.orders = m.client.Database(m.name).Collection("orders")
	if err := m.client.Database(m.name).CreateCollection(ctx, "orders"); err != nil {
		return nil, err
	}
	m.source, m.tables = fmt.Sprintf("{type: mongodb, url: %q}", m.service.URL), fmt.Sprintf("[%s.orders]", m.name)
	m.insert = func(ctx context.Context, id int) error {
		_, err := m.orders.InsertOne(ctx, bson.D{{Key: "_id", Value: id}})
		return err
	}
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	return m, m.makeBacklog(ctx)
}

func document(id, n int) bson.D {
	line := func(i int) bson.D {
		return bson.D{{Key: "sku", Value: fmt.Sprintf("sku-%d", n+i)}, {Key: "count", Value: int32(n % 7)}, {Key: "price", Value: float64(n%9999) / 100}}
	}
	return bson.D{{Key: "_id", Value: int64(id)}, {Key: "n", Value: int64(n)}, {Key: "customer", Value: int32(n % 1000)}, {Key: "city", Value: "Utrecht"},
		{Key: "at", Value: bson.DateTime(1_800_000_000_000 + n)}, {Key: "tags", Value: bson.A{"new", "web", "eu"}}, {Key: "lines", Value: bson.A{line(0), line(1)}},
		{Key: "note", Value: fmt.Sprintf("note of order %d, which says what somebody had to say about it", n)}}
}

// makeBacklog writes transactions' worth of 1000 changes: 200 inserts, 700 replacements, 100 deletes.
func (m *mongoBench) makeBacklog(ctx context.Context) error {
	session, err := m.client.StartSession()
	if err != nil {
		return err
	}
	defer session.EndSession(ctx)
	ctx = mongo.NewSessionContext(ctx, session)
	if err := m.client.Ping(ctx, nil); err != nil {
		return err
	}
	m.since = *session.OperationTime()
	m.since.I++
	size, err := bson.Marshal(document(1, 1))
	if err != nil {
		return err
	}
	m.perDoc = len(size)
	n := 0
	for turn := range m.changes / 1000 {
		var writes []mongo.WriteModel
		add := func(w mongo.WriteModel) { writes, n = append(writes, w), n+1 }
		first := turn * 200
		for i := range 200 {
			add(mongo.NewInsertOneModel().SetDocument(document(first+i, n)))
		}
		for i := range 700 {
			add(mongo.NewReplaceOneModel().SetFilter(bson.D{{Key: "_id", Value: int64(first + i%200)}}).SetReplacement(document(first+i%200, n)))
		}
		for i := range 100 {
			add(mongo.NewDeleteOneModel().SetFilter(bson.D{{Key: "_id", Value: int64(first + i)}}))
		}
		if _, err := m.orders.BulkWrite(ctx, writes); err != nil {
			return fmt.Errorf("make the backlog: %w", err)
		}
	}
	return nil
}

// drainBare reads the backlog with the driver, asked for what the daemon asks for, and does nothing with it but count.
func (m *mongoBench) drainBare(ctx context.Context) (drain, error) {
	began, before := time.Now(), ownCPU()
	stream, err := m.orders.Watch(ctx, mongo.Pipeline{}, options.ChangeStream().SetStartAtOperationTime(&m.since).SetBatchSize(1000).
		SetFullDocument(options.UpdateLookup).SetFullDocumentBeforeChange(options.WhenAvailable))
	if err != nil {
		return drain{}, err
	}
	defer stream.Close(context.WithoutCancel(ctx))
	changes := 0
	for changes < m.changes && stream.Next(ctx) {
		changes++
	}
	return drain{changes: changes, took: time.Since(began), cpu: ownCPU() - before}, stream.Err()
}

// close ends what prepareMongo started.
func (m *mongoBench) close() {
	if m.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = m.client.Disconnect(ctx) // the server ends next
	}
	if m.service != nil {
		m.service.Stop()
	}
	m.streamBench.close()
}
