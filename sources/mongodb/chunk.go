package mongodb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"weft/sources"
	"weft/sources/mongodb/extjson"
)

const (
	// firstPage is how many documents are asked for where nothing is known of their size. No answer of the server is above 16 MiB.
	firstPage = 100
	// minSeenWait and maxSeenWait bound the time between two reads, of which the first did not see what it must.
	minSeenWait, maxSeenWait = 5 * time.Millisecond, 500 * time.Millisecond
	// maxStale is how often a read may outlast the server's history.
	maxStale = 5
)

// ReadChunk reads documents by the index of _id, whose order is BSON's over all types.
func (r *rowReader) ReadChunk(ctx context.Context, q sources.ChunkRequest) (*sources.Chunk, error) {
	if q.Keys == nil && (q.Rows < 1 || q.Bytes < 1) {
		return nil, fmt.Errorf("read %s: a chunk of %d rows and %d bytes holds nothing", q.Table, q.Rows, q.Bytes)
	}
	t, err := r.named(q.Table)
	if err != nil {
		return nil, err
	}
	f, err := t.query(q)
	if err != nil {
		return nil, err
	}
	floor, stale := r.floor(), 0
	for pause := minSeenWait; ; pause = min(2*pause, maxSeenWait) {
		c, seen, err := r.read(ctx, t, q, f)
		switch code := codeOf(err); {
		case err == nil && seen.low >= floor:
			c.View = seen
			r.raise(seen.low)
			return c, nil
		case err == nil: // after an election the server may be a moment behind what the stream has returned
		case endOf(ctx) != nil:
			return nil, ctx.Err()
		case (code == codeSnapshotTooOld || code == codeNoSnapshot) && stale < maxStale:
			stale++ // the server has that moment no more, or not for a collection that was made since
		default:
			return nil, readError(t, q.Where, err)
		}
		if err := wait(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// endOf is ctx's error. The driver gives up before the deadline when an answer is not to be expected by then.
func endOf(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < time.Second {
		<-ctx.Done()
	}
	return ctx.Err()
}

// query is which documents a find looks for.
type query struct {
	filter   bson.D
	min, max *bson.RawValue // of _id, inclusive and exclusive
}

func (t *rowTable) query(q sources.ChunkRequest) (f query, err error) {
	f.filter = bson.D{}
	if q.Where != "" {
		var where bson.Raw
		if err := bson.UnmarshalExtJSON([]byte(q.Where), false, &where); err != nil {
			return f, sources.Fatal(`write it as a query in Extended JSON, such as {"status": "open"}`, "the condition %q is no document: %w", q.Where, err)
		}
		f.filter = bson.D{{Key: "$and", Value: bson.A{where}}}
	}
	if f.min, err = parsePlace(q.After); err != nil {
		return f, err
	}
	if f.max, err = parsePlace(q.Until); err != nil {
		return f, err
	}
	if q.Keys == nil {
		return f, nil
	}
	ids := make(bson.A, len(q.Keys))
	for i, key := range q.Keys {
		if len(key) != 1 {
			return f, sources.Fatal("ask for keys as they are now", "a key of %d columns was asked for, and %s has _id alone", len(key), t.table)
		}
		if ids[i], err = parseValue(key[0]); err != nil {
			return f, sources.Fatal("ask for keys as they are now", "the key %s of %s: %w", key[0], t.table, err)
		}
	}
	f.filter = append(f.filter, bson.E{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}})
	return f, nil
}

// options bound the index. Conditions on _id would not do: they compare values of one type only.
func (f query) options(batch int) *options.FindOptionsBuilder {
	id := bson.D{{Key: "_id", Value: 1}}
	o := options.Find().SetSort(id).SetHint(id).SetBatchSize(int32(batch))
	if f.min != nil {
		o.SetMin(bson.D{{Key: "_id", Value: *f.min}})
	}
	if f.max != nil {
		o.SetMax(bson.D{{Key: "_id", Value: *f.max}})
	}
	return o
}

// read reads once, and tells what it saw.
func (r *rowReader) read(ctx context.Context, t *rowTable, q sources.ChunkRequest, f query) (c *sources.Chunk, seen view, err error) {
	session, err := r.session()
	if err != nil {
		return nil, seen, err
	}
	defer session.EndSession(context.WithoutCancel(ctx))
	ctx = mongo.NewSessionContext(ctx, session)
	if !r.snapshots { // the read sees all that was done before it begins
		if err := r.d.client.Ping(ctx, nil); err != nil {
			return nil, seen, err
		}
		if seen.low, err = operationTime(session); err != nil {
			return nil, seen, err
		}
	}
	b := newRowBuffer(t, q, r.d.config)
	cursor, err := t.coll.Find(ctx, f.filter, f.options(b.page()))
	if err != nil {
		return nil, seen, err
	}
	err = b.read(ctx, cursor)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	if err := errors.Join(err, cursor.Close(end)); err != nil {
		return nil, seen, err
	}
	if r.snapshots {
		at := session.SnapshotTime()
		seen.low = timestamp{T: at.T, I: at.I}.stamp()
		seen.high = seen.low
		if seen.low == 0 {
			return nil, seen, errors.New("the server does not tell as of which cluster time it has read")
		}
	} else if seen.high, err = operationTime(session); err != nil {
		return nil, seen, err
	}
	return &sources.Chunk{Table: t.table, Rows: b.rows, Bytes: b.bytes, Next: b.next}, seen, nil
}

// operationTime is the stamp of the newest operation that the server has told the session of.
func operationTime(session *mongo.Session) (uint64, error) {
	t := session.OperationTime()
	if t == nil {
		return 0, errors.New("the server does not tell its operation time")
	}
	return timestamp{T: t.T, I: t.I}.stamp(), nil
}

// placeBefore is the cursor that stands before a document, whether it is there or not: what follows it is from there on.
func placeBefore(id bson.RawValue) (sources.Cursor, error) {
	text, err := appendValue([]byte(`{"before":`), &extjson.Writer{Canonical: true}, extjson.Value{Type: byte(id.Type), Data: id.Value}, InvalidBase64)
	return append(text, '}'), err
}

// parsePlace reads a cursor; nil is none.
func parsePlace(c sources.Cursor) (*bson.RawValue, error) {
	if c == nil {
		return nil, nil
	}
	var place struct {
		Before json.RawMessage `json:"before"`
	}
	err := json.Unmarshal(c, &place)
	if err == nil && place.Before == nil {
		err = errors.New("it names no document")
	}
	if err != nil {
		return nil, fmt.Errorf("read the cursor %s: %w", c, err)
	}
	id, err := parseValue(place.Before)
	if err != nil {
		return nil, fmt.Errorf("read the cursor %s: %w", c, err)
	}
	return &id, nil
}

// rowBuffer gathers the rows of a chunk.
type rowBuffer struct {
	t       *rowTable
	q       sources.ChunkRequest
	invalid Invalid
	writer  extjson.Writer // documents
	keys    extjson.Writer // _id, always relaxed
	rows    [][]sources.Value
	bytes   int
	next    sources.Cursor
	slab    []byte
	values  []sources.Value
}

const (
	maxSlab   = 1 << 20
	valueSlab = 1024
)

func newRowBuffer(t *rowTable, q sources.ChunkRequest, c Config) *rowBuffer {
	return &rowBuffer{t: t, q: q, invalid: c.Invalid, writer: extjson.Writer{Canonical: c.JSON == JSONCanonical}}
}

// page is how many documents to ask for: those that fit, and one to know where to go on.
func (b *rowBuffer) page() int {
	if b.q.Keys != nil {
		return max(1, len(b.q.Keys)-len(b.rows))
	}
	left := b.q.Rows - len(b.rows) + 1
	size := int(b.t.rowBytes.Load())
	if n := len(b.rows); n > 0 {
		size = b.bytes/n + 1
	}
	if size == 0 {
		return min(left, firstPage)
	}
	return max(1, min(left, (b.q.Bytes-b.bytes)/size+1, largestReply))
}

// read takes documents until the chunk is full or there are none.
func (b *rowBuffer) read(ctx context.Context, cursor *mongo.Cursor) error {
	for b.next == nil && cursor.Next(ctx) {
		if err := b.add(cursor.Current); err != nil {
			return err
		}
		if cursor.RemainingBatchLength() == 0 {
			cursor.SetBatchSize(int32(b.page()))
		}
	}
	if n := len(b.rows); n > 0 {
		b.t.rowBytes.Store(int64(b.bytes/n) + 1)
	}
	return cursor.Err()
}

// add takes a document in, or where it does not fit notes that the chunk ends before it.
func (b *rowBuffer) add(doc bson.Raw) error {
	id, err := doc.LookupErr("_id")
	if err != nil {
		return fmt.Errorf("a document without _id: %w", err)
	}
	if b.q.Keys == nil && len(b.rows) >= b.q.Rows {
		b.next, err = placeBefore(id)
		return err
	}
	if size := 2*len(doc) + 64; cap(b.slab)-len(b.slab) < size {
		b.slab = make([]byte, 0, max(size, min(maxSlab, max(b.q.Bytes, 1))))
	}
	first := len(b.slab)
	if err := b.append(&b.keys, extjson.Value{Type: byte(id.Type), Data: id.Value}, id); err != nil {
		return err
	}
	middle := len(b.slab)
	if err := b.append(&b.writer, extjson.Value{Type: extjson.Document, Data: doc}, id); err != nil {
		return err
	}
	end := len(b.slab)
	if b.q.Keys == nil && len(b.rows) > 0 && b.bytes+end-first > b.q.Bytes {
		b.next, err = placeBefore(id)
		return err
	}
	if cap(b.values)-len(b.values) < 2 {
		b.values = make([]sources.Value, 0, 2*min(max(b.q.Rows, 1), valueSlab))
	}
	n := len(b.values)
	b.values = append(b.values,
		sources.Value{State: sources.Present, Data: b.slab[first:middle:middle]},
		sources.Value{State: sources.Present, Data: b.slab[middle:end:end]})
	b.rows = append(b.rows, b.values[n:n+2:n+2])
	b.bytes += end - first
	return nil
}

func (b *rowBuffer) append(w *extjson.Writer, v extjson.Value, id bson.RawValue) error {
	out, err := appendValue(b.slab, w, v, b.invalid)
	if err != nil {
		return refused(b.t.table.String(), extjson.Value{Type: byte(id.Type), Data: id.Value}, err)
	}
	b.slab = out
	return nil
}
