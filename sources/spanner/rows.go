package spanner

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"cloud.google.com/go/spanner"
	"cloud.google.com/go/spanner/apiv1/spannerpb"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"weft/sources"
)

// OpenReader implements sources.Snapshotter. It needs no rights but those that the stream needs.
func (c *Config) OpenReader(ctx context.Context, o sources.OpenOptions) (sources.Reader, error) {
	return c.openReader(ctx, o)
}

func (c *Config) openReader(ctx context.Context, o sources.OpenOptions, more ...option.ClientOption) (sources.Reader, error) {
	client, err := c.connectFor(ctx, o, more...)
	if err != nil {
		return nil, err
	}
	r := &rowReader{
		config: c, patterns: o.Tables, client: client, logger: o.Logger, lag: c.heartbeat() + toldWithin, known: map[string]*rowTable{},
	}
	if _, err := r.renew(ctx); err != nil {
		client.Close()
		return nil, c.explain(err)
	}
	return r, nil
}

// toldWithin is how long after a heartbeat a position tells of it, at the latest.
const toldWithin = 2 * time.Second

// rowReader implements sources.Reader. All that a chunk reads is of one exact timestamp.
//
// That is where the stream's watermark stands, so that the chunk waits for nothing, however late the stream is; where that is not known a
// moment ago, when the stream has mostly come past it. It is never before the reader was opened, by the database's clock, when all
// was committed that the stream had returned.
type rowReader struct {
	config   *Config
	patterns []string
	client   *spanner.Client
	logger   hclog.Logger
	lag      time.Duration

	last sources.LastPosition[stamp] // AppendOrder's, by its watermark

	mu      sync.Mutex
	began   stamp     // the database's time
	beganAt time.Time // at this moment
	at      stamp     // of the newest read
	low     stamp     // the stream's watermark, 0 where it is not known
	known   map[string]*rowTable
}

// renew has what is read from now on be of the database's present.
func (r *rowReader) renew(ctx context.Context) (*catalog, error) {
	cat := r.catalog()
	now, err := cat.load(ctx)
	if err == nil {
		err = cat.covered()
	}
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began, r.beganAt, r.at = now, time.Now(), max(r.at, now)
	return cat, nil
}

func (r *rowReader) catalog() *catalog {
	return &catalog{client: r.client, stream: r.config.Stream, patterns: r.patterns}
}

// timestamp is what a read that begins now is of. It never goes back.
func (r *rowReader) timestamp() stamp {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.low > 0 {
		r.at = max(r.at, r.low-1)
	} else {
		r.at = max(r.at, r.began+stamp(time.Since(r.beganAt)-r.lag))
	}
	return r.at
}

// passed takes in the watermark of a position that the stream has come to.
func (r *rowReader) passed(low stamp) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.low = max(r.low, low)
}

// Tables looks anew: tables come and go.
func (r *rowReader) Tables(ctx context.Context) ([]string, error) {
	cat, err := r.renew(ctx)
	if err != nil {
		return nil, r.config.explain(err)
	}
	return slices.Sorted(maps.Keys(cat.tables)), nil
}

// rowTable is a table that is read, as it was at some timestamp.
type rowTable struct {
	table   *sources.Table
	columns []string
	keys    []rowKey
	all     *spannerpb.StructType // every column that the table had, watched or not
	quoted  func(name string) string
	from    string // the table's name, quoted
	// nullsLast: in ascending order NULL comes after all values.
	nullsLast bool
}

// rowKey is a column of a primary key.
type rowKey struct {
	name string
	at   int // in rowTable.columns
	typ  *spannerpb.Type
	desc bool
}

