package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"weft/integration/services"
)

// mongoBench is a backlog of changes of one collection, on a server of its own, which keeps all of them.
type mongoBench struct {
	*bench
	service *services.MongoDB
	client  *mongo.Client
	orders  *mongo.Collection
	admin   string
	since   bson.Timestamp // right behind which the backlog begins
	perDoc  int
}

// mongoShare of the changes that are asked for are made: the stand-in for MongoDB is no faster.
const mongoShare = 5

// idleFor is how long the daemon is watched while nothing happens.
const idleFor = 10 * time.Second

// measureMongo drains the backlog in turns, and then looks at an idle daemon.
func measureMongo(ctx context.Context, p plan) error {
	m, err := prepareMongo(ctx, p)
	if err != nil {
		return err
	}
	defer m.close()
	fmt.Printf("orders: a backlog of %d changes (70%% replacements, 20%% inserts, 10%% deletes) of documents of about %d bytes\n", m.changes, m.perDoc)
	var bare, weft []float64
	var peak int64
	var idle float64
	for round := range p.rounds {
		for turn := range 2 {
			if (turn+round)%2 == 0 { // each of the two is first as often as the other
				r, err := m.drainBare(ctx)
				if err != nil {
					return fmt.Errorf("bare loop: %w", err)
				}
				fmt.Printf("round %d  bare  %7.0f changes/s  (%.2f s)  %.1f CPU us/change\n", round+1, r.rate(), r.took.Seconds(), r.cpuPerChange())
				bare = append(bare, r.cpuPerChange())
				continue
			}
			w, share, err := m.drainWeft(ctx, round)
			if err != nil {
				return fmt.Errorf("weft: %w", err)
			}
			fmt.Printf("round %d  weft  %7.0f changes/s  (%.2f s)  %.1f CPU us/change  RSS at most %d MiB\n",
				round+1, w.rate(), w.took.Seconds(), w.cpuPerChange(), w.peakRSS>>20)
			weft, peak, idle = append(weft, w.cpuPerChange()), max(peak, w.peakRSS), share
		}
	}
	fmt.Printf("median: bare %.1f CPU us/change, weft %.1f CPU us/change, RSS at most %d MiB, idle %.2f%% of a core\n", median(bare), median(weft), peak>>20, 100*idle)
	fmt.Printf("mongodb ratio %.2f\n", median(weft)/median(bare))
	return nil
}

// prepareMongo makes the collection, lets the daemon make its topics and a first checkpoint for each round, and then makes the backlog.
func prepareMongo(ctx context.Context, p plan) (_ *mongoBench, err error) {
	kafka := os.Getenv("WEFT_TEST_KAFKA")
	if kafka == "" {
		return nil, errors.New("no servers in the environment; use make bench-mongodb, or services run -- bench")
	}
	m := &mongoBench{bench: &bench{plan: p, name: fmt.Sprintf("bench_%x", rand.Uint32()), kafka: kafka, changes: p.changes / mongoShare / 1000 * 1000}}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.dir, err = os.MkdirTemp("", "weft-bench-"); err != nil {
		return nil, err
	}
	if m.binary, err = build(ctx, m.dir, p.profile != ""); err != nil {
		return nil, err
	}
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
	port, err := services.FreePort()
	if err != nil {
		return nil, err
	}
	m.admin = fmt.Sprintf("127.0.0.1:%d", port)
	m.settings = fmt.Sprintf("admin: {listen: %q}\n", m.admin)
	m.source, m.tables = fmt.Sprintf("{type: mongodb, url: %q}", m.service.URL), fmt.Sprintf("[%s.orders]", m.name)
	for round := range p.rounds {
		if err := m.begin(ctx, round); err != nil {
			return nil, err
		}
	}
	return m, m.makeBacklog(ctx)
}

// begin has a round's capture begin, and stops it.
func (m *mongoBench) begin(ctx context.Context, round int) error {
	d, err := m.start(ctx, m.capture(round), "never", "")
	if err != nil {
		return err
	}
	if err := m.ready(ctx, d); err != nil {
		return err
	}
	id := fmt.Sprintf("round %d", round)
	if _, err := m.orders.InsertOne(ctx, bson.D{{Key: "_id", Value: id}}); err != nil {
		return err
	}
	if err := m.awaitCheckpoint(ctx, d, func(cp checkpoint) bool { return cp.Changes > 0 }); err != nil {
		return err
	}
	return d.stop()
}

// ready waits until the capture runs.
func (m *mongoBench) ready(ctx context.Context, d *daemon) error {
	for ; ; time.Sleep(5 * time.Millisecond) {
		if err := errors.Join(ctx.Err(), d.ended()); err != nil {
			return err
		}
		reply, err := http.Get("http://" + m.admin + "/readyz?capture=" + d.capture) // 503 before it runs
		if err != nil {
			continue // it does not listen yet
		}
		if err := reply.Body.Close(); err != nil {
			return err
		}
		if reply.StatusCode == http.StatusOK {
			return nil
		}
	}
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

// ownCPU is the user and system time of this process.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // it cannot fail with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// drainWeft drains the backlog from the moment that the capture runs until the checkpoint that covers the last change can be read, and
// tells what share of a core the daemon then takes while nothing happens.
func (m *mongoBench) drainWeft(ctx context.Context, round int) (r drain, idle float64, err error) {
	profile := ""
	if round == m.rounds-1 {
		profile = m.profile
	}
	d, err := m.start(ctx, m.capture(round), "never", profile)
	if err != nil {
		return r, 0, err
	}
	if err := m.ready(ctx, d); err != nil {
		return r, 0, err
	}
	began := time.Now()
	before, err := d.cpu()
	if err != nil {
		return r, 0, err
	}
	want := int64(m.changes + m.rounds - round) // begin has inserted a document for each round
	if err := m.awaitCheckpoint(ctx, d, func(cp checkpoint) bool { return cp.Changes >= want }); err != nil {
		return r, 0, err
	}
	r = drain{changes: m.changes, took: time.Since(began)}
	after, err := d.cpu()
	if err != nil {
		return r, 0, err
	}
	r.cpu = after - before
	if r.peakRSS, err = d.memory("VmHWM"); err != nil {
		return r, 0, err
	}
	if profile != "" {
		if err := d.endProfile(profile); err != nil {
			return r, 0, err
		}
		if after, err = d.cpu(); err != nil { // writing it was no rest
			return r, 0, err
		}
	}
	select {
	case <-time.After(idleFor):
	case <-ctx.Done():
		return r, 0, ctx.Err()
	}
	rested, err := d.cpu()
	if err != nil {
		return r, 0, err
	}
	return r, (rested - after).Seconds() / idleFor.Seconds(), d.stop()
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
	m.bench.close()
}
