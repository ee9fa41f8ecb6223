package verify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sink/envelope"
	"weft/sources"
)

// fakeDB is a datastore of one table whose transactions are streamed at once, and become visible in any order later, as those
// of PostgreSQL do; what has locked a row is visible before the row changes again.
type fakeDB struct {
	sources.Config // nothing of it is called but Connector

	mu      sync.Mutex
	table   *sources.Table
	txs     []fakeTx
	visible int          // the first transaction that is not visible
	ahead   map[int]bool // visible though one before is not
	reads   int
	held    *fakeView // of a keyless table
}

type fakeTx struct {
	changes []sources.Change
}

func (f *fakeDB) Connector() string { return "fake" }

func newTable(key ...int) *sources.Table {
	return &sources.Table{Schema: "public", Name: "orders", Key: key, Columns: []sources.Column{
		{Name: "id", Type: sources.Type{Kind: sources.Int, Name: "bigint"}},
		{Name: "status", Type: sources.Type{Name: "text"}},
		{Name: "note", Type: sources.Type{Name: "text"}},
	}}
}

func value(s string) sources.Value { return sources.Value{Data: []byte(s), State: sources.Present} }

func row(id int, status, note string) []sources.Value {
	return []sources.Value{value(strconv.Itoa(id)), value(status), value(note)}
}

// commit adds a transaction, whose number is its id.
func (f *fakeDB) commit(show bool, changes ...sources.Change) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.txs = append(f.txs, fakeTx{changes})
	id := len(f.txs)
	for i := range changes {
		c := &f.txs[id-1].changes[i]
		c.Table, c.Stamp, c.Meta = f.table, uint64(id), []byte(fmt.Sprintf(`"txId":%d`, id))
	}
	if show {
		f.showLocked(id)
	}
	return id
}

func (f *fakeDB) show(id int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.showLocked(id)
}

func (f *fakeDB) showLocked(id int) {
	f.ahead[id-1] = true
	for f.ahead[f.visible] {
		delete(f.ahead, f.visible)
		f.visible++
	}
}

// fakeView sees transactions below visible and those in ahead.
type fakeView struct {
	visible int
	ahead   map[int]bool
	last    int // the highest that it sees
}

func (v *fakeView) Sees(stamp uint64) bool {
	return int(stamp) <= v.visible || v.ahead[int(stamp)-1]
}

func (v *fakeView) SeesSource(block json.RawMessage) (bool, error) {
	var s struct{ TxID uint64 }
	if err := json.Unmarshal(block, &s); err != nil {
		return false, err
	}
	if s.TxID == 0 {
		return false, errors.New("no txId")
	}
	return v.Sees(s.TxID), nil
}

func (v *fakeView) Horizon() uint64 { return uint64(v.visible) + 1 }

func (v *fakeView) Passed(p sources.Position) (bool, error) {
	n, err := strconv.Atoi(string(p))
	return n >= v.last, err
}

func (f *fakeDB) view() *fakeView {
	v := &fakeView{visible: f.visible, ahead: maps.Clone(f.ahead), last: f.visible}
	for n := range f.ahead {
		v.last = max(v.last, n+1)
	}
	return v
}

// rows are what a view sees, in key order.
func (f *fakeDB) rows(v *fakeView) [][]sources.Value {
	var rows [][]sources.Value
	same := func(a, b []sources.Value) bool {
		if len(f.table.Key) == 0 {
			return slices.EqualFunc(a, b, func(a, b sources.Value) bool { return bytes.Equal(a.Data, b.Data) })
		}
		return !slices.ContainsFunc(f.table.Key, func(i int) bool { return !bytes.Equal(a[i].Data, b[i].Data) })
	}
	for n := range f.txs {
		if !v.Sees(uint64(n) + 1) {
			continue
		}
		for _, c := range f.txs[n].changes {
			at := -1
			if was := c.Before; was != nil || c.Op == sources.OpUpdate {
				if was == nil {
					was = c.After
				}
				at = slices.IndexFunc(rows, func(r []sources.Value) bool { return same(r, was) })
			}
			switch {
			case c.Op == sources.OpTruncate:
				rows = nil
			case c.Op == sources.OpDelete:
				rows = slices.Delete(rows, at, at+1)
			case c.Op == sources.OpUpdate:
				now := slices.Clone(c.After)
				for i := range now {
					if now[i].State == sources.Unavailable {
						now[i] = rows[at][i]
					}
				}
				rows[at] = now
			default:
				rows = append(rows, c.After)
			}
		}
	}
	slices.SortStableFunc(rows, func(a, b []sources.Value) int { return cmp.Compare(number(a), number(b)) })
	return rows
}

