package polling

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// rowDialect is a dialect whose rows can be read in the order of their keys too, beside the polls.
type rowDialect interface {
	dialect
	// rowView opens a consistent view for that. It has no horizon.
	rowView(ctx context.Context) (rowView, error)
}

// rowView is one consistent view of the datastore, as it is now.
type rowView interface {
	database() string
	tables() []*table
	// shows tells whether the view has what had a watermark up to highest, which a replica may have to wait for.
	shows(highest int64) bool
	// readRows adds rows to b, and calls each with the watermark of each row that b has taken, until there are no more, or b is full.
	readRows(ctx context.Context, t *table, q rowQuery, b *batch, each func(mark int64)) (full bool, err error)
	close() error
}

// rowQuery selects rows in the order of their keys: those after and up to a key, nil for the table's ends; or those with keys alone.
// Keys are wire forms. where is a condition, or empty.
type rowQuery struct {
	after, until [][]byte
	keys         [][][]byte
	where        string
	limit        int
}

// processBegan is when moments begin.
var processBegan = time.Now()

// moment is the time as this process counts it, in nanoseconds: one that comes later is higher, whatever anybody does to the clock.
func moment() uint64 { return uint64(processBegan.UnixNano() + int64(time.Since(processBegan))) }

// rowReader implements sources.PolledReader: it reads each table through a connection of its own.
type rowReader struct {
	connect  func(ctx context.Context, tables []string) (rowDialect, error)
	names    []string
	place    string
	deleted  string
	every    time.Duration
	position position
	log      hclog.Logger
	last     sources.LastPosition[position] // AppendOrder's

	mu     sync.Mutex
	tables map[string]*tableReader
}

// openReader lists the tables. connect makes a dialect that captures those which match.
func openReader(ctx context.Context, connect func(ctx context.Context, tables []string) (rowDialect, error), place, deleted string, reconcile Reconcile,
	o sources.OpenOptions) (sources.Reader, error) {
	r := &rowReader{connect: connect, place: place, deleted: deleted, log: o.Logger, tables: map[string]*tableReader{}}
	if !reconcile.Off {
		r.every = cmp.Or(reconcile.Every, defaultEvery)
	}
	if o.Position != nil {
		var err error
		if r.position, err = parsePosition(o.Position); err != nil {
			return nil, err
		}
	}
	d, err := connect(ctx, o.Tables)
	if err != nil {
		return nil, err
	}
	v, err := d.rowView(ctx)
	if err == nil {
		for _, t := range v.tables() {
			r.names = append(r.names, t.String())
		}
		err = v.close()
	}
	if err := errors.Join(err, d.close()); err != nil {
		return nil, err
	}
	return r, nil
}

// Tables implements sources.Reader.
func (r *rowReader) Tables(context.Context) ([]string, error) { return slices.Clone(r.names), nil }

// Split implements sources.Reader: a table is read through one connection.
func (r *rowReader) Split(context.Context, string, int) ([]sources.Cursor, error) { return nil, nil }

// DeletesAfter implements sources.PolledReader.
func (r *rowReader) DeletesAfter() time.Duration { return r.every }

// rowsFrom is the index in a poll's number from which rows are counted that are put behind it: a batch never has as many changes.
const rowsFrom = 1 << 31

// AppendOrder implements sources.Reader.
func (r *rowReader) AppendOrder(dst []byte, p sources.Position, i int) ([]byte, error) {
	at, err := r.last.Decode(p, parsePosition)
	if err != nil {
		return dst, err
	}
	if i < 0 || i >= rowsFrom {
		return dst, fmt.Errorf("there is no place for row %d behind poll %d", i, at.Poll)
	}
	return appendOrder(dst, at.Poll, rowsFrom+i), nil
}

// Close implements sources.Reader.
func (r *rowReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, t := range r.tables {
		errs = append(errs, t.close())
	}
	clear(r.tables)
	return errors.Join(errs...)
}

// ReadChunk implements sources.Reader.
func (r *rowReader) ReadChunk(ctx context.Context, q sources.ChunkRequest) (*sources.Chunk, error) {
	r.mu.Lock()
	t := r.tables[q.Table]
	if t == nil {
		t = &tableReader{r: r, limits: limits{}}
		r.tables[q.Table] = t
	}
	r.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	reused := t.dialect != nil
	c, err := t.read(ctx, q)
	var fatal *sources.FatalError
	if err != nil && reused && ctx.Err() == nil && !errors.As(err, &fatal) { // the connection may have been lost while nobody used it
		c, err = t.read(ctx, q)
	}
	if err == nil {
		return c, nil
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done() // the network gives up at the deadline, which may be a moment before ctx says so
	}
	return nil, cmp.Or(ctx.Err(), err)
}

// tableReader reads one table.
type tableReader struct {
	r       *rowReader
	mu      sync.Mutex
	dialect rowDialect // nil where there is no connection
	table   *table     // as of the last read
	limits  limits
	lagged  bool
}

func (t *tableReader) close() error {
	if t.dialect == nil {
		return nil
	}
	err := t.dialect.close()
	t.dialect = nil
	return err
}

