package mongodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"weft/sources"
)

const (
	// leastSplit is the number of documents from which on a collection is cut into ranges, and samples how many are looked at for
	// each range. The server picks them at random without reading the collection as long as they are less than a twentieth of it.
	leastSplit, samples = 4000, 50
	// mostSamples bounds them all.
	mostSamples = 2000
)

// OpenReader implements sources.Snapshotter. It needs nothing but the role read.
func (c Config) OpenReader(ctx context.Context, o sources.OpenOptions) (sources.Reader, error) {
	if err := c.Validate(); err != nil {
		return nil, sources.Fatal("correct the capture's source", "%w", err)
	}
	var p position
	if len(o.Position) > 0 {
		var err error
		if p, err = decodePosition(o.Position); err != nil {
			return nil, err
		}
	}
	d, err := c.dial(ctx, o.Tables, o.Keys)
	if err != nil {
		return nil, err
	}
	r := &rowReader{d: d, tables: map[string]*rowTable{}, newest: max(p.Passed.stamp(), p.ClusterTime.stamp())}
	captured, err := r.list(ctx)
	if err == nil {
		r.snapshots, err = d.readsSnapshots(ctx, captured[0])
	}
	if err != nil {
		return nil, errors.Join(err, disconnect(d.client))
	}
	if !r.snapshots {
		o.Logger.Debug("the server does not read as of a cluster time: rows that change while they are read are left to the stream")
	}
	return r, nil
}

// rowReader implements sources.Reader.
type rowReader struct {
	d         *deployment
	snapshots bool                           // the server reads as of a cluster time
	place     sources.LastPosition[position] // AppendOrder's

	mu     sync.Mutex
	newest uint64 // stamp of what every read that begins now must see
	tables map[string]*rowTable
}

// rowTable is a collection that is read.
type rowTable struct {
	table *sources.Table
	coll  *mongo.Collection
	// rowBytes is about what a row takes, 0 where nothing is known of it.
	rowBytes atomic.Int64
}

// list is the captured collections; there is one or more.
func (r *rowReader) list(ctx context.Context) ([]collection, error) {
	if err := r.d.verify(ctx); err != nil {
		return nil, err
	}
	var all []collection
	for _, p := range r.d.tables {
		found, err := r.d.collections(ctx, p)
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			skip, err := r.d.usable(p, c)
			if err != nil {
				return nil, err
			}
			if !skip {
				all = append(all, c)
			}
		}
	}
	if len(all) == 0 { // dropped since
		return nil, noCollection(r.d.tables[0])
	}
	slices.SortFunc(all, func(a, b collection) int { return strings.Compare(a.String(), b.String()) })
	return slices.CompactFunc(all, func(a, b collection) bool { return a.String() == b.String() }), nil
}

// Tables looks anew: collections come and go.
func (r *rowReader) Tables(ctx context.Context) ([]string, error) {
	all, err := r.list(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.String()
	}
	return names, nil
}

// named is the table of a name. A collection that does not exist is one without documents, as everywhere in MongoDB: that it was
// dropped, the stream tells.
func (r *rowReader) named(name string) (*rowTable, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, ok := r.tables[name]; ok {
		return t, nil
	}
	p, err := parseTables([]string{name})
	if err != nil {
		return nil, err
	}
	t := &rowTable{table: newTable(p[0].db, p[0].coll), coll: r.d.client.Database(p[0].db).Collection(p[0].coll)}
	r.tables[name] = t
	return t, nil
}

// Split cuts a large collection at documents that the server has picked at random.
func (r *rowReader) Split(ctx context.Context, name string, n int) ([]sources.Cursor, error) {
	t, err := r.named(name)
	if err != nil {
		return nil, err
	}
	count, err := t.coll.EstimatedDocumentCount(ctx)
	if err != nil {
		return nil, classify("count the documents of "+name, err)
	}
	if count < leastSplit || n < 2 {
		return nil, nil
	}
	cursor, err := t.coll.Aggregate(ctx, mongo.Pipeline{
		bson.D{{Key: "$sample", Value: bson.D{{Key: "size", Value: min(n*samples, mostSamples)}}}},
		bson.D{{Key: "$project", Value: bson.D{{Key: "_id", Value: 1}}}},
		bson.D{{Key: "$sort", Value: bson.D{{Key: "_id", Value: 1}}}},
	})
	if err != nil {
		return nil, classify("pick documents of "+name, err)
	}
	var picked []struct {
		ID bson.RawValue `bson:"_id"`
	}
	if err := cursor.All(ctx, &picked); err != nil {
		return nil, classify("pick documents of "+name, err)
	}
	var cuts []sources.Cursor
	for i := 1; i < n && len(picked) >= n; i++ {
		at, err := placeBefore(picked[i*len(picked)/n].ID)
		if err != nil {
			return nil, err
		}
		if len(cuts) == 0 || !bytes.Equal(cuts[len(cuts)-1], at) {
			cuts = append(cuts, at)
		}
	}
	return cuts, nil
}

// AppendOrder: where the stream is known to be past the time of the last change, a row has that later time; otherwise it is put behind
// the last change, since more of the same time may follow.
func (r *rowReader) AppendOrder(dst []byte, text sources.Position, i int) ([]byte, error) {
	p, err := r.place.Decode(text, decodePosition)
	if err != nil {
		return nil, err
	}
	switch row := int64(i) + 1; {
	case i < 0 || row > math.MaxUint32:
		return nil, fmt.Errorf("row %d after one position has no order: there are %d", i, int64(math.MaxUint32))
	case p.Passed.stamp() > p.ClusterTime.stamp():
		return appendOrder(dst, p.Passed.stamp(), 0, row), nil
	case p.Ordinal == 0:
		return nil, errors.New("nothing can be put into a stream that has not begun")
	default:
		return appendOrder(dst, p.ClusterTime.stamp(), p.Ordinal-1, row), nil
	}
}

// Close ends the connections. No other call may be under way.
func (r *rowReader) Close() error { return disconnect(r.d.client) }

// floor is what a read that begins now must see.
func (r *rowReader) floor() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newest
}

func (r *rowReader) raise(stamp uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newest = max(r.newest, stamp)
}

// session is one for a read of a chunk, which sees one moment where the server can do that.
func (r *rowReader) session() (*mongo.Session, error) {
	session, err := r.d.client.StartSession(options.Session().SetSnapshot(r.snapshots).SetCausalConsistency(!r.snapshots))
	if err != nil {
		return nil, classify("start a session", err)
	}
	return session, nil
}

// readError tells what only a person can mend from what may pass.
func readError(t *rowTable, where string, err error) error {
	switch code := codeOf(err); {
	case where != "" && (code == codeBadValue || code == codeFailedToParse || code == codeTypeMismatch):
		return sources.Fatal("correct the condition: a query as find takes it, in Extended JSON",
			"the server refuses to read %s with the condition %q: %w", t.table, where, err)
	default:
		return classify("read "+t.table.String(), err)
	}
}

// wait sleeps for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var _ sources.Snapshotter = Config{}