func number(row []sources.Value) int {
	n, _ := strconv.Atoi(string(row[0].Data))
	return n
}

// OpenReader waits as its contract says.
func (f *fakeDB) OpenReader(ctx context.Context, o sources.OpenOptions) (sources.Reader, error) {
	n, err := strconv.Atoi(string(o.Position))
	for err == nil {
		f.mu.Lock()
		enough := f.visible >= n
		f.mu.Unlock()
		if enough {
			break
		}
		err = sleep(ctx, time.Millisecond)
	}
	return fakeReader{f}, err
}

type fakeReader struct{ *fakeDB }

func (f fakeReader) Tables(context.Context) ([]string, error) { return []string{f.table.String()}, nil }
func (f fakeReader) Split(context.Context, string, int) ([]sources.Cursor, error) {
	return nil, nil
}
func (f fakeReader) AppendOrder([]byte, sources.Position, int) ([]byte, error) { return nil, nil }
func (f fakeReader) Close() error                                              { return nil }

func (f fakeReader) ReadChunk(_ context.Context, r sources.ChunkRequest) (*sources.Chunk, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fakeDB.reads++
	v := f.view()
	if len(f.table.Key) == 0 {
		if r.After == nil {
			f.fakeDB.held = v
		}
		v = f.fakeDB.held
	}
	all := f.rows(v)
	c := &sources.Chunk{Table: f.table, View: v}
	if r.Keys != nil {
		for _, row := range all {
			if slices.ContainsFunc(r.Keys, func(k [][]byte) bool { return bytes.Equal(k[0], row[0].Data) }) {
				c.Rows = append(c.Rows, row)
			}
		}
		return c, nil
	}
	from := 0
	if r.After != nil {
		after, _ := strconv.Atoi(string(r.After))
		if from = after; len(f.table.Key) > 0 {
			from = 0
			for from < len(all) && number(all[from]) <= after {
				from++
			}
		}
	}
	to := min(len(all), from+min(r.Rows, 10))
	c.Rows = all[from:to]
	if to < len(all) {
		c.Next = sources.Cursor(strconv.Itoa(to))
		if len(f.table.Key) > 0 {
			c.Next = sources.Cursor(strconv.Itoa(number(all[to-1])))
		}
	}
	return c, nil
}

// fakeLog is a capture's side: it writes transactions to a topic, as far as a test lets it be right.
type fakeLog struct {
	t       *testing.T
	db      *fakeDB
	cl      *kgo.Client
	enc     *envelope.Encoder
	dialect envelope.Dialect
	done    int // transactions that are written
	seq     int
	// mutate changes what is written, or is nil.
	mutate func([]*kgo.Record) []*kgo.Record
	// checkpoint changes the checkpoint that is written, or is nil.
	checkpoint func(*checkpoint.Checkpoint)
	timeout    time.Duration
	memory     int
}

const partitions = 3

func newFake(t *testing.T, table *sources.Table) (*fakeDB, *fakeLog) {
	t.Helper()
	db, l := newSilent(t, table)
	l.write()
	return db, l
}

// newSilent is newFake for a capture that has not run yet.
func newSilent(t *testing.T, table *sources.Table) (*fakeDB, *fakeLog) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, "shop.public.orders"), kfake.SeedTopics(1, checkpoint.Topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.TransactionalID("weft-shop"),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.BrokerMaxReadBytes(512<<20))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	db := &fakeDB{table: table, ahead: map[int]bool{}}
	l := &fakeLog{t: t, db: db, cl: cl, dialect: envelope.JSON, timeout: 20 * time.Second, memory: 32 << 20}
	l.enc, err = envelope.New(l.envelope())
	if err != nil {
		t.Fatal(err)
	}
	return db, l
}

func (l *fakeLog) envelope() envelope.Options {
	return envelope.Options{Dialect: l.dialect, Connector: "fake", Name: "shop", Version: "test"}
}