// describe returns a table as it is at a timestamp: one that has gained or lost a column since the last read is looked at anew.
func (r *rowReader) describe(ctx context.Context, at stamp, name string) (*rowTable, error) {
	r.mu.Lock()
	t := r.known[name]
	r.mu.Unlock()
	if t != nil {
		all, err := columnsOf(ctx, singleAt(r.client, at), t)
		if err == nil && proto.Equal(all, t.all) {
			return t, nil
		}
		if err != nil && codeOf(err) != codes.InvalidArgument { // with which it says that there is no such table
			return nil, err
		}
	}
	cat := r.catalog()
	if err := cat.loadAt(ctx, at); err != nil {
		return nil, err
	}
	known := cat.tables[name]
	switch {
	case known == nil:
		return nil, errGone(name, errors.New("the database does not list it"))
	case !known.watched:
		return nil, errUnwatched(r.config.Stream, name)
	}
	t = newRowTable(cat, known)
	var err error
	if t.all, err = columnsOf(ctx, singleAt(r.client, at), t); err != nil {
		return nil, err
	}
	for i := range t.keys {
		k := &t.keys[i]
		column := slices.IndexFunc(t.all.GetFields(), func(f *spannerpb.StructType_Field) bool { return f.Name == k.name })
		if column < 0 {
			return nil, fmt.Errorf("the key column %s is not among the table's columns", k.name)
		}
		k.typ = t.all.GetFields()[column].Type
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[name] = t
	return t, nil
}

func newRowTable(c *catalog, from *catalogTable) *rowTable {
	t := &rowTable{table: c.table(from), quoted: c.quoted, nullsLast: c.postgres, from: c.quoted(from.name)}
	if from.schema != "" {
		t.from = c.quoted(from.schema) + "." + t.from
	}
	for _, column := range t.table.Columns {
		t.columns = append(t.columns, column.Name)
	}
	for n, at := range t.table.Key {
		t.keys = append(t.keys, rowKey{name: t.columns[at], at: at, desc: from.desc[n]})
	}
	return t
}

// columnsOf asks for no row of a table, to be told its columns.
func columnsOf(ctx context.Context, tx *spanner.ReadOnlyTransaction, t *rowTable) (*spannerpb.StructType, error) {
	rows := tx.Query(ctx, spanner.NewStatement("SELECT * FROM "+t.from+" LIMIT 0"))
	defer rows.Stop()
	if _, err := rows.Next(); err == nil || !errors.Is(err, iterator.Done) {
		return nil, cmp.Or(err, errors.New("a row came, and none was asked for"))
	}
	return rows.Metadata.GetRowType(), nil
}

// keyOf is a row's key, as the protocol has it.
func (t *rowTable) keyOf(values []*structpb.Value) []*structpb.Value {
	key := make([]*structpb.Value, len(t.keys))
	for i, k := range t.keys {
		key[i] = values[k.at]
	}
	return key
}

// mostPicked bounds the ranges of which the first row is looked at, for a split.
const mostPicked = 64

// Split cuts a table where Spanner itself would, for a partitioned read: each such range's first row is a place to cut.
func (r *rowReader) Split(ctx context.Context, name string, n int) ([]sources.Cursor, error) {
	if n < 2 {
		return nil, nil
	}
	cuts, err := r.split(ctx, name, n)
	if err != nil {
		return nil, r.explain(ctx, sources.ChunkRequest{Table: name}, err)
	}
	return cuts, nil
}

func (r *rowReader) split(ctx context.Context, name string, n int) ([]sources.Cursor, error) {
	at := r.timestamp()
	t, err := r.describe(ctx, at, name)
	if err != nil || len(t.keys) == 0 {
		return nil, err
	}
	tx, err := r.client.BatchReadOnlyTransaction(ctx, spanner.ReadTimestamp(at.time()))
	if err != nil {
		return nil, err
	}
	defer tx.Cleanup(context.WithoutCancel(ctx))
	var names []string
	for _, k := range t.keys {
		names = append(names, k.name)
	}
	ranges, err := tx.PartitionRead(ctx, name, spanner.AllKeys(), names, spanner.PartitionOptions{MaxPartitions: mostPicked})
	if err != nil {
		return nil, err
	}
	var firsts []spanner.Key
	for i := range min(len(ranges), mostPicked) {
		key, err := firstKey(tx.Execute(ctx, ranges[i*len(ranges)/min(len(ranges), mostPicked)]), len(names))
		if err != nil {
			return nil, err
		}
		if key != nil {
			firsts = append(firsts, key)
		}
	}
	if len(firsts) < 2 {
		return nil, nil
	}
	var ordered []sources.Cursor // as the server orders them
	rows := singleAt(r.client, at).Read(ctx, name, spanner.KeySetFromKeys(firsts...), names)
	if err := rows.Do(func(row *spanner.Row) error {
		values, err := valuesOf(row, nil)
		if err != nil {
			return err
		}
		c, err := cursorAt(values)
		ordered = append(ordered, c)
		return err
	}); err != nil {
		return nil, err
	}
	return cutsOf(ordered, n), nil
}

// firstKey is that of the first row, nil where there is none.
func firstKey(rows *spanner.RowIterator, columns int) (spanner.Key, error) {
	defer rows.Stop()
	row, err := rows.Next()
	if errors.Is(err, iterator.Done) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	values, err := valuesOf(row, nil)
	if err != nil {
		return nil, err
	}
	c, err := cursorAt(values)
	if err != nil {
		return nil, err
	}
	return parseCursor(c, columns)
}

// cutsOf picks n-1 of the ranges' first rows, of which the table's first one cuts nothing off.
func cutsOf(firsts []sources.Cursor, n int) []sources.Cursor {
	var cuts []sources.Cursor
	for i := 1; i < n; i++ {
		at := i * len(firsts) / n
		if at > 0 && (len(cuts) == 0 || !bytes.Equal(cuts[len(cuts)-1], firsts[at])) {
			cuts = append(cuts, firsts[at])
		}
	}
	return cuts
}

// AppendOrder puts a row at the watermark: behind all that was committed before it, of which nothing is left to come, and before whatever
// of the same key comes later.
func (r *rowReader) AppendOrder(dst []byte, p sources.Position, i int) ([]byte, error) {
	if i < 0 {
		return nil, fmt.Errorf("there is no row %d behind a position", i)
	}
	low, err := r.last.Decode(p, watermarkOf)
	if err != nil {
		return nil, err
	}
	return appendRowOrder(dst, *low, i), nil
}

// Close ends the connections. No other call may be under way.
func (r *rowReader) Close() error {
	r.client.Close()
	return nil
}

var _ sources.Snapshotter = (*Config)(nil)