// read reads a chunk, and gives the connection up after an error.
func (t *tableReader) read(ctx context.Context, q sources.ChunkRequest) (c *sources.Chunk, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if t.dialect == nil {
		d, err := t.r.connect(ctx, []string{q.Table})
		if err != nil {
			return nil, err
		}
		t.dialect = d
	}
	for {
		opened := moment()
		v, err := t.dialect.rowView(ctx)
		if err != nil {
			return nil, err
		}
		if v.shows(t.r.position.highest()) {
			c, err = t.chunk(ctx, v, q, opened)
			return c, errors.Join(err, v.close())
		}
		if !t.lagged {
			t.lagged = true
			t.r.log.Warn("the standby lags behind what was captured already, and is waited for", "table", q.Table)
		}
		if err := errors.Join(v.close(), pause(ctx, 50*time.Millisecond)); err != nil {
			return nil, err
		}
	}
}

// chunk reads a chunk of a view.
func (t *tableReader) chunk(ctx context.Context, v rowView, q sources.ChunkRequest, opened uint64) (*sources.Chunk, error) {
	if is, was := v.database(), t.r.position.Database; was != "" && is != was {
		return nil, fmt.Errorf("%s is another database than the one captured so far: its identity is %s, the checkpoint's %s", t.r.place, is, was)
	}
	i := slices.IndexFunc(v.tables(), func(o *table) bool { return o.String() == q.Table })
	if i < 0 {
		return nil, sources.Fatal("name one of "+strings.Join(t.r.names, ", "), "the capture has no table %s", q.Table)
	}
	of := v.tables()[i]
	if t.table != nil && sameTable(t.table, of) {
		of = t.table
	}
	t.table = of
	of.setDeleted(t.r.deleted)
	query := rowQuery{keys: q.Keys, where: q.Where, limit: min(q.Rows, t.limits.of(of))}
	var err error
	if query.after, err = keyAt(of, q.After); err != nil {
		return nil, err
	}
	if query.until, err = keyAt(of, q.Until); err != nil {
		return nil, err
	}
	for _, key := range q.Keys {
		if len(key) != len(of.Key) {
			return nil, sources.Fatal("ask for keys as they are now", "a key of %d columns was asked for, and table %s has %d", len(key), of.name, len(of.Key))
		}
	}
	size := q.Bytes
	if q.Keys != nil {
		size, query.limit = math.MaxInt, len(q.Keys)
	}
	b := newBatch(size)
	c := &sources.Chunk{Table: &of.Table, Versions: []int64{}}
	seen := polledView{opened: opened, table: of.name}
	full, err := v.readRows(ctx, of, query, b, func(mark int64) {
		seen.mark = max(seen.mark, mark)
		if last := &b.changes[len(b.changes)-1]; last.Op == sources.OpCreate {
			c.Rows, c.Versions = append(c.Rows, last.After), append(c.Versions, mark)
		}
	})
	if err != nil {
		return nil, err
	}
	c.Bytes, c.View = b.size, &seen
	taken := len(b.changes)
	if q.Keys == nil {
		if query.limit == t.limits.of(of) {
			t.limits.learn(of, query.limit, taken, full)
		}
		if full || taken == query.limit {
			if c.Next, err = cursorAt(of, b.last()); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// cursorAt is a place behind a row.
func cursorAt(t *table, row []sources.Value) (sources.Cursor, error) {
	cursor, err := json.Marshal(keysOf(t, row))
	if err != nil {
		return nil, fmt.Errorf("encode cursor: %w", err)
	}
	return cursor, nil
}

// keyAt is the key of a cursor, nil for none.
func keyAt(t *table, cursor sources.Cursor) ([][]byte, error) {
	if cursor == nil {
		return nil, nil
	}
	var text []string
	if err := json.Unmarshal(cursor, &text); err != nil || len(text) != len(t.Key) {
		return nil, sources.Fatal("begin to read it anew", "the cursor %s is not one of table %s", cursor, t.name)
	}
	var key [][]byte
	for i, k := range t.Key {
		part := []byte(text[i])
		if t.Columns[k].Type.Kind == sources.Bytes {
			var err error
			if part, err = hex.DecodeString(strings.TrimPrefix(text[i], `\x`)); err != nil {
				return nil, fmt.Errorf("read the cursor %s: %w", cursor, err)
			}
		}
		key = append(key, part)
	}
	return key, nil
}

// polledView is what a read saw. Of changes it says only what is sure: that it saw what an earlier poll had seen. So a row that was
// polled meanwhile is left to the polls, which bring the newest version.
type polledView struct {
	opened uint64 // before it was
	table  string
	mark   int64 // the highest watermark of a row
}

// Sees implements sources.View. A change's stamp is a moment after the view was opened in which it was found.
func (v *polledView) Sees(stamp uint64) bool { return stamp < v.opened }

// Horizon implements sources.View.
func (v *polledView) Horizon() uint64 { return v.opened }

// SeesSource implements sources.View: the log is at no moment what a read saw, so that it is compared as it is.
func (v *polledView) SeesSource(json.RawMessage) (bool, error) { return true, nil }

// Passed implements sources.View: then each row was polled, in the version that was read or a later one.
func (v *polledView) Passed(p sources.Position) (bool, error) {
	at, err := parsePosition(p)
	if err != nil {
		return false, err
	}
	return at.Tables[v.table].Watermark >= v.mark, nil
}