// records are a change's.
func (l *fakeLog) records(c *sources.Change) []*kgo.Record {
	l.seq++
	prefix := fmt.Sprintf("00000001.%016x.", l.seq)
	_, encoded, err := l.enc.Encode(nil, nil, c, []byte(prefix))
	if err != nil {
		l.t.Error(err)
	}
	partitioner := kgo.StickyKeyPartitioner(nil).ForTopic("shop.public.orders")
	var all []*kgo.Record
	for _, e := range encoded {
		r := &kgo.Record{Topic: "shop.public.orders", Key: e.Key, Value: e.Value,
			Headers: []kgo.RecordHeader{{Key: "weft-seq", Value: append([]byte(prefix), e.Ordinal)}}}
		if e.NewKey != nil {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: "__debezium.newkey", Value: e.NewKey})
		}
		if e.OldKey != nil {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: "__debezium.oldkey", Value: e.OldKey})
		}
		switch {
		case c.Op == sources.OpTruncate:
			for p := range int32(partitions) {
				all = append(all, &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: r.Headers, Partition: p})
			}
			continue
		case e.Key != nil:
			r.Partition = int32(partitioner.Partition(r, partitions))
		}
		all = append(all, r)
	}
	return all
}

// write writes what is committed and not yet written, in one transaction with its checkpoint.
func (l *fakeLog) write() {
	l.db.mu.Lock()
	var records []*kgo.Record
	for ; l.done < len(l.db.txs); l.done++ {
		for i := range l.db.txs[l.done].changes {
			records = append(records, l.records(&l.db.txs[l.done].changes[i])...)
		}
	}
	l.db.mu.Unlock()
	l.produce(records...)
}

// produce writes records and a checkpoint.
func (l *fakeLog) produce(records ...*kgo.Record) {
	if l.mutate != nil {
		records = l.mutate(records)
	}
	cp := checkpoint.Checkpoint{Capture: "shop", Epoch: 1, Position: sources.Position(strconv.Itoa(l.done)), WrittenAt: time.Now()}
	if l.checkpoint != nil {
		l.checkpoint(&cp)
	}
	value, err := checkpoint.Encode(cp)
	if err == nil {
		err = l.cl.BeginTransaction()
	}
	if err == nil {
		records = append(records, &kgo.Record{Topic: checkpoint.Topic, Key: []byte("shop"), Value: value})
		err = l.cl.ProduceSync(context.Background(), records...).FirstErr()
	}
	if err == nil {
		err = l.cl.EndTransaction(context.Background(), kgo.TryCommit)
	}
	if err != nil {
		l.t.Error(err)
	}
}

// verify runs beside the capture, which writes on.
func (l *fakeLog) verify(ctx context.Context) (*Result, error) {
	l.t.Helper()
	var result *Result
	err := Run(ctx, l.options(), func(r *Result) error {
		result = r
		return nil
	})
	return result, err
}

func (l *fakeLog) options() Options {
	return Options{
		Client: l.cl, Source: l.db, Open: sources.OpenOptions{Capture: "shop", Tables: []string{"public.*"}, Logger: hclog.NewNullLogger()},
		Envelope: l.envelope(), Prefix: "shop", Memory: l.memory, Dir: l.t.TempDir(), Keys: 1000, Timeout: l.timeout,
		Progress: func(Progress) {}, Waiting: func(string) {},
	}
}

// beside calls write all the time until the test ends or stop is called.
func (l *fakeLog) beside(work func()) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sleep(ctx, 2*time.Millisecond) == nil {
			work()
		}
	}()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-done }) }
	l.t.Cleanup(stop)
	return stop
}

// findings are a result's as text.
func findings(r *Result) []string {
	all := []string{}
	for _, f := range r.Findings {
		line := f.Kind + " " + string(f.Key) + string(f.Row)
		if len(f.Columns) > 0 {
			line += " " + strings.Join(f.Columns, ",")
		}
		if f.Count > 0 {
			line += " x" + strconv.FormatInt(f.Count, 10)
		}
		all = append(all, line)
	}
	slices.Sort(all)
	return all
}

// create makes rows with these ids in one transaction each.
func (f *fakeDB) create(ids ...int) {
	for _, id := range ids {
		f.commit(true, sources.Change{Op: sources.OpCreate, After: row(id, "new", "n"+strconv.Itoa(id))})
	}
}

func (l *fakeLog) setDialect(t *testing.T, d envelope.Dialect) {
	t.Helper()
	l.dialect = d
	l.encoder(t)
	l.write()
}

func (l *fakeLog) encoder(t *testing.T) *fakeLog {
	t.Helper()
	var err error
	if l.enc, err = envelope.New(l.envelope()); err != nil {
		t.Fatal(err)
	}
	return l
}
